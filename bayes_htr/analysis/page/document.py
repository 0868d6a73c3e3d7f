"""The page: its parts put together, and written to a file.

Names come from strangers' files: all text goes through `escaped`, all data through `inline_json`,
and the page's own policy (a Content-Security-Policy with the hashes of its one style sheet and one
script) lets nothing else run, nor anything be fetched.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from os import PathLike
from pathlib import Path

from bayes_htr._files import write_output
from bayes_htr.analysis.checkpoints import PairedSpectra
from bayes_htr.analysis.measured import MeasuredSpectra
from bayes_htr.analysis.page.data import page_data
from bayes_htr.analysis.page.parts import (
    comparison_part,
    methods_part,
    pictures_part,
    settings_part,
    summary_part,
    table_part,
)
from bayes_htr.analysis.page.text import escaped, inline_json

_SCRIPTS = ("svg.js", "axes.js", "figures.js", "page.js")


def write_page(
    path: str | PathLike[str],
    report: MeasuredSpectra,
    comparison: PairedSpectra | None = None,
) -> Path:
    """Write the page aside and rename it.

    Raises:
        OutputError: It cannot be written; what was there is as it was.
    """
    text = page(report, comparison)
    return write_output(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def page(report: MeasuredSpectra, comparison: PairedSpectra | None = None) -> str:
    """The page as text."""
    style, script = _resource("style.css"), "\n".join(map(_resource, _SCRIPTS))
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    title = f"Spectra of {report.label}"
    if comparison is not None:
        title += f" and {comparison.second.label}"
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
{summary_part(report)}
{pictures_part(report)}
{"" if comparison is None else comparison_part(comparison)}
{table_part(report)}
{methods_part(report)}
{settings_part(report)}
</main>
<div id="tip" class="tip" hidden aria-hidden="true"></div>
<script type="application/json" id="data">{inline_json(page_data(report, comparison))}</script>
<script>{script}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return (files("bayes_htr.analysis.page") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
