"""`bind`: the energy of a network under its priors, for training loops of your own.

The energy is `sum_l s_l E_l(W_l)`, where `E` is in the column "energy" of `docs/theory.md`, plus
the energy of hyperparameters under their hyperpriors. Value and gradient are computed together,
matrix by matrix, in float32 or better, outside of the caller's graph and of autocast. The refresh
policy says when they are computed, and they are cached in between (`docs/engine.md`).
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from operator import is_not
from typing import Any

import torch
from torch import Tensor, nn

from bayes_htr.engine.autograd import (
    Derivative,
    Summand,
    add_to_gradients,
    by_name,
    enter,
)
from bayes_htr.engine.context import Scaler, entry_point, factor_of, warn_of_scalers
from bayes_htr.engine.hyperparameters import EnergyHyperparameters
from bayes_htr.engine.networks import (
    NetworkWatch,
    by_parameter,
    prepared_root,
    sparse_parameters,
)
from bayes_htr.engine.packing import pack, unpack
from bayes_htr.engine.refresh import Drift, Refresh, RefreshScheduler
from bayes_htr.engine.sharded_energy import energies_of, is_spread, refuse_spread
from bayes_htr.engine.sharing import Sharing, refresh_due
from bayes_htr.errors import PriorError
from bayes_htr.priors import Hyperparameter, Priors
from bayes_htr.spectra import working


def bind(
    priors: Priors, net: nn.Module, *, refresh: Refresh | None = None, share: bool = True
) -> SpectralEnergy:
    """Return the energy of a network's present weights under priors.

    Args:
        priors: The priors.
        net: The network, which may be any module. It is neither changed nor registered, so that its
            `state_dict` and the optimiser's parameters stay as they are.
        refresh: The policy that says when gradients are computed anew; `Drift(0.1)` by default.
        share: Whether several processes of `torch.distributed` divide the work. All of them must
            then have the same weights, or parts of the same weights as under `fully_shard`, and
            call the energy at the same steps.

    Returns:
        A module to call at every step: `loss = cross_entropy + energy() / num_data`. If the energy
        is copied together with its network, as in `copy.deepcopy((net, energy))`, the copies belong
        together; a copy of the energy alone contains a copy of the network.

    Raises:
        PriorError: A pattern matches nothing, a prior does not fit its parameter, or the network
            contains a module of TorchScript.
        SpectrumError: The network is no module, or its weights are spread over processes in a way
            that is not supported (`docs/distributed.md`).

    Example:
        >>> energy = bind(Priors(MaxEigenvalue(Frechet(2.0, 1.0))), net)
        >>> loss = F.cross_entropy(net(x), y) + energy() / num_data
    """
    return SpectralEnergy(priors, net, Drift() if refresh is None else refresh, share=share)


_READ_ONLY = frozenset({"caches", "device", "hyperpriors", "net", "priors", "refresh", "refreshes"})


class SpectralEnergy(nn.Module):
    """The energy that `bind` returns.

    The parameters of this module are the hyperparameters that have hyperpriors, in unconstrained
    coordinates. Its state also contains the cached gradients, so that a run that continues from a
    saved state takes the same steps.

    Args:
        priors: The priors.
        net: The network.
        refresh: The policy that says when gradients are computed anew.
        share: Whether processes that train together divide the work.

    Raises:
        PriorError: The same errors as for `bind`.
    """

    def __init__(
        self, priors: Priors, net: nn.Module, refresh: Refresh, *, share: bool = True
    ) -> None:
        super().__init__()
        if not isinstance(priors, Priors):
            raise PriorError(
                f"{reprlib.repr(priors)} is no Priors; write htr.Priors(...) around it"
            )
        if not isinstance(refresh, Refresh):
            raise PriorError(f"refresh={refresh!r} must be a refresh policy, such as Drift(0.1)")
        self._net = (net, prepared_root(net))  # in a tuple: not submodules
        resolved = priors.resolve(net, spread=True)
        self._priors, self._refresh_policy = priors, refresh
        self._watch = NetworkWatch(priors, resolved, self._net[1])
        self._matrices = energies_of(resolved, refresh, sparse_parameters(net))
        self._values = EnergyHyperparameters(self._matrices, self._net[1])
        self._scheduler = RefreshScheduler(refresh)
        self._sharing = Sharing() if share else None
        if not share:
            refuse_spread(self._matrices)
        self._known_total: tuple[Sequence[Tensor], Tensor] | None = None
        self._looked_for_scalers = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _READ_ONLY:
            raise AttributeError(
                f"{name} of an energy cannot be set; bind anew, as in "
                "energy = htr.bind(priors, net, refresh=refresh)"
            )
        super().__setattr__(name, value)

    @property
    def priors(self) -> Priors:
        """The priors, which cannot be replaced; bind another energy for other priors."""
        return self._priors

    @property
    def refresh(self) -> Refresh:
        """The refresh policy."""
        return self._refresh_policy

    @property
    def hyperpriors(self) -> dict[str, Hyperparameter]:
        """The hyperparameters that have hyperpriors, by name."""
        return dict(self._values.hyperpriors)

    @property
    def net(self) -> nn.Module:
        """The network whose weights have the priors."""
        return self._net[0]

    @property
    def device(self) -> torch.device:
        """The device of the first parameter with a prior, or else of the network."""
        root = self._net[1]
        if self._matrices:
            return self._matrices[0].parameter_in(root).device
        return next(root.parameters(), torch.zeros(())).device

    @property
    def refreshes(self) -> dict[str, int]:
        """How often each matrix has been refreshed, by name."""
        return {matrix.name: matrix.refreshes for matrix in self._matrices}

    @property
    def decompositions(self) -> int:
        """How often this process has evaluated a spectrum; several processes divide the work."""
        return sum(matrix.decompositions for matrix in self._matrices)

    @property
    def caches(self) -> bool:
        """Whether value and gradient may be older than the weights."""
        return any(matrix.caches for matrix in self._matrices)

    def extra_repr(self) -> str:
        """Return the priors and the refresh policy."""
        return f"{self.priors!r}, refresh={self.refresh!r}"

    def latents(self) -> dict[str, Tensor]:
        """Return the unconstrained coordinates of the hyperparameters by name.

        They are the `parameters()` of this module.
        """
        return self._values.by_name()

    def hyperparameters(self) -> dict[str, Tensor]:
        """Return the present values of the hyperparameters by name, 0-d, without gradient."""
        return self._values.constrained()

    def invalidate(self) -> None:
        """Forget the cached gradients, so that the next call computes everything anew.

        Call this method after all weights were replaced, for example by loading others. A drift
        policy would notice the change only at its next check, or when the leading singular vectors
        next follow, if the energy depends only on the largest singular value. If several processes
        divide the work, all of them have to call it.
        """
        for matrix in self._matrices:
            matrix.cache = None

    @entry_point
    @torch.compiler.disable
    def forward(self, epoch: int | None = None) -> Tensor:
        """Return the energy of the network.

        Args:
            epoch: The epoch, counted from 0; needed if a prior is scheduled.

        Returns:
            0-d, differentiable once with respect to weights and hyperparameters; zero without
            gradient if no prior acts. Frozen parameters add constants, which are left out. Between
            refreshes, value and gradient of each matrix are those of its last refresh. With
            gradients disabled, the value is that of the present weights.

        Raises:
            PriorError: A prior has a schedule, and no epoch is given.
            SpectrumError: A matrix is not finite, or a law cannot score it.
        """
        if not torch.is_grad_enabled():
            summands = self._summands_at({}, self.latents(), epoch)
            return self._sum([s.value for s in summands])
        return enter(*self._derivatives(epoch))

    @entry_point
    @torch.compiler.disable
    def backward(
        self, scale: float = 1.0, epoch: int | None = None, *, scaler: Scaler = "unknown"
    ) -> Tensor:
        """Add `scale` times the gradient to the `.grad` of weights and hyperparameters, in place.

        The result is that of `(scale * energy(epoch)).backward()`, without the passes over memory
        that a summand of the loss costs. Call it after `loss.backward()`, which in data-parallel
        training averages the gradients that are there. Hooks on parameters see the gradient of the
        energy separately from that of the loss.

        Args:
            scale: The factor of the energy in the loss, such as `1 / num_data`.
            epoch: The epoch, as in `forward`.
            scaler: The `torch.amp.GradScaler` of the call `scaler.scale(loss).backward()` before;
                the gradient of the energy is then multiplied by the same scale. Call this method
                before `scaler.unscale_(optimizer)` and `scaler.step(optimizer)`. `None` says that
                gradients are not scaled. If it is left out, they are not scaled either, and the
                first call warns if a scaler is in use.

        Returns:
            The energy, 0-d, without gradient.

        Raises:
            PriorError, SpectrumError: The same errors as in `forward`.
            RuntimeError: The call is in inference mode, in which nothing has a gradient, or the
                scaler has already divided the gradients by its scale.
            TypeError: `scaler` is no scaler.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError("energy.backward() within torch.inference_mode() has no gradients")
        if scaler == "unknown":
            if not self._looked_for_scalers:
                warn_of_scalers(stacklevel=5)
                self._looked_for_scalers = True
        elif scaler is not None:
            scale *= factor_of(scaler)
        energy, derivatives = self._derivatives(epoch)
        with torch.no_grad():
            add_to_gradients(derivatives, scale)
        return energy

    @entry_point
    @torch.compiler.disable
    def derivatives(self, epoch: int | None = None) -> tuple[Tensor, list[Derivative]]:
        """Return the energy, 0-d, and the derivatives that `backward` adds.

        Callers must not change the derivatives.
        """
        return self._derivatives(epoch)

    def _derivatives(self, epoch: int | None) -> tuple[Tensor, list[Derivative]]:
        """Return the energy and the derivatives, as `derivatives` does.

        The sum is kept while the values of the summands stay the same.
        """
        with torch.enable_grad():
            summands = self._summands(epoch)
        values = [s.value for s in summands]
        known = self._known_total
        if known is None or len(known[0]) != len(values) or any(map(is_not, known[0], values)):
            self._known_total = known = values, self._sum(values)
        return known[1].clone(), [d for s in summands for d in s.derivatives]

    @entry_point
    def at(self, parameters: Mapping[str, Tensor], epoch: int | None = None) -> Tensor:
        """Return the exact energy with given tensors in place of parameters: the functional form.

        Use it together with `torch.func.functional_call(net, parameters, (x,))`, where `energy()`
        would be the energy of the network's own parameters. Caches are neither used nor changed.

        Args:
            parameters: Tensors by the names of `net.named_parameters()`, and coordinates of
                hyperparameters by the names of `latents()`. Those that are left out have their
                present values. Parameters without a prior and buffers are ignored.
            epoch: The epoch, as in `forward`.

        Returns:
            0-d, differentiable once with respect to the tensors. A given parameter acts even if
            the network's own is frozen.

        Raises:
            ValueError: The network has no parameter of a given name, or it has another shape.
            PriorError, SpectrumError: The same errors as in `forward`.
            RuntimeError: The call is within a transform of `torch.func`.

        Example:
            >>> loss = F.cross_entropy(functional_call(net, parameters, (x,)), y)
            >>> (loss + energy.at(parameters) / num_data).backward()
        """
        coordinates = self.latents()
        own = {n: tensor for n, tensor in parameters.items() if n in coordinates}
        given = by_parameter(self.net, {n: t for n, t in parameters.items() if n not in own})
        for name, u in own.items():
            if u.shape != ():
                raise ValueError(f"{name} is a hyperparameter, of shape (), not {tuple(u.shape)}")
        summands = self._summands_at(given, coordinates | own, epoch, frozen_too=True)
        derivatives = [d for s in summands for d in s.derivatives]
        return enter(self._sum([s.value for s in summands]), derivatives)

    @entry_point
    def terms(self, epoch: int | None = None) -> dict[str, Tensor]:
        """Return the summands of the energy.

        There is one for each parameter and one for each hyperparameter.

        With gradients enabled, a call counts as a step, as a call of `forward` does. To look at the
        summands during training, call it within `torch.no_grad()`: then they are exact, and the
        cached gradients stay as they are.

        Args:
            epoch: The epoch, as in `forward`.
        """
        if not torch.is_grad_enabled():
            return self.terms_at({}, self.latents(), epoch)
        return by_name(self._summands(epoch))

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of terms, on the device of the first."""
        return self._sum(list(terms.values()))

    @entry_point
    def terms_at(
        self,
        tensors: Mapping[str, Tensor],
        latents: Mapping[str, Tensor],
        epoch: int | None = None,
    ) -> dict[str, Tensor]:
        """Return the exact summands of the energy at given weights and hyperparameters.

        Args:
            tensors: Tensors by the names of parameters; others have their present values.
            latents: The unconstrained coordinate of each hyperparameter by name.
            epoch: The epoch, as in `forward`.
        """
        return by_name(self._summands_at(tensors, latents, epoch))

    def get_extra_state(self) -> Tensor | bytes:
        """Return the cached gradients and the calls at which they are due, packed as bytes.

        They are a tensor `(bytes,)` uint8. If weights are spread over processes, they are a byte
        string, because tensors would have to have one shape for `torch.distributed.checkpoint`.
        """
        matrices = [matrix.state() for matrix in self._matrices]
        packed = pack({**self._scheduler.state(), "matrices": matrices})
        return packed.numpy().tobytes() if any(map(is_spread, self._matrices)) else packed

    def set_extra_state(self, state: Any) -> None:
        """Restore what `get_extra_state` returned, also as a dictionary of an earlier version.

        Raises:
            CheckpointError: The bytes cannot be read.
        """
        if isinstance(state, bytes):
            state = torch.frombuffer(bytearray(state), dtype=torch.uint8)
        state = unpack(state) if isinstance(state, Tensor) else state
        self._scheduler.load_state(state)
        coordinates, root = self.latents(), self._net[1]
        for matrix, own in zip(self._matrices, state["matrices"], strict=True):
            matrix.load_state(own, matrix.parameter_in(root).device, coordinates)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SpectralEnergy:
        super()._apply(fn, recurse)
        for matrix in self._matrices:
            if matrix.cache is not None:
                matrix.cache.map(fn)
        return self

    def weights(self) -> dict[str, Tensor]:
        """Return the parameters that have priors, by name.

        Weights that the network computes are left out.
        """
        scored = (m for m in self._matrices if not m.is_computed)
        return {m.parameter: m.parameter_in(self._net[1]) for m in scored}

    def _sum(self, values: Sequence[Tensor]) -> Tensor:
        if not values:
            first = next(self._net[1].parameters(), torch.zeros(()))
            return torch.zeros((), device=first.device, dtype=working(first.detach()).dtype)
        return torch.stack([v.to(values[0]) for v in values]).sum()

    def _summands(self, epoch: int | None) -> list[Summand]:
        """Return the summands at a call, after the refreshes that are due."""
        root, threshold = self._net[1], self._priors.threshold
        coordinates = self._values.by_name() if self._values.hyperpriors else {}
        self._watch.check(root)
        acting = [matrix for matrix in self._matrices if matrix.update(root, epoch)]
        if acting:
            refresh_due(acting, self._scheduler, coordinates, self._sharing)
        summands = [matrix.summand(coordinates) for matrix in acting]
        if threshold is not None:
            summands = _gated(summands, threshold)
        return summands + self._values.summands(coordinates) if coordinates else summands

    def _summands_at(
        self,
        tensors: Mapping[str, Tensor],
        coordinates: Mapping[str, Tensor],
        epoch: int | None,
        *,
        frozen_too: bool = False,
    ) -> list[Summand]:
        """Return the exact summands at given tensors.

        With `frozen_too`, these tensors act even if they are frozen.
        """
        acting, root = [], self._net[1]
        for matrix in self._matrices:
            acts = matrix.update(root, epoch)
            if acts or (frozen_too and matrix.is_among(tensors) and any(matrix.strengths)):
                tensor = matrix.tensor_among(tensors, root) if tensors else matrix.tensor
                acting.append((matrix, tensor))
        sharing = self._sharing
        spread = {} if sharing is None else sharing.evaluations_at(acting, coordinates)
        summands = []
        for matrix, tensor in acting:
            e = spread.get(matrix.name) or matrix.evaluate(coordinates, tensor)
            summands.append(matrix.summand_of(e, tensor, e.gradient, coordinates))
        if self._priors.threshold is not None:
            summands = _gated(summands, self._priors.threshold)
        return summands + self._values.summands(coordinates) if coordinates else summands


def _gated(summands: list[Summand], threshold: float) -> list[Summand]:
    """Return the summands of matrices, or none if their penalties sum to less than `threshold`."""
    return summands if sum(s.penalty for s in summands) >= threshold else []
