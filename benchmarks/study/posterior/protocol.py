"""`python -m benchmarks posterior`: what the uncertainty of a posterior buys in predictions.

Every method is tuned on validation data alone, then fitted with several seeds and scored on test
data. Validation data are cut from the training data, the same for all methods and seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayes_htr.experiments import Dataset, build_network, load_dataset
from bayes_htr.fitting import fit
from bayes_htr.models import BayesianClassifier
from bayes_htr.posterior import Posterior
from bayes_htr.posterior.prediction import scores
from benchmarks.common.parts import Part
from benchmarks.common.results import Results
from benchmarks.common.stopwatch import Stopwatch, Tick
from benchmarks.study.posterior.methods import METHODS, Numbers
from benchmarks.study.scores import Predicted, all_scores, mean_prediction

OTHERS = {"kmnist": "fashion_mnist", "fashion_mnist": "kmnist"}
"""The data sets, each with that whose test images are out of its distribution."""
TUNING_SEED = 0


@dataclass(frozen=True)
class StudySettings:
    """How every method is tuned and fitted.

    Attributes:
        seeds: With how many seeds the tuned methods are fitted.
        samples: Draws of the weights for a prediction.
        batch_size: Examples per step.
        train: At most so many training images, those of validation among them.
        validation: How many of them are for validation.
        ood: At most so many images of the other data set.
        epochs: Of every fit, instead of what the trials say.
    """

    seeds: int = 5
    samples: int = 32
    batch_size: int = 128
    train: int = 10_000
    validation: int = 1000
    ood: int = 2000
    epochs: int | None = None


@dataclass(frozen=True)
class Cut:
    """A data set cut for the study, inputs and labels."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    ood: Tensor

    @classmethod
    def of(cls, data: Dataset, other: Dataset, settings: StudySettings) -> Cut:
        """Cut the validation data from the first training images.

        Raises:
            ValueError: Fewer training images than are to be cut off.
        """
        x, y = data.x_train[: settings.train], data.y_train[: settings.train]
        if len(x) <= settings.validation:
            raise ValueError(
                f"{settings.validation} validation images of {len(x)} training images leave none; "
                "ask for fewer"
            )
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        held, rest = order[: settings.validation], order[settings.validation :]
        ood = other.standardised_for(data, other.x_test[: settings.ood])
        return cls((x[rest], y[rest]), (x[held], y[held]), (data.x_test, data.y_test), ood)


@dataclass
class Study:
    """One data set with all methods: its fits, and those that others start from.

    Attributes:
        name: The data set's.
        cut: Its data.
        settings: How to fit.
    """

    name: str
    cut: Cut
    settings: StudySettings
    _starts: dict[tuple[str, int], Posterior] = field(default_factory=dict, repr=False)

    def numbers(self, method: str, trial: int) -> Numbers:
        """The numbers of a trial."""
        given = METHODS[method].trials[trial]
        own = self.settings.epochs
        return given if own is None else {**given, "epochs": own}

    def described(
        self, method: str, numbers: Numbers, start: Numbers | None, seed: int
    ) -> dict[str, Any]:
        """All that a fit depends on, as plain data."""
        s = self.settings
        return {
            "numbers": dict(numbers),
            "start": None if start is None else dict(start),
            "priors": METHODS[method].priors(numbers).to_dict(),
            "method": METHODS[method].method(numbers).describe(),
            "batch_size": s.batch_size,
            "num_data": len(self.cut.train[0]),
            "samples": s.samples,
            "seed": seed,
        }

    def posterior(
        self, method: str, numbers: Numbers, start: Numbers | None, seed: int, tick: Tick
    ) -> Posterior:
        """Fit a method, from the tuned fit of the method that it starts from, if any."""
        compared = METHODS[method]
        init = None
        if compared.start is not None:
            assert start is not None
            init = self._start(compared.start, start, seed)
        data = self.cut.train
        shape = data[0].shape
        net = build_network("mlp", (shape[1], shape[2], shape[3]), 10, seed=seed)
        return fit(
            BayesianClassifier(net, compared.priors(numbers)),
            data,
            method=compared.method(numbers),
            epochs=int(numbers["epochs"]),
            batch_size=self.settings.batch_size,
            seed=seed,
            init=init,
            callbacks=[lambda _: tick(1)],
            progress=False,
        )

    def _start(self, method: str, numbers: Numbers, seed: int) -> Posterior:
        key = (repr((method, sorted(numbers.items()))), seed)
        if key not in self._starts:
            self._starts[key] = self.posterior(method, numbers, None, seed, lambda _: None)
        return self._starts[key]

    def validate(
        self, method: str, numbers: Numbers, start: Numbers | None, tick: Tick
    ) -> dict[str, Any]:
        """One trial: scores on the validation data."""
        posterior = self.posterior(method, numbers, start, TUNING_SEED, tick)
        x, y = self.cut.validation
        return scores(posterior.predict(x, self.settings.samples), y)

    def test(
        self, method: str, numbers: Numbers, start: Numbers | None, seed: int, tick: Tick
    ) -> dict[str, Any]:
        """One fit of a tuned method: its scores on the test data and seconds, fit and scores."""
        cut, members = self.cut, METHODS[method].members
        own = [seed] if members == 1 else [1000 * (seed + 1) + k for k in range(members)]
        found: list[Predicted] = []

        def work() -> None:
            for s in own:
                posterior = self.posterior(method, numbers, start, s, tick)
                x = (cut.validation[0], cut.test[0], cut.ood)
                found.append(Predicted(*(posterior.predict(i, self.settings.samples) for i in x)))

        seconds = Stopwatch(torch.device("cpu"))(work)
        columns = zip(*(vars(f).values() for f in found), strict=True)
        predicted = Predicted(*map(mean_prediction, columns))
        return all_scores(predicted, cut.validation[1], cut.test[1]) | {"seconds": seconds}


