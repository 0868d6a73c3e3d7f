"""Each penalty of the table is the energy of its prior: same value, same gradient."""

from __future__ import annotations

import pytest
import torch

import bayes_htr as htr
from bayes_htr.spectra import MatrixView
from tests.reference import modules
from tests.reference.penalties import PENALTIES, spectrum

HILL = ("weighted_alpha", "powerlaw", "frechet")


def prior_of(name):
    return getattr(htr.penalties, name)()


def assert_gradient(actual, expected):
    error = (actual - expected).abs().max()
    assert error <= 1e-8 * expected.abs().max() + 1e-12


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("kind", modules.MAKERS)
def test_value_and_gradient_on_every_kind_of_layer(name, kind):
    net = modules.layer(kind)
    weights = [p for p in net.parameters() if p.ndim > 1]
    reference = sum(PENALTIES[name](W) for W in modules.matrices(net))
    expected = torch.autograd.grad(reference, weights)
    for strength in (1.0, 37.5):
        net.zero_grad()
        energy = htr.bind(htr.Priors(prior_of(name).scaled(strength)), net, refresh=htr.Exact())()
        assert energy.item() == pytest.approx(strength * reference.item(), rel=1e-10)
        energy.backward()
        for weight, gradient in zip(weights, expected, strict=True):
            assert_gradient(weight.grad, strength * gradient)
        assert all(p.grad is None for p in net.parameters() if p.ndim < 2)


# Singular values; what is finite and differentiable at them.
SPECIAL = {
    "rank 4 of 6": ([3.0, 2.0, 1.5, 0.9, 0.0, 0.0], set(PENALTIES) - {"powerlaw", "nuclear_norm"}),
    "repeated below the top": ([3.0, 1.5, 1.5, 1.5, 0.4, 0.4], set(PENALTIES) - {"weighted_alpha"}),
    "repeated inside the tail": ([3.0, 1.5, 1.5, 0.8, 0.4, 0.1], set(PENALTIES)),
    "one row": ([1.7], set(PENALTIES) - set(HILL)),
    "zero": ([0.0] * 6, {"weight_decay", "spectral_norm"}),
    "large, rank 51 of 100": (
        torch.cat([torch.linspace(3, 0.1, 51), torch.zeros(49)]),
        set(PENALTIES) - {"powerlaw", "nuclear_norm"},
    ),
    "large, repeated": ([3.0] + [1.5] * 30 + [0.7] * 69, set(PENALTIES) - {"weighted_alpha"}),
}


@pytest.mark.parametrize(
    ("name", "kind"), [(n, k) for k, (_, names) in SPECIAL.items() for n in sorted(names)]
)
def test_value_and_gradient_at_special_spectra(name, kind, evaluate, with_spectrum):
    sigma, _ = SPECIAL[kind]
    W, _, _ = with_spectrum(sigma, len(sigma), len(sigma) + 3)
    leaf = W.clone().requires_grad_()
    reference = PENALTIES[name](leaf)
    (expected,) = torch.autograd.grad(reference, leaf)
    value, gradient = evaluate(prior_of(name), W)
    assert value.item() == pytest.approx(reference.item(), rel=1e-10, abs=1e-12)
    assert_gradient(gradient, expected)


def test_hill_is_a_subgradient_where_the_tail_starts_in_a_tie(evaluate, with_spectrum):
    # alpha is symmetric in the tied values but for which of them is lambda_{k+1}.
    W, _, _ = with_spectrum(SPECIAL["repeated below the top"][0], 6, 9)
    value, gradient = evaluate(htr.penalties.weighted_alpha(), W)
    assert value.item() == pytest.approx(PENALTIES["weighted_alpha"](W).item(), rel=1e-10)
    assert gradient.isfinite().all()


