"""The columns against direct computations, and at the ends of their ranges."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr.analysis import COLUMNS
from bayes_htr.analysis.columns import (
    erg_columns,
    log_alpha_norm,
    matrix_rank,
    trace_log_count,
)
from bayes_htr.analysis.esd import ESD


def rows(W, **options):
    return htr.analyze({"w": W}, min_size=1, **options).rows[0]


def test_norms_and_ranks_of_a_matrix():
    torch.manual_seed(0)
    W = torch.randn(60, 40, dtype=torch.float64)
    row = rows(W)
    s = torch.linalg.svdvals(W)
    assert row["norm"] == pytest.approx(float(torch.linalg.matrix_norm(W)) ** 2)
    assert row["sv_max"] == pytest.approx(float(s[0]))
    assert row["sv_min"] == pytest.approx(float(s[-1]))
    assert row["stable_rank"] == pytest.approx(float(htr.stable_rank(W)))
    assert row["hill"] == pytest.approx(float(htr.hill(s.square())))
    assert row["log_alpha_norm"] == pytest.approx(
        math.log10(float((s ** (2 * row["alpha"])).sum()))
    )
    p = (s.square() / s.square().sum()).numpy()
    assert row["entropy"] == pytest.approx(-(p * np.log(p)).sum() / math.log(40))
    fit = htr.fit_powerlaw(s.square())
    assert row["alpha"] == pytest.approx(fit.alpha, rel=1e-9)
    assert (row["interval_low"], row["interval_high"]) == pytest.approx(fit.interval, rel=1e-9)


def test_rank_in_float64():
    torch.manual_seed(0)
    W = torch.randn(50, 9, dtype=torch.float64) @ torch.randn(9, 30, dtype=torch.float64)
    row = rows(W)
    assert (row["matrix_rank"], row["rank_loss"]) == (9, 21)
    assert row["weak_rank_loss"] == 21


def test_rank_by_the_longer_side():
    eps = np.finfo(np.float64).eps
    values = np.array([(100 * eps) ** 2, 1.0])
    assert [matrix_rank(ESD(values, N, 2)) for N in (10, 1000)] == [2, 1]


def test_entropy_is_by_the_rank():
    assert rows(torch.diag(torch.tensor([2.0] * 9 + [0.0] * 6)))["entropy"] == pytest.approx(1)


def test_weak_eigenvalues():
    lam = torch.tensor([1.0, 1e-2, 5e-6, 5e-7] * 3, dtype=torch.float64)
    assert rows(lam.sqrt().diag())["weak_rank_loss"] == 3


def test_powers_far_beyond_the_floating_point_numbers():
    values = np.array([1e-200, 1e100, 2e100])
    assert log_alpha_norm(values, 20.0) == pytest.approx(2000 + math.log10(1 + 2**20))


def test_every_column_is_in_the_docs():
    page = Path(__file__).parents[2] / "docs" / "reading-a-spectrum.md"
    text = page.read_text(encoding="utf-8")
    missing = [c for c, what in COLUMNS.items() if f"| `{c}` | {what} |" not in text]
    assert not missing


def test_trace_log_against_the_product():
    values = np.sort(np.random.default_rng(0).gamma(1.0, size=60))
    scaled = values / values.mean()
    products = [np.prod(scaled[60 - k :]) for k in range(1, 61)]
    count = next(k for k, p in enumerate(products, start=1) if p < 1)
    row = erg_columns(ESD(7 * values, 60, 60), None)
    assert row["detX_num"] == trace_log_count(7 * values) == count
    assert row["detX_val_unrescaled"] == pytest.approx(scaled[60 - count])
    assert row["detX_val"] == pytest.approx(7 * values[60 - count])


def test_trace_log_at_its_ends():
    assert trace_log_count(np.ones(5)) is None
    assert trace_log_count(np.array([1, 1, 1, 1 + 1e-15])) is None
    assert trace_log_count(np.array([0.0, 1.0])) == 2


def row_of(W, **options):
    return htr.analyze({"w": torch.as_tensor(W)}, **options).rows[0]


@pytest.mark.parametrize(
    ("index", "warning"), [(0.5, "over-trained"), (2.5, ""), (9.0, "under-trained")]
)
def test_warnings_are_those_of_weightwatcher(index, warning):
    lam = (1 - (np.arange(300) + 0.5) / 300) ** (-1 / index)
    assert row_of(np.diag(np.sqrt(lam)))["warning"] == warning
