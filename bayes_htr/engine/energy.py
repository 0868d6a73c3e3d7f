"""`bind`: the energy of a network under its priors, for anyone's own training loop.

The energy is `sum_l s_l E_l(W_l)`, with `E` the energy column of `docs/theory.md`, plus the energy
of hyperparameters under their hyperpriors. Value and gradient are computed together, matrix
by matrix, outside of the caller's graph and of autocast, in float32 or better, when the refresh
policy says so, and cached in between (`docs/engine.md`).
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import is_not
from typing import Any

import torch
from torch import Tensor, nn

from bayes_htr.distributed import world_size
from bayes_htr.engine.autograd import (
    Summand,
    add_to_gradients,
    by_name,
    derivatives_of,
    enter,
)
from bayes_htr.engine.context import entry_point
from bayes_htr.engine.loss_scaling import Scaler, factor_of, warn_of_scalers
from bayes_htr.engine.matrix_energy import MatrixEnergy, hyperprior_summands
from bayes_htr.engine.networks import by_parameter, refuse_torchscript, sparse_parameters
from bayes_htr.engine.packing import pack, unpack
from bayes_htr.engine.refresh import Drift, Refresh, RefreshScheduler
from bayes_htr.engine.sharing import Sharing, follow_all, which_drifted
from bayes_htr.engine.watch import NetworkWatch
from bayes_htr.errors import PriorError
from bayes_htr.priors import Hyperparameter, Priors
from bayes_htr.spectra import working, working_dtype
from bayes_htr.spectra.modules import unwrap


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
        PriorError: A pattern that matches nothing, a prior that does not fit its parameter, or a
            module of TorchScript.
        SpectrumError: No module, or weights that are spread over processes.

    Example:
        >>> energy = bind(Priors(MaxEigenvalue(Frechet(2.0, 1.0))), net)
        >>> loss = F.cross_entropy(net(x), y) + energy() / num_data
    """
    return SpectralEnergy(priors, net, Drift() if refresh is None else refresh, share=share)


