"""The page: its parts put together.

Names come from strangers' files: all text passes through `escaped`, all data through `inline_json`,
and the page's own policy (a Content-Security-Policy with the hashes of its one style sheet and one
script) lets nothing else run, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from bayes_htr.analysis.columns import Row
from bayes_htr.analysis.matrix import MatrixSpectrum
from bayes_htr.analysis.page import parts
from bayes_htr.analysis.page.data import add_comparison, inline_json, page_data
from bayes_htr.analysis.page.parts import escaped

_SCRIPTS = ("svg.js", "axes.js", "figures.js", "page.js")


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
        label: What the title calls the network.
        matrices: Its analysed matrices.
        skipped: Tensors that are not analysed, with the reason.
        settings: The options of the analysis; `level` among them.
        other_label: What the title calls the second network.
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
<h1><bdi>{escaped(title)}</bdi></h1>
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