def test_nuclear_norm_of_a_rank_deficient_matrix_has_a_subgradient(evaluate, with_spectrum):
    W, U, V = with_spectrum([3.0, 2.0, 1.5], 6, 9)
    value, gradient = evaluate(htr.penalties.nuclear_norm(), W)
    assert value.item() == pytest.approx(6.5, rel=1e-12)
    rest = gradient - U @ V.T
    assert torch.linalg.matrix_norm(rest, 2) <= 1 + 1e-10
    assert (U.T @ rest).abs().max() < 1e-10
    assert (rest @ V).abs().max() < 1e-10


@pytest.mark.parametrize("K", [6, 100])
@pytest.mark.parametrize("multiplicity", [2, 5])
@pytest.mark.parametrize(
    ("prior", "slope"),
    [
        (htr.penalties.spectral_norm(), lambda s: s),
        (htr.MaxEigenvalue(htr.ImproperPowerlaw(2.0)), lambda s: 4 / s),
        (htr.MaxEigenvalue(htr.Frechet(2.0)), lambda s: 6 / s - 4 * s**-5),
    ],
    ids=["spectral_norm", "powerlaw", "frechet"],
)
def test_ties_of_the_largest_singular_value(prior, slope, K, multiplicity, evaluate, with_spectrum):
    sigma = torch.cat([torch.full((multiplicity,), 1.3), torch.linspace(1, 0.2, K - multiplicity)])
    W, U, V = with_spectrum(sigma, K, K + 7)
    _, gradient = evaluate(prior, W)
    G = gradient / slope(1.3)
    # The subdifferential of the norm: U1 M V1', M symmetric, positive semidefinite, of trace 1.
    U, V = U[:, :multiplicity], V[:, :multiplicity]
    M = U.T @ G @ V
    torch.testing.assert_close(U @ M @ V.T, G, rtol=0, atol=1e-6)
    torch.testing.assert_close(M, M.T, rtol=0, atol=1e-6)
    assert torch.linalg.eigvalsh(M).min() > -1e-6
    assert M.trace().item() == pytest.approx(1, abs=1e-6)
    assert (G * W).sum().item() == pytest.approx(1.3, rel=1e-6)


def test_stable_rank_at_a_tie_of_everything(evaluate):
    value, gradient = evaluate(htr.penalties.stable_rank(), torch.eye(100, dtype=torch.float64))
    assert value.item() == pytest.approx(100, rel=1e-12)
    (inner,) = torch.autograd.grad(
        (x := torch.eye(100, dtype=torch.float64).requires_grad_()).square().sum(), x
    )
    # 2 W - 2 * 100 * M: M of trace 1, so that the whole has trace 0 (it is scale-invariant).
    assert gradient.trace().item() == pytest.approx(0, abs=1e-8)
    assert torch.linalg.eigvalsh(inner - gradient).min() > -1e-8


@pytest.mark.parametrize(
    ("name", "sigma"),
    [
        ("powerlaw", [3.0, 2.0, 1.0, 0.5, 0.0]),
        ("powerlaw", [3.0, 2.0, 1.0, 0.5, 1e-17]),
        *[(name, [2.0]) for name in HILL],
        *[(name, [2.0, 2.0, 2.0, 2.0, 1.0]) for name in HILL],
        *[(name, [1.0] * 100) for name in HILL],
        *[(name, [2.0, 0.0, 0.0, 0.0]) for name in HILL],
        *[(name, [0.0] * 4) for name in (*HILL, "stable_rank")],
        *[(name, [0.0] * 100) for name in (*HILL, "stable_rank")],
    ],
)
def test_no_finite_value_is_an_error_that_names_the_matrix(name, sigma, evaluate, with_spectrum):
    W, _, _ = with_spectrum(sigma, len(sigma), len(sigma) + 4)
    with pytest.raises(htr.SpectrumError, match="weight"):
        evaluate(prior_of(name), W)
    assert evaluate(prior_of(name).scaled(0.0), W)[0] == 0


