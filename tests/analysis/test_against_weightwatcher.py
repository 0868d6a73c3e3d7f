"""WeightWatcher 0.7.7: its columns on record, and where they are wrong.

The values are in `tests/reference/analysis_values.json`, which `make_analysis_values.py` wrote.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr.analysis.columns import trace_log_count
from tests.reference.analysis_cases import CONV, LINEAR, long_spectrum, weight

FILE = Path(__file__).parents[1] / "reference" / "analysis_values.json"
DATA = json.loads(FILE.read_text())

SHARED = (
    *("N", "M", "Q", "rf", "num_evals", "alpha", "xmin", "xmax", "D", "sigma", "num_pl_spikes"),
    *("alpha_weighted", "log_alpha_norm", "norm", "log_norm", "spectral_norm"),
    *("log_spectral_norm", "lambda_max", "sv_max", "sv_min", "stable_rank", "entropy"),
    *("matrix_rank", "rank_loss", "weak_rank_loss", "W_scale", "rand_W_scale"),
    *("detX_num", "num_ERG_spikes", "ERG_gap", "detX_val", "detX_val_unrescaled"),
    *("status", "warning"),
)
ESTIMATED = {
    *("sigma_mp", "bulk_min", "bulk_max", "num_spikes", "mp_softrank", "max_rand_eval"),
    *("rand_distance", "ww_softrank", "ww_maxdist", "rand_num_spikes", "num_traps"),
    *("rand_sigma_mp", "rand_mp_softrank", "rand_bulk_min", "rand_bulk_max"),
}
"""By another estimator, or by other random numbers."""


def both(name, **options):
    W = weight(name)
    case = DATA["cases"][name]
    assert W.astype(float).sum() == pytest.approx(case["sum"], rel=1e-6), "other draws: make anew"
    options = {"conv": "slices", "randomize": True, "min_size": 1} | options
    (row,) = htr.analyze({"w": torch.from_numpy(W)}, **options).rows
    return row, case["row"]


@pytest.mark.parametrize("name", [*LINEAR, *CONV])
def test_columns_on_record(name):
    ours, theirs = both(name)
    for column in SHARED:
        if column == "sv_min" and name in CONV and theirs["rf"] > 1:
            continue  # wrong there: see below
        expected = theirs[column]
        if not isinstance(expected, str):
            expected = pytest.approx(expected, rel=1e-6)
        assert ours[column] == expected, column


def test_every_column_of_theirs_is_there():
    ours, theirs = both("gaussian 300x150")
    not_values = {"has_esd", "layer_type"}
    assert set(theirs) - not_values == set(SHARED) | ESTIMATED
    assert set(theirs) - not_values <= set(ours)
    assert ours["layer_type"] == theirs["layer_type"] == "dense"


def test_randomised_columns_are_close():
    ours, theirs = both("gaussian 300x150")
    for column in ("max_rand_eval", "rand_bulk_max", "rand_sigma_mp", "rand_mp_softrank"):
        assert ours[column] == pytest.approx(theirs[column], rel=0.1), column
    assert ours["rand_distance"] == pytest.approx(theirs["rand_distance"], abs=0.01)


def test_their_threshold_depends_on_the_scale():
    """It drops eigenvalues below 1e-5, whatever the others are; alpha has no scale."""
    ours, theirs = both("a thousandth")
    W = torch.from_numpy(1000 * weight("a thousandth"))
    (scaled,) = htr.analyze({"w": W}).rows
    assert ours["alpha"] == pytest.approx(scaled["alpha"], rel=1e-4)
    assert ours["num_pl_spikes"] == scaled["num_pl_spikes"]
    assert theirs["num_pl_spikes"] < ours["num_pl_spikes"] / 4


def test_their_sides_change_places_for_even_kernels():
    ours, theirs = both("conv 2x2")
    assert (theirs["N"], theirs["M"], theirs["Q"]) == (16, 32, 0.5)
    assert (ours["N"], ours["M"], ours["Q"]) == (32, 16, 2.0)
    assert theirs["num_traps"] > 0 and ours["num_traps"] == 0, "the entries are independent"


def test_their_smallest_singular_value_of_slices_is_the_largest_of_the_smallest():
    ours, theirs = both("conv 3x3")
    slices = torch.from_numpy(weight("conv 3x3")).flatten(2).movedim(2, 0).double()
    smallest = torch.linalg.svdvals(slices)[:, -1] * math.sqrt(0.5)
    assert ours["sv_min"] == pytest.approx(float(smallest.min()), rel=1e-6)
    assert theirs["sv_min"] == pytest.approx(float(smallest.max()), rel=1e-6)


def test_their_conv1d_keeps_as_many_values_as_the_kernel_has_positions():
    ours, theirs = both("conv1d")
    assert theirs["num_evals"] == 3 and theirs["M"] == 3
    assert ours["num_evals"] == 120 and ours["M"] == 40


def test_their_sum_of_powers_overflows():
    ours, theirs = both("huge")
    assert theirs["log_alpha_norm"] == "inf"
    s = np.linalg.svd(weight("huge").astype(float), compute_uv=False)
    logs = 2 * ours["alpha"] * np.log10(s)
    exact = logs.max() + np.log10((10 ** (logs - logs.max())).sum())
    assert ours["log_alpha_norm"] == pytest.approx(exact, rel=1e-9)


def test_their_product_of_eigenvalues_overflows():
    lam = long_spectrum()
    count = trace_log_count(lam)
    logs = np.log(lam / lam.mean())[::-1].cumsum()
    assert logs.max() > math.log(np.finfo(float).max)
    assert logs[count - 1] < 0 < logs[count - 2]
    assert DATA["long_spectrum_detX_num"] != count


def test_they_give_numbers_where_there_is_no_tail():
    """Rank one: alpha is -1, and what follows from it is wrong but looks like a number."""
    ours, theirs = both("rank 1")
    assert theirs["status"] == ours["status"] == "failed"
    assert theirs["alpha"] == -1
    assert theirs["alpha_weighted"] == -theirs["log_spectral_norm"]
    assert theirs["warning"] == "over-trained"
    assert math.isnan(ours["alpha"]) and math.isnan(ours["alpha_weighted"])
    assert ours["warning"] == ""
    assert ours["verdict"] == "too few eigenvalues that are not zero to tell (1)"


@pytest.mark.parametrize("name", ["quarter circle", "spiked 400x200"])
def test_their_bulk_of_a_square_matrix_is_half_as_large_again(name):
    """Normal entries of variance 1/400 with three spikes: the edge is known."""
    ours, theirs = both(name)
    edge = ours["N"] / 400 * (1 + math.sqrt(ours["M"] / ours["N"])) ** 2
    assert ours["bulk_max"] == pytest.approx(edge, rel=0.03)
    assert ours["num_spikes"] == theirs["num_spikes"] == 3
    error = abs(theirs["bulk_max"] / edge - 1)
    assert error > 0.4 if name == "quarter circle" else error > 0.03
