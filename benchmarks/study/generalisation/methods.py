"""The methods of the study, and what is tried of each.

A coefficient `mu` multiplies a penalty beside the mean cross-entropy: the strength of a prior is
`mu` times the number of training images. Every method that is tuned has six trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn

from bayes_htr.inference import MAP, SVI, Method
from bayes_htr.inference.guides.per_example import finest_noise
from bayes_htr.priors import (
    ESD,
    Entries,
    ExpDecay,
    Exponential,
    Frechet,
    Hill,
    ImproperPowerlaw,
    LogNormal,
    Lomax,
    MaxEigenvalue,
    Normal,
    PowerDecay,
    Prior,
    Priors,
    penalties,
)
from bayes_htr.spectra import matrices_of, parameters_of
from benchmarks.study.generalisation.cells import Base

Numbers = Mapping[str, float]
"""What a trial sets."""

Family = Literal["reference", "conventional", "heavy-tailed", "control"]
"""Entrants are conventional or heavy-tailed. A control spends more computing, or has another kind
of inference without a heavy tail; it shows what of a gain comes from that."""


@dataclass(frozen=True)
class Setting:
    """What a trial's numbers are turned into priors with.

    Attributes:
        net: The network before training.
        num_data: Training images.
        base: How every method of the cell trains.
        ends: Penalties of the network that plain training ends with, by the keys of `ENDS`.
    """

    net: nn.Module
    num_data: int
    base: Base
    ends: Mapping[str, float]


@dataclass(frozen=True)
class Regulariser:
    """A method of the study.

    Attributes:
        label: What tables call it.
        family: What it may be an entrant for.
        trials: What is tried; a single one is not tuned.
        priors: Priors from a trial's numbers.
        inference: The inference method.
        members: Of how many fits with seeds of their own the predictions are averaged.
    """

    label: str
    family: Family
    trials: tuple[Numbers, ...]
    priors: Callable[[Numbers, Setting], Priors]
    inference: Callable[[Numbers, Setting], Method]
    members: int = 1


def optimised(numbers: Numbers, setting: Setting) -> Method:
    """MAP as plain training is set up in the cell."""
    base = setting.base
    return MAP(lr=base.lr, scheduler="cosine" if base.schedule == "cosine" else None)


def _spectral_guide(numbers: Numbers, setting: Setting) -> Method:
    return SVI(
        guide="spectral",
        lr=numbers["lr"],
        init_scale=numbers["init_scale"],
        noise=finest_noise(setting.net),
    )


def _mean_field(numbers: Numbers, setting: Setting) -> Method:
    return SVI(
        guide="meanfield",
        lr=numbers["lr"],
        init_scale=0.05,
        temperature=numbers["temperature"],
    )


def _flat(numbers: Numbers, setting: Setting) -> Priors:
    return Priors({})


def _on_matrices(prior: Prior, numbers: Numbers, setting: Setting) -> Priors:
    return Priors(prior).scaled(numbers["mu"] * setting.num_data)


def _decaying(kind: Any, prior: Prior, numbers: Numbers, setting: Setting) -> Priors:
    """Decay in five steps over training; the last of the power is a quarter of the strength."""
    period = max(1, setting.base.epochs // 5)
    return _on_matrices(prior, numbers, setting).scheduled(kind(k=1.0, period=period, cutoff=0.01))


def _above(name: str, numbers: Numbers, setting: Setting) -> Priors:
    """Lower Threshold: a share of the penalty that plain training ends with."""
    threshold = numbers["share"] * setting.ends[name]
    return _on_matrices(ENDS[name], numbers, setting).above(threshold)


def _with_biases(prior: Prior, numbers: Numbers, setting: Setting) -> Priors:
    """A prior on the matrices and standard normal biases, as a posterior wants a law for all."""
    matrices = dict.fromkeys(matrices_of(setting.net), prior)
    return _and_biases(matrices, setting).scaled(numbers["strength"])


def _normal_entries(numbers: Numbers, setting: Setting) -> Priors:
    """Normal entries with standard deviation `scale / sqrt(inputs)`; biases standard normal."""
    matrices = {
        name: Entries(Normal(0.0, numbers["scale"] / math.sqrt(W.flatten(1).shape[1])))
        for name, W in matrices_of(setting.net).items()
    }
    return _and_biases(matrices, setting)


def _and_biases(matrices: Mapping[str, Prior], setting: Setting) -> Priors:
    """Priors of matrices, and standard normal entries of every other parameter."""
    others = (p.name for p in parameters_of(setting.net) if p.name not in matrices)
    return Priors({**matrices, **dict.fromkeys(others, Entries(Normal(0.0, 1.0)))})


def _mus(*mus: float) -> tuple[Numbers, ...]:
    return tuple({"mu": mu} for mu in mus)


_WEAK = _mus(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_STRONG = _mus(1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_SHARES = tuple({"mu": mu, "share": share} for share in (0.2, 0.5) for mu in (1e-2, 3e-2, 1e-1))
_FRECHET = MaxEigenvalue(Frechet(2.0, 1.0))
_LOMAX = ESD(Lomax(2.0, 1.0))
# Energy x in place of 2 log(1 + x): no tail. Its rate is its strength, which is tuned.
_EXPONENTIAL = ESD(Exponential(1.0))


def _posterior(strengths: tuple[float, ...], middle: float) -> tuple[Numbers, ...]:
    tried = [*((s, 3e-3) for s in strengths), (middle, 6e-3)]
    return tuple({"strength": s, "lr": lr, "init_scale": 0.3} for s, lr in tried)


_NORMAL = tuple(
    {"scale": scale, "temperature": T, "lr": 3e-3}
    for scale, T in ((1.0, 5e-3), (1.0, 1e-2), (1.0, 2e-2), (1.4, 1e-2), (1.4, 2e-2), (2.0, 2e-2))
)

ENDS = {"weighted_alpha": penalties.weighted_alpha(), "stable_rank": penalties.stable_rank()}
"""The penalties whose value at the end of plain training a Lower Threshold is a share of."""


def _penalised(
    label: str, family: Family, prior: Prior, trials: tuple[Numbers, ...]
) -> Regulariser:
    return Regulariser(label, family, trials, partial(_on_matrices, prior), optimised)


def _variants(name: str, label: str, trials: Any, shares: Any) -> dict[str, Regulariser]:
    """A penalty of Xiao et al. (2023) with its variants against over-regularising."""
    prior = ENDS[name]

    def variant(words: str, tried: Any, priors: Any) -> Regulariser:
        return Regulariser(f"{label}{words}", "heavy-tailed", tried, priors, optimised)

    return {
        name: variant("", trials, partial(_on_matrices, prior)),
        f"{name}_power": variant(", power decay", trials, partial(_decaying, PowerDecay, prior)),
        f"{name}_exp": variant(", exponential decay", trials, partial(_decaying, ExpDecay, prior)),
        f"{name}_above": variant(", lower threshold", shares, partial(_above, name)),
    }


METHODS: dict[str, Regulariser] = {
    "none": Regulariser("plain training", "reference", ({},), _flat, optimised),
    "weight_decay": _penalised(
        "weight decay",
        "conventional",
        penalties.weight_decay(),
        _mus(5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    ),
    "spectral_norm": _penalised(
        "spectral norm", "conventional", penalties.spectral_norm(), _STRONG
    ),
    "nuclear_norm": _penalised("nuclear norm", "conventional", penalties.nuclear_norm(), _WEAK),
    "dropout": Regulariser(
        "dropout",
        "conventional",
        tuple({"dropout": p} for p in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
        _flat,
        optimised,
    ),
    "label_smoothing": Regulariser(
        "label smoothing",
        "conventional",
        tuple({"label_smoothing": e} for e in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)),
        _flat,
        optimised,
    ),
    **_variants("weighted_alpha", "Weighted Alpha", _STRONG, _SHARES),
    **_variants("stable_rank", "Stable Rank", _STRONG, _SHARES),
    "powerlaw": _penalised(
        "Powerlaw prior, improper",
        "heavy-tailed",
        penalties.powerlaw(),
        _mus(1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4),
    ),
    "powerlaw_tail": _penalised(
        "Powerlaw prior, tail",
        "heavy-tailed",
        ESD(ImproperPowerlaw(Hill()), tail=0.5),
        _mus(1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    ),
    "lomax": _penalised("Lomax prior", "heavy-tailed", _LOMAX, _WEAK),
    "frechet": _penalised("Fréchet prior", "heavy-tailed", _FRECHET, _STRONG),
    "frechet_scale": _penalised(
        "Fréchet prior, learnt scale",
        "heavy-tailed",
        MaxEigenvalue(Frechet(2.0, LogNormal(0.0, 1.0))),
        _STRONG,
    ),
    "frechet_hill": _penalised(
        "Fréchet prior, Hill", "heavy-tailed", MaxEigenvalue(Frechet(Hill(), 1.0)), _STRONG
    ),
    "frechet_hill_scale": _penalised(
        "Fréchet prior, Hill, learnt scale",
        "heavy-tailed",
        MaxEigenvalue(Frechet(Hill(), LogNormal(0.0, 1.0))),
        _STRONG,
    ),
    "svi_lomax": Regulariser(
        "Lomax prior, SVI",
        "heavy-tailed",
        _posterior((1.0, 3.0, 10.0, 30.0, 100.0), 3.0),
        partial(_with_biases, _LOMAX),
        _spectral_guide,
    ),
    "svi_frechet": Regulariser(
        "Fréchet prior, SVI",
        "heavy-tailed",
        _posterior((3.0, 10.0, 30.0, 100.0, 300.0), 30.0),
        partial(_with_biases, _FRECHET),
        _spectral_guide,
    ),
    "svi_exponential": Regulariser(
        "exponential prior, SVI",
        "control",
        _posterior((1.0, 3.0, 10.0, 30.0, 100.0), 3.0),
        partial(_with_biases, _EXPONENTIAL),
        _spectral_guide,
    ),
    "svi_normal": Regulariser(
        "normal entries, mean-field SVI", "control", _NORMAL, _normal_entries, _mean_field
    ),
    "ensemble": Regulariser(
        "ensemble of 5 plain networks", "control", ({},), _flat, optimised, members=5
    ),
}
"""The methods by name."""

TUNED = tuple(name for name, method in METHODS.items() if len(method.trials) > 1)
"""Those of which validation data choose a trial."""
