"""Quantities of spectra over steps, each against its own definition."""

import math

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr.analysis.traces import trace

LAM = torch.stack(
    [
        torch.rand(40, generator=torch.Generator().manual_seed(seed))
        .pow(-0.6)
        .sort()
        .values.flip(0)
        for seed in range(4)
    ]
)
STEPS = [0, 1, 5, 9]


def test_alpha_is_that_of_the_fit_and_has_its_interval():
    alpha = trace(LAM, "alpha", STEPS, level=0.9)
    fits = [htr.fit_powerlaw(row, level=0.9) for row in LAM]
    np.testing.assert_allclose(alpha.values, [f.alpha for f in fits], rtol=1e-9)
    np.testing.assert_allclose(alpha.interval, [f.interval for f in fits], rtol=1e-9)
    assert alpha.steps.tolist() == STEPS


def test_a_spectrum_without_an_exponent_has_none():
    alpha = trace(torch.ones(1, 3), "alpha", [0])
    assert math.isnan(alpha.values[0]) and np.isnan(alpha.interval).all()


def test_other_quantities():
    largest, rank = (trace(LAM, name, STEPS) for name in ("lambda_max", "stable_rank"))
    np.testing.assert_allclose(largest.values, LAM.max(1).values)
    np.testing.assert_allclose(rank.values, LAM.sum(1) / LAM.max(1).values, rtol=1e-6)
    assert largest.interval is None and rank.interval is None
    assert math.isnan(trace(torch.zeros(1, 9), "stable_rank", [0]).values[0])


def test_bad_arguments():
    with pytest.raises(ValueError, match="quantity='rank'"):
        trace(LAM, "rank", STEPS)
    with pytest.raises(ValueError, match="level=2"):
        trace(LAM, "alpha", STEPS, level=2)
