"""The interface of posteriors over weights, whichever method computed them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from bayes_htr.errors import CheckpointError
from bayes_htr.inference.guides.hyperparameters import FrozenEvidence
from bayes_htr.models import BayesianModel
from bayes_htr.priors import Densities, Hyperparameter, ParameterPrior, Priors
from bayes_htr.priors.parameter_prior import hyperparameters_by_name
from bayes_htr.spectra import parameters_of

V = TypeVar("V", bound="VariationalGuide")


class Guide(nn.Module, ABC):
    """A distribution over the trainable parameters of a network and the hyperparameters.

    The `state_dict` contains everything that the guide has learnt. From the model, `settings` and
    this state, the classes in `GUIDES` make the guide again by their `from_state`.
    """

    kind: ClassVar[str]
    """The name of the class of guides in run folders."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw once, without gradient.

        Returns:
            The trainable parameters by name in their shapes, and the hyperparameters by name, 0-d,
            in their own coordinates (not unconstrained ones).
        """

    def spectrum_draws(self, samples: int, seed: int) -> Iterator[dict[str, Tensor]] | None:
        """Draw as `draws` does, but with the eigenvalues of matrices in place of weights.

        Returns:
            For each draw the eigenvalues `(K,)` by the matrix's name, in any order, and the
            hyperparameters. Matrices that are point estimates are left out. `None` if the guide
            cannot draw eigenvalues without weights.
        """
        return None

    @abstractmethod
    def centre(self) -> dict[str, Tensor]:
        """Return the means or medians of parameters and hyperparameters, in the form of a draw."""

    def coordinates(self, hyperpriors: Mapping[str, Hyperparameter]) -> dict[str, Tensor]:
        """Return the hyperparameters at the centre in unconstrained coordinates, by name, 0-d each.

        Args:
            hyperpriors: Hyperparameters with their hyperpriors, by name. The result leaves out
                those that the guide does not have.
        """
        centre = self.centre()
        return {n: h.coordinate(centre[n]) for n, h in hyperpriors.items() if n in centre}

    def check_network(self, net: nn.Module, hyperpriors: Mapping[str, Hyperparameter]) -> None:
        """Require the centre to have only parameters of a network and known hyperparameters.

        Args:
            net: The network.
            hyperpriors: The hyperparameters of its priors and likelihood, by name.

        Raises:
            ValueError: The centre has another name, a shape differs, or a value is not finite.
        """
        shapes = {p.name: p.tensor.shape for p in parameters_of(net)}
        for name, value in self.centre().items():
            if name not in shapes and name not in hyperpriors:
                names = ", ".join([*shapes, *hyperpriors])
                raise ValueError(f"no parameter or hyperparameter {name}; there are {names}")
            shape = shapes.get(name, torch.Size())
            if value.shape != shape:
                raise ValueError(f"{name} has shape {tuple(shape)}, not {tuple(value.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} is not finite")

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return plain data from which, with the model, an untrained guide is built."""

    def draws(self, samples: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield a number of draws, which are the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(samples):
            yield self.draw(generator)


class VariationalGuide(Guide):
    """A guide that is fitted by stochastic gradients of the evidence lower bound.

    Args:
        densities: The parameters with their priors as densities, at the values to start from.
        hyperparameters: The initial unconstrained coordinates of hyperparameters by name, not
            necessarily of all.
        init_scale: The standard deviation at the start; by default, the one that the class says.

    Attributes:
        start: The initial coordinates that were given.
        names: The names of the trainable parameters.
        priors: The trainable parameters with their priors, without values.
        adapters: The products of adapters with their priors, without values.
        evidence: The values of frozen parameters, which are evidence about hyperparameters.
        epoch: The epoch to which the priors belong.
    """

    options: ClassVar[frozenset[str]] = frozenset({"init_scale"})
    """The settings of `htr.SVI` that only some guides have, this one among them."""

    takes_adapters: ClassVar[bool] = False
    """Whether the guide takes priors on the products `B A` of adapters."""

    renamed: ClassVar[Mapping[str, str]] = {}
    """Prefixes of keys in states of earlier versions, with the present prefixes."""

    def __init__(
        self,
        densities: Densities,
        hyperparameters: Mapping[str, Tensor] | None = None,
        *,
        init_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.init_scale = init_scale
        self.start = dict(hyperparameters or {})
        self.evidence = FrozenEvidence(densities.frozen)
        self.epoch = 0
        self.names = tuple(p.name for p in densities.trainable)
        self._take(densities)

    def _take(self, densities: Densities) -> None:
        """Note the priors, without values."""
        self.priors = tuple(p.without_values() for p in densities.trainable)
        self.adapters = tuple(p.without_values() for p in densities.adapters)

    @property
    def drawn(self) -> tuple[str, ...]:
        """Names of the parameters whose entries are all drawn; none in this class."""
        return ()

    @classmethod
    def from_weights(
        cls: type[V],
        densities: Densities,
        hyperparameters: Mapping[str, Tensor],
        options: Mapping[str, Any],
    ) -> V:
        """Return an untrained guide around the present weights.

        Args:
            densities: The parameters with their densities, as the constructor takes them.
            hyperparameters: The initial coordinates of hyperparameters, as there.
            options: The result of `htr.SVI.options` or of `settings`. The class takes those that it
                has among its own `options`.
        """
        own = {name: options[name] for name in cls.options if name in options}
        return cls(densities, hyperparameters, **own)

    @classmethod
    def from_state(
        cls: type[V],
        model: BayesianModel,
        settings: Mapping[str, Any],
        state: Mapping[str, Tensor],
    ) -> V:
        """Make a guide from `settings`, with the parameters' `names` and `epoch`, and `state_dict`.

        Raises:
            CheckpointError: The settings or the state do not fit the model.
        """
        try:
            epoch = int(settings.get("epoch", 0))
            guide = cls.from_weights(cls._densities(model, settings, 0), {}, settings)
            if epoch:
                guide.set_epoch(cls._densities(model, settings, epoch), epoch)
            guide.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the saved {cls.kind} guide does not fit the model: {error}"
            ) from error
        return guide

    def settings(self) -> dict[str, Any]:
        """Return the parameters' names, the standard deviation at the start, and the epoch."""
        return {"names": list(self.names), "init_scale": self.init_scale, "epoch": self.epoch}

    @classmethod
    def densities_of(cls, priors: Priors, net: nn.Module, epoch: int) -> Densities:
        """Return the parameters of a network with their priors as densities at an epoch.

        Raises:
            PriorError: A prior is not a density, or the guide does not take it.
        """
        return priors.densities(net, epoch, adapters=cls.takes_adapters)

    @classmethod
    def _densities(cls, model: BayesianModel, settings: Mapping[str, Any], epoch: int) -> Densities:
        """Return the densities of the parameters whose names are in settings, in this order."""
        densities = cls.densities_of(model.priors, model.net, epoch)
        by_name = {p.name: p for p in densities.trainable}
        return densities._replace(trainable=[by_name[name] for name in settings["names"]])

    def set_epoch(self, densities: Densities, epoch: int) -> None:
        """Replace the densities by those of the same parameters at another epoch of a schedule."""
        self._take(densities)
        self.evidence, self.epoch = FrozenEvidence(densities.frozen), epoch

    def hyperparameter_coordinates(self) -> list[nn.Parameter]:
        """Return the parameters of the posteriors of hyperparameters.

        There are none unless these posteriors have an optimiser of their own.
        """
        return []

    @property
    def hyperpriors(self) -> dict[str, Hyperparameter]:
        """The hyperparameters whose posteriors the guide has, by name."""
        hyperpriors = hyperparameters_by_name([*self.priors, *self.adapters])
        for term in self.evidence.terms:
            hyperpriors |= {h.name: h for h in term.hyperparameters.values()}
        return hyperpriors

    @abstractmethod
    def rsample(self, *, again: bool = False) -> dict[str, Tensor]:
        """Draw once with gradient, from PyTorch's global generator; the form is that of `draw`.

        Args:
            again: Whether this is another draw in the same step, without an update in between.
        """

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load a state as any module does, also one of an earlier version."""
        for before, now in self.renamed.items():
            state_dict = {
                now + key.removeprefix(before) if key.startswith(before) else key: value
                for key, value in state_dict.items()
            }
        return super().load_state_dict(state_dict, *args, **kwargs)

    @abstractmethod
    def kl(self, sample: Mapping[str, Tensor]) -> Tensor:
        """Return `KL(guide | prior)`, 0-d with gradient, in nats for all parameters together.

        The divergence is computed in closed form if there is one, and otherwise estimated from the
        sample. The sum of `-E[log p(y | x, W)]` and this is the negative evidence lower bound.
        """

    def kl_in_step(self, sample: Mapping[str, Tensor]) -> Tensor:
        """Return the value of `kl`, without the gradient that `add_known_gradient` adds."""
        return self.kl(sample)

    def add_known_gradient(self, scale: float) -> None:  # most guides know none
        """Add `scale` times the rest of the gradient of the KL divergence to `.grad`, in place.

        A gradient that is known without differentiation saves the passes over memory, and the
        tensors as large as the weights, that a summand of the loss would cost.
        """


def start_scale(init_scale: float | None, parameters: Sequence[ParameterPrior]) -> float:
    """Return the standard deviation of weights at the start.

    The default is 0.01. Under a spectral prior it is instead the root mean square of the weights,
    because a guide with a narrow start shrinks to zero (`docs/benchmarks.md`, "Mean field under a
    spectral prior").

    Args:
        init_scale: The standard deviation if the user has given one, or else `None`.
        parameters: The parameters with this standard deviation, at their initial values.
    """
    if init_scale is not None:
        return init_scale
    spectral = [p.parameter.tensor.detach().flatten().double() for p in parameters if p.is_spectral]
    return (torch.cat(spectral).square().mean().sqrt().item() if spectral else 0.0) or 0.01
