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
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Gamma as GammaLaw

from bayes_htr.engine import Drift, Every, Exact, Refresh
from bayes_htr.inference.guides.base import VariationalGuide
from bayes_htr.inference.guides.held_spectrum import HeldSpectrum
from bayes_htr.inference.guides.hyperparameters import Hyperparameters, Update
from bayes_htr.inference.guides.layout import Layout
from bayes_htr.inference.guides.spectrum_law import SpectrumLaw
from bayes_htr.models import BayesianClassifier
from bayes_htr.models.placed import PlacedParameter, latents_of_all
from bayes_htr.priors import Gamma


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
        model: The model.
        weights: Trainable parameters by name to start from; those left out are the network's.
        directions: How many leading eigenvalues of each matrix have a spread; `None` for all. The
            others are points, scored as MAP does, and a draw costs less: `2 m n directions`
            multiplications twice, for an `m x n` matrix.
        spread: Where the standard deviations of `log sigma` start.
        refresh: When frames are computed anew. `Drift` looks at the spreads too.
        epoch: At which scheduled priors are taken, for good.

    Raises:
        PriorError: A prior that is no density.
        SpectrumError: Weights that are not finite, or a matrix under a spectral prior that has not
            full rank.
        ValueError: A setting out of range, or weights that the model does not have.
    """

    kind: ClassVar[str] = "spectral"
    calls: Tensor

    def __init__(
        self,
        model: BayesianClassifier,
        weights: Mapping[str, Tensor] | None = None,
        *,
        directions: int | None = None,
        spread: float = 0.05,
        refresh: Refresh | None = None,
        epoch: int | None = None,
    ) -> None:
        super().__init__()
        _check(directions, spread)
        self.directions, self.start_spread, self.epoch = directions, float(spread), epoch
        self.policy = Drift() if refresh is None else refresh
        placed = model.placed(epoch)
        self.names = tuple(p.name for p in placed)
        self.weights = nn.ParameterList(_start(p, weights or {}) for p in placed)
        if unknown := set(weights or {}) - set(self.names):
            raise ValueError(
                f"the model has no trainable parameter {', '.join(sorted(unknown))}; it has "
                f"{', '.join(self.names)}"
            )
        self._priors = [tuple(m.prior for m in p.matrices) for p in placed]
        self._layouts = [Layout(p) if p.matrices else None for p in placed]
        self._held: dict[str, int] = {}
        self.spectra_held = nn.ModuleList()
        for priors, start in zip(self._priors, self.weights, strict=True):
            for prior in priors:
                if prior.spectral:
                    free = prior.smaller if directions is None else min(directions, prior.smaller)
                    self._held[prior.name] = len(self.spectra_held)
                    self.spectra_held.append(HeldSpectrum(SpectrumLaw(prior, free), start, spread))
        latents = latents_of_all(placed)
        self.hyperparameters = Hyperparameters(latents, _conjugate(placed))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self._count: int | None = None
        self.refresh()

    def rsample(self) -> dict[str, Tensor]:
        """One draw with gradient to what is learnt, from Torch's global generator.

        Refreshes what the policy asks for first. The gradient with respect to the weights holds
        the frames.
        """
        self._refresh_due()

        def factored(held: HeldSpectrum, W: Tensor) -> Tensor:
            noise = torch.randn(held.law.free, dtype=W.dtype, device=W.device)
            return held.factored(W, noise)

        return self._made(factored) | self.hyperparameters.sample(self._gammas())

    def divergence(self, sample: Mapping[str, Tensor]) -> Tensor:
        """`KL(guide | prior)` of spectra and hyperparameters, and `-log p` of points.

        Closed form and Gauss-Hermite sums at the eigenvalues of the last refresh, to first order
        in what the weights have moved since. From the sample: entries under `Entries`, and
        hyperparameters but Gamma tail indices.
        """
        gammas = self._gammas()
        total = self.hyperparameters.divergence(gammas)
        given = self.hyperparameters.given(sample, gammas)
        for i, name in enumerate(self.names):
            layout = self._layouts[i]
            if layout is None:
                continue
            centres, drawn = layout.split(self.weights[i]), layout.split(sample[name])
            for prior, W_0, W in zip(self._priors[i], centres, drawn, strict=True):
                if prior.spectral:
                    value = self._of(prior.name).divergence(W_0, given)
                    total = total.to(value) + value
                for term in prior.entries:
                    energy = -term.log_prob(W.flatten(), _working(sample, W))
                    total = total.to(energy.device) + energy
        return total.to(self.weights[0])

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw, with the frames of the weights as they are; what is held stays."""

        def factored(held: HeldSpectrum, W: Tensor) -> Tensor:
            noise = torch.randn(held.law.free, generator=generator, dtype=torch.float64)
            return held.factored(W, noise.to(W.device), held.present(W)[0])

        parameters = self._made(factored)
        drawn = self.hyperparameters.sample(self._gammas(present=True), generator)
        return parameters | drawn

    @torch.no_grad()
    def centre(self) -> dict[str, Tensor]:
        """Medians of the spectra in the frames of the weights, and the other weights as they are.

        Of hyperparameters the mean of a Gamma law, and the median of any other.
        """

        def factored(held: HeldSpectrum, W: Tensor) -> Tensor:
            return held.factored(W, W.new_zeros(held.law.free), held.present(W)[0])

        centre = self.hyperparameters.centre(self._gammas(present=True))
        return self._made(factored) | centre

    @torch.no_grad()
    def spectra(self) -> dict[str, LabelledSpectrum]:
        """The law of the spectrum of each matrix that has one, by name."""
        found = {}
        for name, held, W in self._matrices():
            eigenvalues = held.present(W)[1]
            spread = torch.zeros_like(eigenvalues)
            spread[: held.law.free] = 2 * held.spread
            found[name] = LabelledSpectrum(held.law.medians(eigenvalues), spread)
        return found

    @torch.no_grad()
    def refresh(self, names: tuple[str, ...] | None = None) -> None:
        """Compute frames and held gradients anew, of these matrices or all.

        Raises:
            SpectrumError: Weights that are not finite, or not of full rank.
        """
        due = [(h, W) for name, h, W in self._matrices() if names is None or name in names]
        for held, W in due:
            held.decompose(W)
        given = self.hyperparameters.held(self._gammas())
        for held, _ in due:
            held.hold(given)

    def settings(self) -> dict[str, Any]:
        """Directions, spread, refresh policy and epoch."""
        return {
            "directions": self.directions,
            "spread": self.start_spread,
            "refresh": self.policy.to_dict(),
            "epoch": self.epoch,
        }

    @classmethod
    def rebuilt(
        cls, model: BayesianClassifier, settings: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> SpectralGuide:
        """The inverse of `settings` and `state_dict`."""
        names = [p.name for p in model.placed(settings["epoch"])]
        weights = {name: state[f"weights.{i}"] for i, name in enumerate(names)}
        chosen = {**settings, "refresh": Refresh.from_dict(settings["refresh"])}
        guide = cls(model, weights, **chosen)
        guide.load_state_dict(dict(state))
        return guide

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of any module."""
        self._count = None
        return super().load_state_dict(*args, **kwargs)

    def _made(self, factored: Callable[[HeldSpectrum, Tensor], Tensor]) -> dict[str, Tensor]:
        """Parameters by name, with matrices under a spectral prior as this makes them."""
        found = {}
        for i, name in enumerate(self.names):
            layout, W = self._layouts[i], self.weights[i]
            if layout is None or not any(prior.spectral for prior in self._priors[i]):
                found[name] = W.view_as(W)
                continue
            parts = zip(self._priors[i], layout.split(W), strict=True)
            found[name] = layout.join(
                [factored(self._of(p.name), part) if p.spectral else part for p, part in parts]
            )
        return found

    def _refresh_due(self) -> None:
        if self._count is None:
            self._count = int(self.calls)
        self._count += 1
        self.calls += 1
        if isinstance(self.policy, Exact) or (
            isinstance(self.policy, Every) and self._count % self.policy.n == 0
        ):
            self.refresh()
        elif isinstance(self.policy, Drift) and self._count % self.policy.check_every == 0:
            matrices = list(self._matrices())
            if not matrices:
                return
            with torch.no_grad():
                flags = torch.stack([h.drifts(W, self.policy.tol) for _, h, W in matrices])
            due = [name for (name, _, _), f in zip(matrices, flags.tolist(), strict=True) if f]
            if due:
                self.refresh(tuple(due))

    def _gammas(self, *, present: bool = False) -> dict[str, GammaLaw]:
        """The Gamma laws of hyperparameters, at the held spectra or those of the weights as they are.

        Those that follow from the spectra are at their best, so no gradient to the spectra is due.
        """
        sums: dict[str, list[tuple[float, Tensor]]] = {
            n: [] for n in self.hyperparameters.conjugate
        }
        if sums:
            with torch.no_grad():
                for _, held, W in self._matrices():
                    eigenvalues = held.present(W)[1] if present else held.eigenvalues
                    for term in held.law.prior.spectral:
                        for latent in term.latents.values():
                            if latent.name in sums:
                                count, S = held.law.expected_log_ratio(
                                    term, eigenvalues, held.spread
                                )
                                s = term.strength
                                sums[latent.name].append((s * count, s * S))
        updates = {
            name: Update(math.fsum(k for k, _ in found), torch.stack([S for _, S in found]).sum())
            for name, found in sums.items()
        }
        return self.hyperparameters.gammas(updates)

    def _of(self, name: str) -> HeldSpectrum:
        held = self.spectra_held[self._held[name]]
        assert isinstance(held, HeldSpectrum)
        return held

    def _matrices(self) -> list[tuple[str, HeldSpectrum, Tensor]]:
        """Name, what is held, and the weights of each matrix under a spectral prior."""
        return [
            (prior.name, self._of(prior.name), W)
            for i, layout in enumerate(self._layouts)
            if layout is not None
            for prior, W in zip(self._priors[i], layout.split(self.weights[i]), strict=True)
            if prior.spectral
        ]


def _start(placed: PlacedParameter, weights: Mapping[str, Tensor]) -> nn.Parameter:
    own = placed.parameter.tensor.detach()
    given = weights.get(placed.name, own)
    if given.shape != own.shape:
        raise ValueError(f"{placed.name} has shape {tuple(own.shape)}, not {tuple(given.shape)}")
    return nn.Parameter(given.detach().to(own).clone())


def _conjugate(placed: list[PlacedParameter]) -> tuple[str, ...]:
    """Hyperparameters with a Gamma law that are only ever the tail index of laws of spectra.

    Beside another hyperparameter in the same law they are not: the update would depend on it.
    """
    uses: dict[str, list[bool]] = {}
    for p in placed:
        for m in p.matrices:
            for term in (*m.prior.spectral, *m.prior.entries):
                for argument, latent in term.latents.items():
                    alone = argument == "tail_index" and len(term.latents) == 1
                    is_spectral = term in m.prior.spectral
                    fits = alone and is_spectral and isinstance(latent.law, Gamma)
                    uses.setdefault(latent.name, []).append(fits)
    return tuple(name for name, fits in uses.items() if all(fits))


def _working(sample: Mapping[str, Tensor], like: Tensor) -> dict[str, Tensor]:
    return {name: value.to(like) for name, value in sample.items() if value.ndim == 0}


def _check(directions: int | None, spread: float) -> None:
    is_count = isinstance(directions, int) and not isinstance(directions, bool) and directions >= 1
    if directions is not None and not is_count:
        raise ValueError(f"directions={directions!r} must be None or a whole number of at least 1")
    if not 0 < spread < math.inf:
        raise ValueError(f"spread={spread!r} must be a positive number")