_READ_ONLY = frozenset({"caches", "device", "hyperpriors", "net", "priors", "refresh", "refreshes"})


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
            raise PriorError(
                f"{reprlib.repr(priors)} is no Priors; write htr.Priors(...) around it"
            )
        if not isinstance(refresh, Refresh):
            raise PriorError(f"refresh={refresh!r} must be a refresh policy, such as Drift(0.1)")
        resolved = priors.resolve(net)
        refuse_torchscript(net)
        self._priors, self._refresh_policy = priors, refresh
        self._net = (net, unwrap(net))  # in a tuple: not submodules
        self._watch = NetworkWatch(priors, resolved, self._net[1])
        sparse = sparse_parameters(net)
        self._matrices = [
            MatrixEnergy(matrix, p.parameter, refresh, sparse=id(p.parameter.tensor) in sparse)
            for p in resolved
            for matrix in p.matrices
        ]
        self._hyperpriors: dict[str, Hyperparameter] = {}
        values: dict[str, Tensor] = {}
        for matrix in self._matrices:
            dtype = working_dtype(matrix.parameter_in(self._net[1]).dtype)
            for name, hyperparameter in matrix.prior.optimised.items():
                self._hyperpriors[name] = hyperparameter
                start = values.get(name, hyperparameter.start())
                values[name] = start.to(torch.promote_types(start.dtype, dtype))
        self._values = nn.ParameterDict({_key(n): nn.Parameter(u) for n, u in values.items()})
        self._scheduler = RefreshScheduler(refresh)
        self._sharing = Sharing() if share else None
        self.decompositions = 0
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
        """The priors, read-only as all properties: another energy has to be bound for others."""
        return self._priors

    @property
    def refresh(self) -> Refresh:
        """The refresh policy."""
        return self._refresh_policy

    @property
    def hyperpriors(self) -> dict[str, Hyperparameter]:
        """The hyperparameters that have hyperpriors, by name."""
        return dict(self._hyperpriors)

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
        return {name: self._values[_key(name)] for name in self._hyperpriors}

    def hyperparameters(self) -> dict[str, Tensor]:
        """The present values of the hyperparameters by name, 0-d, without gradient."""
        return {n: self._hyperpriors[n].value(u.detach()) for n, u in self.latents().items()}

    def invalidate(self) -> None:
        """Forget the cached gradients: the next call computes everything anew.

        Call it after weights were replaced at once, as by loading. A drift policy would notice
        that only at its next check or, where the energy is a function of the largest singular
        value alone, when its vectors next follow. Processes that share the work all have to call
        it.
        """
        for matrix in self._matrices:
            matrix.cache = None

    @entry_point
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
        return enter(self._total(summands), derivatives_of(summands))

    @entry_point
    @torch.compiler.disable
    def backward(
        self, scale: float = 1.0, epoch: int | None = None, *, scaler: Scaler = "unknown"
    ) -> Tensor:
        """Add `scale` times the gradient to the `.grad` of weights and hyperparameters, in place.

        The same as `(scale * energy(epoch)).backward()`, without the passes over memory that a
        summand of the loss costs. Call it after `loss.backward()`, which in data-parallel training
        averages the gradients that are there. Hooks on parameters see the gradient of the energy,
        apart from that of the loss.

        Args:
            scale: What the energy is multiplied by in the loss, such as `1 / num_data`.
            epoch: As in `forward`.
            scaler: The `torch.amp.GradScaler` whose `scaler.scale(loss).backward()` came before;
                the gradient of the energy is then multiplied by its scale too. Call this method
                before `scaler.unscale_(optimizer)` and `scaler.step(optimizer)`. `None` says that
                gradients are not scaled. If it is left out they are not either, and the first call
                warns if there is a scaler in use.

        Returns:
            The energy, 0-d, without gradient.

        Raises:
            PriorError, SpectrumError: As `forward`.
            RuntimeError: Inference mode, in which nothing has a gradient; or a scaler that has
                divided the gradients by its scale already.
            TypeError: A scaler that is none.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError("energy.backward() within torch.inference_mode() has no gradients")
        factor = factor_of(scaler)
        if scaler == "unknown" and not self._looked_for_scalers:
            warn_of_scalers(stacklevel=5)
            self._looked_for_scalers = True
        with torch.enable_grad():
            summands = self._summands(epoch)
        with torch.no_grad():
            add_to_gradients(derivatives_of(summands), scale * factor)
            return self._total(summands)

    @entry_point
    def at(self, parameters: Mapping[str, Tensor], epoch: int | None = None) -> Tensor:
        """The energy at given tensors in place of parameters, exactly: the functional form.

        It belongs to `torch.func.functional_call(net, parameters, (x,))`, where `energy()` would
        be that of the network's own parameters. Caches are neither used nor changed.

        Args:
            parameters: Tensors by the names of `net.named_parameters()`, and hyperparameters by
                the names of `latents()`. What is left out has its present value. Parameters
                without a prior, and buffers, may be there and are ignored.
            epoch: As in `forward`.

        Returns:
            0-d, differentiable once with respect to the tensors. Given parameters count whether
            the network's own are frozen or not.

        Raises:
            ValueError: A name that the network does not have, or another shape.
            PriorError, SpectrumError: As `forward`.
            RuntimeError: Within a transform of `torch.func`.

        Example:
            >>> loss = F.cross_entropy(functional_call(net, parameters, (x,)), y)
            >>> (loss + energy.at(parameters) / num_data).backward()
        """
        latents = self.latents()
        own = {n: tensor for n, tensor in parameters.items() if n in latents}
        given = by_parameter(self.net, {n: t for n, t in parameters.items() if n not in own})
        for name, u in own.items():
            if u.shape != ():
                raise ValueError(f"{name} is a hyperparameter, of shape (), not {tuple(u.shape)}")
        summands = self._summands_at(self._tensors() | given, latents | own, epoch, given)
        return enter(self._sum([s.value for s in summands]), derivatives_of(summands))

    @entry_point
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

    @entry_point
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
        return by_name(self._summands_at(tensors, latents, epoch))

    def get_extra_state(self) -> Tensor:
        """The cached gradients and when they are due, as bytes: `(bytes,)`, uint8."""
        return pack(
            {
                **self._scheduler.state(),
                "matrices": [matrix.state() for matrix in self._matrices],
            }
        )

    def set_extra_state(self, state: Any) -> None:
        """The inverse of `get_extra_state`; takes the dictionary of earlier versions too.

        Raises:
            CheckpointError: The bytes cannot be read.
        """
        state = unpack(state) if isinstance(state, Tensor) else state
        self._scheduler.load_state(state)
        latents, root = self.latents(), self._net[1]
        for matrix, own in zip(self._matrices, state["matrices"], strict=True):
            matrix.load_state(own, matrix.parameter_in(root).device, latents)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SpectralEnergy:
        super()._apply(fn, recurse)
        for matrix in self._matrices:
            if matrix.cache is not None:
                matrix.cache.map(fn)
        return self

    def _tensors(self) -> dict[str, Tensor]:
        scored = (m for m in self._matrices if not m.is_computed)
        return {m.parameter: m.parameter_in(self._net[1]) for m in scored}

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
        return summands + hyperprior_summands(self._hyperpriors, latents) if latents else summands

    def _summands_at(
        self,
        tensors: Mapping[str, Tensor],
        latents: Mapping[str, Tensor],
        epoch: int | None,
        given: Collection[str] = (),
    ) -> list[Summand]:
        """The summands at given tensors, exactly; those of `given` names act, frozen or not."""
        summands, root = [], self._net[1]
        for matrix in self._matrices:
            acts = matrix.update(root, epoch)
            if acts or (matrix.is_among(given) and any(matrix.strengths)):
                summands.append(matrix.summand_at(matrix.tensor_among(tensors, root), latents))
        if self.priors.threshold is not None:
            summands = _gated(summands, self.priors.threshold)
        return summands + hyperprior_summands(self._hyperpriors, latents)

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
            follow_all(turning, sharing)

        def drifted(tested: list[MatrixEnergy]) -> Tensor:
            return which_drifted(tested, latents, sharing)

        due = self._scheduler.due(matrices, drifted)
        if sharing is not None:
            evaluations = sharing.evaluations(due, latents)
            self.decompositions += sum(not m.is_cheap and sharing.owns(m) for m in due)
        else:
            evaluations = [matrix.evaluate(latents) for matrix in due]
            self.decompositions += sum(not m.is_cheap for m in due)
        for matrix, evaluation in zip(due, evaluations, strict=True):
            matrix.accept(evaluation, latents)


def _gated(summands: list[Summand], threshold: float) -> list[Summand]:
    """The summands of matrices, or none where their penalties together are below a threshold."""
    return summands if sum(s.penalty for s in summands) >= threshold else []


def _key(name: str) -> str:
    """A name as a module may have it: without dots, and unlike any attribute."""
    return "u:" + name.replace(".", "/")
