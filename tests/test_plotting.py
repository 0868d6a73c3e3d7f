from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

from bayes_htr._plotting import literal, log_bins, log_density, new_axes, pyplot, save, tick


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_without_matplotlib_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"bayes-htr\[plot\]"):
        pyplot()


def test_a_figure_is_saved_if_there_is_a_path(tmp_path):
    ax = new_axes(3.0, 2.0)
    assert ax.figure.get_size_inches().tolist() == [3.0, 2.0]
    save(ax, None)
    assert not list(tmp_path.iterdir())
    save(ax, tmp_path / "axes.png")
    save(ax.figure, tmp_path / "figure.png")
    for name in ("axes.png", "figure.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_dollar_sign_starts_no_formula():
    assert literal("a$b$") == r"a\$b\$"


@pytest.mark.parametrize(("high", "labels"), [(50.0, {"1", "2", "5", "10"}), (1e6, None)])
def test_ticks_are_plain_numbers_on_short_axes(high, labels):
    ax = new_axes(3.0, 2.0)
    ax.set_xscale("log")
    ax.set_xlim(1.0, high)
    tick(ax.xaxis)
    ax.figure.canvas.draw()
    texts = {text.get_text() for text in ax.get_xticklabels()}
    assert labels <= texts if labels else any("10^" in text for text in texts)


def test_bins_hold_all_but_the_smallest_values():
    values = np.random.default_rng(0).pareto(2.0, 5000) + 1e-6
    edges = log_bins(values, 400)
    steps = np.diff(np.log(edges))
    np.testing.assert_allclose(steps, steps[0])
    assert len(edges) == 40
    assert edges[-1] > values.max()
    share = (log_density(values, edges) * steps).sum()
    assert share == pytest.approx((values >= edges[0]).mean())
    assert share > 0.99
