"""Optional packages."""

from __future__ import annotations

import sys

import pytest

from benchmarks.common.packages import IVON, LAPLACE, Package


@pytest.mark.parametrize("package", [IVON, LAPLACE])
def test_a_missing_package(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package.module, None)
    with pytest.raises(ImportError, match=rf'needs {package.name}: pip install "bayes-htr\[peers'):
        package.load()


def test_a_package_that_fails_to_load(tmp_path, monkeypatch):
    (tmp_path / "breaks_at_import.py").write_text("raise RuntimeError('another torch')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"needs breaks: pip install.*another torch"):
        Package("breaks_at_import", "breaks").load()


def test_a_package_that_is_there():
    assert Package("json", "json").load().loads("1") == 1
