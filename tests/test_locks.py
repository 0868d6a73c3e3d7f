from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import bayes_htr as htr
from bayes_htr._locks import FolderLock, lock

HOLD = """
import sys, time
from pathlib import Path
from bayes_htr._locks import FolderLock

held = FolderLock(Path(sys.argv[1]), "lock")
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process, which holds the lock of the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    root = Path(htr.__file__).parents[1]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_one_process_at_a_time(tmp_path, other):
    message = rf"run is in use: process {other.pid} on .* is writing there; .* another folder"
    with pytest.raises(htr.OutputError, match=message):
        FolderLock(tmp_path / "run", "lock")
    other.kill()  # which leaves the file, and no lock
    other.wait()
    assert (tmp_path / "run" / "lock").exists()
    FolderLock(tmp_path / "run", "lock").release()
    assert not (tmp_path / "run" / "lock").exists()


def test_one_thread_at_a_time(tmp_path):
    held, errors = FolderLock(tmp_path, "lock"), []

    def try_it():
        try:
            FolderLock(tmp_path, "lock")
        except htr.OutputError as error:
            errors.append(error)

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    assert len(errors) == 1
    held.release()
    held.release()
    FolderLock(tmp_path, "lock").release()


def test_folders_that_were_made_go_if_nothing_was_put_there(tmp_path):
    held = FolderLock(tmp_path / "a" / "b", "lock")
    other = FolderLock(tmp_path / "a" / "c", "lock")
    held.release()
    assert not (tmp_path / "a" / "b").exists()
    (tmp_path / "a" / "c" / "file").touch()
    other.release()
    assert [p.name for p in (tmp_path / "a" / "c").iterdir()] == ["file"]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(htr.OutputError, match=r"file.below cannot be written: .* another folder"):
        FolderLock(tmp_path / "file" / "below", "lock")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    """As the workers of a `DataLoader` are; they may outlive a killed process by seconds."""
    held = FolderLock(tmp_path, "lock")
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    with pytest.raises(htr.OutputError, match="in use"):
        FolderLock(tmp_path, "lock")  # the child's end of the lock is not that of its parent
    held.release()
    FolderLock(tmp_path, "lock").release()
    os.write(done[1], b"x")
    os.waitpid(child, 0)


def test_a_file_system_without_locks_warns(tmp_path, monkeypatch):
    def refuse(file, *, wait):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("bayes_htr._locks._lock_by_system", refuse)
    with pytest.warns(UserWarning, match=r"cannot be locked \(.*No locks available\)"):
        FolderLock(tmp_path, "lock").release()


def test_a_lock_is_waited_for(tmp_path):
    first, second = (tmp_path / "file").open("a+b"), (tmp_path / "file").open("a+b")
    assert lock(first, wait=True)
    assert not lock(second, wait=False)
    timer = threading.Timer(0.2, first.close)
    timer.start()
    assert lock(second, wait=True)
    assert first.closed
    second.close()
