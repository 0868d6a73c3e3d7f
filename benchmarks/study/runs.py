"""One run of a study: train a network by a method, and score its predictions."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

import bayes_htr as htr
from bayes_htr.experiments import build_network
from bayes_htr.posterior.prediction import mix
from bayes_htr.posterior.scores import ood_scores, scores
from benchmarks.study.cells import (
    Base,
    Cell,
    Split,
    image_shape,
    ood_images,
    split,
    test_images,
    training_images,
)
from benchmarks.study.conditions import KEPT, SHIFTS, pruned
from benchmarks.study.method import Fitted, Method, Numbers, Setting, Task
from benchmarks.study.methods import ENDS
from benchmarks.study.studies import Study

COLUMNS = ("alpha", "xmin", "hill", "lambda_max", "stable_rank")
"""The columns of `htr.analyze` that are kept of each matrix at the end of training."""
_CURVE = ("train_nll", "train_accuracy", "val_nll", "val_accuracy")
_TEMPERATURE_RANGE = math.log(20)


@dataclass(frozen=True)
class Run:
    """Everything that a run depends on, except for the options of its study and the machine.

    Attributes:
        cell: The name of a cell.
        method: The name of a method.
        numbers: The numbers of the trial.
        base: How it trains.
        seed: The seed of initial weights, order of examples, and split.
        ends: Penalties at the end of plain training, if a Lower Threshold needs one.
        tested: Whether it is scored on test images, which only chosen numbers are.
        shrink: The run trains on every `shrink`-th training image.
        start: The numbers of the tuned fit that it starts from, if its method has a start.
    """

    cell: str
    method: str
    numbers: Numbers
    base: Base
    seed: int
    ends: Mapping[str, float]
    tested: bool
    shrink: int = 1
    start: Numbers | None = None

    def settings(self) -> dict[str, Any]:
        """Return the run as plain data, by which the log finds it."""
        plain = asdict(self) | {"numbers": dict(self.numbers), "ends": dict(self.ends)}
        start = plain.pop("start")
        return plain if start is None else {**plain, "start": dict(start)}


def perform(study: Study, run: Run, data_dir: Path | None, device: str) -> dict[str, Any]:
    """Train and score.

    Args:
        study: The study, with its options.
        run: The run.
        data_dir: The folder of the data sets.
        device: Where to train.

    Returns:
        `seconds` of training, processor time on the CPU and elapsed time elsewhere; `num_data`, the
        number of training images; and `validation`, scores of validation images. Trials of the
        reference method also have `ends`, penalties of the network. Tested runs have `test` and
        `scaled`, scores of test images before and after temperature scaling, with the areas under
        ROC curves if the cell has images out of distribution; `temperature`; `images`, their
        number; `right`, which of them were classified correctly (see `unpacked`); `matrices`, with
        `COLUMNS` for each; and `curve`, a row for each epoch, whose validation scores are `None` in
        the study of robustness. Fits in another way than `htr.fit` have no `matrices`, `curve` and
        `conditions`. Tested runs of a method with several members also have `mixtures`: `seconds`,
        `test` and `right` for the first member, the first two, and so on. Those of a cell with
        conditions have `conditions`: scores of the first fit by kind and severity. A run in which
        weights or scores were not finite has only `diverged`, which says what happened.
    """
    try:
        return _finite_result(study, run, data_dir, device)
    except (htr.DivergenceError, htr.SpectrumError) as error:
        return {"diverged": str(error)}


def _finite_result(study: Study, run: Run, data_dir: Path | None, device: str) -> dict[str, Any]:
    cell, method = study.cells[run.cell], study.methods[run.method]
    data = split(cell, data_dir, run.seed, device)
    count = method.members if run.tested else 1
    seeds = [run.seed] if count == 1 else [1000 * (run.seed + 1) + k for k in range(count)]
    start = _start(study, run, data, data_dir, device)
    if method.package is not None:
        method.package.load()  # before the clock starts
    # Processor time leaves out other work on the machine.
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    fits, seconds = [], []
    for seed in seeds:
        fits.append(_fitted(study, run, seed, data, data_dir, device, start))
        seconds.append(clock() - started)
    x, y = data.validation[0], data.validation[1].cpu()
    validation = mixed([posterior.predict(x, cell.samples) for posterior in fits])
    result: dict[str, Any] = {
        "seconds": seconds[-1],
        "num_data": len(data.train[0][:: run.shrink]),
        "validation": _finite_scores("validation", validation, y),
    }
    # A fit in another way has no parameters or history to look at.
    posterior = fits[0] if isinstance(fits[0], htr.Posterior) else None
    if not run.tested:
        if posterior is not None and run.method == study.reference:
            result |= _ends(posterior.network())
        return result
    x_test, y_test = test_images(cell, data_dir)
    predicted = [posterior.predict(x_test, cell.samples) for posterior in fits]
    test = mixed(predicted)
    other = ood_images(cell, data_dir)
    ood = None if other is None else mixed([p.predict(other, cell.samples) for p in fits])
    if count > 1:
        result["mixtures"] = [
            {
                "seconds": seconds[size - 1],
                "test": _finite_scores("test", part := mixed(predicted[:size]), y_test),
                "right": packed(part.labels == y_test),
            }
            for size in range(1, count + 1)
        ]
    if posterior is not None:
        if cell.conditions:
            result["conditions"] = _under_conditions(posterior, x_test, y_test, cell.samples)
        result["matrices"] = _matrices(posterior.network())
        result["curve"] = [
            {name: _rounded(row.get(name)) for name in _CURVE} for row in posterior.history
        ]
    return result | {
        **scores_of_test(validation, y, test, y_test, ood),
        "images": len(y_test),
        "right": packed(test.labels == y_test),
    }


_started: dict[str, htr.Posterior] = {}
"""The fits of this process that others start from."""


def _start(
    study: Study, run: Run, data: Split, data_dir: Path | None, device: str
) -> htr.Posterior | None:
    """Return the tuned fit with the same seed that a run starts from, if its method has a start."""
    method = study.methods[run.method].start
    if method is None:
        return None
    assert run.start is not None, f"{run.method} needs the chosen numbers of {method}"
    first = replace(run, method=method, numbers=run.start, start=None, tested=False)
    key = repr((study.cells[run.cell], first, data_dir, device))
    if key not in _started:
        fitted = _fitted(study, first, run.seed, data, data_dir, device)
        assert isinstance(fitted, htr.Posterior), f"{method} is no starting point"
        _started[key] = fitted
    return _started[key]


def _fitted(
    study: Study,
    run: Run,
    seed: int,
    data: Split,
    data_dir: Path | None,
    device: str,
    init: htr.Posterior | None = None,
) -> Fitted:
    cell, method = study.cells[run.cell], study.methods[run.method]
    shape, classes = image_shape(cell, data_dir)
    net = build_network(
        cell.network,
        shape,
        classes,
        seed=seed,
        dropout=run.numbers.get("dropout", 0.0),
        width=cell.width,
    )
    x, y = data.train[0][:: run.shrink], data.train[1][:: run.shrink]
    base = _base(study, run, data_dir)
    if method.fit is not None:
        return method.fit(Task(net, (x, y), base, cell.batch_size, run.numbers, seed))
    setting = Setting(net, len(x), base, run.ends)
    model = htr.BayesianClassifier(
        net,
        method.priors(run.numbers, setting),
        label_smoothing=run.numbers.get("label_smoothing", 0.0),
    )
    return htr.fit(
        model,
        (x, y),
        method=method.inference(run.numbers, setting),
        epochs=int(run.numbers.get("epochs", base.epochs)),
        batch_size=cell.batch_size,
        validation=data.validation if _scores_each_epoch(run, cell, method) else None,
        seed=seed,
        init=init,
        device=device,
        progress=False,
    )


def _base(study: Study, run: Run, data_dir: Path | None) -> Base:
    """Return how a run trains, in more epochs if its cell has fewer images for as many updates."""
    cell = study.cells[run.cell]
    if not cell.same_updates:
        return run.base
    assert cell.like is not None
    whole = training_images(study.cells[cell.like], data_dir)
    factor = whole / training_images(cell, data_dir)
    return replace(run.base, epochs=round(factor * run.base.epochs))


def _scores_each_epoch(run: Run, cell: Cell, method: Method) -> bool:
    """Return whether validation data are scored after every epoch.

    This would add to the seconds of mixtures, and no report of the study of robustness shows it.
    """
    return run.tested and method.members == 1 and cell.like is None


def _under_conditions(
    posterior: htr.Posterior, x: Tensor, y: Tensor, samples: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of shifted test images, and of the central network with fewer singular values."""
    found = {
        kind: {
            f"{severity:g}": _finite_scores("test", posterior.predict(shift(x), samples), y)
            for severity, shift in by_severity.items()
        }
        for kind, by_severity in SHIFTS.items()
    }
    centre = {}
    for share in KEPT:
        point = htr.Posterior(pruned(posterior.network(), share), htr.Priors({}))
        centre[f"{share:g}"] = _finite_scores("test", point.predict(x, 1), y)
    return found | {"kept": centre}


