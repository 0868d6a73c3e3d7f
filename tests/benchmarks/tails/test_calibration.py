"""`tails` on a few samples, and the laws that are sampled."""

import numpy as np
import pytest
from scipy import integrate, stats

from benchmarks.__main__ import main
from benchmarks.tails.calibration import LAWS, uniformity


def test_bad_input_is_named(tmp_path, capsys):
    assert main(["tails", "--out", str(tmp_path), "--alpha", "0.5"]) == 1
    assert "--alpha 0.5" in capsys.readouterr().err


@pytest.mark.parametrize("law", LAWS)
def test_the_tail_is_a_power_law_from_1_on(law):
    values = LAWS[law](40_000, 2.5, np.random.default_rng(0))
    tail = values[values > 1]
    assert len(tail) > 4000
    assert stats.kstest(tail, stats.pareto(1.5).cdf).pvalue > 1e-3


def test_smooth_joins_without_a_step():
    def density(x):
        return np.exp(-2.5 * (x - 1)) if x < 1 else x**-2.5

    total = integrate.quad(density, 0, 1)[0] + integrate.quad(density, 1, np.inf)[0]
    values = LAWS["smooth"](200_000, 2.5, np.random.default_rng(0))
    for low, high in ((0.0, 0.2), (0.9, 1.0), (1.0, 1.1), (2.0, 3.0)):
        share = ((values >= low) & (values < high)).mean()
        assert share == pytest.approx(integrate.quad(density, low, high)[0] / total, rel=0.04)


def test_uniformity():
    random = np.random.default_rng(0)
    steps = random.integers(1, 201, 2000) / 200
    assert uniformity(steps, 199) > 0.01
    assert uniformity(steps**1.2, 199) < 1e-3
