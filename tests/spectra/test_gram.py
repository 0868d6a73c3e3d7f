"""Decompositions by way of the Gram matrix against singular values in float64."""

from __future__ import annotations

import pytest
import torch

from bayes_htr.errors import SpectrumError
from bayes_htr.spectra import gram
from bayes_htr.spectra.gram import eigen, log_det, pull_back

SHAPES = [(1, 1), (1, 9), (9, 1), (6, 11), (11, 6), (40, 40)]
DTYPES = [torch.float32, torch.float64]


def with_spectrum(sigma, rows, columns, dtype=torch.float64):
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    U, V = (torch.linalg.qr(torch.randn(n, len(sigma)).double()).Q for n in (rows, columns))
    return (U * sigma @ V.T).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_eigenvalues_and_vectors(shape, dtype):
    W = torch.randn(shape, dtype=dtype)
    K = min(shape)
    found = eigen(W, count=K, digits=False)
    exact = torch.linalg.svdvals(W.double()).square()
    assert found.values.dtype == torch.float64
    torch.testing.assert_close(found.values, exact, rtol=1e-10, atol=1e-12)
    small = W if shape[0] >= shape[1] else W.T
    rebuilt = found.vectors * found.values @ found.vectors.T
    torch.testing.assert_close(rebuilt, small.double().T @ small.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "smallest", "path"),
    [
        (torch.float32, 0.5, [torch.float32]),
        (torch.float32, 1e-3, [torch.float32, torch.float64]),
        (torch.float32, 1e-7, [torch.float32, torch.float64, None]),
        (torch.float64, 0.5, [torch.float64]),
        (torch.float64, 1e-4, [torch.float64, None]),
    ],
)
def test_more_digits_where_squaring_loses_them(dtype, smallest, path, monkeypatch):
    W = with_spectrum([2.0, 1.0, smallest, smallest / 10], 5, 7, dtype)
    used = []
    monkeypatch.setattr(gram, "of_gram", lambda G, f=gram.of_gram: (used.append(G.dtype), f(G))[1])
    monkeypatch.setattr(
        gram,
        "of_singular_values",
        lambda W, f=gram.of_singular_values: (used.append(None), f(W))[1],
    )
    found = eigen(W, count=3, digits=True)
    assert used == path
    exact = torch.linalg.svdvals(W.double()).square()
    rtol = 1e-3 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found.values[:3].double(), exact[:3], rtol=rtol, atol=0)


@pytest.mark.parametrize(
    ("smallest", "dtype"), [(0.1, torch.float32), (2e-2, torch.float32), (2e-3, torch.float64)]
)
def test_a_whole_spectrum_in_float32_where_that_is_enough(smallest, dtype):
    """The squares of the last two differ from the largest by factors of 2,500 and 250,000."""
    sigma = torch.tensor([1.0, 0.5, 0.2, smallest])
    W = with_spectrum(sigma, 30, 4, torch.float32)
    found = eigen(W, count=4, digits=True, rough=True)
    assert found.values.dtype == found.vectors.dtype == dtype
    exact = torch.linalg.svdvals(W.double()).square()
    torch.testing.assert_close(found.values.double(), exact, rtol=1e-2, atol=0)


SPECTRA = {
    "one spike": torch.cat([torch.tensor([5e6]), torch.linspace(3, 1, 259)]),
    "geometric": torch.logspace(6.5, 0, 260),
    "a power law": torch.linspace(0.006, 1, 260) ** -3.0,
    "ties": torch.tensor([1e6] * 5 + [1e3] * 95 + [1.0] * 160),
}


@pytest.mark.parametrize("shape", [(260, 260), (400, 260), (260, 400)])
@pytest.mark.parametrize("lam", SPECTRA.values(), ids=SPECTRA)
def test_small_eigenvalues_in_float32(lam, shape):
    W = with_spectrum(lam.sqrt(), *shape, torch.float32)
    found = eigen(W, count=260, digits=True, rough=True)
    assert found.values.dtype == torch.float32
    exact = torch.linalg.svdvals(W.double()).square()
    small = W if shape[0] >= shape[1] else W.T
    alone = torch.linalg.eigvalsh(small.T @ small).flip(0)
    error, error_alone = ((v.double() / exact - 1).abs().max() for v in (found.values, alone))
    assert error < 2e-3 < error_alone
    assert bool((found.values > found.floor * found.values[0]).all())
    # The vectors are orthonormal, and those that the matrix maps them to are orthogonal.
    V = found.vectors.double()
    torch.testing.assert_close(V.T @ V, torch.eye(260).double(), rtol=0, atol=1e-5)
    mapped = small.double() @ V / exact.sqrt()
    torch.testing.assert_close(mapped.T @ mapped, torch.eye(260).double(), rtol=0, atol=1e-2)


@pytest.mark.parametrize("smallest", [1e-4, 1e-6])
def test_the_smallest_eigenvalues_of_all_in_float64(smallest):
    """Squares of 1e-8 and less of the largest are beyond float32."""
    sigma = torch.cat([torch.linspace(1, 0.2, 259), torch.tensor([smallest])])
    W = with_spectrum(sigma, 300, 260, torch.float32)
    found = eigen(W, count=260, digits=True, rough=True)
    assert found.values.dtype == torch.float64
    exact = torch.linalg.svdvals(W.double()).square()
    torch.testing.assert_close(found.values, exact, rtol=1e-2, atol=0)


