"""`bind`: the energy of a network under its priors, for anyone's own training loop.

The energy is `sum_l s_l E_l(W_l)`, with `E` the energy column of `docs/theory.md`, plus the energy
of hyperparameters under their hyperpriors. Value and gradient are computed together, matrix
by matrix, outside of the caller's graph and of autocast, in float32 or better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from bayes_htr.engine.held import held
from bayes_htr.engine.latents import Latent, latents_of
from bayes_htr.engine.refresh import Exact, Refresh
from bayes_htr.errors import PriorError
from bayes_htr.priors import Flat, Prior, Priors, factor_at
from bayes_htr.spectra import Matrix, MatrixView, Need, Parameter, start_block, working
from bayes_htr.spectra.matrices import unwrap
from bayes_htr.spectra.top import SMALL


def bind(priors: Priors, net: nn.Module, *, refresh: Refresh | None = None) -> SpectralEnergy:
    """The energy of a network's present weights under priors.

    Args:
        priors: The priors.
        net: The network: any module. It is neither changed nor registered, so that its
            `state_dict` and the optimiser's parameters stay what they are.
        refresh: When gradients are computed anew; `Exact()` by default.

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
    return SpectralEnergy(priors, net, Exact() if refresh is None else refresh)


@dataclass(frozen=True)
class _Scored:
    """One matrix (or vector) and the prior it is scored under."""

    parameter: str
    path: str
    matrix: Matrix | None
    prior: Prior
    latents: list[dict[str, Latent]]

    @cached_property
    def flat(self) -> Flat:
        return self.prior.flat()

    @property
    def name(self) -> str:
        return self.parameter if self.matrix is None else self.matrix.name

    @property
    def iterates(self) -> bool:
        """Whether its largest singular value is found by iteration, which starts from a block."""
        needs = self.prior.needs
        top_alone = Need.TOP in needs and Need.FULL not in needs
        return top_alone and self.matrix is not None and self.matrix.rank > SMALL

    def needs(self, strengths: list[float]) -> Need:
        """What the terms of positive strength need of the matrix."""
        needs = Need.ENTRIES
        for term, strength in zip(self.flat.terms, strengths, strict=True):
            if strength:
                needs |= term.statistic.needs
        return needs

    def view(self, tensor: Tensor) -> Tensor:
        """The parameter as its matrix; a vector as one row."""
        return tensor.reshape(1, -1) if self.matrix is None else self.matrix.view(tensor)


