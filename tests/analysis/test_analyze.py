"""`analyze`: selection, options, threads, and what it leaves as it was."""

import math
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
from torch import nn

import bayes_htr as htr
from bayes_htr.analysis.analyze import is_small, run_all, single_threaded
from bayes_htr.errors import DataError, SpectrumError


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.Conv2d(12, 16, 3), nn.Linear(40, 30), nn.Linear(30, 5)
    )


def names(report):
    return [row["name"] for row in report.rows]


def test_rows_in_the_order_of_the_network(net):
    report = htr.analyze(net)
    assert names(report) == ["0.weight", "1.weight", "2.weight"]
    assert [row["layer_id"] for row in report.rows] == [0, 1, 2]
    assert report.skipped == {"3.weight": "5 eigenvalues, fewer than 8"}
    assert report.label == "Sequential"


def test_spectra_and_fits_belong_to_the_rows(net):
    report = htr.analyze(net)
    for row in report.rows:
        lam = report.spectra[row["name"]]
        exact = htr.spectrum(dict(net.named_parameters())[row["name"]].detach().double())
        assert lam[::-1] == pytest.approx(exact.numpy(), rel=1e-8)
        assert report.fits[row["name"]].alpha == row["alpha"]
        assert report.bulks[row["name"]].num_spikes == row["num_spikes"]


def test_patterns_and_sizes(net):
    assert names(htr.analyze(net, layers="[01].*")) == ["0.weight", "1.weight"]
    assert names(htr.analyze(net, layers=["0.*", "2.*"], exclude="0.*")) == ["2.weight"]
    assert names(htr.analyze(net, min_size=13)) == ["1.weight", "2.weight"]
    assert len(htr.analyze(net, min_size=1).rows) == 4
    with pytest.raises(DataError, match=r"'fc.\*' matches no weight .* 0.weight, 1.weight"):
        htr.analyze(net, layers="fc.*")
    with pytest.raises(DataError, match="30 eigenvalues, fewer than 99"):
        htr.analyze(net, min_size=99)


def test_a_name_is_a_pattern_of_itself():
    state = {"in_proj_weight": torch.randn(90, 30), "w": torch.randn(30, 30)}
    name = "in_proj_weight[q]"
    assert names(htr.analyze(state, layers=name)) == [name]
    assert name not in names(htr.analyze(state, exclude=name))


def test_convolutions(net):
    flat, slices = (htr.analyze(net, conv=c).rows[1] for c in ("flatten", "slices"))
    assert (flat["N"], flat["M"], flat["rf"], flat["num_evals"]) == (108, 16, 1, 16)
    assert (slices["N"], slices["M"], slices["rf"], slices["num_evals"]) == (16, 12, 9, 108)
    assert slices["norm"] == pytest.approx(flat["norm"] / 2)


def test_as_many_replicates_as_the_verdict_needs():
    values = torch.from_numpy(1 + np.random.default_rng(8).pareto(2.0, 60)).sqrt()
    states = {f"{i}": torch.diag(values[i:]) for i in range(6)} | {"random": torch.randn(60, 60)}
    report = htr.analyze(states)
    assert report.settings["bootstrap"] == "auto"
    taken = [fit.bootstrap for fit in report.fits.values()]
    assert set(taken) <= {100, 400, 1600} and taken[-1] == 100
    for fit in list(report.fits.values())[:-1]:
        assert fit.rejected() is not None or fit.bootstrap == 1600
        again = htr.fit_powerlaw(fit.values, bootstrap=fit.bootstrap)
        assert (again.p_value, again.searched_interval) == (fit.p_value, fit.searched_interval)


def test_options_add_their_columns_and_nothing_else(net):
    nothing = {"bootstrap": 0, "compare": False, "mp_fit": False}
    plain = set(htr.analyze(net, **nothing).columns)
    assert not {"p_value", "searched_low", "max_rand_eval", "farms_alpha", "num_spikes"} & plain
    for options, column in [
        ({"compare": True}, "lognormal_p"),
        ({"mp_fit": True}, "num_spikes"),
        ({"randomize": True}, "max_rand_eval"),
        ({"farms": True}, "farms_alpha"),
        ({"bootstrap": 5}, "p_value"),
        ({"bootstrap": "auto"}, "p_value"),
        ({"compare": True}, "truncated_power_law_Lambda"),
    ]:
        options = nothing | options
        found = set(htr.analyze(net, **options).columns)
        assert column in found and plain < found


def test_level_and_seed(net):
    narrow, wide = (htr.analyze(net, level=level).rows[2] for level in (0.5, 0.99))
    assert wide["interval_low"] < narrow["interval_low"] < narrow["interval_high"]
    assert narrow["interval_high"] < wide["interval_high"]
    one, same, other = (
        htr.analyze(net, bootstrap=40, randomize=True, seed=s).rows[2] for s in (0, 0, 1)
    )
    assert one == same
    assert one["max_rand_eval"] != other["max_rand_eval"]
    assert one["searched_high"] != other["searched_high"]


def test_the_order_and_company_of_matrices_do_not_matter(net):
    whole = htr.analyze(net, bootstrap=20, randomize=True).rows[2]
    alone = htr.analyze(net, bootstrap=20, randomize=True, layers="2.*").rows[0]
    assert {**whole, "layer_id": 0} == alone


def test_nothing_is_changed(net):
    before = {k: v.clone() for k, v in net.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    htr.analyze(net, bootstrap=5, randomize=True, farms=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"conv": "fft"},
        {"min_size": 0},
        {"min_size": 2.5},
        {"level": 1.0},
        {"level": "high"},
        {"bootstrap": -1},
        {"bootstrap": 10.5},
        {"bootstrap": "some"},
        {"seed": -3},
        {"seed": 0.5},
        {"layers": [0]},
        {"layers": 0},
        {"exclude": [b"a"]},
        {"farms": 3},
        {"matrices": "qkv"},
    ],
)
def test_options_outside_their_range(net, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}="):
        htr.analyze(net, **options)


def test_half_precision_modules_on_any_thread_count(net):
    half = htr.analyze(net.bfloat16()).rows[2]
    full = htr.analyze(net.float()).rows[2]
    assert half["lambda_max"] == pytest.approx(full["lambda_max"], rel=1e-6)


def test_progress_on_request(net, capsys):
    htr.analyze(net, progress=True)
    assert ".weight" in capsys.readouterr().err
    htr.analyze(net, progress=False)
    assert capsys.readouterr().err == ""


def test_the_report_prints_a_table(net):
    text = str(htr.analyze(net))
    for word in ("2.weight", "alpha", "low", "high", "verdict"):
        assert word in text
    searched = htr.analyze(net, bootstrap=20)
    row = searched.rows[2]
    assert not math.isclose(row["searched_low"], row["interval_low"], rel_tol=1e-3)
    assert f"{row['searched_low']:.3g}" in str(searched)


# Threads: small matrices at once, large ones alone, and the numbers of threads as they were


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