@pytest.mark.parametrize("K", [4, 100])
def test_a_fixed_frechet_has_no_value_at_zero(K, evaluate):
    with pytest.raises(htr.SpectrumError, match="weight"):
        evaluate(htr.MaxEigenvalue(htr.Frechet(2.0)), torch.zeros(K, K))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_matrix_that_is_not_finite_is_named_with_the_place(bad, evaluate):
    W = torch.randn(4, 5)
    W[2, 3] = bad
    with pytest.raises(htr.SpectrumError, match=r"weight holds 1 .*\(2, 3\)"):
        evaluate(htr.penalties.weight_decay(), W)


FROZEN = [
    htr.MaxEigenvalue(htr.ImproperPowerlaw(2.3)),
    htr.MaxEigenvalue(htr.Frechet(2.3, 0.7, -0.2)),
    htr.ESD(htr.ImproperPowerlaw(2.3)),
    htr.ESD(htr.Powerlaw(2.3, 0.4)),
    htr.ESD(htr.TruncatedPowerlaw(-1.3, 0.4, 3.0)),
    htr.ESD(htr.Lomax(2.3, 0.7)),
    htr.ESD(htr.Lomax(tail_index=htr.Gamma(2.0, 3.0))),
    htr.ESD(htr.Powerlaw(2.3), tail=0.5),
    htr.ESD(htr.Frechet(2.3)),
    htr.ESD(htr.MarchenkoPastur(0.8, 9.0)),
    htr.SingularValues(htr.LogNormal(0.3, 0.8)),
    htr.SingularValues(htr.Gamma(2.5, 0.7)),
    htr.Entries(htr.Normal(0.1, 0.6)),
    htr.StableRank(htr.HalfCauchy(1.4)),
    htr.penalties.weighted_alpha(),
]


@pytest.mark.parametrize("prior", FROZEN, ids=repr)
def test_gradcheck_at_frozen_alpha(prior, one_matrix):
    W = torch.randn(4, 5, dtype=torch.float64)
    energy = htr.bind(htr.Priors(prior), one_matrix(W), refresh=htr.Exact())

    def f(W):
        return energy.total(energy.terms_at({"weight": W}, {}))

    assert torch.autograd.gradcheck(f, W.requires_grad_(), check_backward_ad=True)


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        (
            htr.ESD(htr.Lomax(2.5, 0.3)),
            lambda W: 2.5 * torch.logdet(torch.eye(6, dtype=W.dtype) + W @ W.T / 0.3),
        ),
        (htr.ESD(htr.Powerlaw(2.5), tail=0.5), lambda W: 2.5 * spectrum(W)[:3].log().sum()),
        (htr.ESD(htr.ImproperPowerlaw(2.5), tail=0.4), lambda W: 2.5 * spectrum(W)[:2].log().sum()),
        (htr.ESD(htr.ImproperPowerlaw(2.5), tail=0.1), lambda W: 2.5 * spectrum(W)[:1].log().sum()),
        (
            htr.ESD(htr.ImproperPowerlaw(htr.Hill(0.34, exponent="tail")), tail=0.5),
            lambda W: (
                2
                / (spectrum(W)[:2] / spectrum(W)[2]).log().sum().item()
                * spectrum(W)[:3].log().sum()
            ),
        ),
        (htr.ESD(htr.Powerlaw(2.5, 1.0)), lambda W: 2.5 * spectrum(W).clamp(min=1).log().sum()),
        (
            htr.ESD(htr.TruncatedPowerlaw(1.5, 1.0, 4.0)),
            lambda W: 1.5 * spectrum(W).clamp(1, 4).log().sum(),
        ),
        (
            htr.MaxEigenvalue(htr.Frechet(2.0, 3.0, -1.0)),
            lambda W: 3 * ((spectrum(W)[0] + 1) / 3).log() + ((spectrum(W)[0] + 1) / 3) ** -2,
        ),
        (htr.Entries(htr.Normal(0.0, 4.0**-0.5)), lambda W: 4 * PENALTIES["weight_decay"](W)),
    ],
    ids=lambda v: repr(v) if isinstance(v, htr.priors.Prior) else "",
)
def test_other_energies_by_their_formula(prior, expected, evaluate):
    W = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    assert spectrum(W)[-1] < 1 < 4 < spectrum(W)[0]  # the supports' ends are inside
    reference = expected(W)
    (slope,) = torch.autograd.grad(reference, W)
    value, gradient = evaluate(prior, W.detach())
    assert value.item() == pytest.approx(reference.item(), rel=1e-10)
    assert_gradient(gradient, slope)


