"""Tables of the study of posteriors: scores, differences to tuned MAP fits, and what was tuned."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from benchmarks.common.paired import Difference, student_difference
from benchmarks.common.tables import NOTHING, TextTable, mean
from benchmarks.study.outcomes import Outcomes

KINDS = {"test": "as they are", "scaled": "after temperature scaling"}
"""The scores of test images, by their names in results."""
BASELINES = ("map_frechet", "map_decay")
"""The tuned MAP fits that the other methods are compared with."""
_SCORES = ("accuracy", "nll", "ece", "brier", "ood_auroc_entropy")


def baseline_of(outcomes: Outcomes, cell: str) -> str | None:
    """Return the tested MAP fit of `BASELINES` that validation data prefer, if one was tested."""
    tested = [m for m in outcomes.methods(cell) if m in BASELINES]
    scores = {m: outcomes.log.get("numbers", cell=cell, method=m)["score"] for m in tested}
    return min(scores, key=scores.__getitem__) if scores else None


def posterior_tables(outcomes: Outcomes) -> list[TextTable]:
    """Scores, their differences to each tuned MAP fit, and what was tuned, for each cell."""
    tables = []
    for cell in outcomes.cells_with_base:
        methods = outcomes.methods(cell)
        tables += [_scores(outcomes, cell, kind) for kind in KINDS]
        for baseline in (m for m in methods if m in BASELINES):
            tables += [_differences(outcomes, cell, baseline, kind) for kind in KINDS]
        tables.append(_tuning(outcomes, cell))
    return [table for table in tables if table.rows]


def _scores(outcomes: Outcomes, cell: str, kind: str) -> TextTable:
    rows = []
    for method in outcomes.methods(cell):
        found = outcomes.results(cell, method).values()
        temperatures = [r["temperature"] for r in found] if kind == "scaled" else []
        rows.append(
            [
                outcomes.label(method),
                str(len(outcomes.tested(cell, method))),
                *(mean(outcomes.scores(cell, method, s, kind).values(), 1, 4) for s in _SCORES),
                f"{fmean(temperatures):.2f}" if temperatures else NOTHING,
                f"{outcomes.seconds(cell, method):.0f}",
            ]
        )
    columns = ("accuracy", "NLL", "ECE", "Brier", "OOD AUROC", "temperature", "s per fit")
    title = f"{cell}: test scores {KINDS[kind]}, means (standard deviations) over seeds"
    return TextTable(title, ("method", "seeds", *columns), rows)


def difference_to(
    outcomes: Outcomes,
    cell: str,
    method: str,
    baseline: str,
    kind: str,
    score: str,
    *,
    relative: bool = True,
) -> Difference | None:
    """Return a score minus that of a baseline, paired by seed, with Student's interval.

    Args:
        outcomes: The results.
        cell: The cell.
        method: The method.
        baseline: The method that it is compared with.
        kind: A key of `KINDS`.
        score: The score.
        relative: Divide by the mean score of the baseline.
    """
    ours = outcomes.scores(cell, method, score, kind)
    theirs = outcomes.scores(cell, baseline, score, kind)
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        return None
    unit = fmean(theirs[seed] for seed in seeds) if relative else 1.0
    return student_difference([ours[s] / unit for s in seeds], [theirs[s] / unit for s in seeds])


def _differences(outcomes: Outcomes, cell: str, baseline: str, kind: str) -> TextTable:
    rows = []
    for method in outcomes.methods(cell):
        if method != baseline:
            compared = (outcomes, cell, method, baseline, kind)
            found = [difference_to(*compared, score) for score in ("nll", "ece")]
            found.append(difference_to(*compared, "accuracy", relative=False))
            pairs = 0 if found[0] is None else found[0].pairs
            rows.append([outcomes.label(method), str(pairs), *map(_interval, found)])
    preferred = ", which validation prefers" if baseline == baseline_of(outcomes, cell) else ""
    label = f"{outcomes.label(baseline)}{preferred}"
    title = f"{cell}: differences to {label}, {KINDS[kind]}, paired by seed"
    columns = ("NLL, %", "ECE, %", "accuracy, points")
    return TextTable(title, ("method", "seeds", *columns), rows)


def _interval(d: Difference | None) -> str:
    """Return a difference in hundredths, with its interval if there are several seeds."""
    if d is None:
        return NOTHING
    text = f"{100 * d.mean:+.1f}"
    return text if d.pairs < 2 else f"{text} ({100 * d.low:+.1f} to {100 * d.high:+.1f})"


def _tuning(outcomes: Outcomes, cell: str) -> TextTable:
    rows = []
    for method, described in outcomes.study.methods.items():
        trials = [r for r in outcomes.trials(cell, method) if "diverged" not in r]
        line = outcomes.log.find("numbers", cell=cell, method=method)
        if trials and line is not None:
            nlls = [r["validation"]["nll"] for r in trials]
            best, worst = f"{min(nlls):.4f}", f"{max(nlls):.4f}"
            rows.append([described.label, _text(line["numbers"]), str(len(trials)), best, worst])
    columns = ("method", "chosen", "trials", "validation NLL, best", "worst")
    return TextTable(f"{cell}: tuning on validation NLL", columns, rows)


def posterior_settings(outcomes: Outcomes) -> list[str]:
    """Return what all fits share, and the trials of each method."""
    study = outcomes.study.adapted(outcomes.log.of("study")[0]["settings"])
    cells: dict[str, list[str]] = {}
    for name in outcomes.cells_with_base:
        sizes = {r["num_data"] for r in outcomes.trials(name) if "num_data" in r}
        cell = study.cells[name]
        for num_data in sizes:
            line = f"num_data {num_data}, batch_size {cell.batch_size}, samples {cell.samples}"
            cells.setdefault(line, []).append(name)
    lines = [f"{line} ({', '.join(names)})" for line, names in cells.items()]
    for method in outcomes.study.methods.values():
        if method.tuned:
            trials = "; ".join(_text(trial) for trial in method.trials)
            lines.append(f"trials of {method.label}: {trials}")
    return lines


def _text(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in numbers.items())
