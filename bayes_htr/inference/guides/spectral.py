"""The spectral guide: a posterior over the spectrum of each matrix, its frames points.

Law: `W = b W_0 + W_0 V (g - b) V'` with `V` the singular vectors of the smaller side of `W_0`: the
singular values of a draw are those of `W_0` times `g`, its frames those of `W_0`. Eigenvalues are
independent in unconstrained coordinates (`spectrum_law`), hyperparameters independent of them.
Target: the evidence given the frames: `E_q[log p(y | x, W)] - KL(q | prior)` is at most
`log p(y | x, U, V)`, for whichever frames the weights have. Everything else is a point: parameters
without a spectral prior (under `Entries` with the energy of MAP, else flat), and, where fewer
`directions` than singular values are free, the rest of the spectrum (with the energy of MAP).
Source: `docs/spectral-guide.md`.

When to use it: for the posterior of spectra and tail exponents. It says nothing of how uncertain
the singular vectors are; mean-field and low-rank guides do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Gamma as GammaLaw

from bayes_htr.engine import Drift, Every, Exact, Refresh
from bayes_htr.inference.guides.base import VariationalGuide
from bayes_htr.inference.guides.held_spectrum import HeldSpectrum
from bayes_htr.inference.guides.hyperparameters import (
    Hyperparameters,
    Update,
    conjugate_names,
)
from bayes_htr.inference.guides.spectrum_law import SpectrumLaw, log_ratio
from bayes_htr.models import BayesianClassifier
from bayes_htr.models.matrix_prior import DensityTerm, MatrixPrior
from bayes_htr.models.placed import (
    PlacedParameter,
    informing_values,
    latents_of_all,
    scored_together,
)

Factored = Callable[[HeldSpectrum, Tensor], Tensor]
Matrix = tuple[HeldSpectrum, Tensor]

_CHECK_SPREADS_EVERY = 4
_SPREADS_TOL = 0.05
_START_SCALE = 0.1


class LabelledSpectrum(NamedTuple):
    """The law of one spectrum, each eigenvalue labelled by its frame.

    Attributes:
        median: `(K,)`.
        spread: `(K,)` standard deviations in the unconstrained coordinate: of `log lambda` where
            the support of the prior has no end but 0 and there is no law of the largest. 0 for
            points.
    """

    median: Tensor
    spread: Tensor


class SpectralGuide(VariationalGuide):
    """A posterior over spectra, frames and everything else points.

    Args:
        placed: The trainable parameters with their densities, at the values to start from.
        hyperparameters: Where hyperparameters start, by name, unconstrained; may lack some. Those
            whose law follows from the spectra do not start anywhere.
        init_scale: Where the standard deviations of `log sigma` start; 0.1 if not given.
        directions: How many leading eigenvalues of each matrix have a spread; `None` for all. The
            others are points, scored as MAP does, and a draw costs less: `2 m n directions`
            multiplications twice, for an `m x n` matrix.
        refresh: When frames are computed anew.
        constants: Frozen parameters that share hyperparameters with them.

    Raises:
        PriorError: Laws whose supports this guide cannot take together.
    """

    kind: ClassVar[str] = "spectral"
    options: ClassVar[frozenset[str]] = frozenset({"init_scale", "directions", "refresh"})
    calls: Tensor
    reference_middles: Tensor

    def __init__(
        self,
        placed: Sequence[PlacedParameter],
        hyperparameters: Mapping[str, Tensor] | None = None,
        *,
        init_scale: float | None = None,
        directions: int | None = None,
        refresh: Refresh | None = None,
        constants: Sequence[PlacedParameter] = (),
    ) -> None:
        super().__init__(placed, constants)
        self._scored_together = scored_together(self.placed)
        self.init_scale, self.directions = init_scale, directions
        self.policy = Drift() if refresh is None else refresh
        self.weights = nn.ParameterList(
            nn.Parameter(p.parameter.tensor.detach().clone()) for p in placed
        )
        self.spectra_held = nn.ModuleList()
        self._places: dict[str, int] = {}
        for prior, like in self._spectral_priors():
            law = SpectrumLaw(prior, min(prior.smaller, directions or prior.smaller))
            self._places[prior.name] = len(self.spectra_held)
            self.spectra_held.append(HeldSpectrum(law, like, init_scale or _START_SCALE))
        self.hyperparameters = Hyperparameters(
            latents_of_all([*placed, *constants]),
            conjugate_names([*placed, *constants]),
            hyperparameters or {},
            self.weights[0].detach(),
            informing_values([*placed, *constants]),
        )
        if self.hyperparameters.learnt.latents:
            self.register_buffer("reference_middles", self.hyperparameters.learnt.middles())
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self._count: int | None = None

    @classmethod
    def around(
        cls,
        model: BayesianClassifier,
        placed: Sequence[PlacedParameter],
        hyperparameters: Mapping[str, Tensor],
        options: Mapping[str, Any],
        constants: Sequence[PlacedParameter] = (),
    ) -> SpectralGuide:
        """As in the base; options `init_scale`, `directions`, and `refresh` as plain data."""
        return cls(
            placed,
            hyperparameters,
            init_scale=options["init_scale"],
            directions=options["directions"],
            refresh=Refresh.from_dict(options["refresh"]),
            constants=constants,
        )

    def follow(
        self,
        placed: Sequence[PlacedParameter],
        constants: Sequence[PlacedParameter] = (),
        epoch: int = 0,
    ) -> None:
        """As in the base; a matrix whose prior is over is a point from then on."""
        before = len(list(self._spectral_priors())), self.constants.terms
        super().follow(placed, constants, epoch)
        self._scored_together = scored_together(self.placed)
        priors = {prior.name: prior for prior, _ in self._spectral_priors()}
        changed = []
        for held, W in self._matrices():
            now = priors[held.law.prior.name]
            if now != held.law.prior:
                held.law = SpectrumLaw(now, held.law.free)
                changed.append((held, W))
        after = len(list(self._spectral_priors())), self.constants.terms
        if (changed or before != after) and int(self.calls):
            self.refresh(changed)

    def rsample(self, *, again: bool = False) -> dict[str, Tensor]:
        """One draw with gradient to what is learnt, from Torch's global generator.

        Refreshes what the policy asks for first, and looks at the spreads where one has moved by
        5 % at a fourth step, or at every step under `Exact()`. The gradient with respect to the
        weights holds the frames.

        Args:
            again: Another draw of the same step: it counts no step and refreshes nothing.

        Raises:
            SpectrumError: Weights that are not finite, or a matrix that is not of full rank.
        """
        if not again:
            self.refresh_due()

        def factored(held: HeldSpectrum, W: Tensor) -> Tensor:
            return held.factored(W, held.noise())

        return self._made(factored) | self.hyperparameters.rsample(self._followed())

    def points(self) -> dict[str, Tensor]:
        """As `rsample`, but the spectra are those of the weights: `ExampleNoise` adds the rest."""
        self.refresh_due()
        points = {name: W.view_as(W) for name, W in zip(self.names, self.weights, strict=True)}
        return points | self.hyperparameters.rsample(self._followed())

    def divergence(self, sample: Mapping[str, Tensor]) -> Tensor:
        """`KL(guide | prior)` of spectra and hyperparameters, and `-log p` of points.

        Closed form and Gauss-Hermite sums at the eigenvalues of the last refresh and the spreads of
        the last look, to first order in what the weights and the logarithms of the spreads have
        moved since. From the sample: entries under `Entries`, and hyperparameters that are learnt
        but Gamma tail indices; with these, spreads are scored as they are.
        """
        return self._divergence(sample, self._matrices())

    def divergence_in_step(self, sample: Mapping[str, Tensor]) -> Tensor:
        """As in the base: without the gradient that is held, with respect to the weights."""
        return self._divergence(sample, ((held, W.detach()) for held, W in self._matrices()))

    @torch.no_grad()
    def add_known_gradient(self, scale: float) -> None:
        """As in the base: that of the last refresh."""
        for p, W in zip(self.placed, self.weights, strict=True):
            if any(m.prior.spectral for m in p.matrices):
                slopes = {m.prior.name: self.of(m.prior.name).slope for m in p.matrices}
                W.grad = torch.zeros_like(W) if W.grad is None else W.grad
                W.grad.add_(p.join(slopes), alpha=scale)

    def _divergence(self, sample: Mapping[str, Tensor], matrices: Iterable[Matrix]) -> Tensor:
        followed = self._followed()
        total = self.hyperparameters.divergence(followed).to(self.weights[0].device)
        at_sample = self.hyperparameters.given(sample, followed)
        given = at_sample if self.hyperparameters.learnt.latents else None
        total = total + self.constants.energy(at_sample).to(total)
        for held, W in matrices:
            total = total + held.divergence(W, given)
        for term, entries in self._entries(sample):
            total = total - term.log_prob(entries, sample).double()
        return total

    def _entries(self, sample: Mapping[str, Tensor]) -> Iterator[tuple[DensityTerm, Tensor]]:
        """The laws of entries, each with entries that have it."""
        scored = {i for _, places in self._scored_together for i, _ in places}
        split = {i: self.placed[i].split(sample[self.names[i]]) for i in scored}
        for term, places in self._scored_together:
            drawn = [split[i][m].flatten() for i, m in places]
            yield term, drawn[0] if len(drawn) == 1 else torch.cat(drawn)

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw, with the frames of the weights as they are; what is held stays."""

        def factored(held: HeldSpectrum, W: Tensor) -> Tensor:
            return held.factored(W, held.noise(generator), held.present(W)[0])

        drawn = self.hyperparameters.draw(self._followed(present=True), generator)
        return self._made(factored) | drawn

    @torch.no_grad()
    def spectrum_draws(self, samples: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """As in the base: in closed form, without a decomposition for each draw."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(samples):
            drawn = self.hyperparameters.draw(self._followed(present=True), generator)
            yield drawn | {
                held.law.prior.name: held.drawn_eigenvalues(W, held.noise(generator))
                for held, W in self._matrices()
            }

    @torch.no_grad()
    def centre(self) -> dict[str, Tensor]:
        """Medians of the spectra in the frames of the weights, and the other weights as they are.

        Of hyperparameters the mean of a Gamma law, and the median of any other.
        """

        def factored(held: HeldSpectrum, W: Tensor) -> Tensor:
            if not held.law.needs_medians:
                return W.clone()
            return held.factored(W, torch.zeros_like(held.spread), held.present(W)[0])

        centre = self.hyperparameters.centre(self._followed(present=True))
        return {n: W.clone() for n, W in self._made(factored).items()} | centre

    @torch.no_grad()
    def spectra(self) -> dict[str, LabelledSpectrum]:
        """The law of the spectrum of each matrix that has one, by name."""
        found = {}
        for held, W in self._matrices():
            eigenvalues = held.present(W)[1]
            spread = torch.zeros_like(eigenvalues)
            spread[: held.law.free] = 2 * held.spread
            found[held.law.prior.name] = LabelledSpectrum(held.law.medians(eigenvalues), spread)
        return found

    @torch.no_grad()
    def refresh(self, due: Sequence[Matrix] | None = None) -> None:
        """Compute frames and held gradients anew, of these matrices or all.

        Raises:
            SpectrumError: Weights that are not finite, or not of full rank.
        """
        due = list(self._matrices()) if due is None else due
        for held, W in due:
            held.decompose(W)
        if self.hyperparameters.learnt.latents and len(due) == len(self.spectra_held):
            self.reference_middles.copy_(self.hyperparameters.learnt.middles())
        self.look()

    @torch.no_grad()
    def look(self) -> None:
        """Hold the divergence at the spreads as they are."""
        matrices = list(self._matrices())
        for held, _ in matrices:
            held.look()
        given = self.hyperparameters.held(self._followed())
        for held, _ in matrices:
            held.hold(given)

    @torch.no_grad()
    def refresh_due(self) -> None:
        """Count a step, refresh what the policy asks for, and look at the spreads."""
        if self._count is None:
            self._count = int(self.calls)
        first, self._count = self._count == 0, self._count + 1
        self.calls += 1
        matrices = list(self._matrices())
        if due := matrices if first or isinstance(self.policy, Exact) else self._due(matrices):
            self.refresh(due)
        elif matrices and self._count % _CHECK_SPREADS_EVERY == 0:
            moved = torch.stack([held.spreads_moved() for held, _ in matrices])
            if not bool((moved <= _SPREADS_TOL).all()):  # NaN too
                self.look()

    def _due(self, matrices: list[Matrix]) -> list[Matrix]:
        """Those that the policy asks to refresh at this step."""
        assert self._count is not None
        if isinstance(self.policy, Every):
            return matrices if self._count % self.policy.n == 0 else []
        if not matrices or not isinstance(self.policy, Drift):
            return []
        if self._count % self.policy.check_every:
            return []
        if self.hyperparameters.learnt.latents:
            moved = self.hyperparameters.learnt.middles() - self.reference_middles
            if not bool((moved.abs() <= self.policy.tol).all()):  # NaN too
                return matrices
        flags = torch.stack([held.drifts(W, self.policy.tol) for held, W in matrices])
        return [m for m, flag in zip(matrices, flags.tolist(), strict=True) if flag]

    def settings(self) -> dict[str, Any]:
        """The parameters' names, the scale at the start, directions and refresh policy."""
        return {
            "names": list(self.names),
            "init_scale": self.init_scale,
            "directions": self.directions,
            "refresh": self.policy.to_dict(),
            "epoch": self.epoch,
        }

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of any module."""
        self._count = None
        return super().load_state_dict(*args, **kwargs)

    def _made(self, factored: Factored) -> dict[str, Tensor]:
        """Parameters by name, with matrices under a spectral prior as this makes them."""
        found = {}
        for p, W in zip(self.placed, self.weights, strict=True):
            parts = p.split(W)
            changed = {
                m.prior.name: factored(self.of(m.prior.name), parts[m.prior.name])
                for m in p.matrices
                if m.prior.spectral
            }
            found[p.name] = p.join(parts | changed) if changed else W.view_as(W)
        return found

    def _followed(self, *, present: bool = False) -> dict[str, GammaLaw]:
        """The laws of hyperparameters that follow from the spectra, held or as they are.

        They are at their best, so that no gradient to the spectra is due.
        """
        names = self.hyperparameters.conjugate
        if not names:
            return {}
        sums: dict[str, list[Update]] = {n: [] for n in names}
        with torch.no_grad():
            for held, W in self._matrices():
                eigenvalues, spread = held.eigenvalues, held.reference_log_spread.exp()
                if present:
                    eigenvalues, spread = held.present(W)[1], held.spread
                for term in held.law.prior.spectral:
                    for latent in term.latents.values():
                        if latent.name in sums:
                            count, S = held.law.expected_log_ratio(term, eigenvalues, spread)
                            sums[latent.name].append(
                                Update(term.strength * count, term.strength * S)
                            )
            for term, x in self.constants.scored():
                for latent in term.latents.values():
                    if latent.name in sums:
                        S = log_ratio(term, x, {}).sum()
                        sums[latent.name].append(Update(term.strength * len(x), term.strength * S))
        zero = Update(0.0, torch.zeros((), dtype=torch.float64, device=self.weights[0].device))
        return self.hyperparameters.followed(
            {
                name: Update(
                    math.fsum(u.concentration for u in found),
                    sum((u.rate for u in found), zero.rate),
                )
                for name, found in sums.items()
            }
        )

    def _spectral_priors(self) -> Iterator[tuple[MatrixPrior, Tensor]]:
        """The prior of each matrix that has a spectral one, and its parameter."""
        for p, W in zip(self.placed, self.weights, strict=True):
            for m in p.matrices:
                if m.prior.spectral:
                    yield m.prior, W

    def of(self, name: str) -> HeldSpectrum:
        """What is held of a matrix, by its name."""
        held = self.spectra_held[self._places[name]]
        assert isinstance(held, HeldSpectrum)
        return held

    def has_law(self, name: str) -> bool:
        """Whether a matrix has a spectral prior now, which a schedule may end."""
        return any(prior.name == name for prior, _ in self._spectral_priors())

    def _matrices(self) -> Iterator[Matrix]:
        """What is held of each matrix under a spectral prior, and its weights."""
        for p, W in zip(self.placed, self.weights, strict=True):
            parts = p.split(W)
            for m in p.matrices:
                if m.prior.spectral:
                    yield self.of(m.prior.name), parts[m.prior.name]
