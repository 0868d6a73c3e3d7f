"""One matrix of a spectral guide: its singular vectors and its cached KL divergence.

The weights move at every step; the singular vectors are computed anew only now and then. In between
they are those of the last refresh, and the KL divergence is linear in the weights, with value and
gradient of the last refresh. The gradient is `2 U diag(sqrt(lambda) slopes) V'`, that of the
eigenvalues alone. In the spreads the KL divergence is a cheaper function: it is evaluated anew when
they have moved, and is linear in their logarithms in between.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bayes_htr.engine.autograd import Derivative
from bayes_htr.engine.refresh import FlagKey, has_drifted
from bayes_htr.errors import SpectrumError
from bayes_htr.inference.guides.eigenvalues import EigenvaluePosterior
from bayes_htr.inference.guides.frames import GAP_WIDTH, follow, inverse_gaps
from bayes_htr.inference.guides.gaussian import noise_like
from bayes_htr.inference.guides.hyperparameters import HyperparameterMoments
from bayes_htr.spectra import Gradient, working, working_dtype
from bayes_htr.spectra.gram import Eigen, eigen, pull_back
from bayes_htr.spectra.matrices import check_finite

_MAJORITY = 0.5
"""The squared overlap above which a singular vector is taken for that of the last refresh."""

_ALL = slice(0, None, 1)

_LARGEST_STEP = 12
"""The largest `j` if every `j`-th direction has noise in a step of training. The mean and variance
of a factor can be kept if `(j - 1) mean^2 <= variance`, and `mean^2 / variance` is at most
`(5 sqrt(5) - 11) / 2`, 0.0902."""


class SpectralState(nn.Module):
    """A matrix under a spectral prior.

    Args:
        law: The posterior of its eigenvalues.
        parameter: The parameter that it is in.
        spread: The initial standard deviation of the logarithm of each singular value.
        full_gradient: Whether the gradient of draws with respect to the weights includes how the
            singular vectors turn with the weights.

    Attributes:
        is_due: Whether a refresh is due.
        log_spread: `(free,)`, learnt: the logarithms of the standard deviations, in the order of
            `frames`.
        frames: `(K, free)`: singular vectors of the smaller side, at the last refresh. A column
            keeps its place when eigenvalues change their order.
        rest: `(K, K - free)`, the other singular vectors; only with `full_gradient`.
        turning: `(K, free)`, how fast singular vectors turn (`inverse_gaps`); only with
            `full_gradient`.
        eigenvalues: `(K,)` float64 at the last refresh, first those of `frames`.
    """

    frames: Tensor
    rest: Tensor
    turning: Tensor
    eigenvalues: Tensor
    reference: Tensor
    reference_log_spread: Tensor
    slope: Tensor
    spread_slope: Tensor
    constant: Tensor

    def __init__(
        self,
        law: EigenvaluePosterior,
        parameter: nn.Parameter,
        spread: float,
        *,
        full_gradient: bool = False,
    ) -> None:
        super().__init__()
        self.law, self.full_gradient = law, full_gradient
        self.is_due = False
        self._parameter = (parameter,)  # in a tuple: the guide has registered it
        K, d = law.prior.rank, law.free
        dtype, device = working_dtype(parameter.dtype), parameter.device
        like = torch.zeros((), dtype=dtype, device=device)
        exact = like.double()
        self.log_spread = nn.Parameter(exact.new_full((d,), spread).log())
        # Column by column, so that products with every j-th column need no copy.
        self.register_buffer("frames", like.new_zeros(d, K).mT)
        self.register_buffer("eigenvalues", exact.new_zeros(K))
        self.register_buffer("reference", like.new_zeros(law.prior.shape))
        self.register_buffer("reference_log_spread", exact.new_zeros(d))
        self.register_buffer("slope", like.new_zeros(law.prior.shape))
        self.register_buffer("spread_slope", exact.new_zeros(d))
        self.register_buffer("constant", exact.new_zeros(()))
        if full_gradient:
            self.register_buffer("rest", like.new_zeros(K, K - d))
            self.register_buffer("turning", like.new_zeros(K, d))
        self._vectors: Tensor | None = None
        self._current: tuple[Tensor, Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy computes anew what belongs to the present weights.
        return {**self.__dict__, "_vectors": None, "_current": None}

    @property
    def name(self) -> str:
        """The matrix's name."""
        return self.law.prior.name

    @property
    def matrix(self) -> Tensor:
        """The matrix now, with gradient to the parameter."""
        return self.law.prior.view(self._parameter[0])

    @property
    def key(self) -> FlagKey:
        """The key of a flag about the matrix; flags are read at once."""
        return self.name, 0

    @property
    def can_drift(self) -> bool:
        """Whether a drift can ask for a refresh, as for every matrix of a spectral guide."""
        return True

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
        self,
        generator: torch.Generator | None = None,
        examples: int | None = None,
        count: int | None = None,
    ) -> Tensor:
        """Return `(count,)` or `(examples, count)` standard normal; `count` is `free` if not given.

        The numbers are from Torch's global generator if no generator is given.
        """
        like = self.log_spread if self.law.needs_medians else self.frames
        count = self.law.free if count is None else count
        shape = (count,) if examples is None else (examples, count)
        return noise_like(like, generator, *shape)

    def every(self, about: int | None) -> int:
        """Return the `j` for which every `j`-th direction makes about this number of directions.

        It is 1 for `None` and if factors of singular values depend on their medians; otherwise it
        is at most 12, as `changes` needs.
        """
        if about is None or self.law.needs_medians:
            return 1
        return min(max(1, round(self.law.free / about)), _LARGEST_STEP)

    def derivative(self) -> Derivative:
        """Return the gradient of the KL divergence in the matrix, as of the last refresh."""
        return Derivative(self._parameter[0], self.law.prior.view, Gradient(self.slope))

    def drawn(self, noise: Tensor, frames: Tensor | None = None) -> Tensor:
        """Return the present matrix with the singular values of a draw; see `with_noise`."""
        return self.with_noise(self.matrix, noise, frames)

    def with_noise(self, W: Tensor, noise: Tensor, frames: Tensor | None = None) -> Tensor:
        """Return `W` with the singular values of a draw: `b W + W V (g - b) V'`, two thin products.

        Args:
            W: `(m, n)`.
            noise: `(free,)` standard normal.
            frames: `(K, free)` singular vectors; by default `vectors`.

        Returns:
            `(m, n)`, differentiable with respect to `W` and the spreads.
        """
        tall = W.to(self.frames.dtype)
        tall = tall if self.is_tall else tall.mT
        V = self.vectors(tall) if frames is None else frames
        Y = tall @ V
        # |W v|^2 has the value-only gradient of an eigenvalue.
        medians = Y.square().sum(0).double() if self.law.needs_medians else None
        change, base = self.changes(medians, noise)
        rest = tall if base is None else base * tall
        noisy = rest + (Y * change) @ V.mT
        return (noisy if self.is_tall else noisy.mT).to(W.dtype)

    def vectors(self, tall: Tensor) -> Tensor:
        """Return the singular vectors of the last refresh.

        Args:
            tall: `(larger, K)` the matrix, or its transpose if it is wide.

        Returns:
            `(K, free)`, with a gradient to the matrix if `full_gradient`.
        """
        if not self.full_gradient:
            return self.frames
        return follow(tall, self.frames, self.rest, self.turning)

    def sampled_eigenvalues(self, noise: Tensor) -> Tensor:
        """Return the eigenvalues of `with_noise` at the present matrix, `(K,)` float64.

        They are computed in closed form, without a decomposition.

        Args:
            noise: `(free,)` standard normal.
        """
        eigenvalues, free = self.current()[1], self.law.free
        medians = eigenvalues[:free] if self.law.needs_medians else None
        factors, base = self.factors(medians, noise)
        sampled = eigenvalues * base.double().square()
        sampled[:free] = eigenvalues[:free] * factors.double().square()
        return sampled

    def factors(self, medians: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of the singular values, and the factor of those that are points.

        Args:
            medians: `(free,)` eigenvalues; not needed unless `law.needs_medians`.
            noise: `(..., free)` standard normal.

        Returns:
            `(..., free)` and `(..., 1)`.
        """
        factors = self.law.factors(medians, self.spread.to(noise), noise).to(self.frames)
        first = factors[..., :1]
        return factors, first if self.law.has_ratios else torch.ones_like(first)

    def changes(
        self, medians: Tensor | None, noise: Tensor, part: slice = _ALL
    ) -> tuple[Tensor, Tensor | None]:
        """Return what a draw adds along each direction to the weights times `base`.

        Args:
            medians: As in `factors`.
            noise: As in `factors`, of the directions in `part`.
            part: Every `j`-th direction, with a random first one. Its changes are rescaled so that
                over both random choices each direction has the mean and the variance that it has
                with noise in all of them.

        Returns:
            The factors minus `base`, `(..., free)`, or rescaled those in `part`; and `base`,
            `(..., 1)`, or `None` if it is 1.
        """
        if not self.law.needs_medians:
            spread = self.spread.to(noise)[part]
            change = torch.expm1(spread * noise)
            if part.step > 1:
                change = _rescaled(change, spread, part.step)
            return change.to(self.frames), None
        factors, base = self.factors(medians, noise)
        return factors - base, base if self.law.has_ratios else None

    def kl(self, W: Tensor, moments: HyperparameterMoments | None = None) -> Tensor:
        """Return `E_q[log q - log p]` of the spectrum, 0-d float64.

        Args:
            W: `(m, n)`.
            moments: Hyperparameters with gradient, at which the present spreads are scored; by
                default the cached function of the spreads is used.
        """
        moved = torch.dot(self.slope.flatten(), W.to(self.slope.dtype).flatten()).double()
        if moments is None:
            step = self.log_spread - self.reference_log_spread
            return self.constant + moved + torch.dot(self.spread_slope, step)
        value = self.law.kl(self.eigenvalues, self.spread, moments)
        return value + moved - torch.dot(self.slope.flatten(), self.reference.flatten()).double()

    def drifted(self, tol: float) -> Tensor:
        """Return whether the matrix has moved by more than `tol` since the refresh: 0-d, bool."""
        W, reference = self.matrix.detach().to(self.reference.dtype), self.reference
        r = reference.flatten()
        return has_drifted(W, reference, torch.dot(r, r), tol)

    def spreads_moved(self) -> Tensor:
        """Return the largest change of the logarithm of a spread since it was cached: 0-d."""
        return (self.log_spread - self.reference_log_spread).abs().max()

    @torch.no_grad()
    def decompose(self) -> None:
        """Take the spectrum of the present matrix; `cache` has to follow.

        Raises:
            SpectrumError: An entry is not finite, or a singular value is zero.
        """
        W = working(self.matrix.detach())
        eigen_ = self._decomposed(W, rough=True)
        self._vectors = eigen_.vectors
        self.frames.copy_(self._vectors[:, : self.law.free])
        if self.full_gradient:
            self.rest.copy_(self._vectors[:, self.law.free :])
            self.turning.copy_(inverse_gaps(eigen_.values, self.law.free, GAP_WIDTH))
        self.eigenvalues.copy_(eigen_.values)
        self.reference.copy_(W)
        self._current = None
        self.is_due = False

    @torch.no_grad()
    def take_spreads(self) -> None:
        """Take the present spreads; `cache` has to follow."""
        self.reference_log_spread.copy_(self.log_spread)

    def cache(self, moments: HyperparameterMoments) -> None:
        """Cache the KL divergence and its gradient at what `decompose` and `take_spreads` took.

        Raises:
            SpectrumError: The divergence or its gradient is not finite.
        """
        with torch.enable_grad():
            eigenvalues = self.eigenvalues.clone().requires_grad_()
            log_spread = self.reference_log_spread.clone().requires_grad_()
            value = self.law.kl(eigenvalues, log_spread.exp(), moments)
            slopes, spread_slope = torch.autograd.grad(value, (eigenvalues, log_spread))
        if not bool(torch.isfinite(torch.cat([slopes, spread_slope])).all()):
            spread = log_spread.exp()
            raise SpectrumError(
                f"{self.law.prior.name}: the KL divergence from {self.law.prior.spectral!r} is not "
                f"finite at eigenvalues from {eigenvalues.min().item():.3g} to "
                f"{eigenvalues.max().item():.3g} and spreads from {spread.min().item():.3g} to "
                f"{spread.max().item():.3g}; lower the learning rate, or take Lomax"
            )
        if self._vectors is not None:  # decomposed since
            slope = pull_back(self.reference, self._vectors, slopes.to(self.reference))
            self.slope.copy_(slope)
            self._vectors = None
        self.spread_slope.copy_(spread_slope)
        moved = torch.dot(self.slope.flatten(), self.reference.flatten())
        self.constant.copy_(value.detach() - moved)

    @torch.no_grad()
    def current(self) -> tuple[Tensor, Tensor]:
        """Return singular vectors `(K, free)` and eigenvalues `(K,)` of the present matrix.

        The cache stays as it is.

        Raises:
            SpectrumError: The same errors as in `decompose`.
        """
        W = self.matrix.detach()
        if self._current is None or not torch.equal(W, self._current[0]):
            eigen_ = self._decomposed(working(W))
            frames = eigen_.vectors[:, : self.law.free]
            self._current = W.clone(), frames, eigen_.values
        return self._current[1:]

    def _decomposed(self, W: Tensor, *, rough: bool = False) -> Eigen:
        """Return eigenvalues and vectors, of which the free ones keep their places.

        Args:
            W: `(m, n)`.
            rough: As in `eigen`.
        """
        name, K = self.law.prior.name, self.law.prior.rank
        check_finite(W, name)
        values, vectors, floor = eigen(W, count=K, digits=True, rough=rough)
        rank = int((values > floor * values[0]).sum())
        if rank < K:
            raise SpectrumError(
                f"{name} has rank {rank} of {K} (smallest singular value "
                f"{values[-1].sqrt().item():.3g}), and the spectral guide is a law of the "
                "logarithms of all its singular values; start from weights of full rank, or "
                "leave it out by patterns"
            )
        vectors = vectors.to(self.frames)  # before they are permuted and multiplied
        if not bool(self.frames.any()):  # the first time
            return Eigen(values.double(), vectors, floor)
        order = torch.arange(K, device=W.device)
        order[: self.law.free] = self._places(vectors[:, : self.law.free])
        return Eigen(values[order].double(), vectors[:, order], floor)

    def _places(self, vectors: Tensor) -> Tensor:
        """Return which vector takes each place: `(free,)` columns of `vectors`.

        A vector takes the place with whose vector it has a squared overlap above 1/2. There is at
        most one such place for a vector, and one such vector for a place, because squared overlaps
        with orthonormal vectors have the sum 1 at most. The others have turned among vectors of
        close eigenvalues, and take the places that are left in the order of the eigenvalues. Under
        a law of the largest eigenvalue, the first place is that of the largest.

        Args:
            vectors: `(K, free)`, in descending order of eigenvalues.
        """
        places = torch.arange(self.law.free, device=vectors.device)
        moved = (self.frames * vectors).sum(0).square() <= _MAJORITY
        if self.law.has_ratios:
            moved[0] = False
        if not bool(moved.any()):
            return places
        free = moved.nonzero().squeeze(1)
        overlaps = (self.frames[:, moved].mT @ vectors[:, moved]).square()
        shared, columns = overlaps.max(1)
        followed = shared > _MAJORITY
        places[free[followed]] = free[columns[followed]]
        left = torch.ones_like(free, dtype=torch.bool)
        left[columns[followed]] = False
        empty = free[~followed]
        places[empty[self.eigenvalues[empty].argsort(descending=True)]] = free[left]
        return places


def _rescaled(change: Tensor, spread: Tensor, step: int) -> Tensor:
    """Return changes of directions, each of which has noise with the probability `1 / step`.

    With `x = exp(s eps) - 1` of the mean `m` and the variance `v`, a direction is given
    `a (x - m) + step m` or nothing. This has the mean `m`, and the variance `v` if
    `a^2 = step (1 - (step - 1) m^2 / v)`.

    Args:
        change: `(..., d)`, the values of `x`.
        spread: `(d,)`, the values of `s`.
        step: `1 / step` is the probability.
    """
    u = (spread.square() / 2).exp()
    mean = u - 1
    # m^2 / v = (u - 1)^2 / (u^2 (u^2 - 1))
    a = (step * (1 - (step - 1) * mean / (u.square() * (u + 1)))).sqrt()
    return torch.addcmul((step - a) * mean, a, change)
