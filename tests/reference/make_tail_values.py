"""Write `tail_values.json`: what powerlaw and WeightWatcher say of the samples of `tail_cases`.

In an environment of its own:

    pip install -c constraints.txt torch numpy scipy
    pip install powerlaw==2.0.0 weightwatcher==0.7.7
    python tests/reference/make_tail_values.py

The samples' sums are kept beside the values: a NumPy that draws others is noticed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tail_cases import RECIPES, sample

FILE = Path(__file__).with_name("tail_values.json")


def weightwatcher_values(values):
    """Its default fit: no xmin, no xmax, fingers left as they are."""
    from weightwatcher.WW_powerlaw import pl_fit

    fit = pl_fit(data=values, xmin=None, xmax=None)
    return {name: float(getattr(fit, name)) for name in ("alpha", "xmin", "D", "sigma")}


def powerlaw_values(values):
    """Its fit, the one candidate that it takes, and every candidate with a closed-form alpha.

    powerlaw 2 allows alpha up to 3 by default, and outside (1.5, 3] searches it by a simplex method
    to 1e-4: such candidates are left out here.
    """
    import powerlaw

    warnings.simplefilter("ignore")
    wide = {"alpha": [1, 1000]}
    fit = powerlaw.Fit(values, parameter_ranges=wide, verbose=0)
    found = fit.xmin_fitting_results
    closed = (found["alphas"] > 1.5) & (found["alphas"] <= 3)
    columns = zip(found["xmins"], found["alphas"], found["distances"], strict=True)
    kept = [list(map(float, row)) for row, ok in zip(columns, closed, strict=True) if ok]
    return {
        "alpha": float(fit.alpha),
        "xmin": float(fit.xmin),
        "D": float(fit.D),
        "closed_form": bool(1.5 < fit.alpha <= 3),
        "candidates": kept[:: max(1, len(kept) // 20)],
        **_ratios(powerlaw, values, fit.xmin),
        "up_to_median": _with_upper_end(powerlaw, values),
    }


def _with_upper_end(powerlaw, values):
    """Its alpha of the values between the smallest and the median, with both as ends."""
    ends = {"xmin": float(values.min()), "xmax": float(sorted(values)[len(values) // 2])}
    fit = powerlaw.Fit(values, **ends, parameter_ranges={"alpha": [0, 1000]}, verbose=0)
    return {**ends, "alpha": float(fit.power_law.alpha)}


def _ratios(powerlaw, values, xmin):
    """Log likelihoods of the alternatives on the tail from the given xmin."""
    tail = values[values >= xmin]
    wide = {
        "exponential": {"Lambda": [0, None]},
        "lognormal": {"mu": [None, None], "sigma": [0, None]},
        "truncated_power_law": {"alpha": [0, 1000], "Lambda": [0, None]},
    }
    found = {}
    for name, ranges in wide.items():
        law = powerlaw.fitting.SUPPORTED_DISTRIBUTIONS[name](
            data=tail, xmin=xmin, parameter_ranges=ranges, verbose=0
        )
        found[name] = {
            "log_likelihood": float(sum(law.loglikelihoods(tail))),
            "parameters": {p: float(getattr(law, p)) for p in law.parameter_names},
        }
    return {"alternatives": found}


def main():
    """Write the file."""
    versions = {name: importlib.metadata.version(name) for name in ("powerlaw", "weightwatcher")}
    cases = {}
    for name in RECIPES:
        values = sample(name)
        with contextlib.redirect_stdout(io.StringIO()):
            cases[name] = {
                "sum": float(values.sum()),
                "weightwatcher": weightwatcher_values(values),
                "powerlaw": powerlaw_values(values),
            }
    FILE.write_text(json.dumps({"versions": versions, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
