"""Draws of the spectra of a network's matrices, and what they say about tails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bayes_htr._printing import Printable
from bayes_htr._terminal import plural
from bayes_htr.errors import PriorError, SpectrumError
from bayes_htr.posterior.checks import SpectrumCheck, check_spectrum
from bayes_htr.posterior.laws import DeclaredPriors, law_of, prior_lambda_max
from bayes_htr.posterior.plots import (
    PlottedSpectrum,
    plot_alpha,
    plot_lambda_max,
    plot_spectrum,
)
from bayes_htr.posterior.summary import Interval, SpectraSummary, SummaryRow, interval_of
from bayes_htr.priors import Prior
from bayes_htr.spectra import hill, spectrum, tail_count
from bayes_htr.spectra.layout import Layouts
from bayes_htr.spectra.matrices import weights_of
from bayes_htr.tails import SpectrumTail, fit_tail
from bayes_htr.tails.intervals import GammaPosterior, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

_ALPHA_DRAWS = 4000


class PosteriorSpectra(Printable, Mapping[str, Tensor]):
    """Draws of the spectrum of every matrix: `spectra["fc1.weight"]` is `(S, K)`, descending.

    Args:
        draws: The eigenvalues of each matrix by name, `(S, K)` in any order within a row.
        laws: The laws that priors state for the matrices.
        hyperparameters: Draws `(S,)` by name; each belongs to the same draw of the spectra.
        members: The number of the member of a mixture that each draw comes from, `(S,)`; by
            default all draws come from member 0.

    Attributes:
        laws: The laws that priors state for the matrices; empty if none were given.
        hyperparameters: The draws of hyperparameters; empty if none were given.
        members: The number of the member that each draw comes from, `(S,)`.
    """

    def __init__(
        self,
        draws: Mapping[str, Tensor],
        *,
        laws: DeclaredPriors | None = None,
        hyperparameters: Mapping[str, Tensor] | None = None,
        members: Tensor | None = None,
    ) -> None:
        self.laws = laws or DeclaredPriors()
        self.hyperparameters = dict(hyperparameters or {})
        self._tails: dict[str, SpectrumTail] = {}
        self._draws = {
            name: lam.detach().cpu().sort(dim=1, descending=True).values
            for name, lam in draws.items()
        }
        if members is None:
            count = len(next(iter(self._draws.values()), ()))
            members = torch.zeros(count, dtype=torch.int64)
        self.members = members

    @classmethod
    def pooled(cls, parts: Sequence[PosteriorSpectra]) -> PosteriorSpectra:
        """Return the draws of the members of a mixture, those of one member after those of another.

        Args:
            parts: The spectra of each member, of the same matrices under the same priors.
        """
        first = parts[0]
        names = first.hyperparameters
        return cls(
            {name: torch.cat([part[name] for part in parts]) for name in first},
            laws=first.laws,
            hyperparameters={n: torch.cat([p.hyperparameters[n] for p in parts]) for n in names},
            members=torch.cat([torch.full_like(p.members, i) for i, p in enumerate(parts)]),
        )

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._draws[name]
        except KeyError:
            raise KeyError(f"no matrix {name!r}; there are {', '.join(self._draws)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._draws)

    def __repr__(self) -> str:
        return f"PosteriorSpectra({len(self.members)} draws of {', '.join(self) or 'no matrix'})"

    def parts(self, width: int) -> Sequence[Table | str]:
        """Return the number of draws, and the table of `summary`."""
        count = plural(len(self.members), "draw")
        return [f"{count} of each spectrum", *self.summary().parts(width)]

    def __len__(self) -> int:
        return len(self._draws)

    def alpha(
        self,
        name: str,
        level: float = 0.95,
        *,
        fraction: float | None = None,
        seed: int = 0,
    ) -> Interval:
        """Return the exponent of the density of the tail, with its credible interval.

        Consider a spectrum whose tail consists of its n largest eigenvalues, and a power law that
        starts at the smallest of them, xmin. Under Jeffreys' prior the posterior of the tail index
        `alpha - 1` is `Gamma(n, S)` with `S = sum_{i<=n} ln(lambda_i / xmin)`. The posterior of
        alpha is the mixture of these distributions over the draws of the spectrum.

        By default n is found as in `htr.analyze`, by the search for xmin of Clauset, Shalizi and
        Newman (see `tail`), so that for a single spectrum the mean is the `alpha` of its report.
        The interval takes n as known. Hill's estimate of each draw is a different quantity: `hill`.

        Args:
            name: The matrix.
            level: The probability of the equal-tailed interval.
            fraction: If given, the tail is this part of the spectrum instead, and it starts at the
                next eigenvalue: `n = max(1, floor(fraction K))`, `xmin = lambda_{n+1}`.
            seed: The seed of the draws that are returned.

        Raises:
            SpectrumError: The spectrum has no exponent, because there are too few eigenvalues,
                because the largest are tied, or because there is no tail. With `fraction` a tail
                of your own choice is used instead.
            ValueError: `level` or `fraction` is out of range.
        """
        if not 0 < level < 1:
            raise ValueError(f"level={level} must lie between 0 and 1")
        posterior, given = self._tail_index(name, fraction)
        count = len(posterior.rate)
        means = posterior.shape / posterior.rate
        variances = posterior.shape / posterior.rate**2
        low, high = interval(posterior, np.full(count, 1 / count), level)
        return Interval(
            mean=1 + float(np.mean(means)),
            sd=float(np.sqrt(np.mean(variances + means**2) - np.mean(means) ** 2)),
            low=low,
            high=high,
            draws=_alpha_draws(posterior, -(-_ALPHA_DRAWS // count), np.random.default_rng(seed)),
            given=given,
        )

    def tail(self, name: str) -> SpectrumTail:
        """Return the power law of a matrix's typical spectrum.

        The result also says whether the exponent may be read. The typical spectrum has at each rank
        the geometric mean over the draws. For a point mass it is the spectrum itself.
        """
        if name not in self._tails:
            zero = self.lambda_max(name) == 0
            if bool(zero.any()) and not bool(zero.all()):
                problem = f"no tail: {int(zero.sum())} of {len(zero)} draws are zero"
                self._tails[name] = SpectrumTail(None, problem)
            else:
                self._tails[name] = fit_tail(self.typical(name))
        return self._tails[name]

    def typical(self, name: str) -> np.ndarray:
        """Return the geometric mean over the draws at each rank: `(K,)`, descending."""
        lam = self[name].double().numpy()
        if len(lam) == 1:
            return lam[0]
        with np.errstate(divide="ignore"):  # an eigenvalue that is zero in one draw is zero here
            return np.exp(np.log(lam).mean(axis=0))

    def hill(self, name: str, *, fraction: float = 0.5, exponent: str = "density") -> Tensor:
        """Return Hill's estimate of each draw: `(S,)`. See `htr.hill`."""
        lam = self[name].double()
        return hill(lam, fraction, exponent=exponent, name=name)  # type: ignore[arg-type]

    def lambda_max(self, name: str) -> Tensor:
        """Return the largest eigenvalue of each draw: `(S,)`."""
        return self[name][:, 0]

    def stable_rank(self, name: str) -> Tensor:
        """Return the stable rank `sum lambda / lambda_1` of each draw: `(S,)`.

        It is NaN for a zero matrix.
        """
        lam = self[name]
        return lam.sum(1) / lam[:, 0]

    def summary(self, level: float = 0.95) -> SpectraSummary:
        """Return alpha, the largest eigenvalue and the stable rank of each matrix.

        Each of them has an interval.
        """
        return SpectraSummary(tuple(self.row(name, level) for name in self), level)

    def row(self, name: str, level: float = 0.95) -> SummaryRow:
        """Return the summary of one matrix, with intervals of the probability `level`."""
        tail = self.tail(name)
        alpha, problem, doubt = None, tail.problem, ""
        if not problem:
            try:
                alpha, doubt = self.alpha(name, level), tail.doubt
            except SpectrumError:
                problem = "no tail in some of the draws"
        return SummaryRow(
            matrix=name,
            K=self[name].shape[1],
            n_tail=None if alpha is None or tail.fit is None else tail.fit.n_tail,
            alpha=alpha,
            problem=problem,
            doubt=doubt,
            lambda_max=interval_of(self.lambda_max(name), level),
            stable_rank=interval_of(self.stable_rank(name), level),
            few=tail.few,
        )

    def check(
        self, name: str, prior: Prior | None = None, *, level: float = 0.95, seed: int = 0
    ) -> SpectrumCheck:
        """Check whether a spectrum looks like a draw from a law; see `Posterior.check`."""
        K = self[name].shape[1]
        law = self.laws.law(name) if prior is None else law_of(prior, name, (K, K))
        return check_spectrum(law, self[name], self.hyperparameters, level=level, seed=seed)

    def plot(
        self, name: str, ax: Axes | None = None, *, path: str | PathLike[str] | None = None
    ) -> Axes:
        """Plot the spectrum of a matrix, its tail and its law: `plots.plot_spectrum`."""
        return plot_spectrum(plotted_spectrum(self, name), ax, path=path)

    def plot_alpha(
        self,
        ax: Axes | None = None,
        *,
        level: float = 0.95,
        path: str | PathLike[str] | None = None,
    ) -> Axes:
        """Plot alpha of every matrix with its interval: `plots.plot_alpha`."""
        return plot_alpha(self.summary(level), ax, path=path)

    def plot_lambda_max(
        self, name: str, ax: Axes | None = None, *, path: str | PathLike[str] | None = None
    ) -> Axes:
        """Plot the prior and the posterior of a largest eigenvalue: `plots.plot_lambda_max`.

        The prior is the one that is stated, before any strength, with hyperparameters drawn from
        their hyperpriors.

        Raises:
            PriorError: The matrix has no prior that can be simulated.
            ImportError: matplotlib is not installed.
        """
        posterior = self.lambda_max(name).double().numpy()
        prior = prior_lambda_max(self.laws.prior(name)).numpy()
        return plot_lambda_max(name, prior, posterior, ax, path=path)

    def to_arviz(self, *, repeats: int = 1, fraction: float | None = None, seed: int = 0) -> Any:
        """Return the draws for ArviZ, where each member of a mixture is a chain.

        ArviZ is installed by `pip install "bayes-htr[arviz]"`.

        For each matrix, here called `w`, the group `posterior` has `w:eigenvalues`, with a
        dimension `w:rank` that counts from 1, `w:lambda_max`, `w:log_lambda_max`, `w:stable_rank`
        and `w:alpha`, which is one draw of the exponent for each draw of the spectrum. A matrix
        without a tail has no `w:alpha`. The hyperparameters have their own names.

        Args:
            repeats: How often each draw is repeated, with a new draw of alpha each time. This is
                useful for a point mass, whose single spectrum still leaves alpha uncertain.
            fraction: The tail, as in `alpha`.
            seed: The seed of the draws of alpha.

        Returns:
            An `xarray.DataTree` with ArviZ 1, an `arviz.InferenceData` with ArviZ 0.

        Raises:
            ImportError: ArviZ is not installed.
            ValueError: `repeats` is less than 1.
        """
        try:
            import arviz as az
        except ImportError as error:
            raise ImportError('to_arviz needs ArviZ: pip install "bayes-htr[arviz]"') from error
        if repeats < 1:
            raise ValueError(f"repeats={repeats} must be at least 1")
        generator = np.random.default_rng(seed)
        values: dict[str, np.ndarray] = {}
        for name in self:
            lam = np.repeat(self[name].double().numpy(), repeats, axis=0)
            values[f"{name}:eigenvalues"] = lam
            values[f"{name}:lambda_max"] = lam[:, 0]
            values[f"{name}:log_lambda_max"] = np.log(lam[:, 0])
            values[f"{name}:stable_rank"] = lam.sum(1) / lam[:, 0]
            try:
                posterior, _ = self._tail_index(name, fraction)
            except SpectrumError:  # there is no tail
                continue
            values[f"{name}:alpha"] = _alpha_draws(posterior, repeats, generator)
        for name, draws in self.hyperparameters.items():
            values[name] = np.repeat(draws.double().numpy(), repeats)
        chains = len(self.members.unique())
        posterior_group = {n: v.reshape(chains, -1, *v.shape[1:]) for n, v in values.items()}
        labels: dict[str, Any] = {
            "dims": {f"{name}:eigenvalues": [f"{name}:rank"] for name in self},
            "coords": {f"{name}:rank": np.arange(1, self[name].shape[1] + 1) for name in self},
        }
        if az.__version__.startswith("0."):
            return az.from_dict(posterior=posterior_group, **labels)
        return az.from_dict({"posterior": posterior_group}, **labels)

    def _tail_index(self, name: str, fraction: float | None) -> tuple[GammaPosterior, str]:
        """Return the posterior of the tail index given each draw, and the name of the tail.

        The name says in words which tail is taken as known.

        Raises:
            SpectrumError: The same errors as in `alpha`.
        """
        lam = self[name].double().numpy()
        K = lam.shape[1]
        if fraction is not None:
            n = tail_count(K, fraction)
            excess = n / self.hill(name, fraction=fraction, exponent="tail").numpy()
            tail = f"the upper {100 * fraction:g} %"
        else:
            n = self.tail(name).readable(name).n_tail
            with np.errstate(divide="ignore", invalid="ignore"):
                excess = np.log(lam[:, :n] / lam[:, n - 1 : n]).sum(axis=1)
            tail = "xmin searched"
            if not np.all(np.isfinite(excess) & (excess > 0)):
                raise SpectrumError(
                    f"{name} has no exponent: in a draw the {n} largest eigenvalues are all equal, "
                    "or some of them zero; name another tail by fraction="
                )
        posterior = GammaPosterior.of(excess, np.full(len(lam), float(n)), "jeffreys")
        return posterior, f"the {n} largest of {K} eigenvalues ({tail})"


