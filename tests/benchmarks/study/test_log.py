"""The file of a study: what is appended, by one process or by several, and what is refused."""

from __future__ import annotations

import json

import pytest

from bayes_htr.errors import CheckpointError, OutputError
from benchmarks.study.log import Log

FILE = "generalisation.jsonl"


def test_two_logs_of_one_file(tmp_path):
    """Each appends after the other's lines, and takes off only what was cut short."""
    one, two = Log(tmp_path, "generalisation"), Log(tmp_path, "generalisation")
    one.append("machine", {"cpu": "a"})
    with one.path.open("ab") as file:
        file.write(b'{"kind": "run", "sett')  # killed while writing
    three = Log(tmp_path, "generalisation")
    two.append("machine", {"cpu": "b"})
    three.append("machine", {"cpu": "c"})
    assert two.append("machine", {"cpu": "a"}, more=1) == one.of("machine")[0]
    one.append("machine", {"cpu": "d"})
    for log in (one, Log(tmp_path, "generalisation")):
        assert [line["settings"]["cpu"] for line in log.of("machine")] == ["a", "b", "c", "d"]
    assert one.path.read_bytes().count(b"\n") == 4


def test_of_lines_with_the_same_settings_the_first_counts(tmp_path):
    lines = [{"kind": "run", "settings": {"seed": s}, "n": n} for n, s in enumerate([0, 1, 0])]
    (tmp_path / FILE).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    log = Log(tmp_path, "generalisation")
    assert [line["n"] for line in log.of("run")] == [0, 1]
    assert log.find("run", seed=0)["n"] == 0


def test_choices_of_another_study(tmp_path):
    """Those of the named cells and methods are taken once; runs stay where they are."""
    other = Log(tmp_path / "other", "generalisation")
    for cell in ("a", "b", "c"):
        other.append("base", {"cell": cell}, score=0.1, base={"epochs": 1}, ends={})
        for method in ("none", "lomax"):
            numbers = {"cell": cell, "method": method}
            other.append("numbers", numbers, score=0.2, numbers={"mu": 0.3})
    other.append("entrants", {"cell": "a"}, score=None, entrants={"conventional": "none"})
    other.append("entrants", {"cell": "b"}, score=None, entrants={"conventional": "lomax"})
    other.append("run", {"cell": "a", "seed": 0}, result={})
    log = Log(tmp_path / "own", "mixtures")
    log.append("numbers", {"cell": "a", "method": "none"}, score=9, numbers={"mu": 9})
    for _ in range(2):
        log.take_choices(other.path, {"a": "a", "b": "b", "b2": "b"}, ["none"])
    assert [(line["kind"], *line["settings"].values()) for line in log.lines] == [
        ("numbers", "a", "none"),
        ("base", "a"),
        ("base", "b"),
        ("base", "b2"),
        ("numbers", "b", "none"),
        ("numbers", "b2", "none"),
        ("entrants", "a"),
    ]
    assert log.get("numbers", cell="a", method="none")["numbers"] == {"mu": 9}  # chosen before
    assert log.get("numbers", cell="b", method="none") == {
        "kind": "numbers",
        "settings": {"cell": "b", "method": "none"},
        "score": 0.2,
        "numbers": {"mu": 0.3},
    }
    with pytest.raises(OutputError, match="is no file"):
        log.take_choices(tmp_path / "missing.jsonl", {"a": "a"}, ["none"])


def test_a_log_that_was_cut_by_others(tmp_path):
    log = Log(tmp_path, "generalisation")
    log.append("machine", {"cpu": "a"})
    log.path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="shorter than it was"):
        log.append("machine", {"cpu": "b"})
    assert log.path.read_bytes() == b""


def test_the_log_refuses_what_is_no_number(tmp_path):
    log = Log(tmp_path, "generalisation")
    with pytest.raises(ValueError, match="JSON"):
        log.append("run", {}, result={"nll": float("nan")})
    assert not log.path.exists()


def test_a_log_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="name another folder"):
        Log(tmp_path / "file", "generalisation")
    with pytest.raises(CheckpointError, match="line 2"):
        (tmp_path / FILE).write_text('{"kind": "run", "settings": {}}\nnonsense\n')
        Log(tmp_path, "generalisation")