def test_many_eigenvalues_at_the_limit_of_the_first_decomposition():
    """Their errors mix most with the directions of small eigenvalues."""
    lam = torch.cat([torch.ones(10), torch.full((240,), 1e-4), torch.full((10,), 2e-7)])
    W = with_spectrum(lam.sqrt(), 300, 260, torch.float32)
    found = eigen(W, count=260, digits=True, rough=True)
    assert found.values.dtype == torch.float32
    exact = torch.linalg.svdvals(W.double()).square()
    torch.testing.assert_close(found.values.double(), exact, rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("digits", [0, 4, 7, 10])
@pytest.mark.parametrize("K", [20, 260])
def test_rank_is_told_from_small_eigenvalues(K, digits, dtype):
    """A spectrum that falls by 0 to 10 decimal digits; then its last column repeats the first."""
    sigma = torch.logspace(0, -digits / 2, K, dtype=torch.float64)
    W = with_spectrum(sigma, K + 40, K, dtype)
    for rank in (K, K - 1):
        found = eigen(W, count=K, digits=True, rough=True)
        assert int((found.values > found.floor * found.values[0]).sum()) == rank
        exact = torch.linalg.svdvals(W.double()).square()[:rank]
        torch.testing.assert_close(found.values[:rank].double(), exact, rtol=1e-2, atol=0)
        W[:, -1] = W[:, 0]


@pytest.mark.parametrize(("rows", "columns"), [(1000, 32), (50_000, 16), (3000, 260)])
def test_a_long_matrix_has_full_rank(rows, columns):
    """Its smallest eigenvalue is as small as float32 can tell, however many rows there are."""
    sigma = torch.linspace(1, 1.1e-2, columns)
    W = with_spectrum(sigma, rows, columns, torch.float32)
    found = eigen(W, count=columns, digits=True, rough=True)
    assert found.values.dtype == torch.float32
    assert int((found.values > found.floor * found.values[0]).sum()) == columns


@pytest.mark.parametrize("zero", [0.0, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_slopes_are_pulled_back(shape, zero):
    W = torch.randn(shape, dtype=torch.float64)
    lam = torch.linalg.svdvals(W).square()
    slopes = torch.linspace(-1, 1, len(lam), dtype=torch.float64)
    slopes[len(lam) - int(zero * len(lam)) :] = 0
    leaf = W.clone().requires_grad_()
    (expected,) = torch.autograd.grad(torch.linalg.svdvals(leaf).square() @ slopes, leaf)
    found = eigen(W, count=len(lam), digits=False)
    torch.testing.assert_close(pull_back(W, found.vectors, slopes), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1e-12, 1e-4, 0.7, 1e4, 1e12])
@pytest.mark.parametrize("shape", [*SHAPES, (100, 300)])
def test_log_det(shape, scale, dtype):
    W = torch.randn(shape, dtype=dtype)
    value, gradient = log_det(W, scale)
    leaf = W.double().requires_grad_()
    exact = (torch.linalg.svdvals(leaf).square() / scale).log1p().sum()
    (expected,) = torch.autograd.grad(exact, leaf)
    rtol = 1e-4 if dtype == torch.float32 else 1e-10
    rounding = 10 * min(shape) * torch.finfo(dtype).eps
    assert value.item() == pytest.approx(exact.item(), rel=rtol, abs=rounding)
    assert gradient.shape == W.shape
    error = torch.linalg.matrix_norm(gradient.double() - expected)
    assert error <= 10 * rtol * torch.linalg.matrix_norm(expected)


@pytest.mark.parametrize("sigma", [[0.0] * 5, [3.0, 0.0, 0.0, 0.0, 0.0], [2.0] * 5])
def test_log_det_of_degenerate_matrices(sigma):
    W = with_spectrum(sigma, 5, 8)
    value, gradient = log_det(W, 0.5)
    lam = torch.as_tensor(sigma).double().square()
    assert value.item() == pytest.approx((2 * lam).log1p().sum().item(), abs=1e-12)
    exact = 2 * torch.linalg.solve(0.5 * torch.eye(5) + W @ W.T, W)
    torch.testing.assert_close(gradient, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (5000, 7), (3, 2, 3, 3)])
def test_values_alone(shape, dtype):
    W = torch.randn(shape).to(dtype)
    found = gram.eigenvalues(W)
    exact = torch.linalg.svdvals(W.flatten(1).double()).square().flip(0)
    torch.testing.assert_close(torch.from_numpy(found), exact, rtol=1e-9, atol=0)


@pytest.mark.parametrize("factor", [1e-130, 1.0, 1e130])
def test_values_alone_of_a_matrix_of_low_rank_and_any_scale(factor):
    W = with_spectrum([1.0, 1e-3, 1e-7, 1e-12], 30, 20) * factor
    found = torch.from_numpy(gram.eigenvalues(W).copy()).flip(0)[:4].sqrt() / factor
    expected = torch.tensor([1.0, 1e-3, 1e-7, 1e-12]).double()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_values_alone_take_singular_values_where_the_gram_matrix_has_too_few_digits(monkeypatch):
    used = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda W: used.append(1) or svdvals(W))
    gram.eigenvalues(with_spectrum([1.0, 0.5, 1e-3], 9, 3))
    assert not used
    gram.eigenvalues(with_spectrum([1.0, 0.5, 1e-5], 9, 3))
    assert used


def test_values_alone_of_a_matrix_that_is_not_finite():
    W = torch.ones(3, 3, dtype=torch.bfloat16)
    W[1, 2] = float("nan")
    with pytest.raises(SpectrumError, match=r"fc.weight holds 1 .* nan at \(1, 2\)"):
        gram.eigenvalues(W, "fc.weight")
