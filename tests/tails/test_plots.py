"""Pictures are drawn and saved; what they show is asked of the axes."""

import sys

import numpy as np
import pytest

import bayes_htr as htr
from tests.reference.tail_cases import sample


@pytest.fixture(autouse=True)
def closed():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    yield
    pyplot.close("all")


@pytest.mark.parametrize("options", [{}, {"bootstrap": 99}, {"xmax": "largest"}, {"xmin": 2.0}])
def test_fit(tmp_path, options):
    fit = htr.fit_powerlaw(sample("pareto 2.5, 500"), **options)
    ax = fit.plot(path=tmp_path / "fit.png")
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")
    assert ax.get_xscale() == ax.get_yscale() == "log"
    values, law, _ = ax.lines
    np.testing.assert_allclose(values.get_xdata(), fit.values)
    x, y = law.get_data()
    assert x[0] == pytest.approx(fit.xmin)
    assert y[0] == pytest.approx(fit.n_tail / fit.n)
    assert f"{fit.alpha:.2f}" in ax.get_legend().get_texts()[1].get_text()


def test_given_axes(tmp_path):
    from matplotlib import pyplot

    ax = pyplot.subplots()[1]
    assert htr.fit_powerlaw(sample("pareto 2.5, 60")).plot(ax) is ax
    curve = htr.hill_curve(sample("pareto 2.5, 60"))
    assert curve.plot(ax, path=tmp_path / "hill.png") is ax
    assert (tmp_path / "hill.png").exists()


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"bayes-htr\[plot\]"):
        htr.fit_powerlaw(sample("pareto 2.5, 60")).plot()
