"""Common laws as values, for entries, hyperparameters and classical penalties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from bayes_htr import distributions as dist
from bayes_htr.priors.law import POSITIVE, Argument, Arguments, Law, Range


@dataclass(frozen=True, repr=False)
class Normal(Law):
    """The normal law; energy `(x - loc)^2 / (2 scale^2)`.

    Args:
        loc: Mean; a number or a hyperprior.
        scale: Standard deviation, positive; a number or a hyperprior.
    """

    loc: Argument = 0.0
    scale: Argument = 1.0
    ranges: ClassVar[Mapping[str, Range]] = {"loc": Range(latent=True), "scale": POSITIVE}
    positive: ClassVar[bool] = False

    def energy(self, x: Tensor, a: Arguments) -> Tensor:
        return ((x - a["loc"]) / a["scale"]).square() / 2

    def total_energy(
        self, x: Tensor, a: Arguments, start: Tensor | None = None, strength: float = 1.0
    ) -> Tensor:
        """Return the energy as in `Law`.

        With mean 0 it takes one pass over `x`, as weight decay does.
        """
        if self.loc == 0 and not self.hyperpriors:
            return strength * (x.dot(x) / (2 * a["scale"] ** 2))
        return super().total_energy(x, a, start, strength)

    def distribution_of(self, a: Arguments) -> Any:
        return dist.Normal(a["loc"], a["scale"])


@dataclass(frozen=True, repr=False)
class Exponential(Law):
    """The exponential law; energy `rate x`.

    Args:
        rate: Positive; a number or a hyperprior.
    """

    rate: Argument = 1.0
    ranges: ClassVar[Mapping[str, Range]] = {"rate": POSITIVE}

    def energy(self, x: Tensor, a: Arguments) -> Tensor:
        return a["rate"] * x

    def distribution_of(self, a: Arguments) -> Any:
        return dist.Exponential(a["rate"])


@dataclass(frozen=True, repr=False)
class Gamma(Law):
    """The Gamma law; energy `rate x - (concentration - 1) log x`, mean `concentration / rate`.

    Args:
        concentration: Positive; a number or a hyperprior.
        rate: Positive; a number or a hyperprior.
    """

    concentration: Argument
    rate: Argument
    ranges: ClassVar[Mapping[str, Range]] = {"concentration": POSITIVE, "rate": POSITIVE}

    @property
    def singular_at_zero(self) -> bool:  # type: ignore[override]
        return self.concentration != 1.0

    def is_proper(self, strength: float = 1.0) -> bool:
        # The density is x^(concentration - 1) at 0.
        c = self.concentration
        integrable = (c - 1.0) * strength > -1 if isinstance(c, float) else strength <= 1
        return super().is_proper(strength) and integrable

    def concentration_and_rate(self) -> tuple[float, float]:
        """Return both arguments of a hyperprior, which have to be numbers."""
        assert isinstance(self.concentration, float)
        assert isinstance(self.rate, float)
        return self.concentration, self.rate

    def energy(self, x: Tensor, a: Arguments) -> Tensor:
        if a["concentration"] == 1.0:
            return a["rate"] * x
        return a["rate"] * x - (a["concentration"] - 1.0) * x.log()

    def distribution_of(self, a: Arguments) -> Any:
        return dist.Gamma(a["concentration"], a["rate"])


@dataclass(frozen=True, repr=False)
class LogNormal(Law):
    """The law of `exp(y)` for a normal `y`; energy `log x + (log x - loc)^2 / (2 scale^2)`.

    Args:
        loc: Mean of the logarithm; a number or a hyperprior.
        scale: Standard deviation of the logarithm, positive; a number or a hyperprior.
    """

    loc: Argument = 0.0
    scale: Argument = 1.0
    ranges: ClassVar[Mapping[str, Range]] = {"loc": Range(latent=True), "scale": POSITIVE}
    singular_at_zero: ClassVar[bool] = True

    def energy(self, x: Tensor, a: Arguments) -> Tensor:
        log = x.log()
        return log + ((log - a["loc"]) / a["scale"]).square() / 2

    def distribution_of(self, a: Arguments) -> Any:
        return dist.LogNormal(a["loc"], a["scale"])


@dataclass(frozen=True, repr=False)
class HalfCauchy(Law):
    """The positive half of the Cauchy law; energy `log(1 + (x / scale)^2)`.

    Args:
        scale: Positive; a number or a hyperprior.
    """

    scale: Argument = 1.0
    ranges: ClassVar[Mapping[str, Range]] = {"scale": POSITIVE}

    def is_proper(self, strength: float = 1.0) -> bool:
        return super().is_proper(strength) and self._tail_is_finite(2.0, strength)

    def energy(self, x: Tensor, a: Arguments) -> Tensor:
        return (x / a["scale"]).square().log1p()

    def distribution_of(self, a: Arguments) -> Any:
        return dist.HalfCauchy(a["scale"])
