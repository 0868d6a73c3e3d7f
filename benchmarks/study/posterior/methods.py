"""The methods that `python -m benchmarks posterior` compares, and what is tried of each.

A method is an entry of `METHODS`: how its numbers become priors and an inference method, and the
trials of those numbers, of which validation data choose one. All methods with numbers to tune have
the same count of trials.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyro.infer.autoguide import AutoNormal

from bayes_htr.inference import MAP, SVI, Method
from bayes_htr.priors import (
    ESD,
    Frechet,
    Lomax,
    MaxEigenvalue,
    Prior,
    Priors,
    penalties,
)
from benchmarks.common.mlp import normal_entries, with_normal_biases

Numbers = Mapping[str, float]
"""What a trial sets; `epochs` always, the others as the method takes them."""


@dataclass(frozen=True)
class Compared:
    """A method of the comparison.

    Attributes:
        label: What tables call it.
        priors: Priors from a trial's numbers.
        method: The inference method from them.
        trials: What is tried; a single one is not tuned.
        start: The method whose tuned fit it starts from.
        members: Of how many fits with seeds of their own the predictions are averaged.
    """

    label: str
    priors: Callable[[Numbers], Priors]
    method: Callable[[Numbers], Method]
    trials: tuple[Numbers, ...]
    start: str | None = None
    members: int = 1


def _flat(numbers: Numbers) -> Priors:
    return Priors({})


def _on_matrices(prior: Prior, numbers: Numbers) -> Priors:
    return Priors({"*.weight": prior}).scaled(numbers["strength"])


def _normal_entries(numbers: Numbers) -> Priors:
    return normal_entries(numbers["scale"]).scaled(numbers.get("strength", 1.0))


def _spectral(prior: Prior, numbers: Numbers) -> Priors:
    return with_normal_biases(prior).scaled(numbers.get("strength", 1.0))


def _map(numbers: Numbers) -> Method:
    return MAP(lr=numbers.get("lr", 0.05))


def _svi(guide: Any, numbers: Numbers, **fixed: Any) -> Method:
    names = ("lr", "temperature", "init_scale")
    given: dict[str, Any] = {n: numbers[n] for n in names if n in numbers}
    given |= {n: int(numbers[n]) for n in ("rank", "directions", "particles") if n in numbers}
    return SVI(guide=guide, **given, **fixed)


def _grid(common: Numbers, *trials: Numbers) -> tuple[Numbers, ...]:
    return tuple({**common, **trial} for trial in trials)


_FRECHET = MaxEigenvalue(Frechet(2.0, 1.0))
_LOMAX = ESD(Lomax(2.0, 1.0))

_NORMAL_TRIALS = (
    {"scale": 1.0, "temperature": 0.005},
    {"scale": 1.0, "temperature": 0.01},
    {"scale": 1.4, "temperature": 0.02},
    {"scale": 2.0, "temperature": 0.02},
)
_SPECTRAL_TRIALS = (
    {"strength": 1.0, "lr": 3e-3, "init_scale": 0.3},
    {"strength": 3.0, "lr": 3e-3, "init_scale": 0.3},
    {"strength": 7.0, "lr": 3e-3, "init_scale": 0.3},
    {"strength": 7.0, "lr": 1e-3, "init_scale": 0.2},
)

METHODS = {
    "map_plain": Compared("plain training", _flat, _map, _grid({"epochs": 20}, {})),
    "map_frechet": Compared(
        "MAP, Fréchet prior",
        partial(_on_matrices, _FRECHET),
        _map,
        _grid({"epochs": 20}, *({"strength": s} for s in (40.0, 80.0, 160.0, 320.0))),
    ),
    "map_decay": Compared(
        "MAP, weight decay",
        partial(_on_matrices, penalties.weight_decay()),
        _map,
        _grid({"epochs": 20}, *({"strength": s} for s in (14.0, 28.0, 56.0, 112.0))),
    ),
    "map_lomax": Compared(
        "MAP, Lomax prior",
        partial(_on_matrices, _LOMAX),
        _map,
        _grid({"epochs": 20}, *({"strength": s} for s in (7.0, 14.0, 28.0, 56.0))),
    ),
    "ensemble": Compared(
        "ensemble of five plain", _flat, _map, _grid({"epochs": 20}, {}), members=5
    ),
    "meanfield": Compared(
        "mean field, normal entries",
        _normal_entries,
        partial(_svi, "meanfield"),
        _grid({"epochs": 20, "lr": 3e-3, "init_scale": 0.05}, *_NORMAL_TRIALS),
    ),
    "meanfield_map": Compared(
        "mean field, normal entries, from MAP",
        _normal_entries,
        partial(_svi, "meanfield"),
        _grid({"epochs": 20, "lr": 1e-3, "init_scale": 0.03}, *_NORMAL_TRIALS),
        start="map_frechet",
    ),
    "lowrank": Compared(
        "low rank, normal entries",
        _normal_entries,
        partial(_svi, "lowrank"),
        _grid({"epochs": 15, "lr": 1e-3, "init_scale": 0.01}, *_NORMAL_TRIALS),
    ),
    "lowrank_map": Compared(
        "low rank, normal entries, from MAP",
        _normal_entries,
        partial(_svi, "lowrank"),
        _grid({"epochs": 10, "lr": 1e-3, "init_scale": 0.02}, *_NORMAL_TRIALS),
        start="map_frechet",
    ),
    "autonormal": Compared(
        "AutoNormal of Pyro, normal entries",
        _normal_entries,
        partial(_svi, AutoNormal),
        _grid({"epochs": 20, "lr": 3e-3, "init_scale": 0.05}, *_NORMAL_TRIALS),
    ),
    "meanfield_lomax": Compared(
        "mean field, Lomax prior, from MAP",
        partial(_spectral, _LOMAX),
        partial(_svi, "meanfield"),
        _grid(
            {"epochs": 4, "lr": 1e-3, "init_scale": 0.03, "strength": 1.0},
            *({"temperature": t} for t in (0.003, 0.01, 0.03, 1.0)),
        ),
        start="map_frechet",
    ),
    "spectral_lomax": Compared(
        "spectral guide, Lomax prior",
        partial(_spectral, _LOMAX),
        partial(_svi, "spectral"),
        _grid({"epochs": 20}, *_SPECTRAL_TRIALS),
    ),
    "spectral_lomax_map": Compared(
        "spectral guide, Lomax prior, from MAP",
        partial(_spectral, _LOMAX),
        partial(_svi, "spectral"),
        _grid({"epochs": 15}, *_SPECTRAL_TRIALS),
        start="map_frechet",
    ),
    "spectral_lomax_example": Compared(
        "spectral guide, Lomax prior, from MAP, noise per example",
        partial(_spectral, _LOMAX),
        partial(_svi, "spectral", noise="example"),
        _grid({"epochs": 15}, *_SPECTRAL_TRIALS),
        start="map_frechet",
    ),
    "spectral_frechet_map": Compared(
        "spectral guide, Fréchet prior, from MAP",
        partial(_spectral, _FRECHET),
        partial(_svi, "spectral"),
        _grid(
            {"epochs": 10, "lr": 1e-3, "init_scale": 0.2},
            *({"strength": s} for s in (1.0, 10.0, 40.0, 160.0)),
        ),
        start="map_frechet",
    ),
}
"""The methods by name."""

BASELINES = ("map_frechet", "map_decay")
"""The tuned MAP fits that the others are compared with."""
