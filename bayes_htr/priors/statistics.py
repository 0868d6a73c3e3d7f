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

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from bayes_htr.errors import PriorError, SpectrumError
from bayes_htr.priors.heavy_tailed_laws import Lomax, Powerlaw, TailIndexed
from bayes_htr.priors.prior import Statistic, how_to_leave_out
from bayes_htr.priors.values import number
from bayes_htr.spectra import MatrixView, Need, tail_count


@dataclass(frozen=True, repr=False)
class ESD(Statistic):
    """A law on every eigenvalue of `W'W`: the empirical spectral density.

    Args:
        law: The law.
        tail: If given, the law applies only to the `k = max(1, floor(tail * K))` largest
            eigenvalues, with `xmin = lambda_{k+1}` as a constant, and the rest has a flat prior.
    """

    tail: float | None = None

    @property
    def scores_part(self) -> bool:
        return self.tail is not None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tail is not None:
            object.__setattr__(self, "tail", number(self.tail, "ESD tail", above=0, below=1))
            if isinstance(self.law, Powerlaw) and self.law.xmin is not None:
                raise PriorError(
                    f"{self!r}: tail= sets xmin to lambda_(k+1); leave xmin out of the law"
                )
            if self.law.hyperpriors and not isinstance(self.law, TailIndexed):
                raise PriorError(
                    f"{self!r}: with tail= hyperpriors go with Powerlaw and Lomax alone"
                )

    @property
    def _start_from(self) -> float | None:  # type: ignore[override]
        return self.tail

    @cached_property
    def own_needs(self) -> Need:
        if self._is_log_det:
            return Need(log_det=True)
        if self.tail is not None:
            return Need(upper=self.tail)
        return Need(upper=1, digits=self.law.singular_at_zero)

    @cached_property
    def _is_log_det(self) -> bool:
        """Whether the energy is a multiple of `log det(I + W'W / scale)`, without eigenvalues."""
        law = self.law
        return (
            isinstance(law, Lomax)
            and self.tail is None
            and isinstance(law.scale, float)
            and (isinstance(law.alpha, float) or law.conjugate is not None)
        )

    def energy(
        self, view: MatrixView, hyperparameters: Mapping[str, Tensor], strength: float = 1.0
    ) -> Tensor:
        if not self._is_log_det:
            return super().energy(view, hyperparameters, strength)
        assert isinstance(self.law, Lomax)
        assert isinstance(self.law.scale, float)
        S = view.log_det(self.law.scale)
        if self.law.conjugate is None:
            assert isinstance(self.law.alpha, float)
            return strength * self.law.alpha * S
        return self.law.marginal_energy(S, S, view.rank, strength)

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

    precedence: ClassVar[int] = 1

    def of_eigenvalues(self, eigenvalues: Tensor) -> Tensor:
        return eigenvalues.sqrt()

    def to_eigenvalues(self, values: Tensor) -> Tensor:
        return values.square()

    def log_derivative(self, eigenvalues: Tensor) -> Tensor:
        return -(2 * eigenvalues.sqrt()).log()

    @cached_property
    def own_needs(self) -> Need:
        return Need(singular_values=True, digits=self.law.singular_at_zero)

    def values(self, view: MatrixView) -> Tensor:
        if self.law.singular_at_zero:
            view.require_full_rank(f"{self!r} is not finite at 0")
        return view.singular_values


@dataclass(frozen=True, repr=False)
class MaxEigenvalue(Statistic):
    """A law on the largest eigenvalue of `W'W`; the ratios of the others to it are uniform.

    Args:
        law: The law.
    """

    of_largest: ClassVar[bool] = True
    precedence: ClassVar[int] = 2

    def of_eigenvalues(self, eigenvalues: Tensor) -> Tensor:
        return eigenvalues.amax(-1, keepdim=True)

    def log_volume(self, eigenvalues: Tensor) -> Tensor:
        """Return `(K - 1)! lambda_1^-(K-1)`: the ratios of the other eigenvalues are uniform."""
        K = eigenvalues.shape[-1]
        return math.lgamma(K) - (K - 1) * eigenvalues.amax(-1).log()

    def num_values(self, shape: tuple[int, int]) -> int:
        return 1

    @cached_property
    def own_needs(self) -> Need:
        return Need(top=True)

    def values(self, view: MatrixView) -> Tensor:
        return view.lambda_max.reshape(1)


@dataclass(frozen=True, repr=False)
class Entries(Statistic):
    """A law on every entry of a matrix or vector.

    Args:
        law: The law. Use one on all real numbers, such as `Normal`, for ordinary weights.
    """

    needs_matrix: ClassVar[bool] = False
    of_spectrum: ClassVar[bool] = False

    def num_values(self, shape: tuple[int, int]) -> int:
        return math.prod(shape)

    def proper_example(self, alpha: float) -> str:
        return "Entries(Normal(0.0, 1.0))"

    @cached_property
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

    def of_eigenvalues(self, eigenvalues: Tensor) -> Tensor:
        return eigenvalues.sum(-1, keepdim=True) / eigenvalues.amax(-1, keepdim=True)

    def num_values(self, shape: tuple[int, int]) -> int:
        return 1

    def proper_example(self, alpha: float) -> str:
        return f"ESD(Lomax({alpha}))"

    @cached_property
    def own_needs(self) -> Need:
        return Need(top=True)

    def is_proper(self, strength: float = 1.0) -> bool:
        return False

    def values(self, view: MatrixView) -> Tensor:
        if not bool(view.lambda_max > 0):
            raise SpectrumError(
                f"{view.name} is zero, and has no stable rank. {how_to_leave_out(view.name)}"
            )
        return (view.squared_norm / view.lambda_max).reshape(1)
