"""The methods that the studies compare, and the trials from which validation data choose.

In the study of generalisation a coefficient `mu` multiplies a penalty beside the mean
cross-entropy: the strength of the prior is `mu` times the number of training images. The study of
posteriors names strengths themselves, and the epochs of each method. All tuned methods of one study
have the same number of trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pyro.infer.autoguide import AutoNormal

import bayes_htr as htr
from bayes_htr.inference.defaults import default_method
from bayes_htr.inference.guides.per_example import finest_noise
from bayes_htr.priors import Prior
from benchmarks.study.method import LAYERS, Method, Numbers, Setting, flat, plain

# Inference methods


def _svi(guide: Any, numbers: Numbers, setting: Setting, **fixed: Any) -> htr.SVI:
    own: dict[str, Any] = {
        n: numbers[n] for n in ("lr", "temperature", "init_scale") if n in numbers
    }
    return htr.SVI(guide=guide, **fixed, **own)


def _svi_noise_per_example(numbers: Numbers, setting: Setting) -> htr.SVI:
    """The spectral guide, noise per example unless batch normalisation mixes the examples."""
    return _svi("spectral", numbers, setting, noise=finest_noise(setting.net))


def _svi_as_by_default(numbers: Numbers, setting: Setting) -> htr.SVI:
    """Return the default method, with the numbers of a trial."""
    return default_method(setting.net, lr=numbers["lr"], init_scale=numbers["init_scale"])


# Priors


def _strength(numbers: Numbers, setting: Setting) -> float:
    if "mu" in numbers:
        return numbers["mu"] * setting.num_data
    return numbers["strength"]


def _on_matrices(prior: Prior, numbers: Numbers, setting: Setting) -> htr.Priors:
    return htr.Priors(prior).scaled(_strength(numbers, setting))


def _decaying(kind: Any, prior: Prior, numbers: Numbers, setting: Setting) -> htr.Priors:
    """Decay in five steps over training; power decay ends with a quarter of the strength."""
    period = max(1, setting.base.epochs // 5)
    return _on_matrices(prior, numbers, setting).scheduled(kind(k=1.0, period=period, cutoff=0.01))


def _above(name: str, numbers: Numbers, setting: Setting) -> htr.Priors:
    """Lower Threshold, at a share of the penalty that plain training ends with."""
    threshold = numbers["share"] * setting.ends[name]
    return _on_matrices(ENDS[name], numbers, setting).above(threshold)


def with_normal_biases(prior: Prior, numbers: Numbers, setting: Setting) -> htr.Priors:
    """Put a prior on every matrix and standard normal entries elsewhere, as a posterior needs.

    Args:
        prior: The prior of every matrix.
        numbers: The numbers of a trial, of which `mu` or `strength` counts.
        setting: What is trained.
    """
    matrices = dict.fromkeys(htr.matrices_of(setting.net), prior)
    return _and_normal_others(matrices, setting).scaled(_strength(numbers, setting))


def _heavy_in(part: slice, numbers: Numbers, setting: Setting) -> htr.Priors:
    """The Lomax law on a part of the list of matrices, the exponential law on the others."""
    names = list(htr.matrices_of(setting.net))
    heavy = names[part]
    matrices = {name: _LOMAX if name in heavy else _EXPONENTIAL for name in names}
    return _and_normal_others(matrices, setting).scaled(_strength(numbers, setting))


def _normal_entries(
    numbers: Numbers, setting: Setting, *, biases_alike: bool = False
) -> htr.Priors:
    """Normal entries with standard deviation `scale / sqrt(inputs)`.

    Biases are standard normal, or with `biases_alike` have the law of the weights of their layer.
    """
    priors: dict[str, Prior] = {}
    for name, W in htr.matrices_of(setting.net).items():
        deviation = numbers["scale"] / math.sqrt(W.flatten(1).shape[1])
        priors[name] = htr.Entries(htr.Normal(0.0, deviation))
        if biases_alike:
            priors[name.replace("weight", "bias")] = priors[name]
    return _and_normal_others(priors, setting)


def _and_normal_others(priors: Mapping[str, Prior], setting: Setting) -> htr.Priors:
    names = (name for name, _ in setting.net.named_parameters() if name not in priors)
    others = dict.fromkeys(names, htr.Entries(htr.Normal(0.0, 1.0)))
    return htr.Priors({**priors, **others})


_FRECHET = htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))
_LOMAX = htr.ESD(htr.Lomax(2.0, 1.0))
# The energy is x in place of 2 log(1 + x), without a tail. The tuned strength is its rate.
_EXPONENTIAL = htr.ESD(htr.Exponential(1.0))
ENDS = {
    "weighted_alpha": htr.penalties.weighted_alpha(),
    "stable_rank": htr.penalties.stable_rank(),
}
"""The penalties whose value at the end of plain training a Lower Threshold takes a share of."""

PLACES = {
    "none": ("no layer", slice(0)),
    "first": ("the first layer", slice(1)),
    "middle": ("the middle layers", slice(1, -1)),
    "last": ("the last layer", slice(-1, None)),
    "all": ("all layers", slice(None)),
}
"""The layers that have the Lomax law in the study of robustness, in words and as a part of the list
of matrices."""


# Trials


def _each(name: str, *values: float) -> tuple[Numbers, ...]:
    """Trials of one number."""
    return tuple({name: value} for value in values)


def _svi_trials(*strengths: float, middle: float) -> tuple[Numbers, ...]:
    """Strengths at one learning rate, and the middle strength at twice that rate."""
    tried = [*((s, 3e-3) for s in strengths), (middle, 6e-3)]
    return tuple({"strength": s, "lr": lr, "init_scale": 0.3} for s, lr in tried)


def _grid(common: Numbers, *trials: Numbers) -> tuple[Numbers, ...]:
    return tuple({**common, **trial} for trial in trials)


_WEAK = _each("mu", 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_STRONG = _each("mu", 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_SHARES = tuple({"mu": mu, "share": share} for share in (0.2, 0.5) for mu in (1e-2, 3e-2, 1e-1))
_NORMAL = tuple(
    {"scale": scale, "temperature": T, "lr": 3e-3}
    for scale, T in ((1.0, 5e-3), (1.0, 1e-2), (1.0, 2e-2), (1.4, 1e-2), (1.4, 2e-2), (2.0, 2e-2))
)


# The study of generalisation


def _penalised(label: str, family: str, prior: Prior, trials: tuple[Numbers, ...]) -> Method:
    return Method(label, family, trials, partial(_on_matrices, prior), plain)


def _variants(name: str, label: str) -> dict[str, Method]:
    """Return a penalty of Xiao et al. (2023) with its variants against over-regularising."""
    prior = ENDS[name]
    power, exp = (partial(_decaying, kind, prior) for kind in (htr.PowerDecay, htr.ExpDecay))
    heavy = "heavy-tailed"
    return {
        name: _penalised(label, heavy, prior, _STRONG),
        f"{name}_power": Method(f"{label}, power decay", heavy, _STRONG, power, plain),
        f"{name}_exp": Method(f"{label}, exponential decay", heavy, _STRONG, exp, plain),
        f"{name}_above": Method(
            f"{label}, lower threshold", heavy, _SHARES, partial(_above, name), plain
        ),
    }


def _by_svi(label: str, family: str, prior: Prior, trials: tuple[Numbers, ...]) -> Method:
    return Method(label, family, trials, partial(with_normal_biases, prior), _svi_noise_per_example)


GENERALISATION: dict[str, Method] = {
    "none": Method("plain training", "reference", ({},), flat, plain),
    "weight_decay": _penalised(
        "weight decay",
        "conventional",
        htr.penalties.weight_decay(),
        _each("mu", 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    ),
    "spectral_norm": _penalised(
        "spectral norm", "conventional", htr.penalties.spectral_norm(), _STRONG
    ),
    "nuclear_norm": _penalised("nuclear norm", "conventional", htr.penalties.nuclear_norm(), _WEAK),
    "dropout": Method(
        "dropout", "conventional", _each("dropout", 0.1, 0.2, 0.3, 0.4, 0.5, 0.6), flat, plain
    ),
    "label_smoothing": Method(
        "label smoothing",
        "conventional",
        _each("label_smoothing", 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
        flat,
        plain,
    ),
    **_variants("weighted_alpha", "Weighted Alpha"),
    **_variants("stable_rank", "Stable Rank"),
    "powerlaw": _penalised(
        "Powerlaw prior, improper",
        "heavy-tailed",
        htr.penalties.powerlaw(),
        _each("mu", 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4),
    ),
    "powerlaw_tail": _penalised(
        "Powerlaw prior, tail",
        "heavy-tailed",
        htr.ESD(htr.ImproperPowerlaw(htr.Hill()), tail=0.5),
        _each("mu", 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    ),
    "lomax": _penalised("Lomax prior", "heavy-tailed", _LOMAX, _WEAK),
    "frechet": _penalised("Fréchet prior", "heavy-tailed", _FRECHET, _STRONG),
    "frechet_scale": _penalised(
        "Fréchet prior, learnt scale",
        "heavy-tailed",
        htr.MaxEigenvalue(htr.Frechet(2.0, htr.LogNormal(0.0, 1.0))),
        _STRONG,
    ),
    "frechet_hill": _penalised(
        "Fréchet prior, Hill",
        "heavy-tailed",
        htr.MaxEigenvalue(htr.Frechet(htr.Hill(), 1.0)),
        _STRONG,
    ),
    "frechet_hill_scale": _penalised(
        "Fréchet prior, Hill, learnt scale",
        "heavy-tailed",
        htr.MaxEigenvalue(htr.Frechet(htr.Hill(), htr.LogNormal(0.0, 1.0))),
        _STRONG,
    ),
    "svi_lomax": _by_svi(
        "Lomax prior, SVI",
        "heavy-tailed",
        _LOMAX,
        _svi_trials(1.0, 3.0, 10.0, 30.0, 100.0, middle=3.0),
    ),
    "svi_frechet": _by_svi(
        "Fréchet prior, SVI",
        "heavy-tailed",
        _FRECHET,
        _svi_trials(3.0, 10.0, 30.0, 100.0, 300.0, middle=30.0),
    ),
    "svi_exponential": _by_svi(
        "exponential prior, SVI",
        "control",
        _EXPONENTIAL,
        _svi_trials(1.0, 3.0, 10.0, 30.0, 100.0, middle=3.0),
    ),
    "svi_normal": Method(
        "normal entries, mean-field SVI",
        "control",
        _NORMAL,
        _normal_entries,
        partial(_svi, "meanfield", init_scale=0.05),
    ),
    "ensemble": Method("ensemble of 5 plain networks", "control", ({},), flat, plain, members=5),
}
"""The methods of the study of generalisation by name.

