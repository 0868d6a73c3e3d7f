from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

from bayes_htr import _plotting
from bayes_htr.errors import OutputError


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_without_matplotlib_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"bayes-htr\[plot\]"):
        _plotting.pyplot()


def test_a_figure_is_saved_if_there_is_a_path(tmp_path):
    ax = _plotting.new_axes(3.0, 2.0)
    assert ax.figure.get_size_inches().tolist() == [3.0, 2.0]
    _plotting.save(ax, None)
    assert not list(tmp_path.iterdir())
    _plotting.save(ax, tmp_path / "axes.png")
    _plotting.save(ax.figure, tmp_path / "figure.png")
    for name in ("axes.png", "figure.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_dollar_sign_starts_no_formula():
    assert _plotting.literal("a$b$") == r"a\$b\$"


@pytest.mark.parametrize(("high", "labels"), [(50.0, {"1", "2", "5", "10"}), (1e6, None)])
def test_ticks_are_plain_numbers_on_short_axes(high, labels):
    ax = _plotting.new_axes(3.0, 2.0)
    ax.set_xscale("log")
    ax.set_xlim(1.0, high)
    _plotting.tick(ax.xaxis)
    ax.figure.canvas.draw()
    texts = {text.get_text() for text in ax.get_xticklabels()}
    assert labels <= texts if labels else any("10^" in text for text in texts)


def test_ticks_of_a_very_short_axis_are_more_than_one():
    ax = _plotting.new_axes(3.0, 2.0)
    ax.set_xscale("log")
    ax.set_xlim(1.4, 5.5)
    _plotting.tick(ax.xaxis)
    ax.figure.canvas.draw()
    assert {"1.5", "2", "3", "4", "5"} <= {text.get_text() for text in ax.get_xticklabels()}


@pytest.mark.parametrize("name", ["missing/a.png", "file/a.png"])
def test_a_figure_that_cannot_be_saved_raises_the_error_of_the_library(tmp_path, name):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match=r"a\.png cannot be written"):
        _plotting.save(_plotting.new_axes(3.0, 2.0), tmp_path / name)


def test_a_full_disk_raises_the_error_of_the_library_and_leaves_the_old_file(tmp_path, monkeypatch):
    ax = _plotting.new_axes(3.0, 2.0)
    (tmp_path / "a.png").write_bytes(b"old")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ax.figure, "savefig", full)
    with pytest.raises(OutputError, match="the disk is full"):
        _plotting.save(ax, tmp_path / "a.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_the_suffix_says_the_format(tmp_path):
    ax = _plotting.new_axes(3.0, 2.0)
    _plotting.save(ax, tmp_path / "a.svg")
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    _plotting.save(ax, tmp_path / "b")
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputError, match=r"'docx' is no format.*\.png"):
        _plotting.save(ax, tmp_path / "a.docx")


def test_axes_of_a_part_of_a_figure_are_saved(tmp_path):
    figure = plt.figure()
    _plotting.save(figure.subfigures(1, 2)[0].subplots(), tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_the_callers_style_is_kept_and_not_taken():
    with plt.rc_context({"axes.spines.top": True, "axes.titlesize": 40.0}):
        before = dict(plt.rcParams)
        ax = _plotting.styled(lambda: _plotting.new_axes(3.0, 2.0).set_title("a"))().axes
        assert dict(plt.rcParams) == before
    assert ax.title.get_fontsize() == _plotting.STYLE["axes.titlesize"]
    assert not ax.spines["top"].get_visible()
    assert ax.plot([1, 2])[0].get_color() == _plotting.PALETTE[0]


def test_the_page_has_the_colours_of_the_figures():
    from importlib.resources import files

    css = (files("bayes_htr.analysis.page") / "style.css").read_text(encoding="utf-8")
    for name, color in (
        ("values", _plotting.PALETTE[0]),
        ("law", _plotting.PALETTE[1]),
        ("bulk", _plotting.PALETTE[2]),
    ):
        assert f"--{name}: light-dark({color}," in css
    assert f"--quiet: light-dark({_plotting.PALETTE[-1]}," in css


def outside(ax):
    """Whether the legend of drawn axes lies outside of them, and within the figure."""
    ax.figure.canvas.draw()
    box, frame = ax.get_legend().get_window_extent(), ax.get_window_extent()
    whole = ax.figure.bbox
    inside_figure = whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0
    return not box.overlaps(frame) and inside_figure


def test_a_legend_lies_below_the_axes_and_its_labels():
    ax = _plotting.new_axes(4.0, 3.0)
    ax.plot([1, 2, 3], label="data")
    ax.set_xlabel("x")
    _plotting.legend(ax)
    assert outside(ax)
    label = ax.xaxis.label.get_window_extent()
    assert not ax.get_legend().get_window_extent().overlaps(label)


def test_a_legend_stays_within_the_axes_of_a_figure_without_a_layout():
    ax = plt.subplots()[1]
    ax.plot([1, 2, 3], label="data")
    _plotting.legend(ax)
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().overlaps(ax.get_window_extent())


def test_a_long_name_loses_its_middle():
    assert _plotting.shortened("fc1.weight") == "fc1.weight"
    name = _plotting.shortened("transformer.h.11.attention.self.query.weight", 20)
    assert len(name) == 20
    assert name.startswith("trans") and "…" in name and name.endswith("query.weight")
    assert _plotting.shortened("$") == r"\$"


def test_places_are_spread_from_the_first_to_the_last():
    assert _plotting.spread(21, 6) == [0, 4, 8, 12, 16, 20]
    assert _plotting.spread(3, 6) == [0, 1, 2]
    assert _plotting.spread(0, 6) == []
    assert _plotting.spread(5, 1) == [0]


def test_what_is_left_out_is_named_within_the_figure():
    figure, _ = _plotting.new_panels(1, 1, _plotting.WIDEST, 3.0)
    _plotting.note_left_out(figure, [])
    assert not figure.texts
    _plotting.note_left_out(figure, [f"layer{i}.$weight" for i in range(15)])
    figure.canvas.draw()
    text = figure.get_supxlabel().replace("\n", " ")
    assert text.startswith(r"not shown: layer0.\$weight, ") and text.endswith("and 3 more")
    box = figure._supxlabel.get_window_extent()
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1


def test_bins_hold_all_but_the_smallest_values():
    values = np.random.default_rng(0).pareto(2.0, 5000) + 1e-6
    edges = _plotting.log_bins(values, 400)
    steps = np.diff(np.log(edges))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert 16 <= len(steps) <= 60
    assert len(_plotting.log_bins(values)) > len(edges)  # more values, more bins
    assert edges[-1] >= values.max()
    share = (_plotting.bin_density(values, edges) * np.diff(edges)).sum()
    assert share == pytest.approx((values >= edges[0]).mean())
    assert share > 0.99
    assert (
        _plotting.bin_density(values, edges, 10_000).sum()
        == _plotting.bin_density(values, edges).sum() / 2
    )


@pytest.mark.parametrize("through", [1.3, 1.0, 2.0])
def test_bins_have_an_edge_where_it_is_asked_for(through):
    values = np.linspace(1.0, 2.0, 300)
    edges = _plotting.log_bins(values, through=through)
    assert np.isclose(edges, through, rtol=1e-12).any()
    assert edges[0] <= 1.0 * (1 + 1e-9) and edges[-1] >= 2.0
    assert np.histogram(values, edges)[0].sum() == 300


def test_equal_values_have_no_bins():
    assert _plotting.log_bins(np.ones(5)) is None
    assert _plotting.log_bins(np.zeros(5)) is None
    assert _plotting.log_bins(np.empty(0)) is None
