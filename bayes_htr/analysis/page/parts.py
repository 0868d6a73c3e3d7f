"""The parts of the page that need no script.

On narrow screens the style sheet lays out each row of a table as a card. Some browsers then no
longer treat it as a table, and therefore the roles are written out.
"""

from __future__ import annotations

import html
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bayes_htr._terminal import visible
from bayes_htr._version import __version__
from bayes_htr.analysis.columns import Row
from bayes_htr.analysis.matrix import MatrixSpectrum
from bayes_htr.analysis.tables import columns_of
from bayes_htr.analysis.verdict import KINDS

_HEADINGS = {
    "layer_id": ("#", "number of the matrix, from the first to the last"),
    "name": ("matrix", "name of the parameter"),
    "alpha": ("alpha", "exponent of the tail, with its interval"),
    "verdict": ("verdict", "what follows, in words"),
    "p_value": ("p", "bootstrap p-value of the power law; small ones speak against it"),
    "num_pl_spikes": ("in tail", "eigenvalues in the tail"),
    "lambda_max": ("λ max", "largest eigenvalue"),
    "stable_rank": ("stable rank", "sum of the eigenvalues over the largest"),
    "num_spikes": ("spikes", "eigenvalues above the random bulk, if there is one"),
    "mp_D": ("bulk D", "distance of the bulk to the Marchenko-Pastur law; large: there is no bulk"),
    "N": ("shape", "longer and shorter side; of each slice, for convolutions as slices"),
}
_COMPARED = {
    "name": "matrix",
    "difference": "difference",
    "verdict": "verdict",
    "alpha": "alpha, first",
    "other_alpha": "alpha, second",
    "lambda_max_ratio": "ratio of λ max",
}
_CLASSES = {"name": "name", "verdict": "v", "layer_id": "n id"}
_NUMBER, _MAIN_NUMBER = "n more", "n main"


def escaped(text: str) -> str:
    """Make a text harmless in HTML, and in attributes with either kind of quotes."""
    return html.escape(visible(text), quote=True)


def summary(matrices: Sequence[MatrixSpectrum]) -> str:
    """Return the counts of verdicts in plain words, and where alpha lies."""
    counts = {kind: sum(m.kind is kind for m in matrices) for kind in KINDS}
    total = len(matrices)
    items = "".join(
        f'<li><svg class="mark" data-mark="{kind.key}" width="16" height="16" aria-hidden="true">'
        f"</svg><strong>{count}</strong> {escaped(kind.says)}</li>\n"
        for kind, count in counts.items()
        if count
    )
    middle = _alphas([m.alpha for m in matrices if m.kind.filled])
    parameters = sum(int(m.row["num_params"]) for m in matrices)
    return f"""<section class="summary" aria-labelledby="summary">
<h2 id="summary">Summary</h2>
<p class="lead">{_plural(total, "weight matrix", "weight matrices")} with {parameters:,} entries.
{middle}</p>
<ul class="counts">
{items}</ul>
</section>"""


def _alphas(alphas: Sequence[float]) -> str:
    """Return a sentence about the exponents of the tails that pass for power laws."""
    if not alphas:
        return "None has a tail that passes for a power law."
    middle = f"<strong>{statistics.median(alphas):.2f}</strong>"
    if len(alphas) == 1:
        return f"One has a tail that passes for a power law, with an alpha of {middle}."
    return (
        f"{len(alphas)} have tails that pass for power laws, with a median alpha of {middle}, "
        f"from {min(alphas):.2f} to {max(alphas):.2f}."
    )


def pictures(level: float) -> str:
    """Return the place of the picture of alpha by depth, which the script draws."""
    percent = f"{100 * level:g}"
    return f"""<section aria-labelledby="depth">
<h2 id="depth">Alpha by depth</h2>
<figure>
<div class="chart" id="chart-alpha"></div>
<figcaption>A point is a matrix, a line the {percent} % interval of its alpha. Grey band: 2 to 6,
heavy tails. Hollow: not known to be a power law. Small alpha: heavy tail.
<span class="keys">Arrow keys go from point to point, Enter opens the matrix.</span></figcaption>
</figure>
</section>"""


