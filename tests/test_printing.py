"""How results print: width, whole cells, HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr._printing import Printable, add_row, compact_table, narrowest, set_widths


class Shown(Printable):
    """A table and a paragraph."""

    def __init__(self, rows, note="", wrapped=()):
        self.rows, self.note, self.wrapped = rows, note, wrapped

    def parts(self, width):
        table = compact_table("name", "what it says", title="A <title>")
        for row in self.rows:
            add_row(table, row, wrapped=self.wrapped)
        return [table, self.note]


class Cells(HTMLParser):
    """The text of the cells of tables."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag in ("td", "th"):
            self.inside = True
            self.cells.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_cells_are_whole_and_the_rest_is_wrapped_to_80_columns():
    words = " ".join(["word"] * 40)
    lines = str(Shown([("a name [with] brackets", words)], wrapped=[1])).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("a name [with] brackets  word") for line in lines)
    assert " ".join(lines).count("word") == 40


def test_a_table_with_long_names_is_wider_and_nothing_is_cut():
    name = "n" * 100
    text = str(Shown([(name, "1.23 [1.1, 1.4]")]))
    assert f"{name}  1.23 [1.1, 1.4]" in text


def test_a_wide_terminal_is_used(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    words = " ".join(["word"] * 30)
    assert words in str(Shown([("a", words)], wrapped=[1]))


def test_paragraphs_are_filled_and_keep_numbers_with_their_percent():
    note = "x" * 76 + " 95 % of it"
    assert str(Shown([], note)).splitlines()[-1] == "95 % of it"
    assert "markup [bold]" in str(Shown([], "markup [bold]"))


def test_html_has_the_same_cells_and_no_markup_of_strangers():
    shown = Shown([("<script>alert(1)</script>", "a & b"), ("[red]", "x")], "1 < 2")
    text = shown._repr_html_()
    assert "<script>" not in text
    assert "<caption>A &lt;title&gt;</caption>" in text
    assert "<p>1 &lt; 2</p>" in text
    expected = ["name", "what it says", "<script>alert(1)</script>", "a & b", "[red]", "x"]
    assert Cells(text).cells == expected


def test_widths_are_shared_out():
    table = compact_table("a", "b")
    add_row(table, ["one two three", "four " * 20], wrapped=[0, 1])
    assert narrowest(table) < 20
    set_widths(table, 60)
    assert table.columns[0].width == 13  # it is short of less
    assert 13 + table.columns[1].width < 60
    set_widths(table, 30)  # already set
    assert table.columns[0].width == 13


def test_everything_that_a_fit_prints_is_a_table_of_80_columns_and_html():
    torch.manual_seed(0)
    X, y = torch.randn(60, 20), torch.arange(60) % 3
    net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3))
    priors = htr.Priors({"*.weight": htr.ESD(htr.Lomax(tail_index=htr.Gamma(2.0, 1.0)))})
    model = htr.BayesianClassifier(net, priors)
    posterior = htr.fit(model, (X, y), epochs=1, progress=False)
    spectra = posterior.spectra(10)
    report = htr.analyze(net, bootstrap=0)
    results = {
        "explanation": priors.explain(net, num_data=60),
        "scores": posterior.evaluate(X, y),
        "prediction": posterior.predict(X),
        "summary": spectra.summary(),
        "check": spectra.check("0.weight"),
        "report": report,
        "comparison": report.compare(htr.analyze(posterior.network(), bootstrap=0)),
    }
    for what, result in results.items():
        lines = str(result).splitlines()
        assert max(map(len, lines)) <= 80, what
        html = result._repr_html_()
        assert len(Cells(html).cells) > 4, what
        assert not re.search(r"<(?!/?(table|caption|thead|tbody|tr|th|td|p)\b)", html), what
    interval = re.escape(f"{spectra.summary().rows[0].lambda_max.low:.3g}")
    assert re.search(rf"\[{interval}, ", str(results["summary"]))
    assert "low" in str(results["report"])
    for column in ("algorithm", "cost", "pattern"):
        assert column in Cells(results["explanation"]._repr_html_()).cells
        assert column in str(results["explanation"])  # named as not shown
