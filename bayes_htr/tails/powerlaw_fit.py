"""`fit_powerlaw`: the power law in the upper tail of a spectrum, with what is uncertain about it.

>>> fit = htr.fit_powerlaw(htr.spectrum(W), bootstrap=1000)
>>> fit.alpha, fit.searched_interval, fit.p_value
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from bayes_htr.errors import SpectrumError
from bayes_htr.tails.bootstrap import (
    Replicates,
    Source,
    at_starts,
    bootstrap_known,
    bootstrap_searched,
    chosen_starts,
    fit_known,
    second_round,
)
from bayes_htr.tails.intervals import (
    GammaPosterior,
    GridPosterior,
    Prior,
    RatePosterior,
    check_prior,
    interval,
)
from bayes_htr.tails.result import PowerlawFit
from bayes_htr.tails.rules import KS, ROUNDING, Array, Correction, Rule
from bayes_htr.tails.search import Index, search_xmin
from bayes_htr.tails.truncated import fisher_information
from bayes_htr.tails.values import read_values


def fit_powerlaw(
    lam: Any,
    *,
    xmin: float | None = None,
    xmax: float | Literal["largest"] | None = None,
    ks: KS = "lower",
    min_tail: int = 2,
    correction: Correction = "none",
    prior: Prior = "jeffreys",
    level: float = 0.95,
    bootstrap: int = 0,
    seed: int = 0,
) -> PowerlawFit:
    """Fit a power law, density proportional to `x^-alpha` from xmin on, to the largest values.

    Without `xmin` it is searched as Clauset, Shalizi and Newman do: the value whose tail is closest
    to its own power law in Kolmogorov-Smirnov distance. By default alpha, xmin, D and sigma are
    WeightWatcher's from 20 values on (of values above its threshold of 1e-5; below 20 values it
    has another rule: `min_tail=8, correction="n-1"`), and powerlaw's with `min_tail=3`.

    Args:
        lam: `(K,)` values in any order: an array, a list or a tensor. Zeros are left out; values
            that are zero but for rounding, as those of a matrix without full rank, are not
            (`bayes_htr.analyze` knows the matrix, and leaves them out).
        xmin: Where the tail begins, if known.
        xmax: A hard upper end of the law; larger values are left out. `"largest"` fits it: the
            largest value.
        ks: What D measures: deviations from the `"lower"` end of each step of the empirical
            distribution function, as powerlaw and WeightWatcher do, or `"two-sided"`, the usual
            statistic, never smaller.
        min_tail: The fewest values that a searched tail may hold.
        correction: For a finite tail of n values, `alpha - 1` times `(n-1)/n` (`"n-1"`: unbiased
            where xmin is known; the `finite` option of Clauset's programs) or `(n-2)/n` (`"n-2"`:
            unbiased where xmin is one of the values). D is that of the corrected law. The
            intervals are posteriors, and do not change.
        prior: Of `alpha - 1`: `"jeffreys"`, or shape and rate `(a, b)` of a Gamma law; with an
            upper end, of a shape above 0.
        level: Probability of the intervals.
        bootstrap: Replicates of the semi-parametric bootstrap; 0 for none. It gives `p_value` and,
            where xmin was searched, `searched_interval`; as many are then drawn again, in a second
            round. A thousand give a p-value to about 0.01.
        seed: Of the replicates.

    Raises:
        SpectrumError: Values that no tail can be fitted to.
        ValueError: An option outside its range.

    References:
        Clauset, Shalizi & Newman (2009), SIAM Review 51(4).
    """
    rule = Rule(ks, min_tail, correction)
    _check(xmin, xmax, rule, prior, level, bootstrap)
    values = read_values(lam, xmax)
    logs = np.log(values.used)
    end = None if xmax is None else float(logs[-1] if xmax == "largest" else math.log(xmax))
    source, D = _searched(logs, rule, end) if xmin is None else _known(values.used, xmin, rule, end)
    source = replace(source, free_xmax=xmax == "largest")
    start, rate = int(source.start[0]), float(source.rate[0])
    found = PowerlawFit(
        alpha=1 + rate,
        xmin=float(values.used[start]) if xmin is None else float(xmin),
        D=D,
        sigma=1 / math.sqrt((len(logs) - start) * _information(source)),
        n=len(logs),
        n_tail=len(logs) - start,
        xmax=_end(values.used, xmax),
        level=level,
        interval=interval(_posterior(source, prior), np.ones(1), level),
        searched=xmin is None,
        zeros=values.zeros,
        above=values.above,
        rule=rule,
        values=values.used,
        bootstrap=bootstrap,
    )
    if not bootstrap:
        return found
    return _with_bootstrap(found, source, prior, np.random.default_rng(seed))


def _with_bootstrap(
    found: PowerlawFit, source: Source, prior: Prior, random: np.random.Generator
) -> PowerlawFit:
    """A fit with its p-values and, where xmin was searched, the interval over xmin."""
    rule, D = found.rule, found.D
    if not found.searched:
        p_value = bootstrap_known(source, rule, found.bootstrap, random).p_value(D)
        return replace(found, p_value=p_value, clauset_p_value=p_value)
    first = bootstrap_searched(source, rule, found.bootstrap, random)
    second = second_round(source, rule, first, random)
    starts, shares = _frequencies(source, rule, first, second)
    posterior = _posterior(at_starts(source, rule, starts), prior)
    xmins = found.values[starts]
    return replace(
        found,
        p_value=(first + second).p_value(D),
        clauset_p_value=first.p_value(D),
        searched_interval=interval(posterior, shares, found.level),
        xmin_frequencies=dict(zip(xmins.tolist(), shares.tolist(), strict=True)),
    )


def _searched(logs: Array, rule: Rule, end: float | None) -> tuple[Source, float]:
    if len(logs) < rule.min_tail:
        raise SpectrumError(
            f"there are {len(logs)} positive values and min_tail={rule.min_tail}; lower it"
        )
    tails = search_xmin(logs[None], rule, None if end is None else np.array([end]))
    if not math.isfinite(tails.D[0]):
        raise SpectrumError(
            f"none of the tails of at least min_tail={rule.min_tail} of the {len(logs)} values "
            "holds a value between its ends; lower it, or give xmin"
        )
    log_xmin = logs[tails.start]
    span = None if end is None else end - log_xmin
    return Source(logs, tails.start, log_xmin, tails.rate, span), float(tails.D[0])


def _known(values: Array, xmin: float, rule: Rule, end: float | None) -> tuple[Source, float]:
    logs = np.log(values)
    start = int(np.searchsorted(values, xmin))
    log_xmin = math.log(xmin)
    if start < len(values):  # rounding must not put a value of the tail below its threshold
        at_xmin = values[start] == xmin
        log_xmin = float(logs[start] if at_xmin else min(log_xmin, logs[start]))
    t = logs[start:] - log_xmin
    top = math.inf if end is None else end - log_xmin - ROUNDING
    if len(t) < rule.min_tail or not np.any((t > ROUNDING) & (t < top)):
        raise SpectrumError(
            f"{len(t)} of {len(logs)} values are at least xmin={xmin:.6g}, and a tail needs "
            f"{rule.min_tail}, of which one lies above it and below its upper end; the largest is "
            f"{values[-1]:.6g}: take a lower xmin"
        )
    span = None if end is None else np.array([end - log_xmin])
    rate, D = fit_known(t[None], rule, None if span is None else span[:, None])
    return Source(logs, np.array([start]), np.array([log_xmin]), rate, span), float(D[0])


def _information(source: Source) -> float:
    """Fisher's, of one value of the tail about alpha."""
    if source.span is None:
        return float(source.rate[0] ** -2)
    return float(fisher_information(source.rate, source.span)[0])


