"""The page: its parts put together, and the data from which its script draws the pictures.

Names come from strangers' files: all text passes through `escaped`, all data through `inline_json`,
and the page's own policy (a Content-Security-Policy with the hashes of its one style sheet and one
script) lets nothing else run, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import numpy as np

from bayes_htr._plotting import log_bins
from bayes_htr._terminal import visible
from bayes_htr.analysis import curves
from bayes_htr.analysis.columns import COLUMNS, Row
from bayes_htr.analysis.esd import Array
from bayes_htr.analysis.matrix import MatrixSpectrum
from bayes_htr.analysis.page import parts
from bayes_htr.analysis.page.parts import broken, escaped
from bayes_htr.analysis.tables import columns_of
from bayes_htr.analysis.verdict import KINDS
from bayes_htr.errors import SpectrumError
from bayes_htr.tails import hill_curve

_SCRIPTS = ("svg.js", "axes.js", "figures.js", "page.js")

_DIGITS = 5

_HILL_POINTS = 140


def page(
    label: str,
    matrices: Sequence[MatrixSpectrum],
    skipped: Mapping[str, str],
    settings: Mapping[str, Any],
    *,
    other_label: str = "",
    sides: Sequence[tuple[str, Sequence[MatrixSpectrum]]] = (),
    differences: Sequence[Row] = (),
    unmatched: Sequence[str] = (),
) -> str:
    """Make the page of a network, with a second network beside it if `sides` are given.

    Args:
        label: The name of the network in the title.
        matrices: The analysed matrices of the report.
        skipped: Tensors that are not analysed, with the reason.
        settings: The options of the analysis; `level` among them.
        other_label: The name of the second network in the title.
        sides: A label of each network, and the matrices that are in both, in the same order.
        differences: The rows of the comparison.
        unmatched: Names of matrices that are in one network alone, or have another shape.
    """
    level = settings["level"]
    title = f"Spectra of {label}"
    data, comparison = page_data(matrices, level), ""
    if sides:
        title += f" and {other_label}"
        comparison = parts.comparison([name for name, _ in sides], differences, unmatched)
        add_comparison(data, matrices, sides, differences)
    style, script = _resource("style.css"), "\n".join(map(_resource, _SCRIPTS))
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escaped(title)}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#matrices">Skip to the table</a>
<header class="top">
<p class="kicker">bayes_htr: spectra of a trained network</p>
<h1><bdi>{broken(title)}</bdi></h1>
<button type="button" id="theme" hidden>Dark</button>
</header>
<main>
<noscript><p class="note">The pictures need JavaScript; the tables do not.</p></noscript>
{parts.summary(matrices)}
{parts.pictures(level)}
{comparison}
{parts.table(matrices, skipped)}
{parts.methods(data["columns"])}
{parts.settings(label, settings)}
</main>
<div id="tip" class="tip" hidden aria-hidden="true"></div>
<script type="application/json" id="data">{inline_json(data)}</script>
<script>{script}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return (files("bayes_htr.analysis.page") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


# Data


def page_data(matrices: Sequence[MatrixSpectrum], level: float) -> dict[str, Any]:
    """Return the rows in full, and the curves of each matrix, thinned and rounded to five digits.

    Args:
        matrices: The matrices of the network.
        level: Probability of the intervals.
    """
    columns = columns_of(matrix.row for matrix in matrices)
    return {
        "columns": columns,
        "meanings": {name: COLUMNS[name] for name in columns},
        "rows": _in_columns([matrix.row for matrix in matrices], columns),
        "level": level,
        "kinds": [asdict(kind) for kind in KINDS],
        "layers": [
            {
                "kind": matrix.kind.key,
                "interval": list(matrix.interval),
                "curves": _curves(matrix, level),
            }
            for matrix in matrices
        ],
        "alpha_limits": curves.alpha_limits(matrices),
    }


def add_comparison(
    data: dict[str, Any],
    matrices: Sequence[MatrixSpectrum],
    sides: Sequence[tuple[str, Sequence[MatrixSpectrum]]],
    differences: Sequence[Row],
) -> None:
    """Add a second network to the data of the first, and its curves to the first's layers.

    Args:
        data: The data of the first network, which are changed.
        matrices: The matrices of the first network.
        sides: The label of each network, and the matrices that are in both.
        differences: The rows of the comparison.
    """
    places = {matrix.name: place for place, matrix in enumerate(matrices)}
    before, after = (side for _, side in sides)
    for first, second in zip(before, after, strict=True):
        data["layers"][places[first.name]]["other"] = _overlay(first, second)
    columns = columns_of(differences)
    data["comparison"] = {
        "labels": [label for label, _ in sides],
        "columns": columns,
        "rows": _in_columns(differences, columns),
        "places": [places[matrix.name] for matrix in before],
        "sides": [
            [
                {
                    "alpha": matrix.alpha,
                    "interval": list(matrix.interval),
                    "lambda_max": matrix.row["lambda_max"],
                    "kind": matrix.kind.key,
                }
                for matrix in side
            ]
            for side in (before, after)
        ],
        "alpha_limits": curves.alpha_limits([*before, *after]),
    }


def _in_columns(rows: Sequence[Row], columns: Sequence[str]) -> list[list[Any]]:
    return [[row.get(name) for name in columns] for row in rows]


def _curves(spectrum: MatrixSpectrum, level: float) -> dict[str, Any]:
    edges = log_bins(spectrum.values)
    if edges is None:
        return {}
    x, y = curves.bulk_density(spectrum, float(edges[0]))
    values, shares = curves.survival(spectrum)
    return {
        "edges": _rounded(edges),
        "density": _rounded(curves.density(spectrum, edges)),
        "left_out": curves.num_below(spectrum, edges),
        "bulk": [_rounded(x), _rounded(y)] if len(x) else None,
        "tail": _curve(curves.tail_density(spectrum)),
        "survival": [_rounded(values), _rounded(shares)],
        "tail_survival": _curve(curves.tail_survival(spectrum)),
        "hill": _hill(spectrum, level),
    }


def _overlay(first: MatrixSpectrum, second: MatrixSpectrum) -> dict[str, Any]:
    edges = log_bins(np.concatenate([first.values, second.values]))
    if edges is None:
        return {}
    return {
        "edges": _rounded(edges),
        "densities": [_rounded(curves.density(s, edges)) for s in (first, second)],
        "tails": [_curve(curves.tail_density(s)) for s in (first, second)],
    }


def _hill(spectrum: MatrixSpectrum, level: float) -> list[list[float]] | None:
    try:
        hill = hill_curve(spectrum.values, level=level)
    except SpectrumError:
        return None
    places = curves.thinned(len(hill.k), _HILL_POINTS)
    parts = (hill.k, hill.alpha, hill.low, hill.high)
    return [_rounded(np.asarray(part[places], dtype=float)) for part in parts]


def _curve(curve: curves.Curve | None) -> list[list[float]] | None:
    return None if curve is None else [_rounded(part) for part in curve]


def _rounded(values: Array) -> list[float]:
    """Return the values to five digits, which makes shorter text."""
    return [float(f"{value:.{_DIGITS}g}") for value in values]


def inline_json(data: Any) -> str:
    """Return JSON that no HTML parser takes for markup.

    Numbers that are not finite become `null`.

    Names come from strangers' files, and are made visible as well.
    """
    text = json.dumps(_plain(data), allow_nan=False, separators=(",", ":"))
    for character in "<>&":  # JSON escapes all other dangerous ones, which are not ASCII
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(data: Any) -> Any:
    if isinstance(data, str):
        return visible(data)
    if isinstance(data, float):
        return float(data) if math.isfinite(data) else None
    if isinstance(data, dict):
        return {visible(str(key)): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    return data