def mixed(predicted: Sequence[htr.Prediction]) -> htr.Prediction:
    """Return the mean prediction of all fits; that of a single fit as it is."""
    return predicted[0] if len(predicted) == 1 else mix(p.log_probs for p in predicted)


def scores_of_test(
    validation: htr.Prediction,
    y_validation: Tensor,
    test: htr.Prediction,
    y_test: Tensor,
    ood: htr.Prediction | None = None,
) -> dict[str, Any]:
    """Scores of test images before and after temperature scaling.

    Args:
        validation: The prediction for validation images, which decides the temperature.
        y_validation: `(V,)` labels.
        test: The prediction for test images.
        y_test: `(N,)` labels.
        ood: The prediction for images out of distribution, if there are any.

    Returns:
        `test`, `scaled` and `temperature`, as in `perform`.

    Raises:
        DivergenceError: A score is not finite.
    """
    temperature = fitted_temperature(validation, y_validation)
    scaled_ood = None if ood is None else tempered(ood, temperature)
    return {
        "test": _finite_scores("test", test, y_test, ood),
        "scaled": _finite_scores("test", tempered(test, temperature), y_test, scaled_ood),
        "temperature": temperature,
    }


def _finite_scores(
    images: str, prediction: htr.Prediction, y: Tensor, ood: htr.Prediction | None = None
) -> dict[str, float]:
    """Return the scores of a prediction; with `ood`, also of telling those images apart.

    Raises:
        DivergenceError: A score is not finite.
    """
    found = scores(prediction, y) | ({} if ood is None else ood_scores(prediction, ood))
    if lost := ", ".join(name for name, value in found.items() if not math.isfinite(value)):
        raise htr.DivergenceError(f"scores of {images} images are not finite: {lost}")
    return found