def network_spectra(net: nn.Module, layouts: Layouts = ()) -> dict[str, Tensor]:
    """Return the spectrum of every matrix of a network by name, on the CPU: `(K,)` each.

    Of the product of an adapter's factors, the eigenvalues that are always zero are left out.

    Args:
        net: The network.
        layouts: The declared axes that form matrices, as in `Priors.matrices`.
    """
    with torch.no_grad():
        return {
            matrix.name: spectrum(matrix.view(p.tensor))[: matrix.rank].cpu()
            for p in weights_of(net, layouts)
            for matrix in p.matrices
        }


def plotted_spectrum(spectra: PosteriorSpectra, name: str, label: str = "") -> PlottedSpectrum:
    """Return what `plots.plot_spectrum` needs to know about a matrix.

    Args:
        spectra: The draws.
        name: The matrix.
        label: The name of the spectrum in the legend.
    """
    label_and_density = label_and_interval = None
    with contextlib.suppress(PriorError):  # the prior may state no law
        law = spectra.laws.law(name)
        values = law.hyperparameters(spectra[name], spectra.hyperparameters)
        if law.of_largest:
            label_and_interval = law.label, *law.interval(values, 0.95)
        else:
            label_and_density = law.label, lambda x: law.density(torch.as_tensor(x), values).numpy()
    return PlottedSpectrum(
        draws=spectra[name].double().numpy(),
        typical=spectra.typical(name),
        row=spectra.row(name),
        label=label,
        law=label_and_density,
        largest=label_and_interval,
    )


def _alpha_draws(
    posterior: GammaPosterior, repeats: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw alpha from the distribution of each spectrum, `repeats` times.

    The draws from one spectrum stand together.
    """
    size = (repeats, len(posterior.rate))
    tail_index = generator.standard_gamma(posterior.shape, size=size) / posterior.rate
    return 1 + tail_index.T.reshape(-1)