@dataclass(frozen=True)
class PosteriorBenchmark:
    """The whole benchmark.

    Attributes:
        data: Keys of `OTHERS`.
        methods: Keys of `METHODS`; those that they start from are tuned too.
        settings: How methods are tuned and fitted.
        data_dir: Where the data sets are.
    """

    data: Sequence[str]
    methods: Sequence[str]
    settings: StudySettings
    data_dir: Path | None = None

    def stages(self, results: Results) -> Iterator[list[Part]]:
        """Tuning, tuning of what starts from a tuned fit, and fits with every seed."""
        studies = self._studies()
        wanted = dict.fromkeys(self.methods)
        needed = dict.fromkeys([*filter(None, (METHODS[m].start for m in wanted)), *wanted])
        first = [m for m in needed if METHODS[m].start is None]
        yield [part for study in studies for m in first for part in _tuning(study, m, results)]
        rest = [m for m in needed if m not in first]
        yield [part for study in studies for m in rest for part in _tuning(study, m, results)]
        yield [
            part
            for seed in range(self.settings.seeds)
            for study in studies
            for m in wanted
            for part in _testing(study, m, seed, results)
        ]

    def _studies(self) -> list[Study]:
        names = dict.fromkeys([*self.data, *(OTHERS[name] for name in self.data)])
        loaded = {name: load_dataset(name, self.data_dir) for name in names}
        return [
            Study(name, Cut.of(loaded[name], loaded[OTHERS[name]], self.settings), self.settings)
            for name in self.data
        ]


def chosen_trial(results: Results, cell: str) -> int | None:
    """The trial with the least NLL on validation data; `None` where none was made."""
    parts = results.cells.get(cell, {})
    trials = range(len(METHODS[cell.partition("/")[2]].trials))
    names = {trial: f"trial/{trial}" for trial in trials}
    found = {t: parts[name]["result"]["nll"] for t, name in names.items() if name in parts}
    return min(found, key=found.__getitem__) if found else None


def _start_numbers(study: Study, method: str, results: Results) -> Numbers | None:
    """The tuned numbers of what a method starts from."""
    start = METHODS[method].start
    return None if start is None else _tuned(study, start, results)


def _tuned(study: Study, method: str, results: Results) -> Numbers:
    trial = chosen_trial(results, f"{study.name}/{method}")
    assert trial is not None, f"{method} is tuned in an earlier stage"
    return study.numbers(method, trial)


def _tuning(study: Study, method: str, results: Results) -> Iterator[Part]:
    start = _start_numbers(study, method, results)
    for trial in range(len(METHODS[method].trials)):
        numbers = study.numbers(method, trial)
        yield Part(
            f"{study.name}/{method}",
            f"trial/{trial}",
            int(numbers["epochs"]),
            partial(study.validate, method, numbers, start),
            study.described(method, numbers, start, TUNING_SEED),
        )


def _testing(study: Study, method: str, seed: int, results: Results) -> Iterator[Part]:
    start = _start_numbers(study, method, results)
    numbers = _tuned(study, method, results)
    yield Part(
        f"{study.name}/{method}",
        f"seed/{seed}",
        int(numbers["epochs"]) * METHODS[method].members,
        partial(study.test, method, numbers, start, seed),
        study.described(method, numbers, start, seed),
    )
