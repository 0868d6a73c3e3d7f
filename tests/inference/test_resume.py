"""Ten epochs are five epochs, a new process, and five more: bit for bit."""

from __future__ import annotations

import copy
import json
import math
import os
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.optim import SGD

import bayes_htr as htr
from bayes_htr.engine.packing import unpack

SCRIPT = Path(__file__).with_name("resume_cases.py")
HELP = runpy.run_path(str(SCRIPT))
CASES, JOINT, case, stop_at = (HELP[name] for name in ("CASES", "JOINT", "case", "stop_at"))

# Without a horizon in the schedule, five epochs asked for are the first five of ten.
NO_HORIZON = ("momentum", "adam", "onecycle", "lambda", "plateau")


def run_script(out, epochs, names):
    command = [sys.executable, str(SCRIPT), str(out), str(epochs), *names]
    package = Path(htr.__file__).parents[1]  # the one under test, whatever is installed
    environment = {**os.environ, "PYTHONPATH": str(package)}
    subprocess.run(command, check=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def whole():
    """Every case without a break."""
    return {name: make()(epochs=10) for name, make in CASES.items()}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """Every case called off after five of ten epochs, and resumed in another process."""
    out = tmp_path_factory.mktemp("called off")
    for name, make in CASES.items():
        make()(epochs=10, out=out / name, callbacks=[stop_at(5)])
    run_script(out, 10, CASES)
    return out


@pytest.fixture(scope="module")
def lengthened(tmp_path_factory):
    """Five epochs asked for, and then ten in another process."""
    out = tmp_path_factory.mktemp("lengthened")
    names = (*NO_HORIZON, "cosine")
    for name in names:
        CASES[name]()(epochs=5, out=out / name)
    run_script(out, 10, names)
    return out


def network_of(name):
    return htr.BayesianClassifier(CASES[name]().args[0].net, htr.Priors({})).net


def check_same(posterior, expected, same_weights):
    same_weights(posterior, expected)
    assert posterior.hyperparameters() == expected.hyperparameters()
    assert len(posterior.history) == len(expected.history)
    for row, other in zip(posterior.history, expected.history, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_called_off_and_resumed(whole, resumed, same_weights, name):
    posterior = htr.load(resumed / name, network_of(name))
    check_same(posterior, whole[name], same_weights)
    config = json.loads((resumed / name / "config.json").read_text())
    assert config["epochs"] == 10


@pytest.mark.parametrize("name", NO_HORIZON)
def test_lengthened(whole, lengthened, same_weights, name):
    check_same(htr.load(lengthened / name, network_of(name)), whole[name], same_weights)


def test_the_cases_are_what_they_claim(whole, resumed):
    assert max(row["epoch"] for row in whole["patience"].history) < 10
    assert whole["plateau"].history[-1]["lr"] < 0.5
    checkpoint = torch.load(resumed / "warm blocks" / "checkpoint.pt", weights_only=True)
    (held,) = unpack(checkpoint["energy"]["_extra_state"])["matrices"]
    assert held["block"] is not None
    assert held["held"]["age"] > 0
    assert whole["hyperparameters"].hyperparameters()


@pytest.mark.long
def test_another_horizon_follows_the_longer_curve(lengthened, same_weights):
    name = "cosine"
    posterior = htr.load(lengthened / name, network_of(name))
    curve = [0.025 * (1 + math.cos(math.pi * e / n)) for n in (5, 10) for e in range(n)]
    rates = curve[:5] + curve[10:]
    assert [row["lr"] for row in posterior.history] == pytest.approx(rates, rel=1e-9)


def test_a_run_that_lost_patience_does_not_go_on(tmp_path, resumed, same_weights):
    make = CASES["patience"]()
    run = shutil.copytree(resumed / "patience", tmp_path / "run")
    before = htr.load(run, network_of("patience"))
    after = make(epochs=30, out=run, resume=True)
    check_same(after, before, same_weights)


def test_resuming_a_finished_run_changes_nothing(tmp_path, same_weights):
    make = CASES["hyperparameters"]()
    first = make(epochs=3, out=tmp_path / "run")
    check_same(make(epochs=3, out=tmp_path / "run", resume=True), first, same_weights)


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_there_starts(tmp_path, same_weights, exists):
    if exists:
        (tmp_path / "run").mkdir()
    make = CASES["momentum"]()
    check_same(make(epochs=2, out=tmp_path / "run", resume=True), make(epochs=2), same_weights)


@pytest.mark.parametrize("name", ["config.json", "checkpoint.pt"])
def test_leftovers_alone_count_as_nothing(tmp_path, name):
    run = tmp_path / "run"
    run.mkdir()
    (run / f".{name}.abc123.tmp").write_bytes(b"half")
    CASES["momentum"]()(epochs=1, out=run, resume=True)
    assert not list(run.glob(".*"))


def test_leftovers_are_cleaned_and_other_files_stay(tmp_path):
    run, make = tmp_path / "run", CASES["momentum"]()
    make(epochs=1, out=run)
    (run / ".weights.safetensors.abc123.tmp").write_bytes(b"half")
    (run / ".notes.tmp").write_text("mine")
    (run / "notes.txt").write_text("mine")
    make(epochs=2, out=run, resume=True)
    assert {p.name for p in run.glob(".*")} == {".notes.tmp"}
    assert (run / "notes.txt").exists()


def test_killed_before_the_first_checkpoint(tmp_path, same_weights):
    run, make = tmp_path / "run", CASES["momentum"]()
    expected = make(epochs=2, out=run)
    for file in run.iterdir():
        if file.name != "config.json":
            file.unlink()
    check_same(make(epochs=2, out=run, resume=True), expected, same_weights)


def test_an_older_result_goes_with_the_first_new_epoch(tmp_path):
    """Else a run that dies while it is resumed would load as finished, with old weights."""
    run, make = tmp_path / "run", CASES["momentum"]()
    make(epochs=1, out=run)

    def fail(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(epochs=3, out=run, resume=True, callbacks=[fail])
    with pytest.raises(htr.CheckpointError, match="not finished"):
        htr.load(run, network_of("momentum"))


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("method.lr", {"lr": 0.06}),
        ("method.clip", {"clip": 1.0}),
        ("method.patience", {"patience": 3, "validation": True}),
        ("method.scheduler", {"scheduler": None}),
        ("method.optimizer.kwargs.momentum", {"optimizer": partial(SGD, momentum=0.8)}),
        ("priors.priors.fc2.weight.law.scale", {"priors": 2.0}),
        ("priors.strength", {"strength": 2.0}),
        ("seed", {"seed": 6}),
        ("train.batch_size", {"batch_size": 15}),
        ("num_data", {"train": partial(HELP["data"], 41)}),
        ("parameters.fc1.bias", {"width": 9}),
        ("class_weights", {"weights": [1.0, 1.0, 2.0]}),
        ("label_smoothing", {"eps": 0.1}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_another_configuration_raises(tmp_path, field, change):
    def run(priors=1.0, strength=1.0, seed=5, batch_size=16, weights=None, eps=0.0, **more):
        prior = htr.MaxEigenvalue(htr.Frechet(2.0, scale=priors))
        fit = case(htr.Priors({"fc2.weight": prior}).scaled(strength), **more)
        fit.args[0].likelihood = htr.Categorical(weights, eps)
        settings = {"seed": seed, "batch_size": batch_size, "out": tmp_path / "run"}
        return fit(**settings, epochs=2, resume=True)

    run()
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(htr.CheckpointError, match=rf"its {field}.* is .* name another folder"):
        run(**change)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_another_order_of_patterns_raises(tmp_path):
    """The first pattern that matches wins, so that the order counts."""
    both = {name: htr.ESD(htr.Lomax(2.0)) for name in ("fc1.weight", "fc3.weight")}
    turned = dict(reversed(both.items()))
    case(htr.Priors(both))(epochs=1, out=tmp_path / "run")
    with pytest.raises(htr.CheckpointError, match=r"priors\.priors is"):
        case(htr.Priors(turned))(epochs=2, out=tmp_path / "run", resume=True)


def test_other_data_of_the_same_size_raise(tmp_path):
    case()(epochs=1, out=tmp_path / "run")
    with pytest.raises(htr.CheckpointError, match="checksums"):
        case(train=partial(HELP["data"], 40, 7))(epochs=2, out=tmp_path / "run", resume=True)


def test_fewer_epochs_than_done_raises(tmp_path):
    make = CASES["momentum"]()
    make(epochs=3, out=tmp_path / "run")
    with pytest.raises(htr.CheckpointError, match="has 3 epochs already, more than epochs=2"):
        make(epochs=2, out=tmp_path / "run", resume=True)


def test_a_checkpoint_of_another_kind_of_run_raises(tmp_path):
    """The same configuration, but the file is not that of this run."""
    run, make = tmp_path / "run", CASES["momentum"]()
    make(epochs=1, out=run)
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    for broken in ({**state, "net": {}}, {"format": 1}, {**state, "order": []}):
        torch.save(copy.deepcopy(broken), run / "checkpoint.pt")
        (run / "digests.json").unlink(missing_ok=True)
        with pytest.raises(htr.CheckpointError, match="does not fit this run"):
            make(epochs=2, out=run, resume=True)


def exchange(state, one, other):
    state[one] = state[other]


FOREIGN = {
    "optimiser of hyperparameters": lambda s: exchange(s, "optimizer", "hyper"),
    "settings left out": lambda s: s["optimizer"]["param_groups"][0].pop("dampening"),
    "a rate in words": lambda s: s["optimizer"]["param_groups"][0].update(lr="fast"),
    "a rate that is not finite": lambda s: s["optimizer"]["param_groups"][0].update(lr=math.nan),
    "momentum of other weights": lambda s: exchange(s["optimizer"]["state"], 0, 1),
    "no schedule": lambda s: s.update(scheduler={}),
    "the optimiser as schedule": lambda s: exchange(s, "scheduler", "optimizer"),
    "an epoch in words": lambda s: s["scheduler"].update(last_epoch="second"),
    "half a step": lambda s: s.update(step=1.5),
    "no history": lambda s: s.update(history=[]),
    "history in words": lambda s: s.update(history="long"),
    "best without weights": lambda s: s.update(best={"nll": 0.1, "epoch": 1}),
    "best in words": lambda s: s["best"].update(nll="low"),
    "another random state": lambda s: s.update(random=torch.zeros(3, dtype=torch.uint8)),
    "no epoch": lambda s: s.update(epoch="last"),
    "no energy": lambda s: s.update(energy=None),
}


@pytest.fixture(scope="module")
def with_everything(tmp_path_factory):
    out = tmp_path_factory.mktemp("foreign") / "run"
    make = case(JOINT, validation=True, patience=9)
    make(epochs=2, out=out)
    return make, out


@pytest.mark.parametrize("what", FOREIGN)
def test_parts_of_a_checkpoint_that_do_not_fit_are_refused(with_everything, tmp_path, what):
    """PyTorch itself would notice most of these in a later step, or never."""
    make, out = with_everything
    run = shutil.copytree(out, tmp_path / "run")
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    FOREIGN[what](state)
    torch.save(state, run / "checkpoint.pt")
    (run / "digests.json").unlink()
    with pytest.raises(htr.CheckpointError, match=r"does not fit this run|is damaged"):
        make(epochs=3, out=run, resume=True)
