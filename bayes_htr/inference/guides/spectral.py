"""The spectral guide: a posterior over the spectrum of each matrix at fixed singular vectors.

Law: `W = b W_0 + W_0 V (g - b) V'` with `V` the singular vectors of the smaller side of `W_0`: the
singular values of a draw are those of `W_0` times `g`, and its singular vectors are those of `W_0`.
Eigenvalues are independent in unconstrained coordinates (`eigenvalues.py`), and hyperparameters are
independent of them. Source: `docs/spectral-guide.md`.

Target: the evidence given the singular vectors. `E_q[log p(y | x, W)] - KL(q | prior)` is at most
`log p(y | x, U, V)`, whichever singular vectors the weights have. Everything else is a point:
parameters without a spectral prior (under `Entries` with the energy of MAP, else flat), and, where
fewer `directions` than singular values are free, the rest of the spectrum (with the energy of MAP).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Gamma as GammaLaw

from bayes_htr.engine import Drift, Exact, Refresh
from bayes_htr.engine.autograd import Derivative, add_to_gradients, itself
from bayes_htr.engine.refresh import RefreshScheduler
from bayes_htr.inference.guides.adapter_state import AdapterState, compact
from bayes_htr.inference.guides.base import VariationalGuide
from bayes_htr.inference.guides.eigenvalues import EigenvaluePosterior
from bayes_htr.inference.guides.hyperparameters import (
    SpectralHyperparameters,
    Update,
    conjugate_names,
    log_ratio,
)
from bayes_htr.inference.guides.spectral_state import SpectralState
from bayes_htr.priors import Densities, ResolvedTerm
from bayes_htr.priors.parameter_prior import (
    grouped_entries,
    hyperparameters_by_name,
    informing_values,
)
from bayes_htr.spectra import Gradient

_CHECK_SPREADS_EVERY = 4
_SPREADS_TOL = 0.05
_START_SCALE = 0.1


class LabelledSpectrum(NamedTuple):
    """The posterior of one spectrum, each eigenvalue labelled by its singular vectors.

    Attributes:
        median: `(K,)`.
        spread: `(K,)` standard deviations in the unconstrained coordinate: of `log lambda` where
            the support of the prior has no end but 0 and there is no law of the largest. 0 for
            points.
    """

    median: Tensor
    spread: Tensor


class SpectralGuide(VariationalGuide):
    """A guide with a posterior over spectra; singular vectors and all else are point estimates.

    Args:
        densities: The densities, as in the base class.
        hyperparameters: The hyperparameters, as in the base class. The posteriors of some follow
            from the spectra, and have no start.
        init_scale: The initial standard deviation of each `log sigma`; 0.1 if not given.
        directions: How many leading eigenvalues of each matrix have a spread; `None` for all. The
            others are points, scored as MAP does, and a draw costs less: `2 m n directions`
            multiplications twice, for an `m x n` matrix.
        refresh: When singular vectors are computed anew.
        full_gradient: Whether the gradient of a draw with respect to the weights includes how the
            singular vectors turn with the weights; otherwise it is that at fixed singular vectors.

    Raises:
        PriorError: The guide cannot take the supports of the laws together, or an `AdapterState`
            cannot be made.
    """

    kind: ClassVar[str] = "spectral"
    options: ClassVar[frozenset[str]] = frozenset(
        {"init_scale", "directions", "refresh", "full_gradient"}
    )
    renamed: ClassVar[Mapping[str, str]] = {"spectra_held.": "states."}
    takes_adapters: ClassVar[bool] = True
    calls: Tensor
    reference_middles: Tensor

    def __init__(
        self,
        densities: Densities,
        hyperparameters: Mapping[str, Tensor] | None = None,
        *,
        init_scale: float | None = None,
        directions: int | None = None,
        refresh: Refresh | None = None,
        full_gradient: bool = False,
    ) -> None:
        super().__init__(densities, hyperparameters, init_scale=init_scale)
        self.directions = directions
        self.full_gradient = full_gradient
        self.policy = Drift() if refresh is None else refresh
        self._scheduler = RefreshScheduler(self.policy)
        self._scheduler.flags.late = False
        self.weights = nn.ParameterList(
            nn.Parameter(p.parameter.tensor.detach().clone()) for p in densities.trainable
        )
        states: list[SpectralState] = []
        for p, W in zip(self.priors, self.weights, strict=True):
            for matrix in p.matrices:
                if matrix.spectral:
                    free = min(matrix.rank, directions or matrix.rank)
                    law = EigenvaluePosterior(matrix, free)
                    start = init_scale or _START_SCALE
                    states.append(SpectralState(law, W, start, full_gradient=full_gradient))
        factors = {p.name: (p, W) for p, W in zip(self.priors, self.weights, strict=True)}
        for p in densities.adapters:
            start = init_scale or _START_SCALE
            states.append(AdapterState(p, factors, directions, start, full_gradient=full_gradient))
        self.states = nn.ModuleList(states)
        self._by_name = {state.name: state for state in states}
        self._take_priors()
        scored = [*densities.trainable, *densities.adapters, *densities.frozen]
        self.hyperparameters = SpectralHyperparameters(
            hyperparameters_by_name(scored),
            conjugate_names(scored),
            self.start,
            self.weights[0].detach(),
            informing_values(scored),
        )
        if self.hyperparameters.are_learnt:
            self.register_buffer("reference_middles", self.hyperparameters.learnt.middles())
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self._calls_known = True

    def _take_priors(self) -> None:
        """Note which matrices have a spectral prior, and which entries are scored together."""
        spectral = [[m.name for m in p.matrices if m.spectral] for p in self.priors]
        self._of_parameter = [[self._by_name[name] for name in names] for names in spectral]
        self._active = [state for states in self._of_parameter for state in states]
        self._active += [self._by_name[p.name] for p in self.adapters]
        self._grouped_entries = grouped_entries(self.priors)

    @classmethod
    def from_weights(
        cls,
        densities: Densities,
        hyperparameters: Mapping[str, Tensor],
        options: Mapping[str, Any],
    ) -> SpectralGuide:
        """Make an untrained guide as the base class does; `refresh` is plain data."""
        refresh = Refresh.from_dict(options["refresh"])
        return super().from_weights(densities, hyperparameters, {**options, "refresh": refresh})

    def set_epoch(self, densities: Densities, epoch: int) -> None:
        """Replace the densities; a matrix whose prior has ended is a point from then on."""
        before = len(self._active), self.evidence.terms
        super().set_epoch(densities, epoch)
        self._take_priors()
        priors = {m.name: m for p in self.priors for m in p.matrices}
        priors |= {m.name: compact(m) for p in self.adapters for m in p.matrices}
        changed = []
        for state in self._active:
            now = priors[state.name]
            if now != state.law.prior:
                state.law = EigenvaluePosterior(now, state.law.free)
                changed.append(state)
        if (changed or before != (len(self._active), self.evidence.terms)) and int(self.calls):
            self.refresh(changed)

    def hyperparameter_coordinates(self) -> list[nn.Parameter]:
        """Return the parameters of those posteriors that do not follow from the spectra."""
        return list(self.hyperparameters.learnt.parameters())

    def rsample(self, *, again: bool = False) -> dict[str, Tensor]:
        """Return one draw with gradient to what is learnt, from Torch's global generator.

        Before the draw, `refresh_due` refreshes the matrices that the policy asks for. The gradient
        with respect to the weights is that at fixed singular vectors, unless `full_gradient`.

        Args:
            again: Whether this is another draw in the same step; then no step is counted, and
                nothing is refreshed.

        Raises:
            SpectrumError: The same errors as in `refresh`.
        """
        if not again:
            self.refresh_due()
        sampled = {s.name: s.drawn(s.noise()) for s in self._active}
        return self._joined(sampled) | self._sampled_hyperparameters()

    def points(self) -> dict[str, Tensor]:
        """Draw as `rsample` does, but leave spectra as they are: `ExampleNoise` draws those."""
        self.refresh_due()
        points = {name: W.view_as(W) for name, W in zip(self.names, self.weights, strict=True)}
        return points | self._sampled_hyperparameters()

    def _sampled_hyperparameters(self) -> dict[str, Tensor]:
        return self.hyperparameters.rsample(self._conditional()) if self.has_hyperparameters else {}

    @property
    def has_hyperparameters(self) -> bool:
        """Whether any prior has hyperparameters."""
        return self.hyperparameters.are_learnt or bool(self.hyperparameters.conjugate)

    def kl(self, sample: Mapping[str, Tensor]) -> Tensor:
        """Return `KL(guide | prior)` of spectra and hyperparameters, and `-log p` of points.

        The divergence of spectra is the Gauss-Hermite sum at the eigenvalues and spreads that were
        cached last, continued to first order in the changes of weights and logarithms of spreads
        since then. Entries and learnt hyperparameters are scored at the sample; if there are learnt
        hyperparameters, the present spreads are scored.
        """
        return self._kl(sample)

    def kl_in_step(self, sample: Mapping[str, Tensor]) -> Tensor:
        """Return `kl` without the terms whose gradients `add_known_gradient` adds."""
        return self._kl(sample, in_step=True)

    @torch.no_grad()
    def add_known_gradient(self, scale: float) -> None:
        """Add the gradients that were cached last."""
        known = [state.derivative() for state in self._active]
        if not self.hyperparameters.are_learnt:
            spreads = ((s.log_spread, Gradient(s.spread_slope)) for s in self._active)
            known += [Derivative(log_spread, itself, slope) for log_spread, slope in spreads]
        add_to_gradients(known, scale)

    def _kl(self, sample: Mapping[str, Tensor], *, in_step: bool = False) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=self.weights[0].device)
        moments = None
        if self.has_hyperparameters:
            conditional = self._conditional()
            total = total + self.hyperparameters.kl(conditional).to(total.device)
            at_sample = self.hyperparameters.moments(sample, conditional)
            moments = at_sample if self.hyperparameters.are_learnt else None
            total = total + self.evidence.energy(at_sample).to(total)
        for state in self._active:
            with torch.no_grad() if in_step and moments is None else contextlib.nullcontext():
                W = state.matrix.detach() if in_step else state.matrix
                total = total + state.kl(W, moments)
        for term, entries in self._entries(sample):
            total = total - term.log_prob(entries, sample).double()
        return total

    def _entries(self, sample: Mapping[str, Tensor]) -> Iterator[tuple[ResolvedTerm, Tensor]]:
        """Yield the laws of entries, each with the entries that have this law."""
        scored = {i for _, places in self._grouped_entries for i, _ in places}
        parts = {i: self.priors[i].split(sample[self.names[i]]) for i in scored}
        for term, places in self._grouped_entries:
            entries = [parts[i][name].flatten() for i, name in places]
            yield term, entries[0] if len(entries) == 1 else torch.cat(entries)

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return one draw around the singular vectors of the present weights; the cache stays."""
        draws = self.hyperparameters.draw(self._conditional(current=True), generator)
        matrices = {s.name: s.drawn(s.noise(generator), s.current()[0]) for s in self._active}
        return self._joined(matrices) | draws

    @torch.no_grad()
    def spectrum_draws(self, samples: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Draw eigenvalues in closed form, without a decomposition for each draw."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(samples):
            draws = self.hyperparameters.draw(self._conditional(current=True), generator)
            yield draws | {s.name: s.sampled_eigenvalues(s.noise(generator)) for s in self._active}

    @torch.no_grad()
    def centre(self) -> dict[str, Tensor]:
        """Return weights with the medians of the spectra, and the other weights as they are.

        Hyperparameters have the mean of a Gamma posterior, and the median of any other.
        """
        matrices = {
            s.name: s.drawn(torch.zeros_like(s.spread), s.current()[0])
            for s in self._active
            if s.law.needs_medians
        }
        centre = {name: W.clone() for name, W in self._joined(matrices).items()}
        if not self.has_hyperparameters:
            return centre
        return centre | self.hyperparameters.centre(self._conditional(current=True))

    @torch.no_grad()
    def spectra(self) -> dict[str, LabelledSpectrum]:
        """Return the posterior of the spectrum of each matrix that has one, by name."""
        spectra = {}
        for state in self._active:
            eigenvalues = state.current()[1]
            spread = torch.zeros_like(eigenvalues)
            spread[: state.law.free] = 2 * state.spread
            spectra[state.name] = LabelledSpectrum(state.law.medians(eigenvalues), spread)
        return spectra

    @torch.no_grad()
    def refresh(self, due: Sequence[SpectralState] | None = None) -> None:
        """Compute singular vectors and cached gradients anew, of these matrices or all.

        Raises:
            SpectrumError: A matrix is not finite, or not of full rank.
        """
        due = self._active if due is None else due
        for state in due:
            state.decompose()
        if self.hyperparameters.are_learnt and len(due) == len(self.states):
            self.reference_middles.copy_(self.hyperparameters.learnt.middles())
        self.cache_kl(due)

    @torch.no_grad()
    def cache_kl(self, changed: Sequence[SpectralState]) -> None:
        """Cache the KL divergence at the present spreads.

        Args:
            changed: The matrices that have changed. With hyperparameters, whose posteriors follow
                from all matrices, those of the others are cached anew too.
        """
        due = self._active if self.has_hyperparameters else changed
        for state in due:
            state.take_spreads()
        moments = self.hyperparameters.average_moments(self._conditional())
        for state in due:
            state.cache(moments)

    @torch.no_grad()
    def refresh_due(self) -> None:
        """Count a step, and refresh the matrices that the policy asks for.

        At every fourth step, the KL divergence of a matrix is also evaluated anew if one of its
        spreads has moved by 5 %.
        """
        scheduler, states = self._scheduler, self._active
        if not self._calls_known:
            scheduler.calls, self._calls_known = int(self.calls), True
        scheduler.begin()
        self.calls += 1
        all_due = scheduler.calls == 1 or isinstance(self.policy, Exact)
        if scheduler.action == "test" and self.hyperparameters.are_learnt:
            assert isinstance(self.policy, Drift)
            moved = self.hyperparameters.learnt.middles() - self.reference_middles
            all_due |= not bool((moved.abs() <= self.policy.tol).all())  # NaN too
        for state in states:
            state.is_due = all_due
        if due := scheduler.due(states, self._drifted):
            self.refresh(due)
        if states and scheduler.calls % _CHECK_SPREADS_EVERY == 0:
            spreads = torch.stack([state.spreads_moved() for state in states]).tolist()
            looked = zip(states, spreads, strict=True)
            if changed := [state for state, by in looked if not by <= _SPREADS_TOL]:  # NaN too
                self.cache_kl(changed)

    def _drifted(self, states: Sequence[SpectralState]) -> Tensor:
        assert isinstance(self.policy, Drift)
        return torch.stack([state.drifted(self.policy.tol) for state in states])

    def settings(self) -> dict[str, Any]:
        """Return the settings of the base class, and the other options."""
        return super().settings() | {
            "directions": self.directions,
            "refresh": self.policy.to_dict(),
            "full_gradient": self.full_gradient,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        self._calls_known = False
        return super().load_state_dict(state_dict, *args, **kwargs)

    def _joined(self, matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters by name, with these matrices or factors of adapters put in."""
        values = {}
        for p, W, states in zip(self.priors, self.weights, self._of_parameter, strict=True):
            changed = {s.name: matrices[s.name] for s in states if s.name in matrices}
            if not changed:
                values[p.name] = W.view_as(W)
            elif len(changed) == len(p.matrices):
                values[p.name] = p.join(changed)
            else:
                values[p.name] = p.join(p.split(W) | changed)
        for s in self._active:
            if isinstance(s, AdapterState) and s.name in matrices:
                values[s.drawn_name] = matrices[s.name]
        return values

    def _conditional(self, *, current: bool = False) -> dict[str, GammaLaw]:
        """Return the posteriors of hyperparameters that follow from the spectra.

        They are optimal given the spectra, so that no gradient has to flow through them to the
        spectra.

        Args:
            current: Whether they follow from the present weights and spreads; otherwise from
                those of the cache.
        """
        if not self.hyperparameters.conjugate:
            return {}
        sums: dict[str, list[Update]] = {name: [] for name in self.hyperparameters.conjugate}
        with torch.no_grad():
            for state in self._active:
                eigenvalues, spread = state.eigenvalues, state.reference_log_spread.exp()
                if current:
                    eigenvalues, spread = state.current()[1], state.spread
                for term, name in _informing(state.law.prior.spectral, sums):
                    count, S = state.law.expected_log_ratio(term, eigenvalues, spread)
                    sums[name].append(Update(term.strength * count, term.strength * S))
            for term, x in self.evidence.scored():
                for _, name in _informing([term], sums):
                    S = log_ratio(term, x, {}).sum()
                    sums[name].append(Update(term.strength * len(x), term.strength * S))
        zero = torch.zeros((), dtype=torch.float64, device=self.weights[0].device)
        return self.hyperparameters.conditional(
            {
                name: Update(
                    math.fsum(u.concentration for u in updates),
                    sum((u.rate for u in updates), zero),
                )
                for name, updates in sums.items()
            }
        )

    def state_of(self, name: str) -> SpectralState:
        """Return the state of a matrix, by its name."""
        return self._by_name[name]

    def has_law(self, name: str) -> bool:
        """Return whether a matrix has a spectral prior now, which a schedule may end."""
        return any(state.name == name for state in self._active)


def _informing(
    terms: Iterable[ResolvedTerm], names: Container[str]
) -> Iterator[tuple[ResolvedTerm, str]]:
    """Yield each term that informs one of these hyperparameters, with the hyperparameter's name."""
    for term in terms:
        for hyperparameter in term.hyperparameters.values():
            if hyperparameter.name in names:
                yield term, hyperparameter.name
