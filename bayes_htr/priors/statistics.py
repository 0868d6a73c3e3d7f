"""The statistics of a matrix that a law can be put on.

| statistic | what has the law |
|---|---|
| `ESD(law)` | every eigenvalue of `W'W` |
| `SingularValues(law)` | every singular value |
| `MaxEigenvalue(law)` | the largest eigenvalue |
| `Entries(law)` | every entry |
| `StableRank(law)` | `|W|_F^2 / |W|_2^2`: a factor, not a density |
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bayes_htr.errors import PriorError, SpectrumError
from bayes_htr.priors.heavy_tailed_laws import Lomax, Powerlaw, TailIndexed
from bayes_htr.priors.law import Arguments, Law
from bayes_htr.priors.prior import Flat, Prior, Term
from bayes_htr.priors.values import number
from bayes_htr.spectra import MatrixView, Need, tail_count


@dataclass(frozen=True, repr=False)
class Statistic(Prior, abstract=True):
    """A law on a statistic of a matrix."""

    law: Law

    def __post_init__(self) -> None:
        if not isinstance(self.law, Law):
            raise PriorError(
                f"{type(self).__name__} law={self.law!r} must be a law, such as Lomax(2.0)"
            )
        if isinstance(self.law, Powerlaw) and self.law.xmin is None and self._start_from is None:
            raise PriorError(f"{self!r}: the law needs xmin, the start of its tail")

    needs_matrix: ClassVar[bool] = True
    """Whether it is defined for matrices alone."""
    is_density: ClassVar[bool] = True
    """Whether a law on it is a density over some coordinate of the matrix."""
    _start_from: ClassVar[float | None] = None

    def flat(self) -> Flat:
        return Flat((Term(self),), ())

    def is_proper(self, strength: float = 1.0) -> bool:
        """Whether `p^strength` is a density up to a finite constant."""
        return self.law.is_proper(strength)

    @property
    @abstractmethod
    def own_needs(self) -> Need:
        """What the statistic itself needs of a matrix."""

    @property
    def needs(self) -> Need:
        """What the statistic and the law's plug-in estimate need of a matrix."""
        if self.law.hill is None:
            return self.own_needs
        return self.own_needs | Need(upper=self.law.hill.fraction)

    @abstractmethod
    def values(self, view: MatrixView) -> Tensor:
        """The scored values, one-dimensional, with gradient to the matrix."""

    def start(self, view: MatrixView) -> Tensor | None:
        """Where the scored tail starts, a constant; `None` for the law's own support."""
        return None

    def energy(
        self, view: MatrixView, latents: Mapping[str, Tensor], strength: float = 1.0
    ) -> Tensor:
        """The energy at a strength: `-strength log p`, without what depends on nothing here.

        Args:
            view: The matrix.
            latents: The values of the law's hyperparameters by argument name.
            strength: The power of the law.

        Returns:
            0-d, with gradient to the matrix and the latents.

        Raises:
            SpectrumError: The energy is not finite, or the law's support holds none of the values.
        """
        law, x = self.law, self.values(view)
        a = self._arguments(view, latents)
        start = self.start(view)
        x = self._supported(view, x, a)
        if law.conjugate is not None:
            assert isinstance(law, TailIndexed)
            energy = law.marginal_energy(x, a, start, strength)
        elif not latents:
            energy = strength * law.total_energy(x, a)
        elif start is None:
            try:
                energy = -strength * law.distribution_of(dict(a)).log_prob(x).sum()
            except ValueError as error:
                raise SpectrumError(f"{view.name}: {self!r} cannot be scored: {error}") from error
        else:
            assert isinstance(law, TailIndexed)
            t = law.exponent(a) - 1.0
            excess = law.log_ratio(x, a) - law.log_ratio(start, a)
            rest = law.log_slope(x, a)
            energy = strength * (t * excess + rest - torch.as_tensor(t).log()).sum()
        return self._finite(view, energy, x)

    def _finite(self, view: MatrixView, energy: Tensor, x: Tensor) -> Tensor:
        if not bool(torch.isfinite(energy)):
            raise SpectrumError(
                f"{view.name}: the energy of {self!r} is {energy.item()} "
                f"(scored values from {x.min().item():.3g} to {x.max().item():.3g}); "
                "these lie at or outside the end of the law's support; if it is no weight matrix, "
                'leave it out by patterns, as in Priors({"*.weight": ...})'
            )
        return energy

    def _arguments(self, view: MatrixView, latents: Mapping[str, Tensor]) -> Arguments:
        """The law's arguments as numbers and tensors; a conjugate tail index has none."""
        arguments: dict[str, Tensor | float] = {}
        for name, value in self.law.arguments.items():
            if isinstance(value, float):
                arguments[name] = value
            elif value is self.law.hill:
                assert self.law.hill is not None
                lam = view.eigenvalues
                if not self.law.hill.differentiable:
                    lam = lam.detach()
                arguments[name] = self.law.hill(lam, view.name)
            elif name in latents:
                arguments[name] = latents[name]
        return arguments

    def _supported(self, view: MatrixView, x: Tensor, a: Arguments) -> Tensor:
        law = self.law
        if law.positive and bool((x < 0).any()):
            raise SpectrumError(
                f"{view.name}: {law!r} is a law of positive numbers, and {int((x < 0).sum())} of "
                f"{x.numel()} values are negative (the least {x.min().item():.3g}); "
                "for entries of both signs take Normal"
            )
        inside = law.on_support(x, a)
        if x.numel() and not view.started and bool((inside != x).all()):
            raise SpectrumError(
                f"{view.name}: all {x.numel()} values, from {x.min().item():.3g} to "
                f"{x.max().item():.3g}, lie outside the support of {law!r}, so that the prior "
                "would do nothing; lower xmin (or raise xmax), or take Lomax"
            )
        return inside


