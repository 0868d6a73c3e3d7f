"""Writing that fails: the error says why and what is safe, and what is safe can be used."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bayes_htr as htr
from bayes_htr.inference import digests
from bayes_htr.inference.run_folder import RunFolder

resource = pytest.importorskip("resource", reason="needs limits of POSIX")

PRIOR = htr.Priors({"fc1.weight": htr.ESD(htr.Lomax(2.0)), "fc2.weight": htr.ESD(htr.Lomax(2.0))})


@contextlib.contextmanager
def largest_file(size):
    """No file may grow above so many bytes, which is what a full disk does to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def train(make_model, data, tmp_path):
    def run(at_epoch=None, **more):
        settings = {"method": htr.MAP(scheduler=None), "epochs": 4, "out": tmp_path / "run"}
        callbacks = [] if at_epoch is None else [at_epoch]
        return htr.fit(make_model(PRIOR), data, callbacks=callbacks, **settings | more)

    return run


@pytest.mark.parametrize("size", [0, 100, 1000, 3000])
def test_a_full_disk_in_training(train, tmp_path, same_weights, size):
    with contextlib.ExitStack() as stack:

        def fill(event):
            if event.epoch == 2:
                stack.enter_context(largest_file(size))

        with pytest.raises(htr.OutputError) as caught:
            train(fill)
    message = str(caught.value)
    assert "larger than the system allows" in message
    assert f"checkpoint of epoch 2, {tmp_path / 'run' / 'checkpoint.pt'}, is unharmed" in message
    assert "make room, and resume the run (resume=True, --resume)" in message
    assert not list((tmp_path / "run").glob(".*"))
    same_weights(train(resume=True), train(out=None))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_other_reasons_are_named_as_well(train, tmp_path, monkeypatch, number):
    def refuse(event):
        def stage(target, write):
            raise OSError(number, os.strerror(number), str(target))

        monkeypatch.setattr(digests, "stage", stage)

    reasons = {
        errno.ENOSPC: "the disk is full .* make room, and resume",
        errno.EDQUOT: "the disk quota is used up .* make room, and resume",
        errno.EROFS: "the file system is read-only .* make the folder writable, and resume",
        errno.EACCES: "permission is denied .* make the folder writable, and resume",
    }
    with pytest.raises(htr.OutputError, match=f"cannot be written: {reasons[number]}"):
        train(refuse)
    assert RunFolder(tmp_path / "run").checkpoint()["epoch"] == 1


def test_a_folder_that_is_removed_in_training(train, tmp_path):
    def remove(event):
        shutil.rmtree(tmp_path / "run")

    with pytest.raises(htr.OutputError, match=r"removed meanwhile.*run is gone, .* start the run"):
        train(remove)
    assert not (tmp_path / "run").exists()
    train()


def test_a_folder_that_becomes_a_file_in_training(train, tmp_path):
    def replace(event):
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "run").write_text("mine")

    with pytest.raises(htr.OutputError, match=r"a file is where its folder .*run is gone"):
        train(replace)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_full_disk_at_the_start(train, tmp_path):
    with (
        largest_file(50),
        pytest.raises(htr.OutputError, match="nothing was lost there; make room"),
    ):
        train()
    assert not (tmp_path / "run").exists()
    train()


@pytest.mark.filterwarnings("ignore:the chains do not agree", "ignore:.*trajectories")
@pytest.mark.filterwarnings("ignore:no prior on")
def test_draws_that_cannot_be_written_are_not_lost(train, tmp_path, monkeypatch, data):
    """NUTS has no checkpoints: without this its draws, which may have taken days, would be gone."""
    whole = RunFolder.write_result

    def full(self, *args, **more):
        with largest_file(100):
            whole(self, *args, **more)

    monkeypatch.setattr(RunFolder, "write_result", full)
    method = htr.NUTS(warmup=5, samples=4, chains=1, frames="held", max_tree_depth=2)
    with pytest.raises(htr.OutputError, match="nothing was lost there; make room") as caught:
        train(method=method, epochs=0)
    monkeypatch.undo()
    posterior = caught.value.posterior
    posterior.save(tmp_path / "elsewhere")
    assert posterior.evaluate(data, samples=2)["nll"] > 0


def test_a_posterior_is_saved_whole_or_not_at_all(train, tmp_path):
    posterior = train(out=None)
    with largest_file(600), pytest.raises(htr.OutputError, match="cannot be written"):
        posterior.save(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    with largest_file(600), pytest.raises(htr.OutputError, match="cannot be written"):
        posterior.save(tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir())
    posterior.save(tmp_path / "empty")


# On file systems that are really full or read-only

SCRIPT = """
import os, subprocess, sys, torch
import bayes_htr as htr
from bayes_htr.cli import main

mount, mode = sys.argv[1:]
x = torch.randn(60, 50, generator=torch.Generator().manual_seed(0))
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(50, 200), torch.nn.ReLU(), torch.nn.Linear(200, 3))
model = htr.BayesianClassifier(net, htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0))))

def fill(event):
    if event.epoch == 2:
        with open(mount + "/other", "wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(512))
                except OSError:
                    break

def run(epochs=4, **more):
    return htr.fit(model, (x, x[:, :3].argmax(1)), method=htr.MAP(lr=0.01), epochs=epochs, **more)

def refused(**more):
    try:
        run(**more)
    except htr.OutputError as error:
        print(error)
    else:
        raise AssertionError

def remount(how):
    subprocess.run(["mount", "-o", "remount," + how, mount], check=True)

out = mount + "/run"
if mode == "full":
    refused(out=out, callbacks=[fill])
    os.unlink(mount + "/other")
    resumed = run(out=out, resume=True)
else:
    main(["fit", "--epochs", "1", "--no-compare", "--out", mount + "/command"])
    run(out=out)
    remount("ro")
    refused(out=out, epochs=5, resume=True)
    refused(out=mount + "/another")
    assert main(["report", mount + "/command"]) == 0
    assert main(["fit", "--epochs", "2", "--no-compare", "--out", mount + "/c"]) == 1
    resumed = htr.load(out, net)
    remount("rw")
whole = run()
assert all(map(torch.equal, resumed.network().parameters(), whole.network().parameters()))
assert not [name for name in os.listdir(out) if name.startswith(".")], os.listdir(out)
print("the same")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "messages"),
    [
        ("full", ["the disk is full", "checkpoint of epoch 2", "make room, and resume the run"]),
        ("read-only", ["the file system is read-only", "name another folder", "no pictures"]),
    ],
)
def test_a_real_file_system(tmp_path, mode, messages):
    (tmp_path / "mount").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"]).returncode:
        pytest.skip("needs a namespace of mounts")
    size = "3m" if mode == "full" else "30m"
    shell = f'mount -t tmpfs -o size={size} none "$2" && exec "$0" "$1" "$2" {mode}'
    arguments = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "mount")]
    environment = os.environ | {"PYTHONPATH": str(Path(htr.__file__).parents[1])}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", shell, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = " ".join((done.stdout + done.stderr).split())
    assert all(message in printed for message in messages), printed
    assert done.stdout.endswith("the same\n")
