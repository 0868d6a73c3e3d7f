"""`fit_powerlaw`: the power law in the upper tail of a sample, with its uncertainty.

>>> fit = htr.fit_powerlaw(htr.spectrum(W), bootstrap=1000)
>>> fit.alpha, fit.searched_interval, fit.p_value
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from bayes_htr._checks import number, whole_number
from bayes_htr.errors import SpectrumError
from bayes_htr.tails import discrete as counted
from bayes_htr.tails.bootstrap import (
    FittedTails,
    bootstrap_known,
    bootstrap_searched,
    chosen_starts,
    excess_and_size,
    fit_known,
    p_value,
    second_round,
    tails_at,
)
from bayes_htr.tails.intervals import (
    GammaPosterior,
    GridPosterior,
    Prior,
    RatePosterior,
    check_level,
    check_prior,
    interval,
)
from bayes_htr.tails.result import PowerlawFit
from bayes_htr.tails.search import (
    KS,
    ROUNDING,
    Array,
    Correction,
    Rule,
    fisher_information,
    search_xmin,
)

_FEWEST = 3
_LARGE = 1000  # from such an xmin on, the laws of whole and of real numbers are alike

Xmax = float | Literal["largest"] | None


def fit_powerlaw(
    lam: Any,
    *,
    xmin: float | None = None,
    xmax: Xmax = None,
    ks: KS = "lower",
    min_tail: int = 2,
    correction: Correction = "none",
    prior: Prior = "jeffreys",
    level: float = 0.95,
    bootstrap: int = 0,
    seed: int = 0,
    discrete: bool | None = None,
) -> PowerlawFit:
    """Fit a power law, density proportional to `x^-alpha` from xmin on, to the largest values.

    Without `xmin` the fit searches it as Clauset, Shalizi and Newman do: it takes the value whose
    tail has the smallest Kolmogorov-Smirnov distance from its own power law. By default alpha,
    xmin, D and sigma are WeightWatcher's for 20 or more values above its threshold of 1e-5 (for
    fewer values WeightWatcher has another rule, `min_tail=8, correction="n-1"`), and with
    `min_tail=3` they are powerlaw's.

    Args:
        lam: `(K,)` values in any order, as an array, a list or a tensor. Zeros are left out. Values
            that differ from zero by rounding alone, as a matrix without full rank has them, are
            not left out; `bayes_htr.analyze` knows the matrix, and leaves them out.
        xmin: The lower end of the tail, if it is known.
        xmax: A hard upper end of the law; larger values are left out. `"largest"` fits the upper
            end by maximum likelihood, which gives the largest value.
        ks: The deviations that D measures: those from the `"lower"` end of each step of the
            empirical distribution function, as powerlaw and WeightWatcher do, or `"two-sided"`,
            the usual statistic, which is never smaller.
        min_tail: The smallest number of values that a searched tail may hold.
        correction: A factor of `alpha - 1` for a finite tail of n values: `(n-1)/n` (`"n-1"`,
            unbiased where xmin is known; the `finite` option of Clauset's programs) or `(n-2)/n`
            (`"n-2"`, unbiased where xmin is one of the values). D is that of the corrected law.
            The intervals are posteriors, and do not change.
        prior: The prior of `alpha - 1`: `"jeffreys"`, or shape and rate `(a, b)` of a Gamma law,
            whose shape must be positive if the law has an upper end.
        level: Probability of the intervals.
        bootstrap: Number of replicates of the semi-parametric bootstrap; 0 for none. The bootstrap
            gives `p_value` and, where xmin was searched, `searched_interval`, for which a second
            round draws as many replicates again. A thousand determine a p-value to about 0.01.
        seed: Seed of the replicates.
        discrete: Whether the values are whole numbers, such as counts, with the law `P(X = x)`
            proportional to `x^-alpha` for whole numbers from xmin on. D is then the largest
            difference at any whole number, and the only other options are `xmin`, `min_tail`,
            `level`, `bootstrap` and `seed`. By default the law is that of real numbers, with a
            warning if all values are whole; `False` is the same without the warning.

    Raises:
        SpectrumError: No tail can be fitted to the values.
        ValueError: An option is outside its range.

    References:
        Clauset, Shalizi & Newman (2009), SIAM Review 51(4).
    """
    rule = Rule(ks, min_tail, correction)
    _check_options(xmin, xmax, rule, prior, level, bootstrap, seed)
    values, zeros, above = read_values(lam, xmax)
    if discrete:
        _check_whole(values, xmin, xmax, rule, prior)
        return _fit_whole(values, zeros, xmin, rule, level, bootstrap, seed)
    logs = np.log(values)
    log_xmax = None if xmax is None else float(logs[-1] if xmax == "largest" else math.log(xmax))
    if xmin is None:
        tails, D = _search(logs, rule, log_xmax)
    else:
        tails, D = _fit_at(values, xmin, rule, log_xmax)
    tails = replace(tails, free_xmax=xmax == "largest")
    start, rate = int(tails.start[0]), float(tails.rate[0])
    information = rate**-2 if tails.span is None else fisher_information(rate, tails.span)[0]
    fit = PowerlawFit(
        alpha=1 + rate,
        xmin=float(values[start] if xmin is None else xmin),
        D=D,
        sigma=1 / math.sqrt((len(logs) - start) * information),
        n=len(logs),
        n_tail=len(logs) - start,
        xmax=float(values[-1]) if xmax == "largest" else None if xmax is None else float(xmax),
        level=level,
        interval=interval(_posterior(tails, prior), np.ones(1), level),
        searched=xmin is None,
        zeros=zeros,
        above=above,
        rule=rule,
        values=values,
        bootstrap=bootstrap,
    )
    if discrete is None and fit.xmin < _LARGE and bool((values == np.floor(values)).all()):
        warnings.warn(
            f"all {fit.n} values are whole numbers, and from xmin={fit.xmin:g} on their law is not "
            "that of real numbers: pass discrete=True for counts, or discrete=False if they are "
            "not counts",
            stacklevel=2,
        )
    if not bootstrap:
        return fit
    return _with_bootstrap(fit, tails, prior, np.random.default_rng(seed))


def read_values(lam: Any, xmax: Xmax = None) -> tuple[Array, int, int]:
    """Read the values to which a tail is fitted from an array, a list or a tensor.

    Args:
        lam: `(K,)` values in any order.
        xmax: The upper end of the law.

    Returns:
        `(n,)` positive values up to xmax, ascending; the number of zeros, which a rank-deficient
        matrix has and a power law does not; and the number of values above xmax.

    Raises:
        SpectrumError: The values are not finite real numbers in one dimension, some are negative,
            fewer than three are positive, or all positive ones are equal.
    """
    if isinstance(lam, torch.Tensor):
        lam = lam.detach().cpu()
        lam = lam.double() if lam.is_floating_point() else lam
    array = np.asarray(lam)
    if array.ndim != 1:
        raise SpectrumError(
            f"the values have shape {array.shape}; give one spectrum, an array of one dimension"
        )
    if array.dtype.kind not in "fiu":
        raise SpectrumError(f"the values are of type {array.dtype}; give real numbers")
    values = array.astype(np.float64)
    _check_values(values)
    zeros = int((values == 0).sum())
    limit = np.inf if xmax is None or xmax == "largest" else float(xmax)
    used = np.sort(values[(values > 0) & (values <= limit)])
    above = len(values) - zeros - len(used)
    if len(used) < _FEWEST or used[0] == used[-1]:
        left_out = (
            f", {zeros} zeros and {above} above xmax={xmax} left out" if zeros + above else ""
        )
        shown = ", ".join(f"{v:.6g}" for v in used[:4]) + ", ..." * (len(used) > 4)
        raise SpectrumError(
            f"a tail needs at least {_FEWEST} positive values that are not all equal, and here "
            f"are {len(used)} ({shown}){left_out}; leave so small or so flat a matrix out"
        )
    return used, zeros, above


def _with_bootstrap(
    fit: PowerlawFit, tails: FittedTails, prior: Prior, random: np.random.Generator
) -> PowerlawFit:
    """Return the fit with its p-values and, where xmin was searched, the interval over xmin."""
    rule, D = fit.rule, fit.D
    if not fit.searched:
        p = p_value(bootstrap_known(tails, rule, fit.bootstrap, random), D)
        return replace(fit, p_value=p, clauset_p_value=p)
    first = bootstrap_searched(tails, rule, fit.bootstrap, random)
    second = second_round(tails, rule, first[0], random)
    log_xmin, distances = (np.concatenate(pair) for pair in zip(first, second, strict=True))
    starts, counts = np.unique(chosen_starts(tails, rule, log_xmin), return_counts=True)
    shares = counts / counts.sum()
    posterior = _posterior(tails_at(tails, rule, starts), prior)
    return replace(
        fit,
        p_value=p_value(distances, D),
        clauset_p_value=p_value(first[1], D),
        searched_interval=interval(posterior, shares, fit.level),
        xmin_frequencies=dict(zip(fit.values[starts].tolist(), shares.tolist(), strict=True)),
    )


def _fit_whole(
    values: Array,
    zeros: int,
    xmin: float | None,
    rule: Rule,
    level: float,
    bootstrap: int,
    seed: int,
) -> PowerlawFit:
    """Return the fit of whole numbers, with its bootstrap."""
    counts = counted.Counts.of(values)
    if xmin is None:
        start, alpha, D = counts.search(rule.min_tail)
        lower_end = float(counts.values[start])
    else:
        start, lower_end = int(np.searchsorted(counts.values, xmin)), float(xmin)
        alpha, D = counts.fit_at(start, lower_end)
    first = int(np.searchsorted(values, lower_end))
    n_tail = len(values) - first
    if not math.isfinite(D) or n_tail < rule.min_tail:
        raise SpectrumError(
            f"no tail of at least min_tail={rule.min_tail} of the {len(values)} whole numbers "
            f"{'' if xmin is None else f'from xmin={xmin:g} on '}has an exponent below "
            f"{counted.LARGEST_ALPHA:g}: nearly all are equal; take a lower xmin, or other values"
        )
    tail = counted.Tails(values, np.array([first]), np.array([lower_end]))
    information = counted.log_moments(np.array([alpha]), tail.xmin)[2]
    fit = PowerlawFit(
        alpha=alpha,
        xmin=lower_end,
        D=D,
        sigma=1 / math.sqrt(n_tail * float(information[0])),
        n=len(values),
        n_tail=n_tail,
        xmax=None,
        level=level,
        interval=interval(tail.posterior(), np.ones(1), level),
        searched=xmin is None,
        zeros=zeros,
        rule=rule,
        values=values,
        bootstrap=bootstrap,
        discrete=True,
    )
    if not bootstrap:
        return fit
    return _with_bootstrap_of_counts(fit, tail, np.random.default_rng(seed))


def _with_bootstrap_of_counts(
    fit: PowerlawFit, tail: counted.Tails, random: np.random.Generator
) -> PowerlawFit:
    """Return a fit of whole numbers with its p-values and, if `xmin` was searched, its interval.

    Args:
        fit: The fit, with the number of replicates.
        tail: The tail of the fit.
        random: Where random numbers come from.
    """
    if not fit.searched:
        p = p_value(tail.bootstrap_known(fit.bootstrap, random), fit.D)
        return replace(fit, p_value=p, clauset_p_value=p)
    first_round = tail.bootstrap_searched(fit.rule.min_tail, fit.bootstrap, random)
    chosen = tail.at_xmins(first_round[0], fit.rule.min_tail)
    rounds = first_round, chosen.bootstrap_searched(fit.rule.min_tail, fit.bootstrap, random)
    xmins, distances = (np.concatenate(pair) for pair in zip(*rounds, strict=True))
    every = tail.at_xmins(xmins, fit.rule.min_tail)
    lower_ends, places, times = np.unique(every.xmin, return_index=True, return_counts=True)
    shares = times / times.sum()
    mixture = counted.Tails(tail.sample, every.start[places], lower_ends).posterior()
    return replace(
        fit,
        p_value=p_value(distances, fit.D),
        clauset_p_value=p_value(first_round[1], fit.D),
        searched_interval=interval(mixture, shares, fit.level),
        xmin_frequencies=dict(zip(lower_ends.tolist(), shares.tolist(), strict=True)),
    )


def _search(logs: Array, rule: Rule, log_xmax: float | None) -> tuple[FittedTails, float]:
    """Return the tail whose xmin was searched, and its distance."""
    if len(logs) < rule.min_tail:
        raise SpectrumError(
            f"there are {len(logs)} positive values and min_tail={rule.min_tail}; lower it"
        )
    chosen = search_xmin(logs[None], rule, None if log_xmax is None else np.array([log_xmax]))
    if not math.isfinite(chosen.D[0]):
        raise SpectrumError(
            f"none of the tails of at least min_tail={rule.min_tail} of the {len(logs)} values "
            "holds a value between its ends; lower it, or give xmin"
        )
    log_xmin = logs[chosen.start]
    span = None if log_xmax is None else log_xmax - log_xmin
    return FittedTails(logs, chosen.start, log_xmin, chosen.rate, span), float(chosen.D[0])


def _fit_at(
    values: Array, xmin: float, rule: Rule, log_xmax: float | None
) -> tuple[FittedTails, float]:
    """Return the tail that begins at a known xmin, and its distance."""
    logs = np.log(values)
    start = int(np.searchsorted(values, xmin))
    log_xmin = math.log(xmin)
    if start < len(values):  # rounding must not put a value of the tail below its threshold
        at_xmin = values[start] == xmin
        log_xmin = float(logs[start] if at_xmin else min(log_xmin, logs[start]))
    t = logs[start:] - log_xmin
    top = math.inf if log_xmax is None else log_xmax - log_xmin - ROUNDING
    if len(t) < rule.min_tail or not np.any((t > ROUNDING) & (t < top)):
        raise SpectrumError(
            f"{len(t)} of {len(logs)} values are at least xmin={xmin:.6g}, and a tail needs "
            f"{rule.min_tail}, of which one lies above it and below its upper end; the largest is "
            f"{values[-1]:.6g}: take a lower xmin"
        )
    span = None if log_xmax is None else np.array([log_xmax - log_xmin])
    rate, D = fit_known(t[None], rule, None if span is None else span[:, None])
    tails = FittedTails(logs, np.array([start]), np.array([log_xmin]), rate, span)
    return tails, float(D[0])


def _posterior(tails: FittedTails, prior: Prior) -> RatePosterior:
    """Return the posterior of each tail, without a largest value that sets the upper end."""
    logs = tails.log_values[: tails.num_below_xmax]
    starts = np.searchsorted(logs, tails.log_xmin, side="left")
    excess, sizes = excess_and_size(logs, starts, tails.log_xmin)
    if tails.span is None:
        return GammaPosterior.of(excess, sizes, prior)
    return GridPosterior.of(excess, sizes, tails.span, prior)


def _check_options(
    xmin: float | None,
    xmax: Xmax,
    rule: Rule,
    prior: Prior,
    level: float,
    bootstrap: int,
    seed: int,
) -> None:
    check_prior(prior)
    check_level(level)
    whole_number(bootstrap, "bootstrap")
    whole_number(seed, "seed")
    if xmin is not None:
        number(xmin, "xmin", above=0)
    if isinstance(xmax, str):
        if xmax != "largest":
            raise ValueError(f"xmax={xmax!r} must be a number, 'largest' or None")
    elif xmax is not None and not number(xmax, "xmax") > (xmin or 0):
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


def _check_whole(values: Array, xmin: float | None, xmax: Xmax, rule: Rule, prior: Prior) -> None:
    """Check that values are whole numbers, and that no option is of real numbers alone."""
    given = {"xmax": xmax, "prior": prior, "ks": rule.ks, "correction": rule.correction}
    fixed = {"xmax": None, "prior": "jeffreys", "ks": "lower", "correction": "none"}
    if given != fixed:
        others = ", ".join(
            f"{name}={given[name]!r}" for name in given if given[name] != fixed[name]
        )
        raise ValueError(
            f"discrete=True with {others}: the law of whole numbers has no upper end, Jeffreys' "
            "prior, one kind of distance and no correction; leave these options out"
        )
    broken = values != np.floor(values)
    if broken.any():
        raise SpectrumError(
            f"discrete=True, and {int(broken.sum())} of {len(values)} values are no whole numbers, "
            f"such as {values[broken.argmax()]:.6g}; leave discrete out"
        )
    if xmin is not None and xmin != math.floor(xmin):
        raise ValueError(f"xmin={xmin!r} must be a whole number with discrete=True")


def _check_values(values: Array) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        where = int(finite.argmin())
        raise SpectrumError(
            f"value {where} of {len(values)} is {values[where]}; look for the layer that diverged, "
            "or leave such values out"
        )
    if (values < 0).any():
        where = int(values.argmin())
        raise SpectrumError(
            f"value {where} of {len(values)} is {values[where]:.6g}, and a power law has no "
            "negative values; give squared singular values, not eigenvalues that rounding or "
            "a non-symmetric matrix made negative"
        )
