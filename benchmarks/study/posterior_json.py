"""Results of the study of posteriors from before it kept a log: `posterior.json` as lines.

The file has cells (`kmnist/map_decay`) with parts: `trial/0`, `trial/1`, ... are scores of
validation images, and `seed/0`, `seed/1`, ... are tested fits. A seed that was fitted with other
numbers than those that are the best now is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bayes_htr as htr
from benchmarks.study.studies import STUDIES

_DEFAULTS = {"batch_size": (128,), "samples": (32,), "num_data": (7000, 9000)}
"""What fits had by default. How many images were trained on depended on the file of the data set;
other numbers cannot be told from options, and a folder that has them can only be reported."""


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log that holds the same, choices before tested runs.

    Raises:
        CheckpointError: The file cannot be read, or holds other results.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if (data["format"], data["benchmark"]) != (1, "posterior"):
            raise ValueError("other results")
        return list(_lines(data))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise htr.CheckpointError(
            f"{path} cannot be read ({error!r}); move it away, or name another folder"
        ) from error


def _lines(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    options = _options(data["cells"])
    yield {"kind": "study", "settings": options}
    machines: list[dict[str, Any]] = []
    places = []
    for facts in data["runs"]:
        if facts not in machines:
            machines.append(facts)
            yield {"kind": "machine", "settings": facts}
        places.append(machines.index(facts))
    cells = {tuple(name.split("/")): parts for name, parts in data["cells"].items()}
    study = STUDIES["posterior"].adapted(options)
    bases = {cell: asdict(study.cells[cell].bases()[0]) for cell, _ in cells}
    for cell, base in bases.items():
        yield _choice("base", {"cell": cell}, None, base=base, ends={})
    tested = []
    for (cell, method), parts in cells.items():
        trials = [part for name, part in parts.items() if name.startswith("trial/")]
        for part in trials:
            yield _run(cell, method, bases[cell], part, places, tested=False)
        if not trials:
            continue
        best = min(trials, key=lambda part: part["result"]["nll"])
        numbers, score = best["settings"]["numbers"], best["result"]["nll"]
        yield _choice("numbers", {"cell": cell, "method": method}, score, numbers=numbers)
        tested += [
            _run(cell, method, bases[cell], part, places, tested=True)
            for name, part in sorted(parts.items())
            if name.startswith("seed/")
            and part["settings"] == {**best["settings"], "seed": part["settings"]["seed"]}
        ]
    yield from tested


def _options(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the parts of a file tell of, as the line `study` has them."""
    options: dict[str, Any] = {"tuning": 1, "trials": None, "shrink": 1, "epochs": None}
    for name, parts in cells.items():
        own = STUDIES["posterior"].methods[name.split("/")[1]].trials[0]["epochs"]
        for part in parts.values():
            settings = part["settings"]
            if settings["numbers"]["epochs"] != own:
                options["epochs"] = settings["numbers"]["epochs"]
            options |= {
                k: settings[k] for k, usual in _DEFAULTS.items() if settings[k] not in usual
            }
    return options


def _choice(
    kind: str, settings: Mapping[str, str], score: float | None, **chosen: Any
) -> dict[str, Any]:
    return {"kind": kind, "settings": settings, "score": score, **chosen}


def _run(
    cell: str,
    method: str,
    base: Mapping[str, Any],
    part: Mapping[str, Any],
    places: list[int],
    *,
    tested: bool,
) -> dict[str, Any]:
    before, found = part["settings"], part["result"]
    settings = {
        "cell": cell,
        "method": method,
        "numbers": before["numbers"],
        "base": base,
        "seed": before["seed"],
        "ends": {},
        "tested": tested,
        "shrink": 1,
    }
    if before["start"] is not None:
        settings["start"] = before["start"]
    if tested:
        result = {"test" if name == "plain" else name: value for name, value in found.items()}
    else:
        result = {"validation": found}
    result["num_data"] = before["num_data"]
    return {"kind": "run", "settings": settings, "result": result, "machine": places[part["run"]]}
