"""The estimator behind every alpha: what it fits, and where it finds no exponent."""

import numpy as np
import pytest

import bayes_htr as htr
from bayes_htr.tails import fit_tail
from bayes_htr.tails.spectrum_tail import tied


def eigenvalues_of_random(rng, rows, columns):
    return np.linalg.svd(rng.standard_normal((rows, columns)), compute_uv=False) ** 2


RANDOM = {
    "power law, very heavy": lambda rng: 1 + rng.pareto(0.5, 200),
    "power law": lambda rng: 1 + rng.pareto(2.0, 200),
    "power law, light": lambda rng: 1 + rng.pareto(8.0, 200),
    "few": lambda rng: 1 + rng.pareto(2.0, 25),
    "Lomax": lambda rng: rng.pareto(1.5, 200),
    "lognormal": lambda rng: rng.lognormal(0.0, 1.0, 200),
    "random square": lambda rng: eigenvalues_of_random(rng, 150, 150),
    "random 1:2": lambda rng: eigenvalues_of_random(rng, 100, 200),
    "random 1:8": lambda rng: eigenvalues_of_random(rng, 64, 512),
}


@pytest.mark.parametrize("kind", RANDOM)
def test_eigenvalues_that_are_close_by_chance_are_not_tied(kind):
    rng = np.random.default_rng(0)
    assert not any(tied(np.sort(RANDOM[kind](rng))) for _ in range(150))


@pytest.mark.parametrize(
    ("size", "width"),
    [(4, 0.0), (4, 1e-6), (4, 1e-3), (8, 0.0), (8, 1e-3), (8, 0.02), (20, 1e-3), (20, 0.04)],
)
@pytest.mark.parametrize("kind", ["power law", "random 1:2"])
def test_a_plateau_is_tied(kind, width, size):
    """Of several heights, spread evenly or at random over a relative width."""
    rng = np.random.default_rng(1)
    for height in (1.2, 3.0):
        for spread in (rng.random(size), np.linspace(0, 1, size)):
            values = np.sort(RANDOM[kind](rng))
            values[-size:] = height * values[-size - 1] * (1 + width * spread)
            values.sort()
            assert tied(values) == size
            tail = fit_tail(values)
            assert tail.fit is None
            assert tail.ties == size
            assert tail.problem.startswith(f"tied: the {size} largest are equal")
            assert (" within " in tail.problem) == (width > 1e-5)


@pytest.mark.parametrize("shape", [(64, 5000), (20, 4000), (256, 3000)])
def test_a_wide_random_matrix_is_narrow_and_not_tied(shape):
    rng = np.random.default_rng(3)
    for _ in range(10):
        tail = fit_tail(eigenvalues_of_random(rng, *shape))
        assert "tied" not in tail.problem
        assert tail.fit is None or tail.fit.alpha < 60


@pytest.mark.parametrize("size", [6, 20, 40])
@pytest.mark.parametrize("width", [1e-3, 0.01, 0.03, 0.06])
@pytest.mark.parametrize("spikes", [(1.12,), (1.12, 1.5), (1.15, 1.2, 1.3)])
def test_a_plateau_below_spikes_has_no_exponent_of_hundreds(size, width, spikes):
    rng = np.random.default_rng(0)
    bulks = [eigenvalues_of_random(rng, 64, 128), 1e-3 * rng.random(40)]
    for bulk in bulks:
        height = 1.3 * bulk.max()
        plateau = height * (1 + width * rng.random(size))
        tail = fit_tail(np.concatenate([bulk, plateau, height * np.array(spikes)]))
        assert tail.fit is None or tail.problem or tail.fit.alpha < 35


@pytest.mark.parametrize("size", [35, 50, 63])
def test_a_plateau_of_more_than_half(size):
    values = np.sort(1 + np.random.default_rng(4).pareto(2.0, 64))
    values[-size:] = 1.5 * values[-size - 1] * np.linspace(0.99, 1.0, size)
    assert fit_tail(values).ties == size


def test_an_ordinary_spectrum_has_the_fit_of_the_search():
    values = 1 + np.random.default_rng(2).pareto(1.5, 300)
    tail, fit = fit_tail(values, bootstrap=20), htr.fit_powerlaw(values, bootstrap=20)
    assert tail.problem == "" and not tail.few and tail.ties == 0
    assert tail.fit.to_dict() == fit.to_dict()
    assert tail.readable("fc") is tail.fit


def test_zeros_but_for_rounding_are_left_out():
    values = 1 + np.random.default_rng(2).pareto(1.5, 100)
    whole = np.concatenate([values, np.full(50, 1e-13)])
    assert fit_tail(whole).fit.to_dict() == fit_tail(values).fit.to_dict()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([], "no tail: all eigenvalues are zero"),
        ([0.0, 0.0], "no tail: all eigenvalues are zero"),
        ([1.0, np.nan, 2.0], "no tail: some eigenvalues are not finite"),
        ([1.0, np.inf], "no tail: some eigenvalues are not finite"),
        ([3.0], "too few eigenvalues to tell (1)"),
        ([3.0, 2.0, 1.0], "too few eigenvalues to tell (3)"),
        ([3.0, 2.0, 0.0], "too few eigenvalues that are not zero to tell (2)"),
        ([2.0, 2.0, 2.0], "tied: the 3 largest are equal"),
        (np.geomspace(1, 1.05, 40), "no tail: its 40 values lie within 4.8 %"),
    ],
)
def test_there_is_no_exponent(values, problem):
    tail = fit_tail(values)
    assert tail.problem == problem
    assert tail.fit is None
    with pytest.raises(htr.SpectrumError, match="fc has no exponent"):
        tail.readable("fc")


def test_few_values_are_fitted_but_not_to_be_read():
    values = 1 + np.random.default_rng(0).pareto(2.0, 15)
    small = fit_tail(values)
    assert small.few and small.problem == "too few eigenvalues to tell (15)"
    expected = htr.fit_powerlaw(values, min_tail=8, correction="n-1")
    assert small.fit.alpha == expected.alpha
    short = fit_tail(np.concatenate([np.linspace(1, 2, 60), 2 + np.arange(1, 6) ** 3]))
    assert short.fit.n_tail < 10 and not short.few
    assert short.problem == f"too few eigenvalues in the tail ({short.fit.n_tail} of 65)"
