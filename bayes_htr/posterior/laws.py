"""The law that a prior states for the spectrum of each matrix, before any strength.

A prior states a law for a spectrum if it has a single factor, `ESD`, `SingularValues` or
`MaxEigenvalue`, whose law is a distribution. The hyperparameters of the law are numbers or
posterior draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bayes_htr._torch import isolated_randomness
from bayes_htr.errors import PriorError
from bayes_htr.priors import Hyperparameter, MatrixPrior, Prior, Priors, ResolvedTerm
from bayes_htr.priors.heavy_tailed_laws import TailIndexed
from bayes_htr.priors.parameter_prior import hyperparameters_by_name
from bayes_htr.spectra import top_pair

_FLOAT64 = torch.zeros((), dtype=torch.float64)
_TINY = torch.finfo(torch.float64).tiny
_GRID = 2000
_MATRICES = 200
_SPECTRA = 4000


@dataclass(frozen=True)
class StatisticDistribution:
    """The law of a statistic of one matrix's spectrum.

    Attributes:
        name: The matrix's name.
        term: The statistic with its law.
    """

    name: str
    term: ResolvedTerm

    @property
    def label(self) -> str:
        """The law as an expression."""
        return repr(self.term.statistic)

    @property
    def of_largest(self) -> bool:
        """Whether the law is that of the largest eigenvalue alone."""
        return self.term.statistic.of_largest

    def scored(self, eigenvalues: Tensor) -> Tensor:
        """Return the values that have the law, ascending, for eigenvalues `(S, K)`.

        These are all eigenvalues, all singular values, or the largest eigenvalue.
        """
        return self.term.statistic.of_eigenvalues(eigenvalues.sort(1).values)

    def eigenvalues(self, x: Tensor) -> Tensor:
        """Return the eigenvalues for values of the statistic."""
        return self.term.statistic.to_eigenvalues(x)

    def hyperparameters(
        self, eigenvalues: Tensor, draws: Mapping[str, Tensor], seed: int = 0
    ) -> dict[str, Tensor]:
        """Return the hyperparameters of the law by name, `(S,)` each.

        There is one value for each draw of the spectrum. If MAP integrated out a tail index, it is
        drawn from its posterior given the spectrum, `Gamma(a + k, b + sum r(x))`.

        Args:
            eigenvalues: `(S, K)`.
            draws: Draws `(S,)` by name.
            seed: Seed of the draws of a tail index that was integrated out.

        Raises:
            PriorError: A hyperparameter has no draws and was not integrated out.
        """
        values = {}
        for argument, hyperparameter in self.term.hyperparameters.items():
            name = hyperparameter.name
            if name in draws:
                values[name] = draws[name].double()
            elif argument == "tail_index" and self.term.statistic.law.conjugate is not None:
                values[name] = self._tail_index(eigenvalues, seed)
            else:
                raise PriorError(
                    f"{self.name}: no value for the hyperparameter {name}; take the spectra from a "
                    "posterior, or give the law numbers"
                )
        return values

    def distribution(self, hyperparameters: Mapping[str, Tensor]) -> Any:
        """Return the law in float64.

        Its batch shape is `()`, or `(S, 1)` if it has hyperparameters.
        """
        return self.term.law({k: v.unsqueeze(-1) for k, v in hyperparameters.items()}, _FLOAT64)

    def density(self, eigenvalues: Tensor, hyperparameters: Mapping[str, Tensor]) -> Tensor:
        """Return the density of a randomly chosen eigenvalue, averaged over hyperparameters.

        The law has to be one of all eigenvalues: that of the largest alone is no density of these.

        Args:
            eigenvalues: `(B,)` positive values.
            hyperparameters: `(S,)` by name.
        """
        law, x = self.distribution(hyperparameters), eigenvalues.double()
        statistic = self.term.statistic
        slope = statistic.log_derivative(x).exp()
        return _density(law, statistic.of_eigenvalues(x)) * slope

    def interval(self, hyperparameters: Mapping[str, Tensor], level: float) -> tuple[float, float]:
        """Return the equal-tailed interval of an eigenvalue under the law.

        The law is averaged over the hyperparameters. Under `MaxEigenvalue` it is the interval of
        the largest eigenvalue.

        Args:
            hyperparameters: `(S,)` by name.
            level: The probability of the interval.
        """
        p = (torch.arange(_GRID, dtype=torch.float64) + 0.5) / _GRID
        values = self.eigenvalues(quantiles(self.distribution(hyperparameters), p)).reshape(-1)
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        ordered = values.sort().values
        low, high = ordered[(ends * (len(ordered) - 1)).round().long()].tolist()
        return low, high

    def _tail_index(self, eigenvalues: Tensor, seed: int) -> Tensor:
        law = self.term.statistic.law
        assert isinstance(law, TailIndexed)
        assert law.conjugate is not None
        x = law.on_support(self.scored(eigenvalues.double()), law.numbers)
        shape, rate = law.conjugate.concentration_and_rate()
        rates = rate + law.log_ratio(x, law.numbers).sum(1)
        generator = torch.Generator().manual_seed(seed)
        concentrations = torch.full_like(rates, shape + x.shape[1])
        return torch._standard_gamma(concentrations, generator=generator).clamp_min(_TINY) / rates


class DeclaredPriors:
    """The priors of a network's matrices, as laws of their spectra where they state one.

    Args:
        matrices: The prior of each matrix by name; `None` if it is flat.
    """

    def __init__(self, matrices: Mapping[str, MatrixPrior | None] | None = None) -> None:
        self._matrices = dict(matrices or {})

    @classmethod
    def of(cls, priors: Priors, net: nn.Module) -> DeclaredPriors:
        """Return the priors of a network's matrices."""
        matrices: dict[str, MatrixPrior | None] = {}
        for parameter in priors.resolve(net):
            matrices |= dict.fromkeys(m.name for m in parameter.parameter.matrices)
            matrices |= {m.name: m for m in parameter.matrices if not m.is_vector}
        return cls(matrices)

    def prior(self, name: str) -> MatrixPrior:
        """Return the density that the prior of a matrix states, whatever its strength.

        Raises:
            PriorError: The prior states no density; the message names the matrices whose priors do.
        """
        try:
            return self._density(name)
        except PriorError as error:
            having = ", ".join(self._having(self._density)) or "none"
            raise PriorError(f"{error}. Matrices with a distribution: {having}") from error

    def law(self, name: str) -> StatisticDistribution:
        """Return the law of the spectrum of a matrix.

        Raises:
            PriorError: The prior states no law; the message names the matrices whose priors do.
        """
        try:
            return self._law(name)
        except PriorError as error:
            having = ", ".join(self.having_law) or "none"
            raise PriorError(
                f"{error}. Matrices whose prior states a law: {having}; for another, name the law, "
                "as in prior=htr.ESD(htr.Lomax(2.0))"
            ) from error

    @property
    def having_law(self) -> list[str]:
        """The matrices whose prior states a law for the spectrum."""
        return self._having(self._law)

    def _density(self, name: str) -> MatrixPrior:
        if name not in self._matrices:
            raise PriorError(f"{name}: no prior is known")
        prior = self._matrices[name]
        if prior is None or not any(term.strength > 0 for term in prior.terms):
            raise PriorError(f"{name} has no prior")
        return prior.unscaled_density()

    def _law(self, name: str) -> StatisticDistribution:
        return spectrum_law(self._density(name))

    def _having(self, state: Callable[[str], object]) -> list[str]:
        names = []
        for name in self._matrices:
            with suppress(PriorError):
                state(name)
                names.append(name)
        return names


