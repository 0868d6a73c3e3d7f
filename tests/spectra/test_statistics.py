"""Statistics of one matrix: values, gradients, kinds of input, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bayes_htr as htr
from tests.reference import penalties

STATISTICS = {
    "spectrum": (htr.spectrum, penalties.spectrum),
    "spectral_norm": (htr.spectral_norm, lambda W: penalties.spectrum(W)[0].sqrt()),
    "frobenius_norm": (htr.frobenius_norm, lambda W: (W * W).sum().sqrt()),
    "nuclear_norm": (htr.nuclear_norm, penalties.nuclear_norm),
    "stable_rank": (htr.stable_rank, penalties.stable_rank),
    "hill": (lambda W: htr.hill(htr.spectrum(W)), lambda W: penalties.hill(penalties.spectrum(W))),
}
SHAPES = [(5, 5), (4, 9), (9, 4), (100, 120)]


@pytest.fixture(params=STATISTICS)
def statistic(request):
    return STATISTICS[request.param]


@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient(statistic, shape):
    ours, reference = statistic
    W = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(reference(W).shape, dtype=torch.float64)
    torch.testing.assert_close(ours(W), reference(W), rtol=1e-10, atol=1e-12)
    slopes = [torch.autograd.grad((weights * f(W)).sum(), W)[0] for f in (ours, reference)]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-9)


def test_gradcheck(statistic):
    W = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(statistic[0], W)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64"])
def test_arrays_lists_and_other_precisions(statistic, dtype):
    array = (3 * np.random.default_rng(0).normal(size=(4, 6))).astype(dtype)
    expected = statistic[1](torch.as_tensor(array.astype("float64")))
    working = torch.float64 if dtype in ("float64", "int64") else torch.float32
    for given in (array, torch.as_tensor(array), array.tolist()):
        found = statistic[0](given)
        assert found.dtype == working if not isinstance(given, list) else True
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_gradient_reaches_half_precision():
    W = torch.randn(4, 6).bfloat16().requires_grad_()
    htr.spectrum(W).sum().backward()
    assert W.grad.dtype == torch.bfloat16
    torch.testing.assert_close(W.grad, 2 * W.detach(), rtol=0.02, atol=0.02)


def test_a_convolution_is_its_matrix(statistic):
    W = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(statistic[0](W), statistic[0](W.reshape(4, 12)))


def test_repeated_values_do_no_harm():
    W = torch.eye(5, dtype=torch.float64, requires_grad=True)
    htr.spectrum(W).sum().backward()
    torch.testing.assert_close(W.grad, 2 * torch.eye(5, dtype=torch.float64))


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.7, 0.999])
@pytest.mark.parametrize("K", [2, 3, 10, 11])
def test_hill(K, fraction):
    lam = torch.rand(K, dtype=torch.float64) + 0.1
    expected = penalties.hill(lam, fraction).item()
    assert htr.hill(lam, fraction).item() == pytest.approx(expected, rel=1e-12)
    assert htr.hill(lam, fraction, exponent="tail").item() == pytest.approx(expected - 1, rel=1e-12)
    assert htr.hill(7.0 * lam.flip(0), fraction).item() == pytest.approx(expected, rel=1e-12)


def test_hill_counts_with_the_floor():
    lam = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5])
    log = np.log(2)
    assert htr.hill(lam, 0.5).item() == pytest.approx(1 + 2 / (2 * log + log))  # k = 2
    assert htr.hill(lam, 0.1).item() == pytest.approx(1 + 1 / log)  # k = max(1, 0)


def test_hill_of_a_batch():
    lam = torch.rand(3, 4, 9, dtype=torch.float64) + 0.1
    found = htr.hill(lam)
    expected = [[penalties.hill(lam[i, j]).item() for j in range(4)] for i in range(3)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_hill_finds_the_exponent_of_a_power_law():
    generator = np.random.default_rng(0)
    lam = generator.pareto(1.5, 200_000) + 1  # density exponent 2.5
    assert htr.hill(lam, 0.1).item() == pytest.approx(2.5, abs=4 * 1.5 / 20_000**0.5)


@pytest.mark.parametrize(
    ("lam", "said"),
    [
        ([2.0], "one eigenvalue"),
        ([2.0, 1.0, 0.0, 0.0], "starts at lambda_3 = 0"),
        ([2.0, 1.0, 1e-40, 0.0], "working accuracy"),
        ([2.0, 2.0, 2.0, 1.0], "are equal"),
        ([0.0, 0.0, 0.0], "lambda_2 = 0"),
        ([float("nan"), 1.0, 1.0], "spectrum"),
    ],
)
def test_where_hill_has_no_value(lam, said):
    with pytest.raises(htr.SpectrumError, match=said):
        htr.hill(torch.tensor(lam, dtype=torch.float64))
    with pytest.raises(htr.SpectrumError, match=r"^fc"):
        htr.hill(torch.tensor(lam, dtype=torch.float64), name="fc")


@pytest.mark.parametrize(
    "arguments", [{"fraction": f} for f in (0, 1, -1, 2)] + [{"exponent": "x"}]
)
def test_wrong_arguments_of_hill(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        htr.hill(torch.rand(5), **arguments)


def test_tie_and_zero():
    W = torch.eye(60, 50, dtype=torch.float64, requires_grad=True)
    htr.spectral_norm(W).backward()
    assert torch.linalg.matrix_norm(W.grad, "nuc").item() == pytest.approx(1)
    for K in (3, 100):
        assert htr.spectral_norm(torch.zeros(K, K)) == 0
        assert (htr.spectrum(torch.zeros(K, K)) == 0).all()
        with pytest.raises(htr.SpectrumError, match="zero matrix"):
            htr.stable_rank(torch.zeros(K, K))


@pytest.mark.parametrize("name", sorted(set(STATISTICS) - {"frobenius_norm"}))
def test_what_has_no_spectrum(name):
    f = STATISTICS[name][0]
    for bad in (torch.ones(3), torch.ones(0, 3), torch.tensor(1.0)):
        with pytest.raises(htr.SpectrumError, match="shape"):
            f(bad)
    with pytest.raises(htr.SpectrumError, match=r"dtype torch\.complex64: spectra are of real"):
        f(torch.ones(3, 4, dtype=torch.complex64))
    for entry in (float("nan"), float("inf")):
        W = torch.ones(3, 4)
        W[1, 2] = entry
        with pytest.raises(htr.SpectrumError, match=r"not finite.*\(1, 2\)"):
            f(W)
