"""Parts are measured once, and written as they are measured."""

import pytest
from rich.console import Console

from benchmarks.common.results import Results
from benchmarks.common.running import Part, perform

MACHINE = {"cpu": "a", "gpu": None, "cores": 2, "threads": 1, "torch": "2", "bayes_htr": "0"}
QUIET = Console(quiet=True)


def part(cell, value, measured, **settings):
    def measure(tick):
        measured.append(cell)
        if value is None:
            raise KeyboardInterrupt
        return {"value": value}

    return Part(cell, "cost", 1, measure, settings)


def test_what_is_done_survives_an_interruption_and_is_skipped(tmp_path):
    measured = []
    with pytest.raises(KeyboardInterrupt):
        perform(
            [part("a/x", 1.0, measured), part("b/x", None, measured)],
            Results(tmp_path / "new", "overhead", MACHINE),
            QUIET,
        )
    again = Results(tmp_path / "new", "overhead", MACHINE)
    assert again.result("a/x", "cost") == {"value": 1.0}
    assert again.result("b/x", "cost") is None
    perform([part("a/x", 1.0, measured), part("b/x", 2.0, measured)], again, QUIET)
    assert measured == ["a/x", "b/x", "b/x"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["overhead.json"]


@pytest.mark.parametrize(
    ("machine", "settings", "skipped"),
    [
        (MACHINE, {"steps": 5, "refresh": {"type": "Exact"}}, True),
        (MACHINE | {"date": "tomorrow", "command": "other"}, {"steps": 5}, False),
        (MACHINE, {"steps": 6, "refresh": {"type": "Exact"}}, False),
        (MACHINE | {"threads": 2}, {"steps": 5, "refresh": {"type": "Exact"}}, False),
        (MACHINE | {"date": "tomorrow"}, {"steps": 5, "refresh": {"type": "Exact"}}, True),
    ],
)
def test_same_settings_on_a_like_machine_are_skipped(tmp_path, machine, settings, skipped):
    first = Results(tmp_path, "overhead", MACHINE)
    first.put("a/x", "cost", {"steps": 5, "refresh": {"type": "Exact"}}, {"value": 1})
    measured = []
    results = Results(tmp_path, "overhead", machine)
    perform([part("a/x", 2.0, measured, **settings)], results, QUIET)
    assert (measured == []) == skipped
    assert len(results.runs) == (1 if skipped else 2)