@pytest.mark.parametrize(
    "prior", [htr.ESD(htr.ImproperPowerlaw(2.0)), htr.SingularValues(htr.LogNormal())], ids=repr
)
def test_small_singular_values_are_scored_in_double_precision(prior, evaluate, with_spectrum):
    W = with_spectrum(10.0 ** -torch.arange(8.0), 8, 12)[0].float()
    value, gradient = evaluate(prior, W)
    expected, slope = evaluate(prior, W.double())
    assert value.dtype == gradient.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-5, atol=1e-7 * slope.abs().max())


@pytest.mark.parametrize(
    "law",
    [htr.Lomax(2.5), htr.Lomax(tail_index=htr.Joint(htr.Gamma(2.0, 1.0)))],
    ids=["number", "latent"],
)
@pytest.mark.parametrize("tail", [None, 0.5])
def test_a_statistic_has_its_energy_at_a_strength(law, tail):
    prior = htr.ESD(law, tail)
    view = MatrixView(torch.randn(5, 6), "weight", prior.needs)
    latents = {name: torch.tensor(1.7) for name in law.hyperpriors}
    energy = prior.energy(view, latents)
    torch.testing.assert_close(prior.energy(view, latents, 3.0), 3 * energy)


def test_a_prior_whose_support_holds_no_value_is_an_error(evaluate):
    for law in (htr.Powerlaw(2.0, 1e6), htr.TruncatedPowerlaw(2.0, 1e-9, 1e-8)):
        with pytest.raises(htr.SpectrumError, match=r"weight.*outside the support"):
            evaluate(htr.ESD(law), torch.randn(4, 5))
    with pytest.raises(htr.SpectrumError, match=r"weight.*positive numbers.*take Normal"):
        evaluate(htr.Entries(htr.HalfCauchy()), torch.randn(4, 5))
    with pytest.raises(htr.SpectrumError, match="weight"):
        evaluate(htr.MaxEigenvalue(htr.Frechet(2.0, 1.0, loc=1e6)), torch.randn(4, 5))


@pytest.mark.parametrize("sigma", [[3.0, 2.0, 0.0, 0.0], [3.0]])
def test_a_tail_that_starts_at_zero_is_an_error(sigma, evaluate, with_spectrum):
    W, _, _ = with_spectrum(sigma, len(sigma), 7)
    for law in (htr.Powerlaw(2.0), htr.Powerlaw(tail_index=htr.Gamma(2.0, 1.0))):
        with pytest.raises(htr.SpectrumError, match=r"weight.*tail"):
            evaluate(htr.ESD(law, tail=0.5), W)


def test_laws_that_are_finite_at_zero_score_rank_deficient_matrices(evaluate):
    W = torch.zeros(3, 4, dtype=torch.float64)
    W[0, 0] = 2.0
    for prior, expected in [
        (htr.ESD(htr.Frechet(2.0, 1.0, loc=-1.0)), 3 * torch.tensor(5.0).log().item() + 2.04),
        (htr.ESD(htr.Gamma(1.0, 0.5)), 2.0),
        (htr.Entries(htr.Gamma(1.0, 0.5)), 1.0),
        (htr.ESD(htr.HalfCauchy()), torch.tensor(17.0).log().item()),
    ]:
        value, gradient = evaluate(prior, W)
        assert value.item() == pytest.approx(expected, rel=1e-6)
        assert gradient.isfinite().all()
