"""Entries in random order, and windows of one aspect ratio."""

import math
import zlib

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr.analysis import Farms
from bayes_htr.analysis.columns import random_columns
from bayes_htr.analysis.esd import esd_of, pooled
from bayes_htr.analysis.resampled import farms_esd, jensen_shannon, randomised
from tests.analysis.cases import gaussian, spiked


def test_random_order_keeps_the_entries_and_loses_the_structure():
    W = spiked([40.0, 50.0])
    esd = esd_of([W], "w")
    (random,) = randomised([W], esd, "w", seed=0)
    assert random.values.sum() == pytest.approx(esd.values.sum())
    assert random_columns([random], esd)["num_above_rand"] == 2
    assert random.values[-1] < esd.values[-3] * 1.2
    (again,), (other,) = (randomised([W], esd, "w", seed=s) for s in (0, 1))
    assert np.array_equal(again.values, random.values)
    assert not np.array_equal(other.values, random.values)


def test_random_order_of_few_eigenvalues_is_drawn_five_times():
    W = gaussian(30, 20)
    esd = esd_of([W], "w")
    replicas = randomised([W], esd, "w", 0)
    pool = pooled(replicas)
    assert len(pool.values) == 5 * 20 and pool.matrices == 5
    random = np.random.default_rng([0, zlib.crc32(b"w")])
    first = torch.from_numpy(random.permutation(W.numpy().ravel())).reshape(30, 20)
    distance = jensen_shannon(esd.values, esd_of([first], "w").values)
    assert random_columns(replicas, esd)["rand_distance"] == distance


def test_matrices_of_one_shape_have_orders_of_their_own():
    W = gaussian(30, 20)
    negative = -W  # copies would count once
    first, second = (
        row["max_rand_eval"] for row in htr.analyze({"a": W, "b": negative}, randomize=True).rows
    )
    assert first != second


@pytest.mark.parametrize("shape", [(60, 50), (300, 150)])
def test_a_single_large_entry_is_one_trap_however_often_it_is_shuffled(shape):
    W = gaussian(*shape)
    W[3, 4] = 30.0
    row = htr.analyze({"w": W}, randomize=True).rows[0]
    assert (row["num_spikes"], row["rand_num_spikes"], row["num_traps"]) == (1, 1, 1)


def test_jensen_shannon():
    p, q = np.array([0.1, 0.9]), np.array([0.5, 0.5])
    m = (p + q) / 2
    expected = math.sqrt(((p * np.log(p / m)).sum() + (q * np.log(q / m)).sum()) / 2)
    assert jensen_shannon(3 * p, 7 * q) == pytest.approx(expected)
    assert jensen_shannon(p, p) == 0
    assert jensen_shannon(np.array([0.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(
        math.sqrt(math.log(2))
    )


def test_windows_cover_the_matrix_and_have_the_aspect():
    W = torch.arange(100 * 30).reshape(100, 30).double().requires_grad_()
    for farms, shape, count in [
        (Farms(), (30, 30), 4),
        (Farms(aspect=2.0), (60, 30), 2),
        (Farms(size=8), (8, 8), 13 * 4),
        (Farms(aspect=5.0), (100, 20), 2),
        (Farms(size=500), (30, 30), 4),
    ]:
        assert farms.window(100, 30) == shape
        esd = farms_esd([W.detach()], farms, "w")
        assert (esd.N, esd.M, esd.matrices) == (*shape, count)
        assert len(esd.values) == count * shape[1]


def test_windows_are_submatrices():
    W = gaussian(50, 20)
    values = np.concatenate(
        [torch.linalg.svdvals(W[i : i + 20]).square().numpy() for i in (0, 15, 30)]
    )
    np.testing.assert_allclose(farms_esd([W], Farms(), "w").values, np.sort(values), rtol=1e-9)
    np.testing.assert_allclose(farms_esd([W.T], Farms(), "w").values, np.sort(values), rtol=1e-9)


def test_windows_take_away_the_effect_of_the_aspect_ratio():
    plain, windows = [], []
    for N in (100, 400, 1600):
        (row,) = htr.analyze({"w": gaussian(N, 100, N)}, farms=True).rows
        plain.append(row["hill"])
        windows.append(row["farms_hill"])
    assert max(plain) / min(plain) > 2
    assert max(windows) / min(windows) < 1.05


@pytest.mark.parametrize(
    "options", [{"aspect": 0.5}, {"aspect": math.inf}, {"size": 1}, {"size": 2.5}]
)
def test_windows_that_cannot_be(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name}={value} must be a .* number of at least \d"):
        Farms(**options)


def test_traps_are_undefined_where_random_order_has_no_bulk():
    W = gaussian(120, 100).sign() * gaussian(120, 100, 1).abs() ** 12
    (row,) = htr.analyze({"w": W}, randomize=True).rows
    assert row["num_traps"] is None and math.isnan(row["rand_sigma_mp"])