def law_of(prior: Prior, name: str, shape: tuple[int, int]) -> StatisticDistribution:
    """Return the law that a single prior states for the spectrum of a matrix.

    Raises:
        PriorError: The prior does not state a law.
    """
    try:
        return spectrum_law(MatrixPrior.of(prior, name, shape).unscaled_density())
    except PriorError as error:
        raise PriorError(f"{error}; take ESD(Lomax(2.0))") from error


def spectrum_law(density: MatrixPrior) -> StatisticDistribution:
    """Return the law of the spectrum under a density.

    Raises:
        PriorError: The density is a product, or a law of entries.
    """
    if len(density.terms) != 1 or not density.spectral:
        raise PriorError(f"{density.name}: {density.stated!r} states no law for the spectrum alone")
    return StatisticDistribution(density.name, density.spectral[0])


def hyperparameters_of(priors: Priors, net: nn.Module) -> dict[str, Hyperparameter]:
    """Return all hyperparameters with hyperpriors by name; a Gamma tail index is one of them."""
    return hyperparameters_by_name(priors.resolve(net))


def prior_lambda_max(prior: MatrixPrior, seed: int = 0) -> Tensor:
    """Draw the largest eigenvalue under a prior, including its hyperparameters.

    There are 4000 draws, or 200 if whole matrices have to be drawn. The global random state does
    not change.

    Raises:
        PriorError: The prior is a product, which cannot be simulated.
    """
    n = _SPECTRA if prior.spectral else _MATRICES
    with isolated_randomness():
        torch.manual_seed(seed)
        values = {
            k: h.distribution(_FLOAT64).sample((n,)) for k, h in prior.hyperparameters.items()
        }
        if prior.spectral:
            return prior.sample_spectrum(n, values).amax(1)
        each = ({k: v[i : i + 1] for k, v in values.items()} for i in range(n))
        return torch.stack([top_pair(prior.sample(1, v)[0]).sigma ** 2 for v in each])


def quantiles(law: Any, p: Tensor) -> Tensor:
    """Return the quantiles of a positive law at probabilities `p`, `(k,)`: `(k,)` or `(S, k)`."""
    try:
        return law.icdf(p)
    except NotImplementedError:  # Gamma has none in Torch
        shape = torch.broadcast_shapes(law.batch_shape, p.shape)
        low, high = p.new_full(shape, -700.0), p.new_full(shape, 700.0)
        for _ in range(80):
            middle = (low + high) / 2
            below = law.cdf(middle.exp()) < p
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high.exp()


def _density(law: Any, x: Tensor) -> Tensor:
    """Return the density at `x`, `(B,)`, averaged over hyperparameters; 0 outside the support."""
    inside = law.support.check(x)
    log_prob = law.log_prob(torch.where(inside, x, _inside(law)))
    density = torch.where(inside, log_prob.exp(), 0.0)
    return density.mean(0) if density.ndim > 1 else density


def _inside(law: Any) -> Tensor:
    return quantiles(law, _FLOAT64.new_tensor([0.5]))
