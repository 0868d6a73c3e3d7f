"""The cost of guides, end to end with a few steps; no number of seconds is asserted."""

import json

import pyro
import pytest
import torch

from bayes_htr.errors import ProcessError
from benchmarks.__main__ import main
from benchmarks.cost import guides
from benchmarks.cost.guide_runs import PLAIN, TIMED, random_images
from benchmarks.cost.guides import GuideSettings, map_of, measure_memory, measure_times

FEW = ["--rounds", "2", "--steps", "2", "--warmup", "1", "--memory-steps", "1"]
SMALL = ["--examples", "16", "--batch-size", "8", "--threads", "1"]


@pytest.fixture
def work():
    return random_images(16, 8, seed=0)


def test_the_benchmark(tmp_path, capsys):
    command = ["guides", "--out", str(tmp_path), *FEW, *SMALL, "--runs", "meanfield"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    for word in ("to plain", "mean field, normal entries", "Peak memory of a fresh process"):
        assert word in printed
    cell = json.loads((tmp_path / "guides.json").read_text())["cells"]["mlp/guides"]
    assert set(cell) == {"time", f"memory/{PLAIN}", "memory/meanfield"}
    times = cell["time"]["result"]
    assert times[PLAIN]["to_plain"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    assert set(times["meanfield"]) == {"ms", "to_plain"}
    own = {name: cell[f"memory/{name}"]["result"]["own_mb"] for name in (PLAIN, "meanfield")}
    # Locations and scales with their moments are at least six times the weights, 2 MB each.
    assert own["meanfield"] > own[PLAIN] > 2
    assert (tmp_path / "guides.png").read_bytes().startswith(b"\x89PNG")
    assert main(command) == 0
    assert "3 of 3 parts are in guides.json already" in capsys.readouterr().out


@pytest.mark.parametrize("name", [n for n in TIMED if "lomax" not in n and "frechet" not in n])
def test_every_run_steps_and_leaves_no_trace(name, work):
    state, stored = torch.get_rng_state(), set(pyro.get_param_store())
    names = list(dict.fromkeys([PLAIN, name]))
    few = GuideSettings(rounds=1, steps=2, warmup=1)
    times = measure_times(names, work, few, lambda _: None)
    assert times[name]["ms"]["median"] > 0
    assert ("to_pyro_trace" in times[PLAIN]) == (name == "pyro_trace")
    assert torch.equal(torch.get_rng_state(), state)
    assert set(pyro.get_param_store()) == stored


def test_spectral_runs_are_of_their_priors(work):
    spectral = TIMED["spectral_lomax_8"].run(work)
    spectral.steps(1)
    guide = spectral.trainer.guide
    assert guide.kind == "spectral"
    assert guide.directions == 8
    assert map_of("spectral_lomax_8") == "map_lomax"
    assert map_of("meanfield_frechet") == "map_frechet"
    assert map_of("meanfield") == PLAIN
    assert map_of("pyro_trace") is None


def test_a_process_that_fails_says_why(work):
    with pytest.raises(ProcessError, match="abacus"):
        measure_memory("abacus", work, 1, lambda _: None)


def test_rounds_are_paired(monkeypatch, work):
    """Ratios are of the same round: a machine twice as slow in one of them changes none."""
    rounds = iter([[1.0, 3.0], [2.0, 6.0], [1.5, 4.5]])
    monkeypatch.setattr(guides, "take_turns", lambda *args: next(rounds))
    times = measure_times(
        [PLAIN, "meanfield"], work, GuideSettings(rounds=3, steps=1, warmup=1), lambda _: None
    )
    assert times["meanfield"]["to_plain"] == {"median": 3.0, "min": 3.0, "max": 3.0}
    assert times["meanfield"]["ms"] == {"median": 4500.0, "min": 3000.0, "max": 6000.0}
