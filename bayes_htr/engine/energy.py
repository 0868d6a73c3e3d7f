"""`bind`: the energy of a network under its priors, for anyone's own training loop.

The energy is `sum_l s_l E_l(W_l)`, with `E` the energy column of `docs/theory.md`, plus the energy
of hyperparameters under their hyperpriors. Value and gradient are computed together, matrix
by matrix, outside of the caller's graph and of autocast, in float32 or better, when the refresh
policy says so, and cached in between (`docs/engine.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from itertools import islice
from operator import is_not
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from bayes_htr.distributed import world_size
from bayes_htr.engine.autograd import (
    Derivative,
    Summand,
    accumulate,
    by_name,
    entered,
    itself,
)
from bayes_htr.engine.matrix_energy import MatrixEnergy
from bayes_htr.engine.refresh import Drift, Refresh, RefreshScheduler
from bayes_htr.engine.sharing import Sharing
from bayes_htr.engine.watch import NetworkWatch
from bayes_htr.errors import PriorError
from bayes_htr.priors import Hyperparameter, Priors
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
    """Run a method outside of the caller's autocast, whose products have too few digits."""

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

    Its parameters are the hyperparameters that have hyperpriors, in unconstrained coordinates. Its
    state also holds the cached gradients, so that a run that goes on from a saved state takes the
    same steps.

    Args:
        priors: The priors.
        net: The network.
        refresh: When gradients are computed anew.
        share: Whether processes that train together spread the work.

    Attributes:
        hyperpriors: The hyperparameters that have hyperpriors, by name.
        decompositions: How often this process has evaluated a matrix for a refresh, entries alone
            not counted. In several processes each does a part of what `refreshes` counts.

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
        self._net = (net, unwrap(net))  # in a tuple: not submodules
        resolved = priors.resolve(net)
        self._watch = NetworkWatch(priors, resolved, self._net[1])
        self._matrices = [
            MatrixEnergy(matrix, p.parameter, refresh) for p in resolved for matrix in p.matrices
        ]
        self.hyperpriors: dict[str, Hyperparameter] = {}
        for matrix in self._matrices:
            self.hyperpriors |= matrix.prior.optimised
        self._values = nn.ParameterDict(
            {_key(name): nn.Parameter(h.start()) for name, h in self.hyperpriors.items()}
        )
        self._scheduler = RefreshScheduler(refresh)
        self._sharing = Sharing() if share else None
        self.decompositions = 0
        self._known_total: tuple[Sequence[Tensor], Tensor] | None = None

    @property
    def net(self) -> nn.Module:
        """The network whose weights are scored."""
        return self._net[0]

    @property
    def device(self) -> torch.device:
        """The device of the first scored parameter, or of the network."""
        root = self._net[1]
        if self._matrices:
            return self._matrices[0].parameter_in(root).device
        return next(root.parameters(), torch.zeros(())).device

    @property
    def refreshes(self) -> dict[str, int]:
        """How often each matrix has been refreshed, by name."""
        return {matrix.name: matrix.refreshes for matrix in self._matrices}

    @property
    def caches(self) -> bool:
        """Whether value and gradient may be older than the weights."""
        return any(matrix.caches for matrix in self._matrices)

    def extra_repr(self) -> str:
        """The priors and the refresh policy."""
        return f"{self.priors!r}, refresh={self.refresh!r}"

    def latents(self) -> dict[str, Tensor]:
        """The unconstrained coordinates of the hyperparameters by name: what `parameters()` are."""
        return {name: self._values[_key(name)] for name in self.hyperpriors}

    def hyperparameters(self) -> dict[str, Tensor]:
        """The present values of the hyperparameters by name, 0-d, without gradient."""
        return {n: self.hyperpriors[n].value(u.detach()) for n, u in self.latents().items()}

    def invalidate(self) -> None:
        """Forget the cached gradients: the next call computes everything anew.

        Call it after weights were replaced at once, as by loading. A drift policy would notice
        that only at its next check or, where the energy is a function of the largest singular
        value alone, when its vectors next follow. Processes that share the work all have to call
        it.
        """
        for matrix in self._matrices:
            matrix.cache = None

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
                for derivative in summand.derivatives:
                    accumulate(derivative, scale)
            return self._total(summands)

    @_in_full_precision
    def terms(self, epoch: int | None = None) -> dict[str, Tensor]:
        """The energy's summands: one for each parameter and one for each hyperparameter.

        With gradients a call counts as a step, as one of `forward` does. To see the summands
        beside the loss, call it within `torch.no_grad()`: then they are exact, and the cached
        gradients stay as they are.

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
        summands = []
        for matrix in self._acting(epoch):
            tensor = matrix.tensor_among(tensors, self._net[1])
            evaluation = matrix.evaluate_at(tensor, latents)
            gradient = evaluation.gradient
            summands.append(matrix.summand_of(evaluation, tensor, gradient, latents))
        if self.priors.threshold is not None:
            summands = _gated(summands, self.priors.threshold)
        return by_name(summands + self._hyperprior_summands(latents))

    def get_extra_state(self) -> dict[str, Any]:
        """The cached gradients and when they are due, as plain data and tensors."""
        return {
            **self._scheduler.state(),
            "matrices": [matrix.state() for matrix in self._matrices],
        }

    def set_extra_state(self, state: Any) -> None:
        """The inverse of `get_extra_state`."""
        self._scheduler.load_state(state)
        for matrix, own in zip(self._matrices, state["matrices"], strict=True):
            matrix.load_state(own)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SpectralEnergy:
        super()._apply(fn, recurse)
        for matrix in self._matrices:
            if matrix.cache is not None:
                matrix.cache.map(fn)
        return self

    def _tensors(self) -> dict[str, Tensor]:
        return {m.parameter: m.parameter_in(self._net[1]) for m in self._matrices}

    def _sum(self, values: Sequence[Tensor]) -> Tensor:
        if not values:
            first = next(self._net[1].parameters(), torch.zeros(()))
            return torch.zeros((), device=first.device, dtype=working(first.detach()).dtype)
        return torch.stack([v.to(values[0]) for v in values]).sum()

    def _total(self, summands: Sequence[Summand]) -> Tensor:
        """The sum of values, added up once while they are the same."""
        values = [s.value for s in summands]
        known = self._known_total
        if known is None or len(known[0]) != len(values) or any(map(is_not, known[0], values)):
            self._known_total = known = values, self._sum(values)
        return known[1].clone()

    def _acting(self, epoch: int | None) -> list[MatrixEnergy]:
        """The matrices that add to the energy, with their parameters and strengths now."""
        root = self._net[1]
        self._watch.check(root)
        return [matrix for matrix in self._matrices if matrix.update(root, epoch)]

    def _summands(self, epoch: int | None) -> list[Summand]:
        """The summands after a call's refreshes."""
        latents, matrices = self.latents(), self._acting(epoch)
        if matrices:
            self._refresh(matrices, latents)
        summands = [matrix.summand(latents) for matrix in matrices]
        if self.priors.threshold is not None:
            summands = _gated(summands, self.priors.threshold)
        return summands + self._hyperprior_summands(latents) if latents else summands

    def _refresh(self, matrices: list[MatrixEnergy], latents: Mapping[str, Tensor]) -> None:
        """Refresh those matrices that are due at this call."""
        sharing = self._sharing if world_size() > 1 else None
        if sharing is not None:
            sharing.begin(matrices, self._scheduler.calls)
        self._scheduler.begin()
        calls = self._scheduler.calls
        turning = [
            m for m in matrices if not m.is_stale and m.cache is not None and m.cache.advance(calls)
        ]
        if turning and isinstance(self.refresh, Drift):
            _follow(turning, sharing)

        def drifted(tested: list[MatrixEnergy]) -> Tensor:
            return _drifted(tested, latents, sharing)

        due = self._scheduler.due(matrices, drifted)
        if sharing is not None:
            evaluations = sharing.evaluations(due, latents)
            self.decompositions += sum(not m.is_cheap and sharing.owns(m) for m in due)
        else:
            evaluations = [matrix.evaluate(latents) for matrix in due]
            self.decompositions += sum(not m.is_cheap for m in due)
        for matrix, evaluation in zip(due, evaluations, strict=True):
            matrix.accept(evaluation, latents)

    def _hyperprior_summands(self, latents: Mapping[str, Tensor]) -> list[Summand]:
        summands = []
        for name, hyperparameter in self.hyperpriors.items():
            wanted = torch.is_grad_enabled()
            u = latents[name].detach().requires_grad_(wanted)
            energy = hyperparameter.energy(u)
            derivatives = []
            if wanted:
                (slope,) = torch.autograd.grad(energy, u)
                derivatives = [Derivative(latents[name], itself, Gradient(slope))]
            summands.append(Summand(name, energy.detach(), 0.0, derivatives))
        return summands