def _posterior(source: Source, prior: Prior) -> RatePosterior:
    """Of each tail of the sample."""
    logs = source.log_values[: source.inside]  # a largest value that sets the end says nothing
    first = np.searchsorted(logs, source.log_xmin, side="left")
    n_tail = (len(logs) - first).astype(float)
    excess = np.cumsum(logs[::-1])[::-1][first] - n_tail * source.log_xmin
    if source.span is None:
        return GammaPosterior.of(excess, n_tail, prior)
    return GridPosterior.of(excess, n_tail, source.span, prior)


def _frequencies(
    source: Source, rule: Rule, first: Replicates, second: Replicates
) -> tuple[Index, Array]:
    """Where tails begin in both rounds, and the shares."""
    rounds = [chosen_starts(source, rule, one) for one in (first, second)]
    starts, counts = np.unique(np.concatenate(rounds), return_counts=True)
    return starts, counts / counts.sum()


def _end(values: Array, xmax: float | Literal["largest"] | None) -> float | None:
    if xmax is None:
        return None
    return float(values[-1] if xmax == "largest" else xmax)


def _check(
    xmin: float | None,
    xmax: float | Literal["largest"] | None,
    rule: Rule,
    prior: Prior,
    level: float,
    bootstrap: int,
) -> None:
    check_prior(prior)
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    if bootstrap < 0:
        raise ValueError(f"bootstrap={bootstrap} must be 0, for none, or a number of replicates")
    if xmin is not None and not 0 < xmin < math.inf:
        raise ValueError(f"xmin={xmin} must be positive; leave it out to search it")
    if isinstance(xmax, str):
        if xmax != "largest":
            raise ValueError(f"xmax={xmax!r} must be a number, 'largest' or None")
    elif xmax is not None and not (xmin or 0) < xmax < math.inf:
        raise ValueError(f"xmax={xmax} must be above xmin={xmin}; leave it out for no upper end")
    if xmax is not None and prior != "jeffreys" and not prior[0] > 0:
        raise ValueError(
            f"prior={prior!r} has no posterior under an upper end, where the data allow "
            "alpha - 1 = 0; give a shape above 0, or 'jeffreys'"
        )
    if xmax is not None and rule.correction != "none":
        raise ValueError(
            f"correction={rule.correction!r} is of the law without an upper end; leave it out, or "
            f"xmax={xmax}"
        )
