"""Samples by recipe, for comparisons with other programs: the same anywhere NumPy is."""

from __future__ import annotations

import numpy as np


def _eigenvalues(W):
    return np.linalg.eigvalsh(W.T @ W)


def _trained(random):
    """A matrix after gradient descent on a teacher of low rank: a bulk with a tail of spikes."""
    X = random.standard_normal((400, 120))
    teacher = sum(
        3.0 / k * np.outer(random.standard_normal(120), random.standard_normal(80)) / 10
        for k in range(1, 25)
    )
    Y = X @ teacher + random.standard_normal((400, 80))
    W = random.standard_normal((120, 80)) / 12
    for _ in range(60):
        W -= 0.2 / 400 * X.T @ (X @ W - Y)
    return W


RECIPES = {
    "pareto 2.5, 60": lambda r: 1 + r.pareto(1.5, 60),
    "pareto 2.5, 500": lambda r: 1 + r.pareto(1.5, 500),
    "pareto 1.8, 1500": lambda r: 3 * (1 + r.pareto(0.8, 1500)),
    "pareto 4, 300": lambda r: 1e-3 * (1 + r.pareto(3.0, 300)),
    "lognormal, 400": lambda r: np.exp(1.2 * r.standard_normal(400)),
    "gaussian 200x200": lambda r: _eigenvalues(r.standard_normal((200, 200))),
    "gaussian 300x150": lambda r: _eigenvalues(r.standard_normal((300, 150)) / 20),
    "student 2.2 300x200": lambda r: _eigenvalues(r.standard_t(2.2, (300, 200))),
    "uniform 150x100": lambda r: _eigenvalues(r.random((150, 100))),
    "trained 120x80": lambda r: _eigenvalues(_trained(r)),
    "small 30": lambda r: 1 + r.pareto(2.0, 30),
    "tiny 15": lambda r: 1 + r.pareto(1.2, 15),
}


def sample(name):
    """`(N,)` positive values."""
    return RECIPES[name](np.random.default_rng(list(RECIPES).index(name)))
