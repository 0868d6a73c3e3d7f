"""Weights by recipe, for comparisons of whole reports: the same anywhere NumPy is."""

from __future__ import annotations

import numpy as np


def _trained(random):
    """After gradient descent on a teacher of low rank: a bulk with a tail of spikes."""
    X = random.standard_normal((500, 160))
    teacher = sum(
        3.0 / k * np.outer(random.standard_normal(160), random.standard_normal(100)) / 12
        for k in range(1, 30)
    )
    Y = X @ teacher + random.standard_normal((500, 100))
    W = random.standard_normal((160, 100)) / 13
    for _ in range(60):
        W -= 0.2 / 500 * X.T @ (X @ W - Y)
    return W


def _spiked(random):
    """Normal entries of variance 1/400 and three spikes far above the edge."""
    W = random.standard_normal((400, 200)) / 20
    for strength in (4.0, 6.0, 9.0):
        u, v = random.standard_normal(400), random.standard_normal(200)
        W += strength * np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v))
    return W


LINEAR = {
    "gaussian 300x150": lambda r: r.standard_normal((300, 150)) / 17,
    "gaussian 90x90": lambda r: r.standard_normal((90, 90)) / 10,
    "gaussian 40x400": lambda r: r.standard_normal((40, 400)) / 20,
    "pareto entries 200x120": lambda r: 0.1 * r.pareto(1.7, (200, 120)) * r.choice([-1, 1], 1),
    "student entries 150x60": lambda r: r.standard_t(2.0, (150, 60)) / 10,
    "pareto spectrum 128x64": lambda r: (
        np.linalg.qr(r.standard_normal((128, 64))).Q * np.sqrt(1 + r.pareto(1.5, 64))
    ),
    "trained 160x100": _trained,
    "uniform 100x80": lambda r: r.random((100, 80)) / 10,
    "rank 30 of 100x60": lambda r: r.standard_normal((100, 30)) @ r.standard_normal((30, 60)) / 25,
    "small 12x40": lambda r: r.standard_normal((12, 40)) / 4,
    "spiked 400x200": _spiked,
}
CONV = {
    "conv 3x3": lambda r: r.standard_normal((32, 16, 3, 3)) / 10,
    "conv 1x1": lambda r: r.standard_normal((64, 48, 1, 1)) / 7,
    "wide conv 5x5": lambda r: r.standard_normal((16, 24, 5, 5)) / 10,
}
WRONG = {
    "conv 2x2": lambda r: r.standard_normal((16, 32, 2, 2)) / 10,
    "conv1d": lambda r: r.standard_normal((48, 40, 3)) / 10,
    "a thousandth": lambda r: 1e-3 * _trained(r),
    "huge": lambda r: 1e35 * r.standard_normal((100, 50)),
    "rank 1": lambda r: np.outer(r.standard_normal(40), r.standard_normal(30)),
    "quarter circle": lambda r: _spiked(r)[:200],
}
RECIPES = {**LINEAR, **CONV, **WRONG}


def weight(name):
    """The weight in float32."""
    random = np.random.default_rng([7, list(RECIPES).index(name)])
    return RECIPES[name](random).astype(np.float32)


def long_spectrum():
    """3,000 values in two groups, above and below their mean: their product overflows."""
    random = np.random.default_rng(11)
    return np.sort(
        np.concatenate([0.1 + 0.01 * random.random(1500), 1.8 + 0.1 * random.random(1500)])
    )