def comparison(labels: Sequence[str], differences: Sequence[Row], unmatched: Sequence[str]) -> str:
    """Return the places of two pictures, and a table of the differences.

    Args:
        labels: The labels of both networks.
        differences: The rows of the comparison.
        unmatched: Names of matrices that are in one network alone, or have another shape.
    """
    first, second = labels
    head = "".join(
        f'<th role="columnheader" scope="col" class="{_class(name, "difference")}">'
        f"{escaped(text)}</th>"
        for name, text in _COMPARED.items()
    )
    body = "".join(
        '<tr role="row">' + "".join(_compared(row, name) for name in _COMPARED) + "</tr>\n"
        for row in differences
    )
    apart = ""
    if unmatched:
        names = ", ".join(f"<bdi>{escaped(name)}</bdi>" for name in unmatched)
        apart = f'<p class="note">In one alone, or in another shape: {names}.</p>\n'
    return f"""<section aria-labelledby="compared">
<h2 id="compared">Two checkpoints</h2>
<p>First (<span class="first">circles</span>): <bdi>{escaped(first)}</bdi>.
Second (<span class="second">squares</span>): <bdi>{escaped(second)}</bdi>.</p>
<figure>
<div class="chart" id="chart-compared-alpha"></div>
<div class="chart" id="chart-compared-lambda"></div>
<figcaption>Alpha with its interval, and the largest eigenvalue, before and after. The interval of a
difference takes the two as independent; for checkpoints of one run it is wider than it need
be.</figcaption>
</figure>
<div class="scroll" role="region" aria-label="Table of differences" tabindex="0">
<table role="table" class="rows" id="table-compared">
<thead role="rowgroup"><tr role="row">{head}</tr></thead>
<tbody role="rowgroup">
{body}</tbody>
</table>
</div>
{apart}</section>"""


def table(matrices: Sequence[MatrixSpectrum], skipped: Mapping[str, str]) -> str:
    """Return a table with a row per matrix, and below each row the place of its pictures.

    Args:
        matrices: The matrices.
        skipped: Tensors that are not analysed, with the reason.
    """
    columns = columns_of(matrix.row for matrix in matrices)
    names = [name for name in _HEADINGS if name in columns]
    head = "".join(
        f'<th role="columnheader" scope="col" data-column="{name}" aria-sort="none" '
        f'class="{_class(name, "alpha")}" title="{escaped(meaning)}">{escaped(text)}</th>'
        for name, (text, meaning) in _HEADINGS.items()
        if name in names
    )
    body = "".join(_body(i, matrix, names) for i, matrix in enumerate(matrices))
    not_analysed = ""
    if skipped:
        items = "".join(
            f"<li><bdi>{escaped(name)}</bdi>: {escaped(why)}</li>\n"
            for name, why in skipped.items()
        )
        not_analysed = (
            f"<details><summary>Not analysed: {len(skipped)}</summary>\n"
            f"<ul>\n{items}</ul></details>\n"
        )
    return f"""<section aria-labelledby="matrices">
<h2 id="matrices" tabindex="-1">Matrices</h2>
<div class="tools" hidden>
<label>Find <input type="search" id="find" placeholder="part of a name or verdict"></label>
<button type="button" id="all">Open all</button>
<span id="found" role="status"></span>
</div>
<div class="scroll" role="region" aria-label="Table of matrices" tabindex="0">
<table role="table" class="rows" id="table">
<thead role="rowgroup"><tr role="row">{head}</tr></thead>
{body}</table>
</div>
{not_analysed}</section>"""


def _body(number: int, matrix: MatrixSpectrum, names: list[str]) -> str:
    cells = "".join(_cell(number, matrix, name) for name in names)
    return (
        f'<tbody role="rowgroup" data-row="{number}"><tr role="row">{cells}</tr>\n'
        f'<tr role="row" class="detail" id="detail-{number}" hidden>'
        f'<td role="cell" colspan="{len(names)}"><div class="inside"></div></td></tr></tbody>\n'
    )


def _cell(number: int, matrix: MatrixSpectrum, name: str) -> str:
    row = matrix.row
    value = row.get(name)
    if name == "name":
        return _heading(str(value), f' id="row-{number}"')
    if name == "verdict":
        mark = f'<svg class="mark" data-mark="{matrix.kind.key}" width="16" height="16" '
        text = f'{mark}aria-hidden="true"></svg>{escaped(str(value))}'
    elif name == "alpha":
        text = _with_interval(_number(value), *matrix.interval)
    elif name == "N":
        text = f"{row['N']} × {row['M']}" + (f" × {row['rf']}" if row["rf"] != 1 else "")
    else:
        text = _number(value)
    return _data(_class(name, "alpha"), _HEADINGS[name][0], text)


