"""Eigenvalues, and the bound below which they are rounding."""

import math

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr.analysis.esd import ESD, esd_of
from tests.analysis.cases import gaussian


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


def test_eigenvalues_beyond_float64():
    with pytest.raises(htr.SpectrumError, match="w has entries so large"):
        esd_of([gaussian(20, 20) * 1e200], "w")
    good, large = htr.analyze({"v": gaussian(20, 20), "w": gaussian(20, 20) * 1e200}).rows
    assert large["verdict"].endswith("so large that eigenvalues leave float64")
    assert good["lambda_max"] > 0
    for scale in (1e-200, 1e-310):
        (small,) = htr.analyze({"w": gaussian(20, 20) * scale}).rows
        assert small["verdict"].endswith("so small that eigenvalues leave float64")
        assert math.isnan(small["lambda_max"])
    (zero,) = htr.analyze({"w": torch.zeros(20, 20)}).rows
    assert zero["verdict"] == "no tail: all eigenvalues are zero"
