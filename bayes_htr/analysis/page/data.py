"""What the pictures of the page are drawn from, as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from bayes_htr.analysis.checkpoints import PairedSpectra
from bayes_htr.analysis.columns import COLUMNS, interval_ends
from bayes_htr.analysis.curves import (
    Curve,
    MatrixSpectrum,
    bulk_density,
    histogram,
    log_edges,
    matrix_spectrum,
    survival,
    tail_density,
    tail_survival,
    thin,
)
from bayes_htr.analysis.measured import MeasuredSpectra
from bayes_htr.analysis.plots import alpha_limits
from bayes_htr.analysis.verdict import KINDS, kind_of
from bayes_htr.errors import SpectrumError
from bayes_htr.tails import hill_curve

_DIGITS = 5
_HILL_POINTS = 140


def page_data(report: MeasuredSpectra, comparison: PairedSpectra | None) -> dict[str, Any]:
    """Rows in full; curves thinned and rounded to five digits."""
    columns = report.columns
    data: dict[str, Any] = {
        "columns": columns,
        "meanings": {name: COLUMNS[name] for name in columns},
        "rows": [[row.get(name) for name in columns] for row in report.rows],
        "level": report.settings["level"],
        "kinds": [asdict(kind) for kind in KINDS],
        "layers": [
            {
                "kind": kind_of(row).key,
                "interval": list(interval_ends(row)),
                "curves": _curves(matrix_spectrum(report, str(row["name"])), report),
            }
            for row in report.rows
        ],
        "alpha_limits": alpha_limits(report.rows),
    }
    if comparison is not None:
        data["comparison"] = _comparison(report, comparison, data["layers"])
    return data


def _comparison(
    report: MeasuredSpectra, comparison: PairedSpectra, layers: list[dict[str, Any]]
) -> dict[str, Any]:
    """The second network beside the first; its curves go to the layers of the first."""
    places = {str(row["name"]): i for i, row in enumerate(report.rows)}
    (first, before), (second, after) = comparison.sides()
    for row in after:
        name = str(row["name"])
        layers[places[name]]["other"] = _overlay(
            matrix_spectrum(comparison.first, name), matrix_spectrum(comparison.second, name)
        )
    return {
        "labels": [first, second],
        "columns": comparison.columns,
        "rows": [[row.get(name) for name in comparison.columns] for row in comparison.rows],
        "places": [places[str(row["name"])] for row in before],
        "sides": [
            [
                {
                    "alpha": row["alpha"],
                    "interval": list(interval_ends(row)),
                    "lambda_max": row["lambda_max"],
                    "kind": kind_of(row).key,
                }
                for row in rows
            ]
            for rows in (before, after)
        ],
        "alpha_limits": alpha_limits([*before, *after]),
    }


def _curves(spectrum: MatrixSpectrum, report: MeasuredSpectra) -> dict[str, Any]:
    found = histogram(spectrum)
    if found is None:
        return {}
    x, y = bulk_density(spectrum, float(found.edges[0]))
    values, shares = survival(spectrum)
    curves: dict[str, Any] = {
        "edges": rounded(found.edges),
        "density": rounded(found.density),
        "left_out": found.left_out,
        "bulk": [rounded(x), rounded(y)] if len(x) else None,
        "tail": _curve(tail_density(spectrum)),
        "survival": [rounded(values), rounded(shares)],
        "tail_survival": _curve(tail_survival(spectrum)),
        "hill": _hill(spectrum, report.settings["level"]),
    }
    return curves


def _overlay(first: MatrixSpectrum, second: MatrixSpectrum) -> dict[str, Any]:
    edges = log_edges(np.sort(np.concatenate([first.values, second.values])))
    if edges is None:
        return {}
    heights = [h.density for s in (first, second) if (h := histogram(s, edges)) is not None]
    return {
        "edges": rounded(edges),
        "densities": [rounded(h) for h in heights],
        "tails": [_curve(tail_density(s)) for s in (first, second)],
    }


def _hill(spectrum: MatrixSpectrum, level: float) -> list[list[float]] | None:
    try:
        curve = hill_curve(spectrum.values, level=level)
    except SpectrumError:
        return None
    kept = thin(len(curve.k), _HILL_POINTS)
    return [
        rounded(np.asarray(part[kept], dtype=float))
        for part in (curve.k, curve.alpha, curve.low, curve.high)
    ]


def _curve(curve: Curve | None) -> list[list[float]] | None:
    if curve is None:
        return None
    return [rounded(part) for part in (curve.x, curve.y, curve.low, curve.high)]


def rounded(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    """To five digits, as shorter text."""
    return [float(f"{value:.{_DIGITS}g}") for value in values]
