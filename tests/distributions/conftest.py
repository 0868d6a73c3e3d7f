"""The table of laws that the tests of this folder run over, each with an independent reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import quad
from scipy.optimize import brentq

from bayes_htr.distributions import Frechet, Lomax, MarchenkoPastur, Powerlaw, TruncatedPowerlaw


class Quadrature:
    """A law known by its density on [low, high], integrated in an angle that tames both ends."""

    def __init__(self, density: Callable[[float], float], low: float, high: float) -> None:
        self.density, self.low, self.high = density, low, high

    def _expectation(self, f: Callable[[float], float], angle: float = math.pi) -> float:
        half = (self.high - self.low) / 2

        def integrand(theta: float) -> float:
            x = self.low + 2 * half * math.sin(theta / 2) ** 2
            return f(x) * self.density(x) * half * math.sin(theta)

        pieces = np.linspace(0.0, angle, 9)
        return sum(
            quad(integrand, a, b, epsabs=1e-14, epsrel=1e-13, limit=400)[0]
            for a, b in pairwise(pieces)
        )

    def total(self) -> float:
        return self._expectation(lambda x: 1.0)

    def logpdf(self, x: np.ndarray) -> np.ndarray:
        return np.log([self.density(v) for v in x])

    def cdf(self, x: np.ndarray) -> np.ndarray:
        angles = [2 * math.asin(math.sqrt((v - self.low) / (self.high - self.low))) for v in x]
        return np.array([self._expectation(lambda x: 1.0, angle) for angle in angles])

    def ppf(self, q: np.ndarray) -> np.ndarray:
        ends = (self.low, self.high)
        return np.array(
            [brentq(lambda x, q=q: self.cdf([x])[0] - q, *ends, xtol=1e-14, rtol=1e-13) for q in q]
        )

    def mean(self) -> float:
        return self._expectation(lambda x: x)

    def var(self) -> float:
        mean = self.mean()
        return self._expectation(lambda x: (x - mean) ** 2)


@dataclass(frozen=True)
class Case:
    """A law at one set of parameters, by their attribute names."""

    cls: type
    parameters: dict[str, float]
    reference: Any = field(compare=False)

    def __str__(self) -> str:
        return f"{self.cls.__name__}({', '.join(f'{v:g}' for v in self.parameters.values())})"

    def law(self, dtype: torch.dtype = torch.float64, **kwargs: Any) -> Any:
        return self.cls(*self.tensors(dtype), **kwargs)

    def tensors(self, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
        return [torch.tensor(value, dtype=dtype) for value in self.parameters.values()]

    @cached_property
    def points(self) -> torch.Tensor:
        """Values in the interior of the support, from far below to far above the median."""
        q = torch.tensor([1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6], dtype=torch.float64)
        return self.law().icdf(q)


def powerlaw(alpha: float, xmin: float) -> Case:
    reference = scipy.stats.pareto(alpha - 1, scale=xmin)
    return Case(Powerlaw, {"alpha": alpha, "xmin": xmin}, reference)


def lomax(alpha: float, scale: float) -> Case:
    reference = scipy.stats.lomax(alpha - 1, scale=scale)
    return Case(Lomax, {"alpha": alpha, "scale": scale}, reference)


def frechet(alpha: float, scale: float, loc: float) -> Case:
    reference = scipy.stats.invweibull(alpha, loc=loc, scale=scale)
    return Case(Frechet, {"alpha": alpha, "scale": scale, "loc": loc}, reference)


def truncated(alpha: float, xmin: float, xmax: float, by_scipy: bool = True) -> Case:
    if alpha == 1:
        reference = scipy.stats.loguniform(xmin, xmax)
    elif by_scipy:
        reference = scipy.stats.truncpareto(alpha - 1, xmax / xmin, scale=xmin)
    else:
        normaliser = quad(lambda x: x**-alpha, xmin, xmax, epsabs=0, epsrel=2e-14)[0]
        reference = Quadrature(lambda x: x**-alpha / normaliser, xmin, xmax)
    return Case(TruncatedPowerlaw, {"alpha": alpha, "xmin": xmin, "xmax": xmax}, reference)


def marchenko_pastur(ratio: float, variance: float, size: float) -> Case:
    low, high = (size * variance * (1 + s * math.sqrt(ratio)) ** 2 for s in (-1, 1))

    def density(x: float) -> float:
        root = math.sqrt(max(high - x, 0.0) * max(x - low, 0.0))
        return root / (2 * math.pi * ratio * variance * size * x) if x > 0 else 0.0

    parameters = {"ratio": ratio, "entry_variance": variance, "size": size}
    return Case(MarchenkoPastur, parameters, Quadrature(density, low, high))


CASES = [
    powerlaw(1.5, 0.3),
    powerlaw(2.5, 2.0),
    powerlaw(4.0, 1e-3),
    powerlaw(50.0, 1.0),
    lomax(1.5, 0.3),
    lomax(2.5, 2.0),
    lomax(4.0, 1e-3),
    lomax(50.0, 1.0),
    frechet(0.7, 1.0, 0.0),
    frechet(1.5, 0.2, 0.0),
    frechet(3.0, 2.0, -1.0),
    frechet(50.0, 3.0, 5.0),
    truncated(1.0, 0.5, 20.0),
    truncated(1.001, 0.5, 20.0, by_scipy=False),
    truncated(0.99999, 0.5, 20.0, by_scipy=False),
    truncated(2.5, 0.5, 20.0),
    truncated(1.4, 1e-3, 1e3),
    truncated(0.0, 1.0, 1.5, by_scipy=False),
    truncated(-3.0, 1.0, 4.0, by_scipy=False),
    marchenko_pastur(0.01, 1.0, 1.0),
    marchenko_pastur(0.3, 0.02, 500.0),
    marchenko_pastur(0.9, 1.0, 2.0),
    marchenko_pastur(1.0, 0.5, 10.0),
]
ONE_EACH = list({case.cls: case for case in CASES}.values())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`case` runs over the whole table, `law_case` over one case of each law."""
    for name, cases in (("case", CASES), ("law_case", ONE_EACH)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, cases, ids=str)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(20230405)
