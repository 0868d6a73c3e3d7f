"""Small matrices at once, large ones alone, and the numbers of threads as they were."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

import bayes_htr as htr
from bayes_htr.analysis.analyze import is_small, run_all, single_threaded
from bayes_htr.errors import SpectrumError


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def blas_threads():
    return {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"}


def test_threads_are_one_inside_and_as_before_outside(four_threads):
    before = blas_threads()
    with pytest.raises(KeyError), single_threaded():
        assert torch.get_num_threads() == 1
        assert blas_threads() == {1}
        raise KeyError
    assert torch.get_num_threads() == 4
    assert blas_threads() == before


def test_libraries_that_nothing_has_used_yet_have_one_thread_too():
    code = """
from threadpoolctl import threadpool_info
from bayes_htr.analysis.analyze import single_threaded
with single_threaded():
    import scipy.linalg
    assert {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"} == {1}
"""
    several = {f"{name}_NUM_THREADS": "2" for name in ("OMP", "OPENBLAS", "MKL")}
    environment = os.environ | several | {"PYTHONPATH": str(Path(htr.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_small_jobs_meet_and_large_ones_follow_alone(four_threads):
    meeting = threading.Barrier(4, timeout=20)
    main = threading.current_thread()
    seen = {}

    def job(i):
        seen[i] = (torch.get_num_threads(), threading.current_thread() is main)
        if i < 4:
            meeting.wait()  # passes only if four are under way together
        return 10 * i

    assert run_all(job, [1.0] * 6, [True] * 4 + [False] * 2) == [0, 10, 20, 30, 40, 50]
    assert [seen[i] for i in range(6)] == [(1, False)] * 4 + [(4, True)] * 2


def test_longest_first():
    begun = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run_all(begun.append, [2.0, 5.0, 9.0, 3.0], [True, True, False, True])
    torch.set_num_threads(before)
    assert begun == [1, 3, 0, 2]


def test_an_error_ends_what_has_not_begun(four_threads):
    begun = []

    def job(i):
        begun.append(i)
        if i == 0:
            raise SpectrumError("bad")
        time.sleep(0.01)

    with pytest.raises(SpectrumError, match="bad"):
        run_all(job, [1.0] * 500, [True] * 500)
    assert len(begun) < 100
    assert torch.get_num_threads() == 4


def test_no_jobs():
    assert run_all(lambda i: i, [], []) == []


def test_what_is_small():
    assert is_small((4096, 1024), 4096 * 1024)
    assert not is_small((1025, 1025), 1025**2)
    assert not is_small((10**7, 10), 10**8)


@pytest.mark.parametrize("conv", ["flatten", "slices"])
def test_report_does_not_depend_on_the_number_of_threads(four_threads, conv):
    net = torch.nn.Sequential(
        *(torch.nn.Conv2d(12 + i, 13 + i, 3) for i in range(12)),
        torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(40, 30)),
    )
    options = {"conv": conv, "randomize": True, "farms": True, "bootstrap": 20}
    many = htr.analyze(net, **options)
    torch.set_num_threads(1)
    one = htr.analyze(net, **options)
    assert [row["name"] for row in many.rows] == [row["name"] for row in one.rows]
    for a, b in zip(many.rows, one.rows, strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            if isinstance(value, float):
                np.testing.assert_equal(value, b[key])
            else:
                assert value == b[key]


def test_loads_do_not_overlap(four_threads):
    inside = []

    class Slow(torch.nn.Module):
        def forward(self, W):
            inside.append(threading.get_ident())
            before = len(inside)
            time.sleep(0.005)
            assert len(inside) == before
            return 2 * W

    layers = [torch.nn.Linear(20, 20) for _ in range(12)]
    for layer in layers:
        torch.nn.utils.parametrize.register_parametrization(layer, "weight", Slow())
    inside.clear()
    report = htr.analyze(torch.nn.Sequential(*layers))
    assert len(report.rows) == 12
    assert len(set(inside)) > 2
