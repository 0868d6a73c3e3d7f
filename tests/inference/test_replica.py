"""Two processes train as one does, end together, and go on with another number of them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import bayes_htr as htr
from tests.inference import distributed_cases as cases
from tests.processes import ENVIRONMENT, TORCHRUN, difference, found_by

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each case found, by name and rank, and the folder of the runs."""
    out = tmp_path_factory.mktemp("distributed")
    half_way = [lambda event: event.epoch == 2]
    cases.fit(cases.TOP, epochs=4, out=out / "one to two", callbacks=half_way)
    read = found_by(cases.__file__, out)
    read.out = out
    return read


def metrics(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


@pytest.mark.parametrize("name", cases.SAME)
def test_two_processes_train_as_one_does(found, name):
    first, second = found(name)
    one = cases.result(cases.SAME[name])
    assert difference(first["net"], second["net"]) == 0.0
    assert difference(first["net"], one["net"]) < (1e-4 if name == "lbfgs" else 1e-5)
    assert first["hyperparameters"] == pytest.approx(one["hyperparameters"])
    expected = [pytest.approx(row, rel=1e-5) for row in metrics(one["history"])]
    assert metrics(first["history"]) == expected
    assert metrics(second["history"]) == expected


def test_loaders_that_are_dealt_already(found):
    """As one process with both processes' batches together, in the order of each epoch."""

    class Together:
        def __init__(self):
            self.epoch = 0

        def __len__(self):
            return 4

        def __iter__(self):
            parts = []
            for rank in (0, 1):
                sampler = cases.dealt(2, rank).sampler
                sampler.set_epoch(self.epoch)
                parts.append(list(sampler))
            for i in range(0, 25, 8):
                yield parts[0][i : i + 8] + parts[1][i : i + 8]
            self.epoch += 1

    loader = DataLoader(TensorDataset(*cases.data()), batch_sampler=Together())
    one = cases.result(lambda: cases.fit(train=loader, epochs=2))
    first, second = found("dealt")
    assert difference(first["net"], second["net"]) == 0.0
    assert difference(first["net"], one["net"]) < 1e-5


def test_a_dealt_loader_is_told_the_epoch_also_in_one_process():
    loader = cases.dealt(1, 0)
    told = []
    loader.sampler.set_epoch = told.append
    cases.fit(train=loader, epochs=3)
    assert told == [0, 1, 2]


def test_dropout_differs_and_weights_do_not(found):
    first, second = found("random streams")
    assert not set(first["drawn"]) & set(second["drawn"])
    assert len(set(first["drawn"])) == len(first["drawn"])  # epochs differ, too
    assert difference(first["net"], second["net"]) == 0.0


@pytest.mark.parametrize("name", ["batchnorm", "wrapped", "still in step"])
def test_all_processes_return_the_same_network(found, name):
    first, second = found(name)
    assert difference(first["net"], second["net"]) == 0.0
    if name != "batchnorm":
        assert difference(first["net"], found("flat")[0]["net"]) == 0.0


def test_callbacks_are_called_in_the_first_process_and_end_all(found):
    first, second = found("stopped")
    assert first["called"] == [(0, 1), (0, 2)]
    assert second["called"] == []
    assert first["epochs"] == second["epochs"] == 2


@pytest.mark.parametrize(
    ("name", "guilty", "error", "message"),
    [
        ("network raises", 1, "ValueError", "the third step is too much"),
        ("data raise", 1, "OSError", "example 20 is rotten"),
        ("network raises early", 1, "ValueError", "the third step is too much"),
        ("data raise early", 1, "OSError", "example 20 is rotten"),
        ("bad data", 1, "DataError", "6 inputs are not finite"),
        ("validation raises", 1, "OSError", "gone"),
        ("callback raises", 0, "KeyError", "no such logger"),
        ("taken", 0, "OutputError", "is not empty"),
    ],
)
def test_an_error_in_one_process_ends_both(found, name, guilty, error, message):
    own, others = found(name)[guilty], found(name)[1 - guilty]
    assert own["error"] == error
    assert message in own["message"]
    assert others["error"] == "ProcessError"
    assert f"process {guilty} of 2 failed: {error}: " in others["message"]
    assert message in others["message"]


def test_divergence_and_differing_settings_are_seen_by_both(found):
    for name, error in {"diverges": "DivergenceError", "other seeds": "ValueError"}.items():
        first, second = found(name)
        assert first == second
        assert first["error"] == error
    assert "seed is 1 in process 1 and 0 in process 0" in first["message"]


def test_resumed_with_as_many_processes_it_is_the_same_run(found):
    for state in found("resumed"):
        assert difference(state["net"], state["whole"]) == 0.0


def test_resumed_with_another_number_of_processes(found):
    whole = cases.result(lambda: cases.fit(cases.TOP, epochs=4))["net"]
    assert difference(found("one to two")[0]["net"], whole) < 1e-5
    assert len(found("one to two")[1]["history"]) == 4
    assert len(found("two to one")[0]["history"]) == 2
    resumed = cases.fit(cases.TOP, epochs=4, out=found.out / "two to one", resume=True)
    assert difference(resumed.network().state_dict(), whole) < 1e-5
    assert not list(found.out.glob("*to*/.*"))


SCRIPT = """
import sys
import torch
import bayes_htr as htr
from tests.inference import distributed_cases as cases
from bayes_htr.distributed import process_group

torch.set_num_threads(1)
with process_group("cpu"):
    cases.until(*map(int, sys.argv[2:5]), out=sys.argv[1], resume=True)
"""


def start(out, epochs, *, last=0, shard=False, processes=2):
    """Processes without a launcher that would end all when one dies."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    more = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    command = [sys.executable, "-c", SCRIPT, str(out), *map(str, (epochs, last, int(shard)))]
    return [
        subprocess.Popen(
            command,
            env=ENVIRONMENT | more | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]


def epochs_done(out):
    file = out / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def kill(out, number, *, epochs, after, wait=0.0, shard=False):
    """Kill one of two processes some epochs on; the other's exit status and errors."""
    pair = start(out, epochs, shard=shard)
    try:
        end = time.monotonic() + 240
        before = epochs_done(out)
        while epochs_done(out) < before + after:
            assert all(p.poll() is None for p in pair), "a process ended by itself"
            assert time.monotonic() < end
            time.sleep(0.002)
        time.sleep(wait)
        pair[number].send_signal(signal.SIGKILL)
        _, errors = pair[1 - number].communicate(timeout=60)
        return pair[1 - number].returncode, errors
    finally:
        for process in pair:
            process.kill()
            process.communicate()


def check_folder(out):
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    rows = [json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) in (state["epoch"] - 1, state["epoch"])
    assert not (out / "weights.safetensors").exists()
    return state["epoch"]


@pytest.mark.parametrize("shard", [False, True])
def test_a_killed_process_ends_the_other_and_the_run_resumes_in_four_or_one(tmp_path, shard):
    """Four shard the weights and one does not, whether or not the two before did."""
    out = tmp_path / "run"
    status, errors = kill(out, 1, epochs=10_000, after=2, shard=shard)
    assert status == 1
    assert "Error" in errors
    assert not list(out.glob(".*"))  # the process that writes went on to its own end
    last = check_folder(out) + 2
    shutil.copytree(out, tmp_path / "four")
    four = start(tmp_path / "four", 10_000, last=last, shard=True, processes=4)
    assert [p.wait(timeout=300) for p in four] == [0] * 4
    whole = cases.until(10_000, last)
    for resumed in (
        cases.until(10_000, last, out=out, resume=True),
        htr.load(tmp_path / "four", cases.network()),
    ):
        assert len(resumed.history) == last
        assert difference(resumed.network().state_dict(), whole.network().state_dict()) < 1e-3


@pytest.mark.slow
def test_killed_again_and_again_it_is_the_same_run(tmp_path):
    moments = random.Random(0)
    out, epochs = tmp_path / "run", 200
    for time_ in range(6):
        status, _ = kill(out, time_ % 2, epochs=epochs, after=3, wait=moments.uniform(0, 0.1))
        assert status not in (0, -signal.SIGKILL)
        check_folder(out)
    for folder in (out, tmp_path / "whole"):
        assert [p.wait(timeout=300) for p in start(folder, epochs)] == [0, 0]
    resumed, whole = (f / "weights.safetensors" for f in (out, tmp_path / "whole"))
    assert resumed.read_bytes() == whole.read_bytes()
    assert not list(out.glob(".*"))


@pytest.mark.slow
def test_torchrun_ends_when_a_process_is_killed(tmp_path):
    script = tmp_path / "train.py"
    note = 'import os; open(sys.argv[1] + os.environ["RANK"], "w").write(str(os.getpid()))\n'
    script.write_text(SCRIPT.replace("torch.set_num", note + "torch.set_num", 1))
    out = tmp_path / "run"
    command = [*TORCHRUN, str(script), str(out), "10000", "0", "0"]
    runner = subprocess.Popen(command, env=ENVIRONMENT)
    try:
        end = time.monotonic() + 120
        while epochs_done(out) < 2:
            assert runner.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(int((tmp_path / "run0").read_text()), signal.SIGKILL)
        assert runner.wait(timeout=60) != 0
    finally:
        runner.terminate()
        runner.wait(timeout=60)
    check_folder(out)