class SpectralEnergy(nn.Module):
    """The energy that `bind` returns.

    Its parameters are the hyperparameters that have hyperpriors, in unconstrained coordinates;
    its state also holds where the iterations for largest singular values start, and which matrices
    have been scored in training. `latent_laws` are
    those hyperparameters with their hyperpriors, by name.

    Args:
        priors: The priors.
        net: The network.
        refresh: When gradients are computed anew.

    Raises:
        PriorError: As `bind`.
    """

    started: Tensor

    def __init__(self, priors: Priors, net: nn.Module, refresh: Refresh) -> None:
        super().__init__()
        if not isinstance(priors, Priors):
            raise PriorError(f"{priors!r} is no Priors; write htr.Priors(...) around it")
        if not isinstance(refresh, Refresh):
            raise PriorError(f"refresh={refresh!r} must be a refresh policy, such as Exact()")
        self.priors = priors
        self.refresh = refresh
        self._net = (net,)  # in a tuple: not a submodule
        self._scored = [
            scored
            for a in priors.resolve(net)
            if a.prior is not None
            for scored in _scored(a.parameter, a.prior)
        ]
        self.latent_laws = {
            latent.name: latent
            for scored in self._scored
            for term in scored.latents
            for latent in term.values()
        }
        self._values = nn.ParameterDict(
            {_key(name): nn.Parameter(latent.start()) for name, latent in self.latent_laws.items()}
        )
        self.register_buffer("started", torch.zeros(len(self._scored), dtype=torch.bool))
        for i, scored in enumerate(self._scored):
            if scored.iterates:
                assert scored.matrix is not None
                self.register_buffer(f"block_{i}", start_block(scored.matrix.shape, seed=i))

    @property
    def net(self) -> nn.Module:
        """The network whose weights are scored."""
        return self._net[0]

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

    @torch.compiler.disable
    def forward(self, epoch: int | None = None) -> Tensor:
        """The energy at the network's present weights.

        Args:
            epoch: Counted from 0; needed where a prior is scheduled.

        Returns:
            0-d, differentiable once with respect to weights and hyperparameters. Zero without
            gradient where no prior acts. Frozen parameters are constants and are left out.

        Raises:
            PriorError: A schedule and no epoch.
            SpectrumError: A matrix that is not finite, or that a law cannot score.
        """
        return self.total(self.terms(epoch))

    def terms(self, epoch: int | None = None) -> dict[str, Tensor]:
        """The energy's summands: one for each parameter and one for each hyperparameter.

        Args:
            epoch: As in `forward`.
        """
        root = unwrap(self.net)
        tensors = {s.parameter: root.get_parameter(s.path) for s in self._scored}
        return self.terms_at(tensors, self.latents(), epoch)

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of terms, on the device of the first."""
        values = list(terms.values())
        if not values:
            first = next(unwrap(self.net).parameters(), torch.zeros(()))
            return torch.zeros((), device=first.device, dtype=working(first.detach()).dtype)
        return torch.stack([v.to(values[0]) for v in values]).sum()

    def terms_at(
        self,
        tensors: Mapping[str, Tensor],
        latents: Mapping[str, Tensor],
        epoch: int | None = None,
    ) -> dict[str, Tensor]:
        """The energy's summands at given weights and hyperparameters.

        Args:
            tensors: A tensor for each scored parameter by name.
            latents: The unconstrained coordinate of each hyperparameter by name.
            epoch: As in `forward`.
        """
        strength = self.priors.strength * factor_at(self.priors.schedules, epoch)
        terms: dict[str, Tensor] = {}
        penalty = 0.0
        for i, scored in enumerate(self._scored):
            if self._is_constant(scored):
                continue
            tensor = tensors[scored.parameter]
            with torch.autocast(tensor.device.type, enabled=False):
                result = self._score(
                    i, scored, working(scored.view(tensor)), latents, strength, epoch
                )
            if result is not None:
                value, column = result
                penalty += column
                terms[scored.parameter] = terms.get(scored.parameter, 0.0) + value
        if self.priors.threshold is not None and penalty < self.priors.threshold:
            terms = {}
        for name, latent in self.latent_laws.items():
            terms[name] = latent.energy(latents[name])
        return terms

    def _is_constant(self, scored: _Scored) -> bool:
        """A frozen parameter without hyperparameters adds a constant, and is not computed."""
        frozen = not unwrap(self.net).get_parameter(scored.path).requires_grad
        return frozen and not any(scored.latents)

    def _score(
        self,
        i: int,
        scored: _Scored,
        W: Tensor,
        latents: Mapping[str, Tensor],
        strength: float,
        epoch: int | None,
    ) -> tuple[Tensor, float] | None:
        """A matrix's energy with its gradient, and its penalty before strength.

        `None` where the strength is 0.
        """
        strengths = [
            strength * t.strength * factor_at(t.schedules, epoch) for t in scored.flat.terms
        ]
        if not any(strengths):
            return None
        names = list(dict.fromkeys(x.name for t in scored.latents for x in t.values()))
        inputs = [W, *(latents[n] for n in names)]
        wanted = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
        with torch.set_grad_enabled(wanted):
            leaves = [x.detach().requires_grad_(wanted) for x in inputs]
            values = {
                n: self.latent_laws[n].value(u).to(W)
                for n, u in zip(names, leaves[1:], strict=True)
            }
            needs = scored.needs(strengths)
            view = MatrixView(
                leaves[0],
                scored.name,
                needs,
                self._block(i, scored),
                started=bool(self.started[i]),
            )
            energy, column = _energy(scored, view, strengths, values)
        if scored.iterates and view.block is not None:
            with torch.inference_mode(False):  # state outlives the caller's mode
                setattr(self, f"block_{i}", view.block.clone())
        if wanted:
            self.started[i] = True
        if not energy.requires_grad:
            return energy.detach().to(W), column
        gradients = torch.autograd.grad(energy, leaves, materialize_grads=True)
        return held(energy.detach().to(W), list(gradients), inputs), column

    def _block(self, i: int, scored: _Scored) -> Tensor | None:
        return getattr(self, f"block_{i}") if scored.iterates else None


def _energy(
    scored: _Scored, view: MatrixView, strengths: list[float], values: Mapping[str, Tensor]
) -> tuple[Tensor, float]:
    """The energy of one matrix at given strengths, gates applied, and its penalty at strength 1."""
    terms: list[Tensor] = []
    columns: list[float] = []
    for term, strength, latents in zip(scored.flat.terms, strengths, scored.latents, strict=True):
        given = {argument: values[latent.name] for argument, latent in latents.items()}
        if strength == 0:
            terms.append(view.W.new_zeros(()))
            columns.append(0.0)
            continue
        column = term.statistic.energy(view, given)
        columns.append(column.item())
        if term.statistic.law.conjugate is None:
            terms.append(strength * column)
        else:
            terms.append(term.statistic.energy(view, given, strength))
    open_ = [True] * len(terms)
    for threshold, members in scored.flat.gates:
        if sum(columns[j] for j in members) < threshold:
            for j in members:
                open_[j] = False
    total = torch.stack([t.to(terms[0]) for t in terms]) @ torch.tensor(
        open_, dtype=terms[0].dtype, device=terms[0].device
    )
    return total, sum(columns)


def _scored(parameter: Parameter, prior: Prior) -> list[_Scored]:
    return [
        _Scored(
            parameter.name,
            parameter.path,
            matrix,
            prior,
            latents_of(prior, parameter.name if matrix is None else matrix.name),
        )
        for matrix in parameter.matrices or (None,)
    ]


def _key(name: str) -> str:
    """A name as a module may have it: without dots, and unlike any attribute."""
    return "u:" + name.replace(".", "/")
