"""`BayesianClassifier`: a network, priors on its weights, and the joint density of both with data.

One definition, seen in the three coordinates of `docs/theory.md`. In `"map"` the mode is what
`htr.MAP` trains to: each spectral statistic in its natural coordinate, every hyperparameter in
unconstrained ones. `"weight"` is a density over the entries, `"spectral"` the generative model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.func import functional_call

from bayes_htr._torch import isolated_randomness
from bayes_htr.engine import bind
from bayes_htr.models.likelihood import SMOOTHING_SITE, Likelihood
from bayes_htr.models.programs import FRAMES, Frames, Weights, spectral_program, weight_program
from bayes_htr.priors import Densities, Priors
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.matrices import unwrap

Coordinates = Literal["map", "weight", "spectral"]
COORDINATES = ("map", "weight", "spectral")


class BayesianClassifier:
    """A classifier `p(y | x, W) = softmax(net(x))` with priors on the spectra of its weights.

    Args:
        net: Any module that takes `(N, ...)` inputs to `(N, C)` logits. It is never changed.
        priors: The priors on its parameters.
        class_weights: `(C,)` positive powers of the likelihood of each class; ones by default.
        label_smoothing: In `[0, 1)`: the share `eps` of each label that is spread evenly over all
            classes, in the likelihood `prod_c p(c | x, W)^(q_c)` with
            `q = (1 - eps) e_y + eps / C`. Predictions and scores are not smoothed.

    Attributes:
        likelihood: The class weights and the label smoothing.

    Raises:
        PriorError: Priors that do not fit the network.
        DataError: Class weights that are not positive and finite.
        ValueError: A label smoothing out of range.
    """

    def __init__(
        self,
        net: nn.Module,
        priors: Priors,
        *,
        class_weights: Any = None,
        label_smoothing: float = 0.0,
    ) -> None:
        self.net = net
        self.priors = priors
        self.likelihood = Likelihood(class_weights, label_smoothing)
        self._energy = bind(priors, net)

    def __repr__(self) -> str:
        return f"BayesianClassifier({type(self.net).__name__}, {self.priors!r})"

    def initial_params(self) -> dict[str, Tensor]:
        """Copies of the network's trainable parameters and of the hyperparameters, by name.

        The hyperparameters are in unconstrained coordinates. Feed it to Pyro's `init_to_value`,
        or change it and pass it to `log_joint`.
        """
        values = {
            p.name: p.tensor.detach().clone()
            for p in parameters_of(self.net)
            if p.tensor.requires_grad
        }
        return values | {n: u.detach().clone() for n, u in self._energy.latents().items()}

    def log_joint(
        self,
        params: Mapping[str, Tensor],
        batch: tuple[Tensor, Tensor],
        *,
        num_data: int,
        coordinates: Coordinates = "map",
        epoch: int | None = None,
    ) -> Tensor:
        """`num_data / batch * log p(y | x, W) + log prior(W)`.

        Args:
            params: In `"map"`, parameters by name and hyperparameters in unconstrained
                coordinates; those left out stay at their present values. In the others, the
                sites of `pyro_model(coordinates)`, all of them, as they are.
            batch: `(x, y)` on the parameters' device.
            num_data: The size of the data set that the batch was drawn from.
            coordinates: `"map"`: the density whose mode `htr.MAP` finds, constants of the prior
                dropped. `"weight"`: over the entries, with all constants where a matrix has
                one factor at strength 1. `"spectral"`: over spectra, frames and hyperparameters.
            epoch: Counted from 0; needed where a prior is scheduled.

        Returns:
            0-d, differentiable with respect to `params`; in `"map"` once.

        Raises:
            ValueError: Other coordinates, or a parameter or site that the model does not have, that
                has another shape there, or, but in `"map"`, that is missing.
            PriorError: But in `"map"`: a prior that is no density.
        """
        _check_coordinates(coordinates)
        x, y = batch
        if coordinates != "map":
            program = self.pyro_model(coordinates, epoch=epoch)
            return _log_density(program, params, x, y, num_data)
        values = self._complete(params)
        logits = self._logits(values, x)
        return -num_data * self.likelihood(logits, y) - self._prior_energy(values, epoch)

    def pyro_model(
        self,
        coordinates: Coordinates = "map",
        *,
        epoch: int | None = None,
        frames: Frames = "sampled",
    ) -> Callable[..., Tensor]:
        """The model as a Pyro program: `model(x, y=None, *, num_data)`, with the labels as `y`.

        Labels that are given have the likelihood of the class docstring; without them, labels are
        drawn from the softmax.

        - `"map"`: the sites are the trainable parameters and the hyperparameters in unconstrained
          coordinates, with a flat base measure, and the prior is the factor `prior`. `AutoDelta` on
          it is MAP.
        - `"weight"`: the same, but the factor is a density over the entries, and hyperparameters
          are sites with their hyperpriors. For guides over the weights.
        - `"spectral"`: spectra, frames and hyperparameters, as in `bayes_htr.models.programs`;
          flat parameters stay as they are. For NUTS.

        Args:
            coordinates: The coordinates.
            epoch: The epoch at which scheduled priors are taken.
            frames: In spectral coordinates, whether the frames are sites (`"sampled"`) or those
                of the present weights (`"held"`).

        Raises:
            ValueError: Other coordinates or frames.
            PriorError: But in `"map"`: a prior that is no density.
        """
        _check_coordinates(coordinates)
        if frames not in FRAMES:
            raise ValueError(f"frames={frames!r} must be one of {', '.join(FRAMES)}")
        weights = self._weights_program(coordinates, epoch, frames)

        def model(x: Tensor, y: Tensor | None = None, *, num_data: int) -> Tensor:
            return self.likelihood.sample(self._logits(weights(), x), y, num_data)

        return model

    def densities(self, epoch: int | None = None) -> Densities:
        """The parameters with their priors as densities at an epoch.

        Raises:
            PriorError: A prior that is no density.
        """
        return self.priors.densities(self.net, epoch)

    def _weights_program(self, coordinates: str, epoch: int | None, frames: Frames) -> Weights:
        if coordinates == "weight":
            densities = self.densities(epoch)
            return weight_program(densities.trainable, densities.frozen)
        if coordinates == "spectral":
            densities = self.densities(epoch)
            return spectral_program(densities.trainable, frames, densities.frozen)

        def program() -> dict[str, Tensor]:
            values = {
                name: pyro.sample(
                    name, dist.ImproperUniform(dist.constraints.real, (), start.shape)
                )
                for name, start in self.initial_params().items()
            }
            pyro.factor("prior", -self._prior_energy(values, epoch))
            return values

        return program

    def _complete(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = {p.name: p.tensor for p in parameters_of(self.net)} | self._energy.latents()
        if unknown := set(params) - set(values):
            raise ValueError(
                f"the model has no parameter {', '.join(sorted(unknown))}; it has "
                f"{', '.join(values)}"
            )
        for name, value in params.items():
            if value.shape != values[name].shape:
                raise ValueError(
                    f"{name} has shape {tuple(values[name].shape)}, not {tuple(value.shape)}"
                )
        return values | dict(params)

    def _prior_energy(self, values: Mapping[str, Tensor], epoch: int | None) -> Tensor:
        tensors = {p.name: p.tensor for p in parameters_of(self.net)} | dict(values)
        return self._energy.total(self._energy.terms_at(tensors, values, epoch))

    def _logits(self, values: Mapping[str, Tensor], x: Tensor) -> Tensor:
        root = unwrap(self.net)
        weights = {p.path: values[p.name] for p in parameters_of(root) if p.name in values}
        # Copies: batch normalisation in training mode would change the network's own buffers.
        buffers = {name: b.clone() for name, b in root.named_buffers()}
        return functional_call(root, weights | buffers, (x,))


def _check_coordinates(coordinates: str) -> None:
    if coordinates not in COORDINATES:
        raise ValueError(f"coordinates={coordinates!r} must be one of {', '.join(COORDINATES)}")


class _Given(Messenger):
    """Values for all sites of a program, which must be there and have the right shape."""

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.params = params

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["is_observed"] or name == "data":
            return
        if name not in self.params:
            raise ValueError(f"no value for the site {name}")
        value, shape = self.params[name], msg["fn"].shape()
        if value.shape != shape:
            raise ValueError(f"{name} has shape {tuple(shape)}, not {tuple(value.shape)}")
        msg["value"], msg["is_observed"] = value, True


def _log_density(
    program: Callable[..., Tensor],
    params: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    num_data: int,
) -> Tensor:
    """The log density of a program at values of all its sites."""
    with isolated_randomness():  # a network may draw
        trace = pyro.poutine.trace(_Given(params)(program)).get_trace(x, y, num_data=num_data)
    sites = [
        name
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and name not in ("data", "y", SMOOTHING_SITE)
        and not name.endswith((":factor", ":prior"))
    ]
    if unknown := params.keys() - set(sites):
        raise ValueError(f"no site {', '.join(sorted(unknown))}; there are {', '.join(sites)}")
    return torch.as_tensor(trace.log_prob_sum())