Entrants are conventional or heavy-tailed. A control spends more computing, or infers in another way
without a heavy tail, and shows how much of a gain comes from that.
"""


# The study of mixtures

# Plain training chooses among rates that are a factor of four apart. On tables the posterior needs
# the larger rate, which `HTRClassifier` has (`docs/tables.md`).
_POSTERIORS = tuple(
    {"strength": strength, "lr": lr, "init_scale": 0.3}
    for lr in (6e-3, 2e-2)
    for strength in (1.0, 3.0, 10.0)
)

MIXTURES: dict[str, Method] = {
    **{
        name: replace(GENERALISATION[name], members=5)
        for name in ("none", "weight_decay", "spectral_norm", "dropout", "label_smoothing")
    },
    **{
        name: replace(
            GENERALISATION[name], trials=_POSTERIORS, members=4, inference=_svi_as_by_default
        )
        for name in ("svi_lomax", "svi_exponential")
    },
}
"""The methods of the study of mixtures by name. Their trials are single networks."""


# Both laws have the same numbers, so that nothing but the tail differs. The first study chose this
# strength for the Lomax law in four of five cells, and for the exponential law in three; its other
# choices are 1 and 10, so that a difference is one between these laws and not their best strengths.
_UNTUNED = ({"strength": 3.0, "lr": 6e-3, "init_scale": 0.3},)

ROBUSTNESS: dict[str, Method] = {
    **{name: replace(method, members=1) for name, method in MIXTURES.items()},
    **{
        f"heavy_{place}": Method(
            f"posterior, Lomax law in {layers}",
            LAYERS,
            _UNTUNED,
            partial(_heavy_in, part),
            _svi_as_by_default,
        )
        for place, (layers, part) in PLACES.items()
    },
}
"""The methods of the study of robustness by name."""


# The study of posteriors

_NORMAL_SCALES = (
    {"scale": 1.0, "temperature": 0.005},
    {"scale": 1.0, "temperature": 0.01},
    {"scale": 1.4, "temperature": 0.02},
    {"scale": 2.0, "temperature": 0.02},
)
_SPECTRAL = (
    {"strength": 1.0, "lr": 3e-3, "init_scale": 0.3},
    {"strength": 3.0, "lr": 3e-3, "init_scale": 0.3},
    {"strength": 7.0, "lr": 3e-3, "init_scale": 0.3},
    {"strength": 7.0, "lr": 1e-3, "init_scale": 0.2},
)
_START = "map_frechet"


def _mode(label: str, prior: Prior, *strengths: float) -> Method:
    trials = _grid({"epochs": 20}, *_each("strength", *strengths))
    return Method(f"MAP, {label}", "MAP", trials, partial(_on_matrices, prior), plain)


def _over_weights(
    label: str, guide: Any, epochs: int, lr: float, init_scale: float, start: str | None = None
) -> Method:
    """Return a guide over the weights under normal entries."""
    common = {"epochs": epochs, "lr": lr, "init_scale": init_scale}
    return Method(
        f"{label}, normal entries" + (", from MAP" if start else ""),
        "posterior",
        _grid(common, *_NORMAL_SCALES),
        partial(_normal_entries, biases_alike=True),
        partial(_svi, guide),
        start=start,
    )


def _spectral(
    label: str,
    prior: Prior,
    trials: tuple[Numbers, ...],
    inference: Callable[[Numbers, Setting], htr.SVI] = partial(_svi, "spectral"),  # noqa: B008
    start: str | None = _START,
) -> Method:
    return Method(
        label, "posterior", trials, partial(with_normal_biases, prior), inference, start=start
    )


POSTERIOR: dict[str, Method] = {
    "map_plain": Method("plain training", "MAP", ({"epochs": 20},), flat, plain),
    "map_frechet": _mode("Fréchet prior", _FRECHET, 40.0, 80.0, 160.0, 320.0),
    "map_decay": _mode("weight decay", htr.penalties.weight_decay(), 14.0, 28.0, 56.0, 112.0),
    "map_lomax": _mode("Lomax prior", _LOMAX, 7.0, 14.0, 28.0, 56.0),
    "ensemble": Method(
        "ensemble of five plain", "ensemble", ({"epochs": 20},), flat, plain, members=5
    ),
    "meanfield": _over_weights("mean field", "meanfield", 20, 3e-3, 0.05),
    "meanfield_map": _over_weights("mean field", "meanfield", 20, 1e-3, 0.03, _START),
    "lowrank": _over_weights("low rank", "lowrank", 15, 1e-3, 0.01),
    "lowrank_map": _over_weights("low rank", "lowrank", 10, 1e-3, 0.02, _START),
    "autonormal": _over_weights("AutoNormal of Pyro", AutoNormal, 20, 3e-3, 0.05),
    "meanfield_lomax": _spectral(
        "mean field, Lomax prior, from MAP",
        _LOMAX,
        _grid(
            {"epochs": 4, "lr": 1e-3, "init_scale": 0.03, "strength": 1.0},
            *_each("temperature", 0.003, 0.01, 0.03, 1.0),
        ),
        partial(_svi, "meanfield"),
    ),
    "spectral_lomax": _spectral(
        "spectral guide, Lomax prior", _LOMAX, _grid({"epochs": 20}, *_SPECTRAL), start=None
    ),
    "spectral_lomax_map": _spectral(
        "spectral guide, Lomax prior, from MAP", _LOMAX, _grid({"epochs": 15}, *_SPECTRAL)
    ),
    "spectral_lomax_example": _spectral(
        "spectral guide, Lomax prior, from MAP, noise per example",
        _LOMAX,
        _grid({"epochs": 15}, *_SPECTRAL),
        _svi_noise_per_example,
    ),
    "spectral_frechet_map": _spectral(
        "spectral guide, Fréchet prior, from MAP",
        _FRECHET,
        _grid(
            {"epochs": 10, "lr": 1e-3, "init_scale": 0.2},
            *_each("strength", 1.0, 10.0, 40.0, 160.0),
        ),
    ),
}
"""The methods of the study of posteriors by name."""
