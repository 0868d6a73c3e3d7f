"""The folder of a finished run, as `Posterior.load` reads it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bayes_htr.errors import CheckpointError, PriorError
from bayes_htr.inference.guides import GUIDES, Guide
from bayes_htr.inference.guides.likelihood import with_likelihood
from bayes_htr.inference.run_folder import CONFIG, GUIDE, WEIGHTS, RunFolder
from bayes_htr.models import BayesianModel, Likelihood
from bayes_htr.models.likelihood_forms import from_config
from bayes_htr.posterior.laws import hyperparameters_of
from bayes_htr.priors import Priors
from bayes_htr.spectra.matrices import check_finite
from bayes_htr.spectra.modules import unwrap

_COORDINATE = "hyperparameter:"
"""What stands before the name of a hyperparameter in the file of the weights."""


class StoredRun(NamedTuple):
    """The parts of a finished run, named as the arguments of `Posterior`."""

    net: nn.Module
    priors: Priors
    likelihood: Likelihood
    guide: Guide | None
    hyperparameters: dict[str, Tensor]
    history: list[dict[str, float]]
    config: dict[str, Any]


def stored_weights(net: nn.Module, coordinates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the content of the file of the weights.

    Args:
        net: The network.
        coordinates: The hyperparameters of a point mass by name, unconstrained.
    """
    return dict(unwrap(net).state_dict()) | {_COORDINATE + n: u for n, u in coordinates.items()}


def read_run(path: str | PathLike[str], net: nn.Module, likelihood: Any = None) -> StoredRun:
    """Read the folder of a finished run.

    Args:
        path: The folder.
        net: A network of the same architecture; it is copied, not changed.
        likelihood: The likelihood, in any form that `BayesianModel` takes, if it is a callable.

    Raises:
        CheckpointError: The folder has no finished run, a file is truncated or foreign, or the run
            is of another network or likelihood.
        SpectrumError: A weight is not finite.
    """
    folder = RunFolder(path)
    config = folder.config()
    weights = folder.tensors(WEIGHTS)
    coordinates = {
        name.removeprefix(_COORDINATE): weights.pop(name)
        for name in list(weights)
        if name.startswith(_COORDINATE)
    }
    net = copy.deepcopy(net)
    try:
        unwrap(net).load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder.path / WEIGHTS} does not fit the network {type(net).__name__}: {error}"
        ) from error
    for name, parameter in net.named_parameters():
        check_finite(parameter.detach(), name)
    try:
        priors = Priors.from_dict(config.pop("priors", None))
    except PriorError as error:
        raise CheckpointError(f"{folder.path / CONFIG} holds no priors: {error}") from error
    method = config.get("method", {})
    if not (isinstance(method, dict) and isinstance(method.get("name", ""), str)):
        raise CheckpointError(
            f"{folder.path / CONFIG} holds no inference method: its method is {method!r}"
        )
    config.pop("format")
    description = config.pop("guide", None)
    model = BayesianModel(net, priors, likelihood=from_config(config, likelihood))
    guide = None if description is None else _read_guide(folder, description, model)
    history = folder.metrics()
    return StoredRun(net, priors, model.likelihood, guide, coordinates, history, config)


def _read_guide(folder: RunFolder, description: Any, model: BayesianModel) -> Guide:
    """Return the guide that a run folder holds.

    Raises:
        CheckpointError: The files are truncated or foreign, or of another network.
    """
    state = folder.tensors(GUIDE)
    net = model.net
    try:
        kind, settings = description["kind"], description["settings"]
        guide = with_likelihood(GUIDES[kind], model, settings, state)
        latents = hyperparameters_of(model.priors, net) | model.likelihood.hyperparameters
        guide.check_network(net, latents)
        first = next(net.parameters(), torch.zeros(()))
        return guide.to(first.device)
    except Exception as error:  # foreign settings and tensors may raise anything
        raise CheckpointError(
            f"{folder.path / GUIDE} and the guide in {CONFIG} do not fit the network "
            f"{type(net).__name__}: {error!r}"
        ) from error
