"""One run of the study: train a network by a method, and score it."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayes_htr.analysis import analyze
from bayes_htr.engine import bind
from bayes_htr.errors import DivergenceError, SpectrumError
from bayes_htr.experiments import build_network
from bayes_htr.fitting import fit
from bayes_htr.models import BayesianClassifier
from bayes_htr.posterior import Posterior
from bayes_htr.posterior.prediction import Prediction, scores
from bayes_htr.priors import Priors
from benchmarks.study.generalisation.cells import (
    CELLS,
    Base,
    Pair,
    image_shape,
    split,
    test_images,
)
from benchmarks.study.generalisation.methods import ENDS, METHODS, Numbers, Setting
from benchmarks.study.scores import mean_prediction

SAMPLES = 32
"""Draws of the weights for a prediction, of a posterior that has them."""
COLUMNS = ("alpha", "xmin", "hill", "lambda_max", "stable_rank")
"""What is kept of each matrix at the end."""


@dataclass(frozen=True)
class Run:
    """All that a run depends on but the data and the machine.

    Attributes:
        cell: A key of `CELLS`.
        method: A key of `METHODS`.
        numbers: What the trial sets.
        base: How it trains.
        seed: Of initial weights, of the order of examples, and of the split.
        ends: Penalties at the end of plain training, for a Lower Threshold.
        tested: Whether it is scored on test images, which only chosen settings are.
        shrink: Every so many-th training image is taken, for a quick look.
    """

    cell: str
    method: str
    numbers: Numbers
    base: Base
    seed: int
    ends: Mapping[str, float]
    tested: bool
    shrink: int = 1

    def settings(self) -> dict[str, Any]:
        """As plain data, by which a run that is there already is found."""
        return asdict(self) | {"numbers": dict(self.numbers), "ends": dict(self.ends)}


def perform(run: Run, data_dir: Path | None, device: str) -> dict[str, Any]:
    """Train and score.

    Args:
        run: The run.
        data_dir: Where data sets are.
        device: Where to train.

    Returns:
        `validation` and, where tested, `test`: scores; `seconds` of training, of the processor on
        the CPU, by the clock elsewhere. A run that left the finite numbers, in training or in its
        scores, has `diverged`, what happened, and nothing else. Plain trials have `ends`, penalties
        of the network; tested runs `images`, how many, `right`, which of them were classified right
        (see `unpacked`), `matrices` with `COLUMNS` for each, and `curve`, a row for each epoch.
    """
    data = split(CELLS[run.cell], data_dir, run.seed, device)
    fits: list[Posterior] = []
    # Time of one processor does not count what else it does.
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    try:
        for member in range(METHODS[run.method].members):
            fits.append(_trained(run, member, data.train, data.validation, data_dir, device))
    except (DivergenceError, SpectrumError) as error:
        return {"diverged": str(error)}
    result: dict[str, Any] = {"seconds": clock() - started}
    x, y = data.validation
    result["validation"] = scores(_predicted(fits, x), y)
    if lost := _not_finite(result["validation"]):
        return {"diverged": f"scores of validation images are not finite: {lost}"}
    if not run.tested:
        return result | _ends(run, fits[0].network())
    x, y = test_images(CELLS[run.cell], data_dir, device)
    predicted = _predicted(fits, x)
    test = scores(predicted, y)
    if lost := _not_finite(test):
        return {"diverged": f"scores of test images are not finite: {lost}"}
    return result | {
        "test": test,
        "images": len(y),
        "right": packed(predicted.labels == y),
        "matrices": _matrices(fits[0].network()),
        "curve": _curve(fits[0]),
    }


def packed(right: Tensor) -> str:
    """Truth values as text, eight to a byte."""
    return base64.b64encode(np.packbits(right.cpu().numpy()).tobytes()).decode()


def unpacked(text: str, count: int) -> np.ndarray:
    """The truth values of `packed`, `(count,)`."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(bool)


def _trained(
    run: Run, member: int, train: Pair, validation: Pair, data_dir: Path | None, device: str
) -> Posterior:
    shape, classes = image_shape(CELLS[run.cell], data_dir)
    method = METHODS[run.method]
    seed = run.seed if method.members == 1 else 1000 * (run.seed + 1) + member
    net = build_network(
        CELLS[run.cell].network,
        shape,
        classes,
        seed=seed,
        dropout=run.numbers.get("dropout", 0.0),
    )
    x, y = train[0][:: run.shrink], train[1][:: run.shrink]
    setting = Setting(net, len(x), run.base, run.ends)
    model = BayesianClassifier(
        net,
        method.priors(run.numbers, setting),
        label_smoothing=run.numbers.get("label_smoothing", 0.0),
    )
    return fit(
        model,
        (x, y),
        method=method.inference(run.numbers, setting),
        epochs=run.base.epochs,
        batch_size=CELLS[run.cell].batch_size,
        validation=validation if run.tested else None,
        seed=seed,
        device=device,
        progress=False,
    )


def _predicted(fits: list[Posterior], x: Tensor) -> Prediction:
    return mean_prediction([posterior.predict(x, SAMPLES) for posterior in fits])


def _ends(run: Run, net: nn.Module) -> dict[str, dict[str, float]]:
    if run.method != "none":
        return {}
    with torch.no_grad():
        return {"ends": {name: bind(Priors(prior), net)().item() for name, prior in ENDS.items()}}


def _matrices(net: nn.Module) -> dict[str, dict[str, float | None]]:
    rows = analyze(net, mp_fit=False, compare=False, progress=False).rows
    return {row["name"]: {name: _finite(row[name]) for name in COLUMNS} for row in rows}


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _not_finite(found: Mapping[str, float]) -> str:
    return ", ".join(name for name, value in found.items() if not math.isfinite(value))


def _curve(posterior: Posterior) -> list[dict[str, float | None]]:
    names = ("train_nll", "train_accuracy", "val_nll", "val_accuracy")
    return [{name: _rounded(row[name]) for name in names} for row in posterior.history]


def _rounded(value: Any) -> float | None:
    found = _finite(value)
    return None if found is None else round(found, 5)
