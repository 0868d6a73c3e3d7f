"""The summary of a network."""

import math
import statistics

import pytest
import torch

import bayes_htr as htr
from bayes_htr.analysis.verdict import KINDS
from tests.analysis.cases import mixed_state, pareto


@pytest.fixture(scope="module")
def report():
    more = {"second": pareto(200, 2.0, 3), "nan": torch.full((30, 30), torch.nan)}
    return htr.analyze({**mixed_state(), **more}, bootstrap=100)


def test_means_of_all_that_is_defined(report):
    summary = report.summary()
    for name in ("alpha", "log_norm", "stable_rank", "log_spectral_norm", "alpha_weighted"):
        values = [row[name] for row in report.rows if math.isfinite(row[name])]
        assert summary[name] == pytest.approx(statistics.fmean(values))
    alphas = [row["alpha"] for row in report.rows if math.isfinite(row["alpha"])]
    assert summary["alpha_median"] == statistics.median(alphas)
    assert len(alphas) == 3, "the random matrix counts here, as in WeightWatcher"


def test_power_laws_are_what_the_report_stands_behind(report):
    summary = report.summary()
    alphas = [m.alpha for m in report.matrices.values() if m.kind.filled]
    assert summary["power_laws"] == len(alphas) == 2
    assert summary["power_law_alpha_mean"] == pytest.approx(sum(alphas) / 2)
    assert summary["power_law_alpha_median"] == statistics.median(alphas)


def test_counts_of_verdicts(report):
    summary = report.summary()
    assert summary["matrices"] == 5 == sum(summary[f"num_{kind.key}"] for kind in KINDS)
    assert (summary["num_random"], summary["num_untold"]) == (1, 2)


def test_a_network_of_which_nothing_is_finite():
    summary = htr.analyze({"w": torch.full((30, 30), torch.inf)}).summary()
    assert summary["power_laws"] == 0 and summary["matrices"] == 1
    assert math.isnan(summary["alpha"]) and math.isnan(summary["power_law_alpha_median"])
