"""The HTML report: well-formed, closed to strangers' names and to the network, and true."""

import base64
import hashlib
import json
import math
import re
import tempfile
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr._terminal import visible
from bayes_htr.analysis.page import parts
from bayes_htr.analysis.page.document import inline_json
from bayes_htr.analysis.page.parts import escaped
from bayes_htr.errors import OutputError

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "a\"onmouseover='alert(3)' b",
    "]]>--><!--<script>",
    "&lt;script&gt;&#60;",
    "\u202egnp.exe\u2028\u0007",
    "\ud800",
)


VOID = {"meta", "link", "br", "input", "img", "hr", "wbr"}


class Page(HTMLParser):
    """Elements with their attributes, the text of some, and whether tags are balanced."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"an attribute twice: {attributes}"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, len(self.texts)))
            self.texts.append("")

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        for _, place in self.open:
            self.texts[place] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag):
        """Of every element of a name."""
        tags = [name for name, _ in self.elements if name not in VOID]
        return [text for name, text in zip(tags, self.texts, strict=True) if name == tag]


def weights(names, seed=0, heavy=0.0):
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for i, name in enumerate(names):
        W = torch.randn(40, 60, generator=generator, dtype=torch.float64)
        U, _, Vh = torch.linalg.svd(W, full_matrices=False)
        u = torch.rand(40, generator=generator, dtype=torch.float64).clamp(min=1e-3)
        found[name] = U * u ** (-0.3 - heavy) @ Vh if i % 2 else W
    return found


@pytest.fixture(scope="module")
def report():
    tensors = {**weights(["a.weight", "b.weight", "c.weight"]), "eye": torch.eye(30)}
    return htr.analyze({**tensors, "int": torch.ones(20, 20, dtype=torch.int8)}, bootstrap=30)


@pytest.fixture(scope="module")
def comparison(report):
    other = {**weights(["a.weight", "b.weight"], heavy=0.2), "eye": torch.eye(30)}
    other["new"] = torch.randn(9, 9, generator=torch.Generator().manual_seed(1))
    return report.compare(htr.analyze(other, bootstrap=30))


def two_reports(names, label):
    """Names and a label in all places: matrices, skipped tensors, matrices of one network alone."""
    first, second = (
        replace(
            htr.analyze(
                weights(names, seed)
                | {f"{name} {seed}": torch.ones(20, 20, dtype=torch.int8) for name in names}
                | {f"{name} alone {seed}": (i + 1) * torch.eye(9) for i, name in enumerate(names)}
            ),
            label=label,
        )
        for seed in (0, 1)
    )
    return first.compare(second)


@pytest.fixture(scope="module")
def hostile():
    return two_reports(HOSTILE, HOSTILE[1])


def page(shown):
    """The page of a report or a comparison as text."""
    with tempfile.TemporaryDirectory() as folder:
        return shown.to_html(Path(folder) / "report.html").read_text(encoding="utf-8")


def pages(report, comparison):
    return [page(report), page(comparison)]


def data_of(parsed):
    (text,) = [
        text
        for text, attributes in zip(parsed.text("script"), parsed.all("script"), strict=True)
        if attributes.get("type") == "application/json"
    ]
    return json.loads(text)


def test_tags_are_balanced_and_ids_unique(report, comparison, hostile):
    for text in [*pages(report, comparison), page(hostile)]:
        parsed = Page(text)
        assert parsed.open == []
        ids = [a["id"] for _, a in parsed.elements if "id" in a]
        assert len(ids) == len(set(ids)) and "table" in ids
        for _, attributes in parsed.elements:
            if "aria-labelledby" in attributes:
                assert attributes["aria-labelledby"] in ids


def test_nothing_comes_from_elsewhere(report, comparison):
    for text in pages(report, comparison):
        parsed = Page(text)
        assert not [a for _, a in parsed.elements if {"src", "srcset", "action"} & a.keys()]
        assert {a["href"] for _, a in parsed.elements if "href" in a} == {"#matrices"}
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\"' )]*", text))
        assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not an address
        assert "@import" not in text and "url(" not in "".join(parsed.text("style"))


def test_the_policy_lets_this_script_and_style_run_alone(report):
    text = page(report)
    parsed = Page(text)
    (policy,) = [a["content"] for a in parsed.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    for kind, content in (("script", parsed.text("script")[1]), ("style", parsed.text("style")[0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not [a for _, a in parsed.elements if "style" in a or any(n[:2] == "on" for n in a)]


def test_hostile_names_stay_text(hostile, tmp_path):
    path = hostile.to_html(tmp_path / "report.html")
    plain = two_reports([f"w{i}" for i in range(len(HOSTILE))], "network")
    parsed = Page(path.read_text(encoding="utf-8"))
    harmless = Page(page(plain))
    # The names add no element, but for places to break them; no attribute, and no script.
    tags = [[tag for tag, _ in p.elements if tag != "wbr"] for p in (parsed, harmless)]
    assert tags[0] == tags[1]
    assert len(parsed.all("script")) == 2 and not parsed.all("img")
    shown = [text for text in parsed.text("th") if "alert" in text or "script" in text]
    assert HOSTILE[0] in shown and HOSTILE[1] in shown and HOSTILE[4] in shown
    assert HOSTILE[1] in parsed.text("title")[0]
    names = [row[1] for row in data_of(parsed)["rows"]]
    assert names[: len(HOSTILE)] == [visible(name) for name in HOSTILE]


def test_text_is_made_harmless():
    assert visible("\u202ea\u0000\ud800") == r"\u202ea\x00\ud800" and visible("ß.λ") == "ß.λ"
    assert escaped("<a href=\"'&") == "&lt;a href=&quot;&#x27;&amp;"
    text = inline_json({"</script>": ["<!--", "&amp;", "\u2028", math.nan, np.inf]})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"</script>": ["<!--", "&amp;", r"\u2028", None, None]}


def test_the_data_are_those_of_the_report(report):
    data = data_of(Page(page(report)))
    assert data["columns"] == report.columns
    for got, row in zip(data["rows"], report.rows, strict=True):
        for name, value in zip(report.columns, got, strict=True):
            wanted = row.get(name)
            if isinstance(wanted, float) and not math.isfinite(wanted):
                wanted = None
            assert value == wanted, name
    for layer, row in zip(data["layers"], report.rows, strict=True):
        if row["alpha"] > 0:
            assert layer["interval"] == [row["searched_low"], row["searched_high"]]
    assert data["layers"][3]["curves"] == {} and data["layers"][3]["interval"] == [None, None]


def test_the_curves_are_those_of_the_fit(report):
    curves = data_of(Page(page(report)))["layers"][1]["curves"]
    spectrum = report.matrix("b.weight")
    fit = report.fits["b.weight"]
    counts = np.array(curves["density"]) * np.diff(curves["edges"]) * 40
    assert counts.sum() == pytest.approx(40, rel=1e-3)
    assert counts == pytest.approx(np.round(counts), abs=0.01)
    x, y, low, high = (np.array(part) for part in curves["tail"])
    share = fit.n_tail / 40
    law = share * (fit.alpha - 1) / fit.xmin * (x / fit.xmin) ** -fit.alpha
    assert y == pytest.approx(law, rel=1e-3)
    assert (low <= y * 1.001).all() and (y <= high * 1.001).all()
    values, shares = curves["survival"]
    assert values[0] == pytest.approx(spectrum.values[-1], rel=1e-4)
    assert shares[0] == pytest.approx(1 / 40) and shares[-1] == 1.0
    k, alpha = (np.array(part) for part in curves["hill"][:2])
    assert alpha[k == fit.n_tail] == pytest.approx(
        [htr.hill_curve(spectrum.values).alpha[fit.n_tail - 1]], rel=1e-4
    )


def test_the_table_says_what_the_rows_say(report):
    parsed = Page(page(report))
    heads = [a for a in parsed.all("th") if a.get("scope") == "col"]
    assert all(a["aria-sort"] == "none" for a in heads)
    rows = [text for text in parsed.text("tbody") if "weight" in text]
    for row, text in zip(report.rows, rows, strict=False):
        assert f"{row['alpha']:.3g}" in text and row["verdict"] in text
        assert f"{row['searched_low']:.3g} to {row['searched_high']:.3g}" in text
    text = "".join(parsed.text("main"))
    assert "4 weight matrices with 8,100 entries" in text
    assert "int: " in text and htr.__version__ in text and "bootstrap30" in text


def test_cells_keep_their_roles_and_heads_where_rows_are_cards(report, comparison):
    parsed = Page(page(comparison))
    roles = {"table": "table", "thead": "rowgroup", "tr": "row", "td": "cell"}
    inside = parsed.elements[
        next(
            i for i, (_, a) in enumerate(parsed.elements) if a.get("id") == "table-compared"
        ) : next(i for i, (_, a) in enumerate(parsed.elements) if a.get("id") == "methods")
    ]
    for tag, attributes in inside:
        if tag in roles:
            assert attributes["role"] == roles[tag]
        if tag == "th":
            wanted = {"row": "rowheader", "col": "columnheader"}[attributes["scope"]]
            assert attributes["role"] == wanted
    labels = {a["data-label"] for tag, a in inside if tag == "td" and "colspan" not in a}
    heads = [a for a in parsed.all("th") if a.get("scope") == "col"]
    texts = dict(zip(parsed.text("th"), parsed.all("th"), strict=True))
    named = {text for text, a in texts.items() if a.get("scope") == "col"}
    assert labels == named - {"matrix"} and len(heads) == len(named) + 2  # matrix, verdict: twice


def test_every_verdict_is_counted(report):
    (counts,) = [text for text in Page(page(report)).text("ul") if "random matrix" in text]
    assert sum(int(n) for n in re.findall(r"^(\d+) ", counts, flags=re.M)) == len(report.rows)


@pytest.mark.parametrize(
    ("alphas", "words"),
    [
        ([], "None has a tail that passes for a power law."),
        ([2.5], "One has a tail that passes for a power law, with an alpha of 2.50."),
        (
            [2.0, 3.0, 5.0],
            "3 have tails that pass for power laws, "
            "with a median alpha of 3.00, from 2.00 to 5.00.",
        ),
    ],
)
def test_the_summary_counts_in_sentences(alphas, words):
    assert re.sub("</?strong>", "", parts._alphas(alphas)) == words


def test_a_long_title_breaks_after_separators():
    broken = parts.broken("Spectra of runs/model_00001.<b>")
    assert broken == "Spectra of runs/<wbr>model_<wbr>00001.<wbr>&lt;b&gt;"


def test_the_style_leaves_no_number_cut_and_no_empty_third():
    """What a browser showed at 390 and at 1280 pixels, held as rules of the style sheet."""
    css = (files("bayes_htr.analysis.page") / "style.css").read_text(encoding="utf-8")
    narrow = css[css.index("@container rows (max-width: 42rem)") :]
    assert ".interval { white-space: normal; }" in narrow
    assert "max-width: 60%" in narrow[: narrow.index(".v { width: 100%")]
    (title,) = re.findall(r"\nh1 \{(.*?)\}", css, re.DOTALL)
    assert "overflow-wrap: break-word" in title and "grid-column: 1 / -1" in title
    wide = css[css.index("@media (min-width: 60rem)") :]
    assert ".summary { display: grid; grid-template-columns: 1fr 1fr" in wide


def test_names_of_matrices_are_on_the_axis_of_depth(report):
    script = page(report)
    assert 'names: DATA.rows.map((row) => value(row, "name"))' in script
    assert "namesThatFit(x.names" in script


def test_the_comparison_is_in_the_page(report, comparison):
    assert "comparison" not in data_of(Page(page(report)))
    parsed = Page(page(comparison))
    data = data_of(parsed)["comparison"]
    assert [row[0] for row in data["rows"]] == ["a.weight", "b.weight", "eye"]
    assert data["places"] == [0, 1, 3]
    before, after = data["sides"]
    assert before[1]["alpha"] == report.rows[1]["alpha"]
    assert after[1]["alpha"] == comparison.rows[1]["other_alpha"]
    assert after[1]["lambda_max"] == comparison.rows[1]["other_lambda_max"]
    text = "".join(parsed.text("main"))
    assert f"{comparison.rows[1]['difference']:.3g}".replace("-", "−") in text
    assert "c.weight" in text and "In one alone, or in another shape: c.weight, new." in text
    (apart,) = [layer["other"] for layer in data_of(parsed)["layers"] if layer.get("other")][1:]
    for density in apart["densities"]:
        assert (np.array(density) * np.diff(apart["edges"])).sum() == pytest.approx(1, rel=1e-3)


def test_a_hundred_layers_stay_small(tmp_path):
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(500, 700, generator=generator)
    report = htr.analyze({"w": W})
    one = len(page(report))
    two = len(page(report.compare(report)))
    overhead = len(page(htr.analyze({"w": torch.eye(9)})))
    assert 100 * (one - overhead) + overhead < 3e6 and 100 * (two - overhead) + overhead < 5e6


def test_a_page_that_fails_leaves_the_old_one(report, tmp_path, monkeypatch):
    path = report.to_html(tmp_path / "report.html")
    old = path.read_bytes()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("bayes_htr._files.os.fsync", fail)
    with pytest.raises(OutputError, match="no space left"):
        report.to_html(path)
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["report.html"]
