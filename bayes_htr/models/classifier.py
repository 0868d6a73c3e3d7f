"""`BayesianClassifier`: a network, priors on its weights, and the joint density of both with data.

One definition, seen in the coordinates of `docs/theory.md`; here `"map"`, in which the
mode is what `htr.MAP` trains to: each spectral statistic in its natural coordinate, every
hyperparameter in `log`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayes_htr.engine import bind
from bayes_htr.errors import DataError
from bayes_htr.models.likelihood import negative_log_likelihood
from bayes_htr.priors import Priors
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.matrices import unwrap

Coordinates = Literal["map"]


class BayesianClassifier:
    """A classifier `p(y | x, W) = softmax(net(x))` with priors on the spectra of its weights.

    Args:
        net: Any module that takes `(N, ...)` inputs to `(N, C)` logits. It is never changed.
        priors: The priors on its parameters.
        class_weights: `(C,)` positive powers of the likelihood of each class; ones by default.

    Raises:
        PriorError: Priors that do not fit the network.
        DataError: Class weights that are not positive and finite.
    """

    def __init__(
        self,
        net: nn.Module,
        priors: Priors,
        *,
        class_weights: Any = None,
    ) -> None:
        self.net = net
        self.priors = priors
        self.class_weights = _checked_weights(class_weights)
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
        """`num_data / batch * log p(y | x, W) + log prior(W)`, constants of the prior dropped.

        Args:
            params: Parameters by name and hyperparameters in unconstrained coordinates; those left
                out stay at their present values.
            batch: `(x, y)` on the parameters' device.
            num_data: The size of the data set that the batch was drawn from.
            coordinates: `"map"`: the density whose mode `htr.MAP` finds.
            epoch: Counted from 0; needed where a prior is scheduled.

        Returns:
            0-d, differentiable once with respect to `params`.

        Raises:
            ValueError: Other coordinates, or a parameter that the model does not have or that
                has another shape there.
        """
        _check_coordinates(coordinates)
        x, y = batch
        values = self._complete(params)
        logits = self._logits(values, x)
        fit = negative_log_likelihood(logits, y, self.class_weights)
        return -num_data * fit - self._prior_energy(values, epoch)

    def pyro_model(
        self, coordinates: Coordinates = "map", *, epoch: int | None = None
    ) -> Callable[..., Tensor]:
        """The model as a Pyro program: `model(x, y=None, *, num_data)`.

        Its sites are the trainable parameters and the hyperparameters (in unconstrained
        coordinates), both with a flat base measure; the prior enters as the factor `prior`, and the
        labels as the site `y`. `AutoDelta` on it is MAP.

        Args:
            coordinates: As in `log_joint`.
            epoch: The epoch at which scheduled priors are taken.

        Raises:
            ValueError: Other coordinates.
        """
        _check_coordinates(coordinates)

        def model(x: Tensor, y: Tensor | None = None, *, num_data: int) -> Tensor:
            values = {
                name: pyro.sample(
                    name, dist.ImproperUniform(dist.constraints.real, (), start.shape)
                )
                for name, start in self.initial_params().items()
            }
            pyro.factor("prior", -self._prior_energy(values, epoch))
            logits = self._logits(values, x)
            scale = pyro.poutine.scale(scale=self._scale(logits, y, num_data))
            with pyro.plate("data", len(x)), scale:
                return pyro.sample("y", dist.Categorical(logits=logits), obs=y)

        return model

    def _scale(self, logits: Tensor, y: Tensor | None, num_data: int) -> float | Tensor:
        scale = num_data / len(logits)
        if self.class_weights is None or y is None:
            return scale
        return scale * self.class_weights.to(logits)[y]

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
    if coordinates != "map":
        raise ValueError(f"coordinates={coordinates!r} must be 'map'")


def _checked_weights(class_weights: Any) -> Tensor | None:
    if class_weights is None:
        return None
    weights = torch.as_tensor(class_weights, dtype=torch.float64)
    if weights.ndim != 1 or not bool((torch.isfinite(weights) & (weights > 0)).all()):
        raise DataError(
            f"class_weights={class_weights!r} must be one positive finite number per class"
        )
    return weights
