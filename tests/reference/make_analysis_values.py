"""Write `analysis_values.json`: what WeightWatcher says of the weights of `analysis_cases`.

In an environment of its own:

    pip install -c constraints.txt torch numpy scipy
    pip install weightwatcher==0.7.7
    python tests/reference/make_analysis_values.py

The weights' sums are kept beside the values: a NumPy that draws others is noticed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import logging
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from analysis_cases import RECIPES, long_spectrum, weight

FILE = Path(__file__).with_name("analysis_values.json")


def layer(array):
    """A layer with this weight."""
    tensor = torch.from_numpy(array)
    if tensor.ndim == 2:
        found = nn.Linear(tensor.shape[1], tensor.shape[0], bias=False)
    else:
        kind = {3: nn.Conv1d, 4: nn.Conv2d}[tensor.ndim]
        found = kind(tensor.shape[1], tensor.shape[0], tensor.shape[2:], bias=False)
    found.weight.data = tensor
    return found


def values(name):
    """WeightWatcher's row, and that of a run with its Marchenko-Pastur fit and randomisation."""
    from weightwatcher import WeightWatcher

    net = nn.Sequential(layer(weight(name)))
    np.random.seed(0)
    watcher = WeightWatcher(model=net)
    details = watcher.analyze(ERG=True, mp_fit=True, randomize=True, min_evals=1)
    if not len(details):
        return None
    row = details.iloc[0].to_dict()
    return {k: plain(v) for k, v in row.items() if k not in ("name", "longname", "layer_id")}


def plain(value):
    """A value as JSON has it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def main():
    """Write the file."""
    from weightwatcher.RMT_Util import detX_constraint

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    cases = {}
    for name in RECIPES:
        with contextlib.redirect_stdout(io.StringIO()):
            cases[name] = {"sum": float(weight(name).astype(float).sum()), "row": values(name)}
    count, _ = detX_constraint(long_spectrum())
    version = importlib.metadata.version("weightwatcher")
    data = {"weightwatcher": version, "cases": cases, "long_spectrum_detX_num": int(count)}
    FILE.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
