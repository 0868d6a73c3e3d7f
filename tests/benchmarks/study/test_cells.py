"""Splits of the training images, and images out of distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_htr.errors import DataError
from bayes_htr.experiments import load_dataset
from benchmarks.study import cells
from benchmarks.study.cells import GENERALISATION, MIXTURES, POSTERIOR, ood_images, split


def test_splits():
    cell = GENERALISATION["mlp-digits"]
    one, same, other = (split(cell, None, seed, "cpu") for seed in (0, 0, 1))
    assert torch.equal(one.train[0], same.train[0])
    assert not torch.equal(one.train[0], other.train[0])
    assert len(one.validation[1]) == cell.validation
    together = torch.cat([one.train[0], one.validation[0]]).flatten(1)
    assert len(together.unique(dim=0)) == len(together)
    with pytest.raises(DataError, match="holds out 5000 validation images"):
        split(replace(cell, validation=5000), None, 0, "cpu")


def test_a_table_as_a_cell(monkeypatch):
    """Columns are standardised by training rows, which are not among the test rows."""
    x = np.stack([np.arange(50.0), np.arange(50.0) ** 2], 1)
    labels = np.array(["B", "A"])[np.arange(50) % 2]
    monkeypatch.setattr(cells, "keel_table", lambda name: (x, labels))
    cells._loaded.cache_clear()
    cell = replace(MIXTURES["mlp-letter"], validation=10, classes=2)
    part = split(cell, None, 0, "cpu")
    inputs, targets = cells.test_images(cell, None)
    whole = torch.cat([part.train[0], part.validation[0]])
    assert (part.train[0].shape, len(whole), len(inputs)) == ((30, 2, 1, 1), 40, 10)
    torch.testing.assert_close(whole.mean(0), torch.zeros(2, 1, 1), rtol=0, atol=1e-5)
    torch.testing.assert_close(whole.std(0, correction=0), torch.ones(2, 1, 1), rtol=1e-5, atol=0)
    data = cells._loaded("letter", None)
    raw = (torch.cat([whole, inputs]) * data.deviation + data.mean).flatten(1)
    first = raw[:, 0].round()
    assert sorted(first.int().tolist()) == list(range(50))
    # "A" is the class 0, of the odd rows.
    assert torch.equal(targets, (first[40:] % 2 == 0).long())
    assert cells.image_shape(cell, None) == ((2, 1, 1), 2)
    with pytest.raises(AssertionError, match="2 classes"):
        cells.image_shape(MIXTURES["mlp-letter"], None)
    cells._loaded.cache_clear()


def test_the_cut(data_dir):
    kmnist, fashion = (load_dataset(n, data_dir) for n in ("kmnist", "fashion_mnist"))
    cell = replace(POSTERIOR["kmnist"], train=20, validation=5, ood_images=3)
    cut, same = (split(cell, data_dir, seed, "cpu") for seed in (0, 1))
    assert torch.equal(cut.validation[0], same.validation[0])  # the same for all seeds
    ood = ood_images(cell, data_dir)
    assert [len(cut.train[0]), len(cut.validation[0]), len(ood)] == [15, 5, 3]
    both = torch.cat([cut.train[0], cut.validation[0]]).flatten(1)
    distances = torch.cdist(both, kmnist.x_train[:20].flatten(1))
    assert (distances.min(1).values < 1e-2).all()  # together they are the first 20
    assert len(distances.argmin(1).unique()) == 20
    raw = ood * kmnist.deviation + kmnist.mean
    expected = fashion.x_test[:3] * fashion.deviation + fashion.mean
    torch.testing.assert_close(raw, expected, rtol=1e-4, atol=1e-2)
    assert ood_images(GENERALISATION["mlp-kmnist"], data_dir) is None
