"""Pictures draw the numbers of the report."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr._plotting import log_bins
from bayes_htr.analysis import curves
from bayes_htr.analysis.verdict import KINDS
from tests.analysis.cases import mixed_state, pareto

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg", force=True)
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(scope="module")
def report():
    return htr.analyze(mixed_state(), bootstrap=30)


def heavy(report):
    return report.matrix("heavy $x$"), report.fits["heavy $x$"]


@pytest.fixture(scope="module")
def comparison(report):
    return report.compare(htr.analyze(mixed_state(index=3.0), bootstrap=30))


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_one_matrix(report, tmp_path):
    spectrum, fit = heavy(report)
    figure = report.plot("heavy $x$", path=tmp_path / "m.png")
    esd, survival, hill = figure.axes
    assert figure.get_suptitle().startswith(r"heavy \$x\$: ")
    density = curves.density(spectrum, log_bins(spectrum.values))
    assert (esd.patches[0].get_data().values == density).all()
    tail = next(line for line in esd.lines if "alpha" in line.get_label())
    slope = np.diff(np.log(tail.get_ydata())) / np.diff(np.log(tail.get_xdata()))
    assert slope == pytest.approx(-fit.alpha)
    low, high = fit.searched_interval
    assert f"{fit.alpha:.2f} [{low:.2f}, {high:.2f}]" in tail.get_label()
    assert spectrum.bulk is None, "none fits"
    assert not any("Marchenko" in line.get_label() for line in esd.lines)
    assert len(survival.lines[0].get_xdata()) == fit.n
    assert hill.lines[-1].get_xydata().tolist() == [[fit.n_tail, fit.alpha]]
    n = fit.n_tail  # Hill's estimate leaves out the value at xmin
    assert hill.lines[0].get_ydata()[n - 2] - 1 == pytest.approx((fit.alpha - 1) * (n - 1) / n)
    assert (tmp_path / "m.png").stat().st_size > 1000


def test_a_random_matrix_has_its_bulk_drawn(report):
    esd = report.plot("random").axes[0]
    bulk = next(line for line in esd.lines if "Marchenko" in line.get_label())
    assert bulk.get_xdata()[-1] <= report.matrix("random").bulk.bulk_max


def test_a_matrix_without_a_tail(report):
    esd, survival, hill = report.plot("eye").axes
    assert esd.texts[0].get_text() == "all eigenvalues are equal"
    assert hill.texts[0].get_text() == "no tail"
    assert survival.lines[0].get_ydata()[-1] == 1.0


def test_all_matrices(report, tmp_path):
    figure = report.plot(path=tmp_path / "o.png")
    alpha, *esds = figure.axes
    assert len(esds) == 3 and (tmp_path / "o.png").stat().st_size > 1000
    assert alpha.get_yscale() == "log"
    drawn = {}
    for line in alpha.lines:
        for x, y in line.get_xydata():
            drawn[int(x)] = (y, line.get_markerfacecolor())
    for i, row in enumerate(report.rows[:2]):
        y, face = drawn[i]
        assert y == row["alpha"] and (face == "white") is (i == 0)  # the random one is hollow
    ends = {
        int(x): (low, high)
        for c in alpha.collections
        if hasattr(c, "get_segments")
        for (x, low), (_, high) in [s for s in c.get_segments() if len(s)]
    }
    assert ends[1] == (report.rows[1]["searched_low"], report.rows[1]["searched_high"])
    assert alpha.get_ylim()[0] < 2 < 6 < alpha.get_ylim()[1]


def test_overview_of_many(tmp_path):
    report = htr.analyze({f"w{i}": pareto(20, 1.5, i) for i in range(11)})
    figure = report.plot()
    alpha, *esds = figure.axes
    assert [ax.get_title() for ax in esds] == [f"w{i}" for i in (0, 2, 4, 6, 8, 10)]
    assert [text.get_text() for text in alpha.get_xticklabels()] == [f"w{i}" for i in range(11)]
    assert "all 11 matrices" in figure.get_suptitle()


@pytest.mark.parametrize("count", [3, 21])
def test_names_of_matrices_are_within_the_figure(count):
    """Names are in place of numbers, and no legend lies on data."""
    name = "transformer.encoder.layer.{}.attention.output.dense.weight"
    report = htr.analyze({name.format(i): pareto(20, 1.5, i) for i in range(count)})
    figure = report.plot()
    figure.canvas.draw()
    alpha = figure.axes[0]
    labels = [text.get_window_extent() for text in alpha.get_xticklabels()]
    assert len(labels) == count
    for box in labels:
        assert figure.bbox.y0 <= box.y0 and box.x1 <= figure.bbox.x1
    assert not any(a.overlaps(b) for a, b in pairwise(labels))
    assert not any(a.overlaps(ax.get_window_extent()) for a in labels for ax in figure.axes[1:])
    (legend,) = [part.legends[0] for part in figure.subfigs if part.legends]
    assert not legend.get_window_extent().overlaps(alpha.get_window_extent())
    both = report.compare(report).plot()
    both.canvas.draw()
    last = both.axes[1].get_xticklabels()[-1].get_window_extent()
    assert last.y0 >= 0 and last.x1 <= both.bbox.x1
    legend = both.legends[0].get_window_extent()
    assert not any(legend.overlaps(ax.get_window_extent()) for ax in both.axes)


def test_too_many_names_are_numbers_with_the_first_and_the_last_name():
    report = htr.analyze({f"w{i}": pareto(20, 1.5, i) for i in range(41)})
    alpha = report.plot().axes[0]
    assert alpha.get_xlabel() == "matrix, from 0 (w0) to 40 (w40)"


@pytest.mark.parametrize("K", [2, 3, 12])
def test_few_eigenvalues_have_no_power_law(K):
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(40, K, generator=generator, dtype=torch.float64)
    report = htr.analyze({"w": W}, min_size=2)
    for ax in report.plot("w").axes[:2]:
        assert not [line for line in ax.lines if "alpha" in str(line.get_label())]
    assert not list(report.plot().axes[1].collections)
    pair = report.compare(report).plot("w").axes[0]
    assert not pair.lines


def test_two_checkpoints(report, comparison):
    alpha, largest = comparison.plot().axes
    labels = [text.get_text() for text in largest.figure.legends[0].get_texts()]
    assert labels == ["the state dict, first", "the state dict, second"]
    for line, side in zip(largest.lines, ("lambda_max", "other_lambda_max"), strict=True):
        assert line.get_ydata().tolist() == [row[side] for row in comparison.rows]
    seen = {round(y, 12) for line in alpha.lines for y in line.get_ydata() if not math.isnan(y)}
    wanted = {round(r[c], 12) for r in comparison.rows[:2] for c in ("alpha", "other_alpha")}
    assert seen == wanted


@pytest.mark.filterwarnings("error")
def test_two_checkpoints_of_zeros(tmp_path):
    report = htr.analyze({"w": torch.zeros(30, 30)})
    alpha, _ = report.compare(report).plot().axes
    assert all(math.isnan(y) for line in alpha.lines for y in line.get_ydata())
    esd, survival, _ = report.plot("w", path=tmp_path / "zero.png").axes
    assert esd.texts[0].get_text() == "all eigenvalues are zero"
    assert survival.texts[0].get_text() == "all eigenvalues are zero"


def test_one_matrix_of_two_checkpoints(comparison, tmp_path):
    figure = comparison.plot("heavy $x$", path=tmp_path / "p.png")
    (ax,) = figure.axes
    first, second = ax.patches
    assert (first.get_data().edges == second.get_data().edges).all()
    for patch in (first, second):
        data = patch.get_data()
        assert (data.values * np.diff(data.edges)).sum() == pytest.approx(1)
    slopes = [
        (np.diff(np.log(line.get_ydata())) / np.diff(np.log(line.get_xdata())))[0]
        for line in ax.lines
    ]
    row = comparison.rows[1]
    assert slopes == pytest.approx([-row["alpha"], -row["other_alpha"]])
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_matrices_that_there_are_not(report, comparison):
    with pytest.raises(ValueError, match="no matrix 'fc'"):
        report.plot("fc")
    with pytest.raises(ValueError, match="no matrix 'fc' in both"):
        comparison.plot("fc")


def test_every_row_has_a_kind(report):
    assert {matrix.kind.key for matrix in report.matrices.values()} == {"random", "heavy", "untold"}
    assert len({kind.mark + str(kind.filled) for kind in KINDS}) == len(KINDS)