@dataclass(frozen=True, repr=False)
class ESD(Statistic):
    """A law on every eigenvalue of `W'W`: the empirical spectral density.

    Args:
        law: The law.
        tail: If given, only the `k = max(1, floor(tail * K))` largest eigenvalues are scored, with
            `xmin = lambda_{k+1}` held constant; the rest is flat.
    """

    tail: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tail is not None:
            object.__setattr__(self, "tail", number(self.tail, "ESD tail", above=0, below=1))
            if isinstance(self.law, Powerlaw) and self.law.xmin is not None:
                raise PriorError(
                    f"{self!r}: tail= sets xmin to lambda_(k+1); leave xmin out of the law"
                )
            if self.law.latents and not isinstance(self.law, TailIndexed):
                raise PriorError(
                    f"{self!r}: with tail= hyperpriors go with Powerlaw and Lomax alone"
                )

    @property
    def _start_from(self) -> float | None:  # type: ignore[override]
        return self.tail

    @property
    def own_needs(self) -> Need:
        if self._is_log_det:
            return Need(log_det=True)
        if self.tail is not None:
            return Need(upper=self.tail)
        return Need(upper=1, digits=self.law.singular_at_zero)

    @property
    def _is_log_det(self) -> bool:
        """Whether the energy is one of `log det(I + W'W / scale)`: no eigenvalue is needed."""
        law = self.law
        return (
            isinstance(law, Lomax)
            and self.tail is None
            and isinstance(law.scale, float)
            and (isinstance(law.alpha, float) or law.conjugate is not None)
        )

    def energy(
        self, view: MatrixView, latents: Mapping[str, Tensor], strength: float = 1.0
    ) -> Tensor:
        if not self._is_log_det:
            return super().energy(view, latents, strength)
        assert isinstance(self.law, Lomax)
        assert isinstance(self.law.scale, float)
        S = view.log_det(self.law.scale)
        if self.law.conjugate is None:
            assert isinstance(self.law.alpha, float)
            return self._finite(view, strength * self.law.alpha * S, S)
        K = min(view.shape)
        return self._finite(view, self.law.marginal_energy_of_sums(S, S, K, strength), S)

    def is_proper(self, strength: float = 1.0) -> bool:
        return self.tail is None and super().is_proper(strength)

    def values(self, view: MatrixView) -> Tensor:
        lam = view.eigenvalues
        if self.tail is not None:
            return lam[: tail_count(len(lam), self.tail)]
        if self.law.singular_at_zero:
            view.require_full_rank(f"{self!r} is not finite at 0")
        return lam

    def start(self, view: MatrixView) -> Tensor | None:
        if self.tail is None or not isinstance(self.law, TailIndexed):
            return None
        lam = view.eigenvalues.detach()
        K = len(lam)
        k = tail_count(K, self.tail)
        start = lam[k] if k < K else lam.new_zeros(())
        zero = (K * torch.finfo(lam.dtype).eps) ** 2 * lam[0]
        if isinstance(self.law, Powerlaw) and not bool(start > zero):
            raise SpectrumError(
                f"{view.name}: the tail of {k} of {K} eigenvalues has no positive one below it to "
                f"start from; take a smaller tail (now {self.tail}) or Lomax"
            )
        return start


@dataclass(frozen=True, repr=False)
class SingularValues(Statistic):
    """A law on every singular value.

    Args:
        law: The law.
    """

    @property
    def own_needs(self) -> Need:
        return Need(singular_values=True, digits=self.law.singular_at_zero)

    def values(self, view: MatrixView) -> Tensor:
        if self.law.singular_at_zero:
            view.require_full_rank(f"{self!r} is not finite at 0")
        return view.singular_values


@dataclass(frozen=True, repr=False)
class MaxEigenvalue(Statistic):
    """A law on the largest eigenvalue of `W'W`; the others' ratios to it are uniform.

    Args:
        law: The law.
    """

    @property
    def own_needs(self) -> Need:
        return Need(top=True)

    def values(self, view: MatrixView) -> Tensor:
        return view.lambda_max.reshape(1)


@dataclass(frozen=True, repr=False)
class Entries(Statistic):
    """A law on every entry, also of a vector.

    Args:
        law: The law; one of both signs (`Normal`) for ordinary weights.
    """

    needs_matrix: ClassVar[bool] = False

    @property
    def own_needs(self) -> Need:
        return Need()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.law.hill is not None:
            raise PriorError(f"{self!r}: Hill estimates an exponent of a spectrum, not of entries")

    def values(self, view: MatrixView) -> Tensor:
        return view.entries.reshape(-1)


@dataclass(frozen=True, repr=False)
class StableRank(Statistic):
    """A factor `p(|W|_F^2 / |W|_2^2)`: a function of the stable rank, not a density over `W`.

    Args:
        law: The law.
    """

    is_density: ClassVar[bool] = False

    @property
    def own_needs(self) -> Need:
        return Need(top=True)

    def is_proper(self, strength: float = 1.0) -> bool:
        return False

    def values(self, view: MatrixView) -> Tensor:
        if not bool(view.lambda_max > 0):
            raise SpectrumError(
                f"{view.name} is zero, and has no stable rank; start from other weights, "
                "or leave it out by patterns"
            )
        return (view.squared_norm / view.lambda_max).reshape(1)
