"""The studies: which cells and methods they compare, and how they choose among trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.study import cells, methods
from benchmarks.study.cells import Cell
from benchmarks.study.method import Method, Numbers
from benchmarks.study.peers.methods import PEERS

SIZES = ("train", "validation", "batch_size", "samples", "ood_images", "shrink")
"""The attributes of cells that options of the command line replace."""


@dataclass(frozen=True)
class Study:
    """The description of an experiment.

    Attributes:
        name: The name in commands and of files.
        heading: The heading of its report.
        what: What it measures, for the help of its command.
        cells: The cells by name.
        main: The cells that run if none are named.
        methods: The methods by name.
        seeds: The number of seeds of each chosen method, unless options say otherwise.
        tuning_seeds: The seeds of trials.
        criterion: The score of validation images that chooses among trials; lower is better.
        reference: The method by which a cell chooses how all methods train, if it has a choice.
        entrants: The families of which the best method of a cell enters confirmatory comparisons.
        quick: The options that `--quick` sets where they are not given.
    """

    name: str
    heading: str
    what: str
    cells: Mapping[str, Cell]
    main: tuple[str, ...]
    methods: Mapping[str, Method]
    seeds: int
    tuning_seeds: tuple[int, ...]
    criterion: str
    reference: str | None = None
    entrants: tuple[str, ...] = ()
    quick: Mapping[str, Any] = field(default_factory=dict)

    def adapted(self, options: Mapping[str, Any]) -> Study:
        """Return the study with the options of the command line.

        Args:
            options: `tuning`, the number of tuning seeds; `trials`, the largest number of trials of
                a method, spread over its range; `epochs` of every run; and attributes of cells, see
                `SIZES`. Options that are absent or `None` change nothing.
        """
        given = {name: value for name, value in options.items() if value is not None}
        sizes = {name: given[name] for name in SIZES if name in given}
        if "epochs" in given:
            sizes["epochs"] = (given["epochs"],)
        return replace(
            self,
            cells={name: replace(cell, **sizes) for name, cell in self.cells.items()},
            methods={
                name: replace(method, trials=_fewer(method.trials, given))
                for name, method in self.methods.items()
            },
            tuning_seeds=self.tuning_seeds[: given.get("tuning")],
        )


def _fewer(trials: Sequence[Numbers], given: Mapping[str, Any]) -> tuple[Numbers, ...]:
    """At most `given["trials"]` of the trials, spread over their range, with the given epochs."""
    count = min(given.get("trials", len(trials)), len(trials))
    chosen = [trials[round(i * (len(trials) - 1) / max(1, count - 1))] for i in range(count)]
    own = {"epochs": given["epochs"]} if "epochs" in given else {}
    return tuple({**t, **own} if "epochs" in t else t for t in chosen)


STUDIES = {
    study.name: study
    for study in (
        Study(
            "generalisation",
            "Does it generalise better?",
            "test scores of heavy-tailed priors and of conventional regularisation, tuned alike",
            cells.GENERALISATION,
            ("mlp-kmnist", "mlp-fashion", "lenet5-cifar10", "lenet5-kmnist"),
            methods.GENERALISATION,
            seeds=10,
            tuning_seeds=(1000, 1001),
            criterion="brier",
            reference="none",
            entrants=("conventional", "heavy-tailed"),
            quick={
                "methods": ["none", "weight_decay", "spectral_norm", "frechet", "svi_lomax"],
                "seeds": 3,
                "tuning": 1,
                "trials": 3,
                "epochs": 8,
            },
        ),
        Study(
            "mixtures",
            "What is better at equal cost?",
            "test scores of one, two, ... networks and posteriors against their processor time",
            cells.MIXTURES,
            tuple(cells.MIXTURES),
            {**methods.MIXTURES, **PEERS},
            seeds=10,
            tuning_seeds=(1000, 1001),
            criterion="brier",
            reference="none",
            entrants=("conventional", "heavy-tailed"),
            quick={
                "cells": ["mlp-digits"],
                "methods": ["none", "weight_decay", "svi_lomax"],
                "seeds": 3,
                "tuning": 1,
                "trials": 3,
            },
        ),
        Study(
            "robustness",
            "What is the tail good for?",
            "scores with noisy labels, few images, other widths, shifted images, fewer singular "
            "values",
            cells.ROBUSTNESS,
            tuple(cells.ROBUSTNESS),
            methods.ROBUSTNESS,
            seeds=10,
            tuning_seeds=(1000, 1001),
            criterion="brier",
            reference="none",
            quick={
                "cells": ["mlp-kmnist"],
                "methods": ["none", "weight_decay", "svi_lomax", "svi_exponential"],
                "seeds": 3,
                "tuning": 1,
                "trials": 3,
            },
        ),
        Study(
            "posterior",
            "What the uncertainty of a posterior buys",
            "scores of posteriors, ensembles and tuned MAP fits on test data",
            cells.POSTERIOR,
            tuple(cells.POSTERIOR),
            methods.POSTERIOR,
            seeds=5,
            tuning_seeds=(0,),
            criterion="nll",
            quick={
                "cells": ["kmnist"],
                "methods": ["map_decay", "map_frechet", "spectral_lomax_map"],
                "seeds": 1,
            },
        ),
    )
}
"""The studies by name."""
