from __future__ import annotations

import errno
import io
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError

from bayes_htr import _files
from bayes_htr._files import atomic_write, write_output
from bayes_htr.errors import OutputError


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError("x")])
@pytest.mark.parametrize("there", [True, False])
def test_a_writer_that_raises_leaves_the_old_file(tmp_path, error, there):
    target = tmp_path / "file"
    if there:
        target.write_text("old")

    def write(path):
        path.write_text("half")
        raise error

    with pytest.raises(type(error)):
        atomic_write(target, write)
    assert [p.name for p in tmp_path.iterdir()] == (["file"] if there else [])
    assert not there or target.read_text() == "old"


@pytest.mark.skipif(os.name == "nt", reason="needs permissions of POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_written_files_have_ordinary_permissions(tmp_path, mask):
    before = os.umask(mask)
    try:
        atomic_write(tmp_path / "file", lambda p: p.write_text("new"))
        assert (tmp_path / "file").read_text() == "new"
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask
        assert os.umask(mask) == mask
    finally:
        os.umask(before)


def test_readers_never_see_half_a_file(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    seen = []

    def write(path):
        path.write_text("ne")
        seen.append(target.read_text())
        path.write_text("new")

    atomic_write(target, write)
    assert (seen, target.read_text()) == (["old"], "new")


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    target = tmp_path / "folder" / "file"
    with pytest.raises(OutputError, match=r"file cannot be written: .*; name another file"):
        write_output(target, lambda p: p.write_text("new"))
    assert write_output(target, lambda p: p.write_text("new"), make_folder=True) == target
    assert target.read_text() == "new"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space"), "the disk is full .*; make room, or name another file"),
        (OSError(errno.EFBIG, "Large"), "larger than the system allows .*; make room, or name"),
        (OSError(errno.EROFS, "Read-only"), "the file system is read-only .*; name another file"),
        (OSError(errno.EACCES, "Denied"), "permission is denied .*; name another file"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error.*; name another file"),
        (SafetensorError("I/O error: No space (os error 28)"), "the disk is full .*; make room"),
        (SafetensorError("something else"), "something else; "),
    ],
    ids=repr,
)
@pytest.mark.parametrize("there", [True, False])
def test_the_reason_is_given_in_words(tmp_path, error, message, there):
    def fail(path):
        raise error

    if there:
        (tmp_path / "file").write_text("old")
        message = message.replace("; ", "; the file that was there is unchanged; ", 1)
    with pytest.raises(OutputError, match=f"file cannot be written: .*{message}"):
        write_output(tmp_path / "file", fail)


def test_an_error_inside_torch_save_is_that_of_the_system(tmp_path):
    """PyTorch's own error, "unexpected pos", says nothing about its cause."""

    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="the disk is full"):
        write_output(tmp_path / "file", lambda path: torch.save(torch.ones(1000), Full()))


def test_an_error_of_the_writer_itself_passes(tmp_path):
    def fail(path):
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        write_output(tmp_path / "file", fail)


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path):
    old, new, other = (tmp_path / f".{name}.tmp" for name in ("file.0a", "file.1b", "other.2c"))
    for file in (old, new, other):
        file.write_text("half")
    for file in (old, other):
        os.utime(file, (time.time() - 7200, time.time() - 7200))
    atomic_write(tmp_path / "file", lambda p: p.write_text("new"))
    assert {p.name for p in tmp_path.iterdir()} == {"file", ".file.1b.tmp", ".other.2c.tmp"}


def test_a_writer_does_not_change_the_permissions_of_others(tmp_path, monkeypatch):
    """The mask of permissions is that of the whole process, other threads included."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the mask was changed"))
    atomic_write(tmp_path / "file", lambda p: p.write_text("new"))


def test_a_file_that_somebody_reads_on_windows_is_replaced_later(tmp_path, monkeypatch):
    tries = []
    replace = Path.replace

    def refuse_twice(self, target):
        tries.append(target)
        if len(tries) < 3:
            raise PermissionError("in use")
        return replace(self, target)

    monkeypatch.setattr(_files, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(Path, "replace", refuse_twice)
    atomic_write(tmp_path / "file", lambda p: p.write_text("new"))
    assert (tmp_path / "file").read_text() == "new"
    assert len(tries) == 3


def test_a_file_is_flushed_through_a_handle_for_writing(tmp_path, monkeypatch):
    """Windows refuses to flush a file that is open for reading alone."""
    flushed = []

    def fsync(descriptor):
        os.write(descriptor, b"")  # which fails unless it may be written
        flushed.append(descriptor)

    monkeypatch.setattr(_files.os, "fsync", fsync)
    atomic_write(tmp_path / "file", lambda p: p.write_text("new"))
    assert len(flushed) == 1
