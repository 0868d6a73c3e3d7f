"""One matrix of a spectral guide: its frames and what is held of it between refreshes.

The weights move at every step, the singular vectors are computed anew only now and then. In between
the frames are those of the last refresh, and the divergence is linear in the weights, with value
and gradient of the last refresh: the gradient is `2 U diag(sqrt(lambda) slopes) V'`, that of the
eigenvalues alone. Of the spreads it is a cheaper function, looked at anew when they have moved, and
between looks linear in their logarithms.
"""

from __future__ import annotations

from typing import Any

import scipy
import torch
from torch import Tensor, nn

from bayes_htr.errors import SpectrumError
from bayes_htr.inference.guides.gaussian import noise_like
from bayes_htr.inference.guides.spectrum_law import Given, SpectrumLaw
from bayes_htr.spectra import working, working_dtype
from bayes_htr.spectra.gram import Eigen, eigen, pull_back
from bayes_htr.spectra.matrices import check_finite


class HeldSpectrum(nn.Module):
    """A matrix under a spectral prior.

    Args:
        law: The variational law of its spectrum.
        like: A tensor of the dtype and device of the weights.
        spread: Where the standard deviations of the logarithms of singular values start.

    Attributes:
        log_spread: `(free,)`, learnt: their logarithms, in the order of `frames`.
        frames: `(K, free)`: singular vectors of the smaller side, at the last refresh. A column
            keeps its place when eigenvalues change their order.
        eigenvalues: `(K,)` float64 at the last refresh, first those of `frames`.
    """

    frames: Tensor
    eigenvalues: Tensor
    reference: Tensor
    reference_log_spread: Tensor
    slope: Tensor
    spread_slope: Tensor
    constant: Tensor

    def __init__(self, law: SpectrumLaw, like: Tensor, spread: float) -> None:
        super().__init__()
        self.law = law
        K, d = law.prior.smaller, law.free
        kept = torch.zeros((), dtype=working_dtype(like.dtype), device=like.device)
        exact = kept.double()
        self.log_spread = nn.Parameter(exact.new_full((d,), spread).log())
        self.register_buffer("frames", kept.new_zeros(K, d))
        self.register_buffer("eigenvalues", exact.new_zeros(K))
        self.register_buffer("reference", kept.new_zeros(law.prior.shape))
        self.register_buffer("reference_log_spread", exact.new_zeros(d))
        self.register_buffer("slope", kept.new_zeros(law.prior.shape))
        self.register_buffer("spread_slope", exact.new_zeros(d))
        self.register_buffer("constant", exact.new_zeros(()))
        self._vectors: Tensor | None = None
        self._present: tuple[Tensor, Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # What belongs to the weights as they are is computed anew by a copy.
        return {**self.__dict__, "_vectors": None, "_present": None}

    @property
    def is_tall(self) -> bool:
        """Whether frames belong to the columns of the matrix; else to its rows."""
        m, n = self.law.prior.shape
        return m >= n

    @property
    def spread(self) -> Tensor:
        """`(free,)` standard deviations of the logarithms of the singular values."""
        return self.log_spread.exp()

    def noise(
        self, generator: torch.Generator | None = None, examples: int | None = None
    ) -> Tensor:
        """`(free,)` or `(examples, free)` standard normal.

        From Torch's global generator if none is given.
        """
        like = self.log_spread if self.law.needs_medians else self.frames
        shape = (self.law.free,) if examples is None else (examples, self.law.free)
        return noise_like(like, generator, *shape)

    def factored(self, W: Tensor, noise: Tensor, frames: Tensor | None = None) -> Tensor:
        """`W` with the singular values of a draw: `b W + W V (g - b) V'`, two thin products.

        Args:
            W: `(m, n)`.
            noise: `(free,)` standard normal.
            frames: `(K, free)`; those that are held by default.

        Returns:
            `(m, n)`, differentiable with respect to `W` and the spreads, frames held.
        """
        V = self.frames if frames is None else frames
        tall = W.to(V.dtype) if self.is_tall else W.to(V.dtype).mT
        Y = tall @ V
        # |W v|^2 has the value-only gradient of an eigenvalue.
        medians = Y.square().sum(0).double() if self.law.needs_medians else None
        factors, base = self.factors(medians, noise)
        rest = base * tall if self.law.has_ratios else tall
        found = rest + (Y * (factors - base)) @ V.mT
        return (found if self.is_tall else found.mT).to(W.dtype)

    def drawn_eigenvalues(self, W: Tensor, noise: Tensor) -> Tensor:
        """The eigenvalues of `factored`, `(K,)` float64, without its matrix.

        Args:
            W: `(m, n)`.
            noise: `(free,)` standard normal.
        """
        eigenvalues, free = self.present(W)[1], self.law.free
        medians = eigenvalues[:free] if self.law.needs_medians else None
        factors, base = self.factors(medians, noise)
        found = eigenvalues * base.double().square()
        found[:free] = eigenvalues[:free] * factors.double().square()
        return found

    def factors(self, medians: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """By what singular values are multiplied, and those that are points.

        Args:
            medians: `(free,)` eigenvalues; not needed unless `law.needs_medians`.
            noise: `(..., free)` standard normal.

        Returns:
            `(..., free)` and `(..., 1)`.
        """
        found = self.law.factors(medians, self.spread.to(noise), noise).to(self.frames)
        return found, found[..., :1] if self.law.has_ratios else torch.ones_like(found[..., :1])

    def divergence(self, W: Tensor, given: Given | None = None) -> Tensor:
        """`E_q[log q - log p]` of the spectrum, 0-d float64.

        Args:
            W: `(m, n)`.
            given: Hyperparameters with gradient, at which spreads are scored as they are; by
                default those of the last look.
        """
        moved = torch.dot(self.slope.flatten(), W.to(self.slope.dtype).flatten()).double()
        if given is None:
            step = self.log_spread - self.reference_log_spread
            return self.constant + moved + torch.dot(self.spread_slope, step)
        value = self.law.divergence(self.eigenvalues, self.spread, given)
        return value + moved - torch.dot(self.slope.flatten(), self.reference.flatten()).double()

    def drifts(self, W: Tensor, tol: float) -> Tensor:
        """0-d bool: `|W - W_ref|_F > tol |W_ref|_F`."""
        moved = torch.linalg.vector_norm(W.to(self.reference.dtype) - self.reference)
        return moved > tol * torch.linalg.vector_norm(self.reference)

    def spreads_moved(self) -> Tensor:
        """0-d: by how much the logarithm of a spread has moved since the last look, at most."""
        return (self.log_spread - self.reference_log_spread).abs().max()

    @torch.no_grad()
    def decompose(self, W: Tensor) -> None:
        """Take the frames and eigenvalues of `W`; `look` and `hold` are to follow.

        Raises:
            SpectrumError: Entries that are not finite, or a zero singular value.
        """
        W = working(W)
        found = self._decomposed(W)
        self._vectors = found.vectors.to(W)
        self.frames.copy_(self._vectors[:, : self.law.free])
        self.eigenvalues.copy_(found.values)
        self.reference.copy_(W)
        self._present = None

    @torch.no_grad()
    def look(self) -> None:
        """Take the spreads; `hold` is to follow."""
        self.reference_log_spread.copy_(self.log_spread)

    def hold(self, given: Given) -> None:
        """Hold value and gradient of the divergence at what `decompose` and `look` took."""
        with torch.enable_grad():
            eigenvalues = self.eigenvalues.clone().requires_grad_()
            log_spread = self.reference_log_spread.clone().requires_grad_()
            value = self.law.divergence(eigenvalues, log_spread.exp(), given)
            slopes, spread_slope = torch.autograd.grad(value, (eigenvalues, log_spread))
        if not bool(torch.isfinite(torch.cat([slopes, spread_slope])).all()):
            spread = log_spread.exp()
            raise SpectrumError(
                f"{self.law.prior.name}: the divergence from {self.law.prior.spectral!r} is not "
                f"finite at eigenvalues from {eigenvalues.min().item():.3g} to "
                f"{eigenvalues.max().item():.3g} and spreads from {spread.min().item():.3g} to "
                f"{spread.max().item():.3g}; lower the learning rate, or take Lomax"
            )
        if self._vectors is not None:  # decomposed since
            slope = pull_back(self.reference, self._vectors, slopes.to(self.reference))
            self.slope.copy_(slope)
            self._vectors = None
        self.spread_slope.copy_(spread_slope)
        self.constant.copy_(value.detach() - (self.slope * self.reference).sum())

    @torch.no_grad()
    def present(self, W: Tensor) -> tuple[Tensor, Tensor]:
        """Frames `(K, free)` and eigenvalues `(K,)` of `W` as it is; what is held stays.

        Raises:
            SpectrumError: As `decompose`.
        """
        if torch.equal(W.to(self.reference.dtype), self.reference):
            return self.frames, self.eigenvalues
        if self._present is None or not torch.equal(W, self._present[0]):
            found = self._decomposed(working(W))
            frames = found.vectors[:, : self.law.free].to(self.frames)
            self._present = W.detach().clone(), frames, found.values
        return self._present[1:]

    def _decomposed(self, W: Tensor) -> Eigen:
        """Eigenvalues and vectors, of which the free ones keep their places."""
        name, K = self.law.prior.name, self.law.prior.smaller
        check_finite(W, name)
        found = eigen(W, count=K, digits=True)
        rank = int((found.values > found.floor * found.values[0]).sum())
        if rank < K:
            raise SpectrumError(
                f"{name} has rank {rank} of {K} (smallest singular value "
                f"{found.values[-1].sqrt().item():.3g}), and the spectral guide is a law of the "
                "logarithms of all its singular values; start from weights of full rank, or "
                "leave it out by patterns"
            )
        if not bool(self.frames.any()):  # the first time
            return Eigen(found.values.double(), found.vectors, found.floor)
        order = torch.arange(K, device=W.device)
        order[: self.law.free] = self._places(found.vectors[:, : self.law.free])
        return Eigen(found.values[order].double(), found.vectors[:, order], found.floor)

    def _places(self, vectors: Tensor) -> Tensor:
        """Which vector takes each place: those that overlap most, but for the largest."""
        first = 1 if self.law.has_ratios else 0
        places = torch.arange(self.law.free)
        old, new = self.frames[:, first:].to(vectors), vectors[:, first:]
        _, columns = scipy.optimize.linear_sum_assignment(-(old.mT @ new).square().cpu().numpy())
        places[first:] = torch.as_tensor(columns) + first
        return places
