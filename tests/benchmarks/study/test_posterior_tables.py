"""Tables of the study of posteriors, from lines that were made up."""

from __future__ import annotations

import pytest

from benchmarks.study.cells import Base
from benchmarks.study.log import Log
from benchmarks.study.outcomes import Outcomes
from benchmarks.study.posterior_tables import baseline_of, difference_to
from benchmarks.study.runs import Run
from benchmarks.study.studies import STUDIES

BASE = Base(20, 0.05, "cosine")


@pytest.fixture
def outcomes(tmp_path):
    """Two tuned MAP fits, of two and of three seeds."""
    log = Log(tmp_path, "posterior")
    for method, nll, seeds in (("map_frechet", 0.3, 2), ("map_decay", 0.35, 3)):
        numbers = {"strength": 1}
        log.append("numbers", {"cell": "kmnist", "method": method}, score=nll, numbers=numbers)
        for seed in range(seeds):
            run = Run("kmnist", method, numbers, BASE, seed, {}, tested=True)
            result = {"test": {"nll": nll * (1 + 0.1 * seed)}}
            log.append("run", run.settings(), result=result)
    return Outcomes(log, STUDIES["posterior"])


def test_the_baseline_is_what_validation_data_prefer(outcomes):
    assert outcomes.methods("kmnist") == ["map_frechet", "map_decay"]
    assert baseline_of(outcomes, "kmnist") == "map_frechet"
    assert baseline_of(outcomes, "fashion_mnist") is None


def test_relative_differences_are_paired_by_seed(outcomes):
    d = difference_to(outcomes, "kmnist", "map_decay", "map_frechet", "test", "nll")
    assert d.mean == pytest.approx(0.35 / 0.3 - 1)
    assert d.pairs == 2
    # Differences 0.05 and 0.055 over the mean 0.315; t of one degree of freedom is 12.706.
    half = 12.7062 * 0.0025 / 0.315
    assert d.high - d.mean == pytest.approx(half, rel=1e-4)
    same = difference_to(
        outcomes, "kmnist", "map_decay", "map_frechet", "test", "nll", relative=False
    )
    assert same.mean == pytest.approx(0.0525)
    assert difference_to(outcomes, "kmnist", "ensemble", "map_decay", "test", "nll") is None