def fitted_temperature(prediction: htr.Prediction, y: Tensor) -> float:
    """Return the temperature that minimises the NLL of mean predictions (Guo et al. 2017).

    It lies between 1/20 and 20. A temperature above 1 makes predictions less confident.

    Args:
        prediction: The prediction for `N` validation examples.
        y: `(N,)` labels.
    """
    log_probs = prediction.log_probs.double()

    def nll(log_temperature: float) -> float:
        return float(F.cross_entropy(log_probs / math.exp(log_temperature), y))

    bounds = (-_TEMPERATURE_RANGE, _TEMPERATURE_RANGE)
    return math.exp(float(minimize_scalar(nll, bounds=bounds, method="bounded").x))


def tempered(prediction: htr.Prediction, temperature: float) -> htr.Prediction:
    """The prediction with mean probabilities `p^(1/T)`, normalised; its information is kept."""
    log_probs = (prediction.log_probs.double() / temperature).log_softmax(1)
    return htr.Prediction(log_probs.to(prediction.log_probs), prediction.mutual_information)


def packed(right: Tensor) -> str:
    """Truth values `(N,)` as text, eight to a byte."""
    return base64.b64encode(np.packbits(right.cpu().numpy()).tobytes()).decode()


def unpacked(text: str, count: int) -> np.ndarray:
    """Return the truth values of `packed`, `(count,)`."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(bool)


def _ends(net: nn.Module) -> dict[str, dict[str, float]]:
    with torch.no_grad():
        found = {name: htr.bind(htr.Priors(prior), net)().item() for name, prior in ENDS.items()}
    return {"ends": found}


def _matrices(net: nn.Module) -> dict[str, dict[str, float | None]]:
    rows = htr.analyze(net, bootstrap=0, mp_fit=False, compare=False, progress=False).rows
    return {row["name"]: {name: _finite(row[name]) for name in COLUMNS} for row in rows}


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _rounded(value: Any) -> float | None:
    found = _finite(value)
    return None if found is None else round(found, 5)
