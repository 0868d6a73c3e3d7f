"""The input and the result of every inference method."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bayes_htr._torch import evaluation_mode, isolated_randomness
from bayes_htr._version import __version__
from bayes_htr.inference.callbacks import Callback
from bayes_htr.inference.data import Batches
from bayes_htr.inference.guides.base import Guide
from bayes_htr.inference.run_folder import RunFolder
from bayes_htr.models import BayesianModel, Likelihood
from bayes_htr.models.inputs import Inputs, call, call_with
from bayes_htr.models.likelihood_forms import to_config
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.modules import unwrap

VALIDATION_DRAWS = 8
"""The draws of a guide with which validation data are scored."""


@dataclass(frozen=True)
class Problem:
    """A model, its data, and how long to train.

    Attributes:
        model: The model; its network is not touched.
        net: The copy of the network to train, on its device.
        train: The training batches.
        validation: The validation batches, if any.
        epochs: The number of epochs in all, those before a resumed run included.
        seed: The seed of the global generators during the run.
        callbacks: Callables that are called after every epoch.
        progress: Whether to show a progress bar; `None` shows it on a terminal only.
        hyperparameters: Initial values of hyperparameters by name, in unconstrained coordinates.
        shard: Whether the processes shard the weights.
    """

    model: BayesianModel
    net: nn.Module
    train: Batches
    validation: Batches | None
    epochs: int
    seed: int
    callbacks: Sequence[Callback] = ()
    progress: bool | None = None
    hyperparameters: dict[str, Tensor] = field(default_factory=dict)
    shard: bool = False


@dataclass(frozen=True)
class Fitted:
    """The result of a method.

    Attributes:
        net: The trained network.
        hyperparameters: The hyperparameters by name, in unconstrained coordinates.
        history: The metrics by epoch.
        guide: The posterior over weights; `None` for a point mass at the network.
    """

    net: nn.Module
    hyperparameters: dict[str, Tensor]
    history: list[dict[str, float]]
    guide: Guide | None = None


class Run(Protocol):
    """A run that is ready to start."""

    def run(
        self, folder: RunFolder | None = None, checkpoint: dict[str, Any] | None = None
    ) -> Fitted:
        """Train the problem's network in place.

        Args:
            folder: The run folder for checkpoints, if any.
            checkpoint: The state from which to resume, if any.
        """
        ...


class Method(Protocol):
    """An inference method: a value with its settings."""

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain data, for the run folder."""
        ...

    def prepare(self, problem: Problem) -> Run:
        """Build all that training needs, and raise before anything is written if that fails."""
        ...


def describe_fit(
    method: Method,
    model: BayesianModel,
    *,
    epochs: int,
    seed: int,
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Describe a fit as plain data, by which its run is recognised on resuming.

    Args:
        method: The method.
        model: The model.
        epochs: The number of epochs.
        seed: The seed.
        metadata: Plain data of the caller.

    Raises:
        ValueError: The metadata are not plain data.
    """
    described = {
        "version": __version__,
        "method": method.describe(),
        "priors": model.priors.to_dict(),
        "epochs": epochs,
        "seed": seed,
        **to_config(model.likelihood),
        "metadata": dict(metadata or {}),
    }
    try:
        json.dumps(described)
    except TypeError as error:
        raise ValueError(f"metadata={metadata!r} must be plain data: {error}") from error
    return described


def score_sums(
    net: nn.Module,
    batches: Iterable[tuple[Inputs, Tensor]],
    likelihood: Likelihood,
    values: Mapping[str, Tensor],
) -> tuple[float, float, float]:
    """Sum negative log likelihood (nats) and score over batches, and count the examples.

    Class weights and label smoothing do not count. The network is in evaluation mode meanwhile,
    and the global random state is left as it was.

    Args:
        net: The network.
        batches: The batches.
        likelihood: The likelihood.
        values: The hyperparameters of the likelihood by name.
    """
    nll = score = count = 0.0
    with evaluation_mode(net), torch.no_grad(), isolated_randomness():
        for x, y in batches:
            outputs = call(net, x)
            nll -= float(likelihood.pointwise(outputs, y, values).sum())
            score += float(likelihood.score(outputs, y))
            count += len(y)
    return nll, score, count


def draw_sums(
    net: nn.Module,
    guide: Guide,
    batches: Iterable[tuple[Inputs, Tensor]],
    likelihood: Likelihood,
) -> tuple[float, float, float]:
    """Return the sums of `score_sums` for the mean prediction of 8 draws with fixed noise."""
    root = unwrap(net)
    paths = {p.name: p.path for p in parameters_of(root)}
    draws = list(guide.draws(VALIDATION_DRAWS, seed=0))
    weights = [{paths[n]: v for n, v in draw.items() if n in paths} for draw in draws]
    values = [{n: draw[n] for n in likelihood.hyperparameters} for draw in draws]
    nll = score = count = 0.0
    with evaluation_mode(net), torch.no_grad(), isolated_randomness():
        for x, y in batches:
            outputs = [call_with(root, each, x) for each in weights]
            nll -= float(likelihood.mixture_pointwise(outputs, y, values).sum())
            score += float(likelihood.mixture_score(outputs, y))
            count += len(y)
    return nll, score, count


def warn_of_generalised_posterior(problem: Problem, method: str) -> None:
    """Warn if the likelihood is no density of the labels, for a method that finds a posterior.

    Args:
        problem: The problem.
        method: The name of the method.
    """
    reason = problem.model.likelihood.improper(problem.train.first()[1])
    if reason is not None:
        warnings.warn(
            f"{reason}, so that {method} finds no posterior in the sense of Bayes' rule but the "
            "generalised one, which takes exp(-loss) for the likelihood: its spread has no "
            "calibration to rely on. Leave weights and smoothing out, or train a mode by htr.MAP",
            stacklevel=4,
        )
