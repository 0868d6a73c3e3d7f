"""The record of a matrix: which eigenvalues are fitted, and what its row holds."""

import math

import pytest
import torch

import bayes_htr as htr
from bayes_htr.analysis import COLUMNS


def rows(W, **options):
    return htr.analyze({"w": W}, min_size=1, **options).rows[0]


@pytest.mark.parametrize(
    ("M", "rule"), [(19, {"min_tail": 8, "correction": "n-1"}), (20, {"min_tail": 2})]
)
def test_fewer_than_20_eigenvalues_have_a_rule_of_their_own(M, rule):
    torch.manual_seed(0)
    W = torch.randn(30, M, dtype=torch.float64)
    fit = htr.fit_powerlaw(torch.linalg.svdvals(W).square(), **rule)
    assert rows(W)["alpha"] == pytest.approx(fit.alpha, rel=1e-9)


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


def test_every_column_is_described_in_order():
    row = rows(torch.randn(40, 30), randomize=True, farms=True, bootstrap=5)
    assert set(row) == set(COLUMNS)
    assert list(row) == list(COLUMNS)


@pytest.mark.parametrize("conv", ["flatten", "slices"])
@pytest.mark.parametrize("rank", [3, 30])
def test_the_product_of_an_adapter_has_as_many_eigenvalues_as_its_rank(rank, conv):
    torch.manual_seed(0)
    A, B = torch.randn(rank, 40, 1, 2), torch.randn(24, rank, 1, 1)
    factors = {"w.lora_A.weight": A, "w.lora_B.weight": B}
    report = htr.analyze(factors, conv=conv, randomize=True, farms=conv == "flatten")
    (row,) = report.rows
    (values,) = report.spectra.values()
    W = (B.flatten(1) @ A.flatten(1)).reshape(24, 40, 2).double()
    matrices = [W.flatten(1)] if conv == "flatten" else [W[..., 0], W[..., 1]]
    exact = torch.cat([torch.linalg.svdvals(M).square()[:rank] for M in matrices]).sort().values
    assert len(exact) == row["num_evals"] == min(rank, 24) * len(matrices)
    factor = 1.0 if conv == "flatten" else 0.5
    assert values == pytest.approx((factor * exact).numpy(), rel=1e-5)
    assert row["rank_loss"] == 0
    assert math.isnan(row["mp_D"]) == (rank < 24)
    assert 0 < row["rand_distance"] < 1
    lost = {name: torch.full_like(factor, torch.nan) for name, factor in factors.items()}
    assert htr.analyze(lost, conv=conv).rows[0]["num_evals"] == row["num_evals"]
