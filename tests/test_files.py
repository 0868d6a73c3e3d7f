from __future__ import annotations

import os

import pytest

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
