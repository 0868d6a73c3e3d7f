"""`bind`: the energy of a network under its priors, for anyone's own training loop.

The energy is `sum_l s_l E_l(W_l)`, with `E` the energy column of `docs/theory.md`, plus the energy
of hyperparameters under their hyperpriors. Value and gradient are computed together, matrix
by matrix, outside of the caller's graph and of autocast, in float32 or better, when the refresh
policy says so, and held in between (`docs/engine.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from operator import is_not
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from bayes_htr.engine.keeper import Job, Keeper
from bayes_htr.engine.refresh import Drift, Refresh
from bayes_htr.engine.refresher import Refresher
from bayes_htr.engine.scored import scored_matrices
from bayes_htr.engine.summands import (
    Input,
    Summand,
    accumulate,
    by_name,
    entered,
    itself,
    summand_of,
)
from bayes_htr.errors import PriorError
from bayes_htr.priors import Priors, factor_at
from bayes_htr.spectra import Gradient, working
from bayes_htr.spectra.matrices import unwrap


def bind(
    priors: Priors, net: nn.Module, *, refresh: Refresh | None = None, share: bool = True
) -> SpectralEnergy:
    """The energy of a network's present weights under priors.

    Args:
        priors: The priors.
        net: The network: any module. It is neither changed nor registered, so that its
            `state_dict` and the optimiser's parameters stay what they are.
        refresh: When gradients are computed anew; `Drift(0.1)` by default.
        share: Whether processes of `torch.distributed` spread the work, if there are several.
            Then all have the same weights, and call the energy at the same steps.

    Returns:
        A module to call at every step: `loss = cross_entropy + energy() / num_data`. Copied
        together with its network, as in `copy.deepcopy((net, energy))`, the copies belong
        together; copied alone it brings a copy of the network with it.

    Raises:
        PriorError: A pattern that matches nothing, or a prior that does not fit its parameter.

    Example:
        >>> energy = bind(Priors(MaxEigenvalue(Frechet(2.0, 1.0))), net)
        >>> loss = F.cross_entropy(net(x), y) + energy() / num_data
    """
    return SpectralEnergy(priors, net, Drift() if refresh is None else refresh, share=share)


P = ParamSpec("P")
T = TypeVar("T")


def _in_full_precision(
    method: Callable[Concatenate[SpectralEnergy, P], T],
) -> Callable[Concatenate[SpectralEnergy, P], T]:
    """A method outside of the caller's autocast, whose products have too few digits."""

    @wraps(method)
    def run(energy: SpectralEnergy, /, *args: P.args, **kwargs: P.kwargs) -> T:
        kind = energy.device.type
        if not torch.is_autocast_enabled(kind):
            return method(energy, *args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return method(energy, *args, **kwargs)

    return run


class SpectralEnergy(nn.Module):
    """The energy that `bind` returns.

    Its parameters are the hyperparameters that have hyperpriors, in unconstrained coordinates;
    its state also holds what is kept between refreshes, so that a run that goes on from a saved
    state takes the same steps.

    Args:
        priors: The priors.
        net: The network.
        refresh: When gradients are computed anew.
        share: Whether processes that train together spread the work.

    Attributes:
        latent_laws: The hyperparameters with their hyperpriors, by name.

    Raises:
        PriorError: As `bind`.
    """

    def __init__(
        self, priors: Priors, net: nn.Module, refresh: Refresh, *, share: bool = True
    ) -> None:
        super().__init__()
        if not isinstance(priors, Priors):
            raise PriorError(f"{priors!r} is no Priors; write htr.Priors(...) around it")
        if not isinstance(refresh, Refresh):
            raise PriorError(f"refresh={refresh!r} must be a refresh policy, such as Drift(0.1)")
        self.priors = priors
        self.refresh = refresh
        self._net = (net,)  # in a tuple: not a submodule
        scored = [
            matrix
            for a in priors.resolve(net)
            if a.prior is not None
            for matrix in scored_matrices(a.parameter, a.prior)
        ]
        self.latent_laws = {
            latent.name: latent
            for matrix in scored
            for term in matrix.latents
            for latent in term.values()
        }
        self._values = nn.ParameterDict(
            {_key(name): nn.Parameter(latent.start()) for name, latent in self.latent_laws.items()}
        )
        self._keepers = [Keeper(matrix, refresh, self.latent_laws) for matrix in scored]
        self._refresher = Refresher(refresh, share=share)
        self._known_total: tuple[Sequence[Tensor], Tensor] | None = None

    @property
    def net(self) -> nn.Module:
        """The network whose weights are scored."""
        return self._net[0]

    @property
    def device(self) -> torch.device:
        """Of the first scored parameter, or of the network."""
        root = unwrap(self.net)
        if self._keepers:
            return self._keepers[0].scored.tensor(root).device
        return next(root.parameters(), torch.zeros(())).device

    @property
    def refreshes(self) -> dict[str, int]:
        """How often each matrix has been refreshed, by name."""
        return {keeper.scored.name: keeper.refreshes for keeper in self._keepers}

    @property
    def decompositions(self) -> int:
        """How often this process has evaluated a matrix for a refresh, entries alone not counted.

        In several processes each does a part of what `refreshes` counts.
        """
        return self._refresher.decompositions

    @property
    def holds(self) -> bool:
        """Whether value and gradient may be older than the weights."""
        return any(keeper.holds for keeper in self._keepers)

    def extra_repr(self) -> str:
        """The priors and the refresh policy."""
        return f"{self.priors!r}, refresh={self.refresh!r}"

    def latents(self) -> dict[str, Tensor]:
        """The unconstrained coordinates of the hyperparameters by name: what `parameters()` are."""
        return {name: self._values[_key(name)] for name in self.latent_laws}

    def hyperparameters(self) -> dict[str, Tensor]:
        """The present values of the hyperparameters by name, 0-d, without gradient."""
        return {
            n: latent.value(self.latents()[n].detach()) for n, latent in self.latent_laws.items()
        }

    def invalidate(self) -> None:
        """Forget what is held: the next call computes everything anew.

        For weights that were replaced at once, such as loaded ones, which a drift policy would
        see at its next check, or when it next follows the largest singular value where no more
        is needed. Processes that share the work all have to.
        """
        for keeper in self._keepers:
            keeper.held = None

    @_in_full_precision
    @torch.compiler.disable
    def forward(self, epoch: int | None = None) -> Tensor:
        """The energy of the network.

        Args:
            epoch: Counted from 0; needed where a prior is scheduled.

        Returns:
            0-d, differentiable once with respect to weights and hyperparameters. Zero without
            gradient where no prior acts. Frozen parameters are constants and are left out.
            Between refreshes value and gradient are those of the last one, matrix by matrix;
            with gradients disabled the value is that of the present weights.

        Raises:
            PriorError: A schedule and no epoch.
            SpectrumError: A matrix that is not finite, or that a law cannot score.
        """
        if not torch.is_grad_enabled():
            return self.total(self.terms_at(self._tensors(), self.latents(), epoch))
        summands = self._summands(epoch)
        return entered(self._total(summands), summands)

    @_in_full_precision
    @torch.compiler.disable
    def backward(self, scale: float = 1.0, epoch: int | None = None) -> Tensor:
        """Add `scale` times the gradient to the `.grad` of weights and hyperparameters, in place.

        The same as `(scale * energy(epoch)).backward()`, without the passes over memory that a
        summand of the loss costs. Call it after `loss.backward()`, which in data-parallel training
        averages the gradients that are there.

        Args:
            scale: What the energy is multiplied by in the loss, such as `1 / num_data`.
            epoch: As in `forward`.

        Returns:
            The energy, 0-d, without gradient.

        Raises:
            PriorError, SpectrumError: As `forward`.
            RuntimeError: Inference mode, in which nothing has a gradient.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError("energy.backward() within torch.inference_mode() has no gradients")
        with torch.enable_grad():
            summands = self._summands(epoch)
        with torch.no_grad():
            for summand in summands:
                for entry in summand.inputs:
                    accumulate(entry, scale)
            return self._total(summands)

    @_in_full_precision
    def terms(self, epoch: int | None = None) -> dict[str, Tensor]:
        """The energy's summands: one for each parameter and one for each hyperparameter.

        With gradients a call counts as a step, as one of `forward` does. To look at the summands
        beside the loss, call it within `torch.no_grad()`: then they are exact, and what is held
        stays as it is.

        Args:
            epoch: As in `forward`.
        """
        if not torch.is_grad_enabled():
            return self.terms_at(self._tensors(), self.latents(), epoch)
        return by_name(self._summands(epoch))

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of terms, on the device of the first."""
        return self._sum(list(terms.values()))

    @_in_full_precision
    def terms_at(
        self,
        tensors: Mapping[str, Tensor],
        latents: Mapping[str, Tensor],
        epoch: int | None = None,
    ) -> dict[str, Tensor]:
        """The energy's summands at given weights and hyperparameters, exactly.

        Args:
            tensors: A tensor for each scored parameter by name.
            latents: The unconstrained coordinate of each hyperparameter by name.
            epoch: As in `forward`.
        """
        summands: list[Summand] = []
        penalty = 0.0
        for keeper, strengths, _ in self._active(epoch):
            tensor = tensors[keeper.scored.parameter]
            W = keeper.scored.view(tensor)
            found = keeper.evaluate(W, strengths, latents)
            penalty += found.penalty
            known = (found.value, found.gradient, found.latent_gradients)
            summands.append(summand_of(keeper.scored, tensor, latents, *known))
        return by_name(self._gated(summands, penalty) + self._hyperpriors(latents))

    def get_extra_state(self) -> dict[str, Any]:
        """What is held between refreshes, as plain data and tensors."""
        return {
            **self._refresher.state(),
            "matrices": [keeper.state() for keeper in self._keepers],
        }

    def set_extra_state(self, state: Any) -> None:
        """The inverse of `get_extra_state`."""
        self._refresher.load_state(state)
        for keeper, own in zip(self._keepers, state["matrices"], strict=True):
            keeper.load_state(own)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SpectralEnergy:
        super()._apply(fn, recurse)
        for keeper in self._keepers:
            if keeper.held is not None:
                keeper.held.map(fn)
        return self

    def _tensors(self) -> dict[str, Tensor]:
        root = unwrap(self.net)
        return {k.scored.parameter: k.scored.tensor(root) for k in self._keepers}

    def _sum(self, values: Sequence[Tensor]) -> Tensor:
        if not values:
            first = next(unwrap(self.net).parameters(), torch.zeros(()))
            return torch.zeros((), device=first.device, dtype=working(first.detach()).dtype)
        return torch.stack([v.to(values[0]) for v in values]).sum()

    def _total(self, summands: Sequence[Summand]) -> Tensor:
        """The sum of values, added up once while they are the same."""
        values = [s.value for s in summands]
        known = self._known_total
        if known is None or len(known[0]) != len(values) or any(map(is_not, known[0], values)):
            self._known_total = known = values, self._sum(values)
        return known[1].clone()

    def _active(self, epoch: int | None) -> list[tuple[Keeper, tuple[float, ...], Tensor]]:
        """The matrices that add to the energy, with the strengths of their terms and parameters.

        A frozen parameter without hyperparameters adds a constant, and is not computed.
        """
        strength = self.priors.strength * factor_at(self.priors.schedules, epoch)
        root = unwrap(self.net)
        found = []
        for keeper in self._keepers:
            strengths = keeper.strengths(strength, epoch)
            tensor = keeper.scored.tensor(root)
            if any(strengths) and (tensor.requires_grad or keeper.scored.latent_names):
                found.append((keeper, strengths, tensor))
        return found

    def _summands(self, epoch: int | None) -> list[Summand]:
        """The summands after a call's refreshes, and what they are differentiated by."""
        latents, active = self.latents(), self._active(epoch)
        summands: list[Summand] = []
        penalty = 0.0
        jobs = [Job(*found) for found in active]
        self._refresher.refresh(jobs, latents)
        for job in jobs:
            summand, own_penalty = job.keeper.present(job.tensor, latents)
            penalty += own_penalty
            summands.append(summand)
        return self._gated(summands, penalty) + self._hyperpriors(latents)

    def _gated(self, summands: list[Summand], penalty: float) -> list[Summand]:
        threshold = self.priors.threshold
        return [] if threshold is not None and penalty < threshold else summands

    def _hyperpriors(self, latents: Mapping[str, Tensor]) -> list[Summand]:
        found = []
        for name, latent in self.latent_laws.items():
            if not torch.is_grad_enabled():
                found.append(Summand(name, latent.energy(latents[name]), []))
                continue
            u = latents[name].detach().requires_grad_()
            energy = latent.energy(u)
            (slope,) = torch.autograd.grad(energy, u)
            entry = Input(latents[name], itself, Gradient(slope, None))
            found.append(Summand(name, energy.detach(), [entry]))
        return found


def _key(name: str) -> str:
    """A name as a module may have it: without dots, and unlike any attribute."""
    return "u:" + name.replace(".", "/")
