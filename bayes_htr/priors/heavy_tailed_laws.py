"""Heavy-tailed laws as values, and the Marchenko-Pastur law of a random matrix.

Use `Lomax` for a whole spectrum, `Frechet` for a largest eigenvalue, `Powerlaw` for a tail with a
known start, and `ImproperPowerlaw` only to reproduce published penalties. `docs/theory.md` derives
each law, and `bayes_htr.distributions` has the distributions.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from bayes_htr import distributions as dist
from bayes_htr.errors import PriorError
from bayes_htr.priors.common_laws import Gamma
from bayes_htr.priors.law import POSITIVE, Argument, Arguments, Law, Range


@dataclass(frozen=True, repr=False)
class TailIndexed(Law, abstract=True):
    """A law with an exponent `alpha > 1`, also given as `tail_index = alpha - 1 > 0`."""

    alpha: Argument | None = None

    def __post_init__(self) -> None:
        tail_index = getattr(self, "tail_index", None)
        if (self.alpha is None) == (tail_index is None):
            raise PriorError(
                f"{type(self).__name__} takes either alpha or tail_index (alpha - 1), "
                f"not alpha={self.alpha!r} and tail_index={tail_index!r}"
            )
        super().__post_init__()
        if isinstance(
            tail_index := getattr(self, "tail_index", None), float
        ):  # one form for one law, so that equals are equal
            object.__setattr__(self, "alpha", 1.0 + tail_index)
            object.__setattr__(self, "tail_index", None)

    def _instead(self, name: str) -> str:
        if name != "alpha":
            return super()._instead(name)
        return "pass it as tail_index= (that is alpha - 1), so that any positive law is valid"

    @cached_property
    def conjugate(self) -> Gamma | None:
        # A scale with a hyperprior keeps the tail index a hyperparameter too: their joint
        # normaliser matters.
        tail_index = getattr(self, "tail_index", None)
        alone = len(self.hyperpriors) == 1
        return tail_index if isinstance(tail_index, Gamma) and alone else None

    def is_proper(self, strength: float = 1.0) -> bool:
        return super().is_proper(strength) and self._tail_is_finite(self.alpha, strength)

    @staticmethod
    def exponent(a: Arguments) -> Tensor | float:
        """Return the exponent `alpha`, computed from `alpha` or from `tail_index`.

        One of the two is given.
        """
        return a["alpha"] if "alpha" in a else 1.0 + a["tail_index"]

    @abstractmethod
    def log_ratio(self, x: Tensor, a: Arguments) -> Tensor:
        """Return `r(x)` with `P(X > x) = exp(-tail_index r(x))`."""

    @abstractmethod
    def log_slope(self, x: Tensor, a: Arguments) -> Tensor:
        """Return `-log r'(x)` without constants.

        With it, `-log p` is `tail_index r - log tail_index + log_slope`.
        """

    def total_energy(
        self, x: Tensor, a: Arguments, start: Tensor | None = None, strength: float = 1.0
    ) -> Tensor:
        """Return the energy as in `Law`.

        A Gamma tail index is integrated out (`marginal_energy`).
        """
        if self.conjugate is None and (start is None or not self.hyperpriors):
            return super().total_energy(x, a, start, strength)
        excess = self.log_ratio(x, a) - (0.0 if start is None else self.log_ratio(start, a))
        slopes = self.log_slope(x, a)
        if self.conjugate is not None:
            return self.marginal_energy(excess.sum(), slopes.sum(), x.numel(), strength)
        t = self.exponent(a) - 1.0
        return strength * (t * excess + slopes - torch.as_tensor(t).log()).sum()

    def marginal_energy(self, S: Tensor, slopes: Tensor, k: int, strength: float) -> Tensor:
        """Return `-log` of the integral of `p(x)^strength` over a Gamma tail index.

        Constants are left out. Given `x`, the tail index has the law `Gamma(a + s k, b + s S)`.
        Integrating it out leaves `(a + s k) log(b + s S)`. The strength tempers the law, and not
        the hyperprior.

        Args:
            S: The sum of `log_ratio` over `k` values, 0-d.
            slopes: The sum of `log_slope` over the same values, 0-d.
            k: The number of values.
            strength: The power of the law.
        """
        assert self.conjugate is not None
        shape, rate = self.conjugate.concentration_and_rate()
        return (shape + strength * k) * (rate + strength * S).log() + strength * slopes


@dataclass(frozen=True, repr=False)
class Powerlaw(TailIndexed):
    """`p(x) = (alpha - 1) / xmin (x / xmin)^-alpha` for `x >= xmin`: the Pareto law.

    Args:
        alpha: Exponent of the density, greater than 1; a number or `Hill`.
        xmin: Start of the tail, positive. Leave it out with `ESD(..., tail=)`, which sets it.
        tail_index: `alpha - 1`, instead of `alpha`; a number or a hyperprior.
    """

    xmin: float | None = None
    tail_index: Argument | None = None
    ranges: ClassVar[Mapping[str, Range]] = {
        "alpha": Range(above=1, hill=True),
        "xmin": Range(above=0),
        "tail_index": POSITIVE,
    }
    optional: ClassVar[tuple[str, ...]] = ("alpha", "xmin", "tail_index")

    def energy(self, x: Tensor, a: Arguments) -> Tensor:
        return self.exponent(a) * x.log()

    def on_support(self, x: Tensor, a: Arguments) -> Tensor:
        return x.clamp(min=float(a["xmin"])) if "xmin" in a else x

    def require_hyperprior(self) -> None:
        super().require_hyperprior()
        if self.xmin is None:
            raise PriorError(f"{self!r} as a hyperprior: give it xmin")

    def distribution_of(self, a: Arguments) -> Any:
        if "xmin" not in a:
            raise PriorError(f"{self!r} has no distribution without xmin")
        return dist.Powerlaw(self.exponent(a), a["xmin"])

    def log_ratio(self, x: Tensor, a: Arguments) -> Tensor:
        return x.log() - math.log(float(a["xmin"])) if "xmin" in a else x.log()

    def log_slope(self, x: Tensor, a: Arguments) -> Tensor:
        return x.log()


@dataclass(frozen=True, repr=False)
class ImproperPowerlaw(Law):
    """`x^-alpha` for `x > 0`: an improper power law, which is not a density.

    Args:
        alpha: Exponent, positive; a number or `Hill`.
    """

    alpha: Argument
    ranges: ClassVar[Mapping[str, Range]] = {"alpha": Range(above=0, hill=True)}
    normalised: ClassVar[bool] = False
    singular_at_zero: ClassVar[bool] = True

    def _instead(self, name: str) -> str:
        return "without a normaliser it cannot be inferred: use Powerlaw or Lomax with tail_index="

    def energy(self, x: Tensor, a: Arguments) -> Tensor:
        return a["alpha"] * x.log()

    def distribution_of(self, a: Arguments) -> Any:
        return dist.ImproperPowerlaw(a["alpha"])


@dataclass(frozen=True, repr=False)
class Lomax(TailIndexed):
    """`p(x) = (alpha - 1) / scale (1 + x / scale)^-alpha` for `x >= 0`: a soft lower end.

    This is the recommended law for a whole spectrum.

    Args:
        alpha: Exponent of the density, greater than 1; a number or `Hill`.
        scale: The value at which the tail starts, positive; a number or a hyperprior.
        tail_index: `alpha - 1`, instead of `alpha`; a number or a hyperprior.
    """

    scale: Argument = 1.0
    tail_index: Argument | None = None
    ranges: ClassVar[Mapping[str, Range]] = {
        "alpha": Range(above=1, hill=True),
        "scale": POSITIVE,
        "tail_index": POSITIVE,
    }
    optional: ClassVar[tuple[str, ...]] = ("alpha", "tail_index")

    def energy(self, x: Tensor, a: Arguments) -> Tensor:
        return self.exponent(a) * (x / a["scale"]).log1p()

    def distribution_of(self, a: Arguments) -> Any:
        return dist.Lomax(self.exponent(a), a["scale"])

    def log_ratio(self, x: Tensor, a: Arguments) -> Tensor:
        return (x / a["scale"]).log1p()

    def log_slope(self, x: Tensor, a: Arguments) -> Tensor:
        slope = (x / a["scale"]).log1p()
        # A latent scale is no constant.
        return slope + a["scale"].log() if isinstance(a["scale"], Tensor) else slope


@dataclass(frozen=True, repr=False)
class TruncatedPowerlaw(Law):
    """`x^-alpha` normalised on `[xmin, xmax]`, for any real `alpha` (log-uniform at 1).

    Args:
        alpha: Exponent; a number, `Hill` or a hyperprior.
        xmin: Lower end, positive.
        xmax: Upper end, greater than `xmin`.
    """

    alpha: Argument
    xmin: float
    xmax: float
    ranges: ClassVar[Mapping[str, Range]] = {
        "alpha": Range(hill=True, latent=True),
        "xmin": Range(above=0),
        "xmax": Range(above=0),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.xmax > self.xmin:
            raise PriorError(
                f"TruncatedPowerlaw xmax={self.xmax} must be greater than xmin={self.xmin}"
            )

    def energy(self, x: Tensor, a: Arguments) -> Tensor:
        return a["alpha"] * x.log()

    def on_support(self, x: Tensor, a: Arguments) -> Tensor:
        return x.clamp(self.xmin, self.xmax)

    def distribution_of(self, a: Arguments) -> Any:
        return dist.TruncatedPowerlaw(a["alpha"], a["xmin"], a["xmax"])


@dataclass(frozen=True, repr=False)
class Frechet(Law):
    """`p(x) = alpha / scale z^(-1-alpha) exp(-z^-alpha)`, `z = (x - loc) / scale > 0`.

    The limit law of the largest of many heavy-tailed values.

    Args:
        alpha: Shape (the tail index: the density falls off as `x^-(alpha + 1)`), positive; a
            number, `Hill` or a hyperprior.
        scale: Positive; a number or a hyperprior. The energy has its minimum at
            `loc + scale (alpha / (alpha + 1))^(1 / alpha)`, so choose the scale near the expected
            value.
        loc: Lower end of the support.
    """

    alpha: Argument
    scale: Argument = 1.0
    loc: float = 0.0
    ranges: ClassVar[Mapping[str, Range]] = {
        "alpha": Range(above=0, hill=True, latent=True),
        "scale": POSITIVE,
        "loc": Range(),
    }

    @property
    def positive(self) -> bool:  # type: ignore[override]
        return self.loc >= 0

    @property
    def singular_at_zero(self) -> bool:  # type: ignore[override]
        return self.loc >= 0

    def is_proper(self, strength: float = 1.0) -> bool:
        alpha = self.alpha + 1.0 if isinstance(self.alpha, float) else self.alpha
        return super().is_proper(strength) and self._tail_is_finite(alpha, strength)

    def energy(self, x: Tensor, a: Arguments) -> Tensor:
        log_z = ((x - a["loc"]) / a["scale"]).log()
        return (a["alpha"] + 1.0) * log_z + (-a["alpha"] * log_z).exp()

    def distribution_of(self, a: Arguments) -> Any:
        return dist.Frechet(a["alpha"], a["scale"], a["loc"])


@dataclass(frozen=True, repr=False)
class MarchenkoPastur(Law):
    """The bulk of the spectrum of a `K x M` matrix with independent entries, `K <= M`.

    The support has the ends `size variance (1 -+ sqrt(ratio))^2`. With `size=1` the eigenvalues are
    those of `WW'/M`.

    Args:
        ratio: `K / M`, in (0, 1].
        variance: Variance of the entries, positive.
        size: `M`.
    """

    ratio: float
    variance: float = 1.0
    size: float = 1.0
    ranges: ClassVar[Mapping[str, Range]] = {
        "ratio": Range(above=0),
        "variance": Range(above=0),
        "size": Range(above=0),
    }
    singular_at_zero: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ratio <= 1:
            raise PriorError(f"MarchenkoPastur ratio={self.ratio} must be at most 1 (it is K / M)")

    def is_proper(self, strength: float = 1.0) -> bool:
        # At ratio 1 the density is x^-1/2 at 0.
        return super().is_proper(strength) and (self.ratio < 1 or strength < 2)

    def energy(self, x: Tensor, a: Arguments) -> Tensor:
        unit, root = self.size * self.variance, math.sqrt(self.ratio)
        low, high = unit * (1 - root) ** 2, unit * (1 + root) ** 2
        return x.log() - 0.5 * ((x - low).log() + (high - x).log())

    def distribution_of(self, a: Arguments) -> Any:
        return dist.MarchenkoPastur(a["ratio"], a["variance"], a["size"])
