"""Tables of `python -m benchmarks posterior`: scores, differences to MAP, what was tuned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean, stdev
from typing import Any

from benchmarks.common.paired_mean import paired_difference
from benchmarks.common.results import Results
from benchmarks.common.tables import NOTHING, TextTable
from benchmarks.study.posterior.methods import BASELINES, METHODS
from benchmarks.study.posterior.protocol import chosen_trial

KINDS = {"plain": "as they are", "scaled": "after temperature scaling"}
"""The scores of a fit, by their names in its result."""
AUROC = "ood_auroc_entropy"


def by_seed(results: Results, cell: str) -> dict[int, dict[str, Any]]:
    """The results of a method with the numbers that are chosen now, by seed.

    Seeds that were fitted with other settings are left out.
    """
    parts = results.cells.get(cell, {})
    trial = chosen_trial(results, cell)
    if trial is None:
        return {}
    now = parts[f"trial/{trial}"]["settings"]
    return {
        seed: part["result"]
        for name, part in sorted(parts.items())
        if name.startswith("seed/")
        and part["settings"] == {**now, "seed": (seed := int(name.partition("/")[2]))}
    }


def data_sets(results: Results) -> list[str]:
    """The data sets that there are results of."""
    return list(dict.fromkeys(cell.split("/")[0] for cell in results.cells))


def methods_of(results: Results, data: str) -> list[str]:
    """The methods fitted with some seed on a data set, in the order of `METHODS`."""
    return [m for m in METHODS if by_seed(results, f"{data}/{m}")]


def baseline_of(results: Results, data: str) -> str | None:
    """The tuned MAP that validation data prefer, of those that were fitted."""
    found = {}
    for method in methods_of(results, data):
        if method in BASELINES:
            cell = f"{data}/{method}"
            chosen = f"trial/{chosen_trial(results, cell)}"
            found[method] = results.cells[cell][chosen]["result"]["nll"]
    return min(found, key=found.__getitem__) if found else None


def posterior_tables(results: Results) -> list[TextTable]:
    """Per data set: scores, their differences to each tuned MAP, and what was tuned."""
    tables = []
    for data in data_sets(results):
        methods = methods_of(results, data)
        for kind, words in KINDS.items():
            rows = [_scores(results, data, m, kind) for m in methods]
            columns = ("accuracy", "NLL", "ECE", "Brier", "OOD AUROC", "temperature", "s per fit")
            title = f"{data}: test scores {words}, means (standard deviations) over seeds"
            tables.append(TextTable(title, ("method", "seeds", *columns), rows))
        for baseline in (m for m in methods if m in BASELINES):
            tables += list(_differences(results, data, methods, baseline))
        tables.append(_tuning(results, data))
    return [table for table in tables if table.rows]


def relative_difference(
    results: Results, data: str, method: str, baseline: str, kind: str, score: str
) -> dict[str, float | int | None]:
    """A score less the baseline's over the baseline's mean, paired by seed, with its interval."""
    found = by_seed(results, f"{data}/{method}")
    base = by_seed(results, f"{data}/{baseline}")
    seeds = [s for s in found if s in base]
    if not seeds:
        return {"mean": None, "low": None, "high": None, "pairs": 0}
    ours = [found[s][kind][score] for s in seeds]
    theirs = [base[s][kind][score] for s in seeds]
    unit = fmean(theirs)
    difference = paired_difference(ours, theirs)
    return {k: v if k == "pairs" or v is None else v / unit for k, v in difference.items()}


def _differences(
    results: Results, data: str, methods: list[str], baseline: str
) -> Iterator[TextTable]:
    for kind, words in KINDS.items():
        rows = []
        for method in methods:
            if method == baseline:
                continue
            cells = []
            for score, relative in (("nll", True), ("ece", True), ("accuracy", False)):
                d = relative_difference(results, data, method, baseline, kind, score)
                if not relative:
                    base = by_seed(results, f"{data}/{baseline}").values()
                    unit = fmean(r[kind][score] for r in base)
                    d = {k: v if k == "pairs" or v is None else v * unit for k, v in d.items()}
                cells.append(_interval(d))
            rows.append([METHODS[method].label, str(d["pairs"]), *cells])
        preferred = ", which validation prefers" if baseline == baseline_of(results, data) else ""
        label = f"{METHODS[baseline].label}{preferred}"
        title = f"{data}: differences to {label}, {words}, paired by seed"
        columns = ("NLL, %", "ECE, %", "accuracy, points")
        yield TextTable(title, ("method", "seeds", *columns), rows)


def _interval(difference: dict[str, Any]) -> str:
    """A difference in hundredths with its 95 % interval."""
    if difference["mean"] is None:
        return NOTHING
    text = f"{100 * difference['mean']:+.1f}"
    if difference["low"] is None:
        return text
    return f"{text} ({100 * difference['low']:+.1f} to {100 * difference['high']:+.1f})"


def _scores(results: Results, data: str, method: str, kind: str) -> list[str]:
    found = list(by_seed(results, f"{data}/{method}").values())
    cells = [_mean([r[kind][s] for r in found]) for s in ("accuracy", "nll", "ece", "brier", AUROC)]
    temperature = f"{fmean(r['temperature'] for r in found):.2f}" if kind == "scaled" else NOTHING
    seconds = f"{fmean(r['seconds'] for r in found):.0f}"
    return [METHODS[method].label, str(len(found)), *cells, temperature, seconds]


def _mean(values: list[float]) -> str:
    text = f"{fmean(values):.4f}"
    return text if len(values) < 2 else f"{text} ({stdev(values):.4f})"


def _tuning(results: Results, data: str) -> TextTable:
    rows = []
    for method in METHODS:
        trial = chosen_trial(results, f"{data}/{method}")
        if trial is None:
            continue
        parts = results.cells[f"{data}/{method}"]
        trials = {k: p for k, p in parts.items() if k.startswith("trial/")}
        chosen = parts[f"trial/{trial}"]
        nlls = [p["result"]["nll"] for p in trials.values()]
        rows.append(
            [
                METHODS[method].label,
                _numbers(chosen["settings"]["numbers"]),
                str(len(trials)),
                f"{min(nlls):.4f}",
                f"{max(nlls):.4f}",
            ]
        )
    columns = ("method", "chosen", "trials", "validation NLL, best", "worst")
    return TextTable(f"{data}: tuning on validation NLL", columns, rows)


def study_settings(results: Results) -> list[str]:
    """What all fits share, and the trials of each method; its full settings are in the JSON."""
    cells: dict[str, dict[str, None]] = {}
    for cell in results.cells:
        trial = chosen_trial(results, cell)
        if trial is not None:
            settings = results.cells[cell][f"trial/{trial}"]["settings"]
            shared = (f"{k} {settings[k]}" for k in ("num_data", "batch_size", "samples"))
            cells.setdefault(", ".join(shared), {})[cell.split("/")[0]] = None
    lines = [f"{line} ({', '.join(those)})" for line, those in cells.items()]
    for compared in METHODS.values():
        if len(compared.trials) > 1:
            trials = "; ".join(_numbers(trial) for trial in compared.trials)
            lines.append(f"trials of {compared.label}: {trials}")
    return lines


def _numbers(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in numbers.items())
