"""Lines of a study that were made up."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from benchmarks.study.cells import Base
from benchmarks.study.log import Log
from benchmarks.study.methods import GENERALISATION
from benchmarks.study.outcomes import Outcomes
from benchmarks.study.runs import COLUMNS, Run, packed
from benchmarks.study.studies import STUDIES

BASE = Base(3, 0.1, "cosine")
IMAGES = 400
MATRIX = dict(zip(COLUMNS, (3.0, 0.1, 2.0, 9.0, 20.0), strict=True))


class Story:
    """Lines of a study as it could have been."""

    def __init__(self, folder):
        self.folder, self.lines = folder, []

    def cell(self, cell, **entrants):
        self.line("base", {"cell": cell}, base=asdict(BASE), ends={})
        if entrants:
            named = {family.replace("_", "-"): method for family, method in entrants.items()}
            self.line("entrants", {"cell": cell}, entrants=named)

    def line(self, kind, settings, **rest):
        self.lines.append({"kind": kind, "settings": settings, **rest})

    def trial(self, cell, method, numbers, accuracy, seed=1000, base=BASE):
        run = Run(cell, method, numbers, base, seed, {}, tested=False)
        result = {"validation": {"accuracy": accuracy}} if accuracy else {"diverged": "NaN"}
        self.line("run", run.settings(), result=result)

    def tests(self, cell, method, accuracies, *, alpha=3.0, right=None, numbers=None):
        """Tested runs, one for each accuracy; none for one that diverged."""
        numbers = GENERALISATION[method].trials[0] if numbers is None else numbers
        self.line("numbers", {"cell": cell, "method": method}, score=0.1, numbers=numbers)
        for seed, accuracy in enumerate(accuracies):
            run = Run(cell, method, numbers, BASE, seed, {}, tested=True)
            result = {"diverged": "NaN"}
            if accuracy is not None:
                own = torch.arange(IMAGES) < round(accuracy * IMAGES) if right is None else right
                result = {
                    "seconds": 2.0,
                    "test": {"accuracy": accuracy, "nll": 0.5, "ece": 0.1, "brier": 0.2},
                    "images": IMAGES,
                    "right": packed(own),
                    "matrices": {f"fc{i}.weight": MATRIX | {"alpha": alpha + i} for i in (1, 2)},
                    "curve": [{"val_nll": 1 / (epoch + 1)} for epoch in range(3)],
                }
            self.line("run", run.settings(), result=result)

    def outcomes(self):
        text = "".join(f"{json.dumps(line)}\n" for line in self.lines)
        (self.folder / "generalisation.jsonl").write_text(text)
        return Outcomes(Log(self.folder, "generalisation"), STUDIES["generalisation"])


@pytest.fixture
def story(tmp_path):
    return Story(tmp_path)


@pytest.fixture
def around():
    """Scores of some seeds around a value."""

    def around(middle, spread=0.005, seeds=10, seed=0):
        return (middle + spread * np.random.default_rng(seed).normal(size=seeds)).tolist()

    return around
