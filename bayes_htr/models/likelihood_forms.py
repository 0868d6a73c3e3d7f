"""The forms of a likelihood: as `BayesianModel` is given it, and as a run folder stores it.

A plain `Categorical` is stored as `class_weights` and `label_smoothing`, as runs of earlier
versions have it, and every other one as the table `likelihood`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayes_htr.errors import CheckpointError, PriorError
from bayes_htr.models.categorical import Categorical
from bayes_htr.models.likelihood import Likelihood
from bayes_htr.models.targets import FromCallable, NormalNoise
from bayes_htr.priors import Normal
from bayes_htr.priors.law import Law
from bayes_htr.priors.values import Value


def as_likelihood(given: Any) -> Likelihood:
    """Return the likelihood in one of the forms that `BayesianModel` takes.

    Args:
        given: A likelihood, the law `Normal`, a callable that takes outputs to a distribution, or
            `None` for `Categorical()`.

    Raises:
        PriorError: A law is given that is no likelihood.
        ValueError: Something else is given.
    """
    if given is None:
        return Categorical()
    if isinstance(given, Likelihood):
        return given
    if isinstance(given, Normal):
        return NormalNoise(given)
    if isinstance(given, Law):
        raise PriorError(
            f"likelihood={given!r}: of the laws, htr.Normal alone is a likelihood; for another one "
            "give a callable, such as lambda outputs: dist.StudentT(4.0, outputs.squeeze(-1), 1.0)"
        )
    if callable(given) and not isinstance(given, type):
        return FromCallable(given)
    raise ValueError(
        f"likelihood={given!r} must be htr.Categorical(...), htr.Bernoulli(), htr.Normal(scale=...)"
        " or a callable that takes outputs to a distribution"
    )


def to_config(likelihood: Likelihood) -> dict[str, Any]:
    """Describe a likelihood as the configuration of a run does, as plain data."""
    if (
        isinstance(likelihood, Categorical)
        and likelihood.ignore_index is None
        and likelihood.class_dim is None
    ):
        weights = likelihood.class_weights
        return {
            "class_weights": None if weights is None else list(weights),
            "label_smoothing": likelihood.label_smoothing,
        }
    return {"label_smoothing": 0.0, "likelihood": likelihood.to_dict()}


def from_config(config: Mapping[str, Any], given: Any = None) -> Likelihood:
    """Return the likelihood of a run, from its configuration.

    Args:
        config: The configuration; other keys may be there.
        given: The likelihood that the user gives, as is needed for a callable. It takes
            precedence.

    Raises:
        CheckpointError: The configuration names no likelihood, a callable that is not given, or
            another likelihood than the given one.
    """
    stored = config.get("likelihood")
    if given is not None:
        likelihood = as_likelihood(given)
        if to_config(likelihood) != to_config_of(config):
            raise CheckpointError(
                f"the run has another likelihood than likelihood={given!r}: "
                f"{stored if stored is not None else 'Categorical'}; give the same, or none"
            )
        return likelihood
    if isinstance(stored, Mapping) and stored.get("type") == "FromCallable":
        raise CheckpointError(
            f"the likelihood of the run is the callable {stored.get('make')!r}, which no file "
            "holds; pass it again, as in htr.load(path, net, likelihood=...)"
        )
    try:
        if stored is not None:
            return as_likelihood(Value.from_dict(stored))
        return Categorical(config.get("class_weights"), config.get("label_smoothing", 0.0))
    except ValueError as error:
        raise CheckpointError(f"the configuration names no likelihood: {error}") from error


def to_config_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that `to_config` makes, also of earlier versions."""
    if config.get("likelihood") is not None:
        return {"label_smoothing": 0.0, "likelihood": config["likelihood"]}
    smoothing = config.get("label_smoothing", 0.0)
    return {"class_weights": config.get("class_weights"), "label_smoothing": smoothing}