def _compared(row: Row, name: str) -> str:
    if name == "name":
        return _heading(str(row[name]))
    text = escaped(str(row[name])) if name == "verdict" else _number(row[name])
    if name == "difference":
        text = _with_interval(text, row["difference_low"], row["difference_high"])
    return _data(_class(name, "difference"), _COMPARED[name], text)


def _heading(name: str, attributes: str = "") -> str:
    return f'<th role="rowheader" scope="row" class="name"{attributes}>{_name(name)}</th>'


def _data(css_class: str, label: str, content: str) -> str:
    """Return a cell that carries the name of its column, for a layout without column heads."""
    return f'<td role="cell" class="{css_class}" data-label="{escaped(label)}">{content}</td>'


def _class(name: str, main: str) -> str:
    """Return the class of the cells of a column.

    The main number of the table is in the column `main`.
    """
    return _CLASSES.get(name, _MAIN_NUMBER if name == main else _NUMBER)


def broken(text: str) -> str:
    """Return a name, as HTML that may break after dots, slashes and underscores.

    It breaks nowhere else if it fits.
    """
    return re.sub(r"([._/])", r"\1<wbr>", escaped(text))  # none of these is in an entity


def _name(text: str) -> str:
    """Return a parameter's name, which may break after dots, slashes and underscores."""
    return f"<bdi>{broken(text)}</bdi>"


def _with_interval(text: str, low: float, high: float) -> str:
    if math.isnan(low) or math.isnan(high):
        return text
    return f'{text} <span class="interval">{_number(low)} to {_number(high)}</span>'


def _number(value: Any) -> str:
    """Return a number with three digits, or a dash for one that is not defined."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return escaped(f"{value:.3g}" if isinstance(value, float) else str(value)).replace("-", "−")


def methods(columns: Sequence[str]) -> str:
    """Explain how to read the page, whose table has these columns."""
    searched = "searched_low" in columns
    interval = (
        "the interval takes the choice of xmin into account, by a bootstrap"
        if searched
        else "the interval takes xmin as known and is therefore too short; "
        "a bootstrap gives one that takes its choice into account, and p-values"
    )
    return f"""<section aria-labelledby="methods">
<h2 id="methods">How to read this</h2>
<dl class="methods">
<dt>Spectrum</dt>
<dd>The eigenvalues of <code>W Wᵀ</code>, the squared singular values of each weight matrix, in
bins of equal width on a logarithmic axis. Height is density: share of the
eigenvalues over the width.</dd>
<dt>Tail and alpha</dt>
<dd>A power law with density proportional to <code>λ^−alpha</code> from <code>xmin</code> on. It is
fitted by maximum likelihood; <code>xmin</code> is the value whose tail lies closest to its own
power law (Clauset, Shalizi &amp; Newman 2009). The band holds the laws whose alpha
lies in the interval; {interval}.</dd>
<dt>Marchenko-Pastur bulk</dt>
<dd>The spectrum of a random matrix of this shape, with the variance that puts its median at the
median of the eigenvalues. Spikes are eigenvalues above what the largest of a random matrix passes
in 1 % of cases. Where the distance to this law (bulk D) is large, there is no bulk, and no count of
spikes.</dd>
<dt>Hill curve</dt>
<dd>Alpha from the k largest eigenvalues, against k. A power law shows as a level stretch.</dd>
<dt>Verdict</dt>
<dd>In this order: are there enough eigenvalues; does the spectrum pass for that of a random
matrix; is the power law rejected (p at most 0.1) or does another law fit better; where does the
whole interval of alpha lie, below 2 (very heavy tail), from 2 to 6 (heavy), above 6 (light).</dd>
</dl>
</section>"""


def settings(label: str, options: Mapping[str, Any]) -> str:
    """Return the network, the version and the settings."""
    shown = {"network": label, "bayes_htr": __version__, **options}
    rows = "".join(
        f'<tr><th scope="row">{escaped(str(name))}</th><td>{escaped(str(value))}</td></tr>\n'
        for name, value in shown.items()
    )
    return f"""<section aria-labelledby="settings">
<h2 id="settings">Version and settings</h2>
<table class="small">
<tbody>
{rows}</tbody>
</table>
</section>"""


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