def _gated(summands: list[Summand], threshold: float) -> list[Summand]:
    """The summands of matrices, or none where their penalties together are below a threshold."""
    return summands if sum(s.penalty for s in summands) >= threshold else []


def _follow(matrices: Sequence[MatrixEnergy], sharing: Sharing | None) -> None:
    """Let the leading singular triplets of matrices follow them."""
    steps = [m.follow() for m in matrices] if sharing is None else sharing.followed(matrices)
    device = matrices[0].tensor.device
    told = [t.to(device) for step in steps for t in (step.cluster.values, step.kept)]
    numbers = iter(torch.cat(told).tolist())
    for matrix, step in zip(matrices, steps, strict=True):
        matrix.turn(step.cluster, list(islice(numbers, 2 * len(step.kept))))


def _drifted(
    matrices: Sequence[MatrixEnergy], latents: Mapping[str, Tensor], sharing: Sharing | None
) -> Tensor:
    """Which matrices have drifted too far, as one tensor on the device of the first."""
    device = matrices[0].tensor.device
    flags = [
        m.drifted(latents)
        if sharing is None or sharing.owns(m)
        else m.tensor.new_zeros((), dtype=torch.bool)
        for m in matrices
    ]
    stacked = torch.stack([flag.to(device, non_blocking=device.type != "cpu") for flag in flags])
    return stacked if sharing is None else sharing.any(stacked)


def _key(name: str) -> str:
    """A name as a module may have it: without dots, and unlike any attribute."""
    return "u:" + name.replace(".", "/")
