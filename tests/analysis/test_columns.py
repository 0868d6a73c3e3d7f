"""The columns against direct computations, and at the ends of their ranges."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr.analysis import COLUMNS
from bayes_htr.analysis.columns import log_alpha_norm, matrix_rank
from bayes_htr.analysis.esd import ESD, esd_of


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


@pytest.mark.parametrize(
    ("M", "rule"), [(19, {"min_tail": 8, "correction": "n-1"}), (20, {"min_tail": 2})]
)
def test_fewer_than_20_eigenvalues_have_a_rule_of_their_own(M, rule):
    torch.manual_seed(0)
    W = torch.randn(30, M, dtype=torch.float64)
    fit = htr.fit_powerlaw(torch.linalg.svdvals(W).square(), **rule)
    assert rows(W)["alpha"] == pytest.approx(fit.alpha, rel=1e-9)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_floor_lies_above_rounding_and_not_far_above(dtype):
    torch.manual_seed(0)
    W = torch.randn(300, 20).double() @ torch.randn(20, 200).double()
    esd = esd_of([W.to(dtype)], "w")
    rounding = esd.values[-21]
    assert rounding < esd.floor < (300 if dtype == torch.float32 else 10) * rounding


def test_the_floor_is_no_lower_than_the_error_of_the_decomposition():
    error = (10_000 * np.finfo(np.float64).eps) ** 2
    assert ESD(np.array([0.0, 1.0]), 10_000, 2).floor == pytest.approx(error, abs=0)


def test_rounding_of_stored_weights_is_no_tail():
    torch.manual_seed(0)
    W = torch.randn(300, 40).double() @ torch.randn(40, 200).double()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        row = rows(W.to(dtype))
        assert row["xmin"] > 1e-3 * row["lambda_max"], dtype
        assert row["num_pl_spikes"] <= 40, dtype
        assert row["num_spikes"] is None, "half of it is zero"


@pytest.mark.parametrize(
    ("W", "words"),
    [
        (torch.zeros(20, 30), "no tail: all eigenvalues are zero"),
        (torch.eye(20), "tied: the 20 largest are equal"),
        (torch.ones(20, 30), "too few eigenvalues that are not zero to tell (1)"),
    ],
    ids=["zeros", "eye", "ones"],
)
def test_matrices_without_a_tail(W, words):
    row = rows(W, randomize=True, farms=True, bootstrap=10)
    assert row["status"] == "failed" and math.isnan(row["alpha"])
    assert row["num_pl_spikes"] is None and row["interval_low"] is None
    assert row["verdict"] == words


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(30, 30), (400, 400), (500, 100)])
def test_rounding_of_equal_eigenvalues_is_no_tail(dtype, shape):
    torch.manual_seed(0)
    made = dtype if dtype == torch.float64 else torch.float32
    W = 3 * torch.nn.init.orthogonal_(torch.empty(shape, dtype=made))
    row = rows(W.to(dtype))
    K = min(shape)
    assert row["verdict"] == f"tied: the {K} largest are equal" and math.isnan(row["alpha"])
    uneven = W.double() * torch.linspace(1, 2, shape[1], dtype=torch.float64)
    assert not math.isnan(rows(uneven.to(dtype))["alpha"])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3), (7, 7)])
def test_the_smallest_matrices(shape):
    torch.manual_seed(0)
    row = rows(torch.randn(shape), randomize=True, farms=True, bootstrap=5)
    assert row["num_evals"] == min(shape)
    assert row["verdict"] == f"too few eigenvalues to tell ({min(shape)})"
    assert row["stable_rank"] >= 1


def test_powers_far_beyond_the_floating_point_numbers():
    values = np.array([1e-200, 1e100, 2e100])
    assert log_alpha_norm(values, 20.0) == pytest.approx(2000 + math.log10(1 + 2**20))


def test_every_column_is_described_in_order():
    row = rows(torch.randn(40, 30), randomize=True, farms=True, bootstrap=5)
    assert set(row) == set(COLUMNS)
    assert list(row) == list(COLUMNS)


def test_every_column_is_in_the_docs():
    page = Path(__file__).parents[2] / "docs" / "reading-a-spectrum.md"
    text = page.read_text(encoding="utf-8")
    missing = [c for c, what in COLUMNS.items() if f"| `{c}` | {what} |" not in text]
    assert not missing
