"""The spectra that a `SpectrumHistory` measures, and the steps at which it does.

A history is needed most when training diverges. Then the squares of singular values exceed the
range of float32 long before the weights do, and in the end the weights are no longer finite.
Singular values are therefore squared in float64 where the range of float32 is too small. A spectrum
that does not exist is recorded as NaN, so that the record keeps its place among the others.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bayes_htr.analysis.weights import matches
from bayes_htr.errors import SpectrumError
from bayes_htr.spectra import as_matrix, matrices_of, singular_values
from bayes_htr.spectra.layout import Layouts

_SMALLEST = 1e-30  # the smallest largest eigenvalue whose neighbours float32 still tells from zero


def recorded_weights(
    net: nn.Module,
    patterns: Sequence[str],
    before: Mapping[str, Sequence[Tensor]],
    layouts: Layouts = (),
) -> dict[str, Tensor]:
    """Return the matrices of a network that belong to the next record.

    Args:
        net: The network.
        patterns: Patterns of the matrices that are recorded.
        before: The `(K,)` spectra of all records so far, by name.
        layouts: The axes of parameters that form matrices, where these are declared.

    Raises:
        SpectrumError: A layout does not fit its parameter.
        ValueError: No matrix matches the patterns, or the matrices differ from those recorded
            before.
    """
    weights = matrices_of(net, layouts)
    recorded = {name: W for name, W in weights.items() if matches(name, patterns)}
    if not recorded:
        raise ValueError(
            f"matrices={tuple(patterns)!r} matches no matrix of the network; there are "
            f"{', '.join(weights) or 'none'}"
        )
    ranks = {name: min(W.shape) for name, W in recorded.items()}
    ranks_before = {name: len(lams[0]) for name, lams in before.items() if lams}
    if ranks_before and ranks != ranks_before:
        raise ValueError(
            f"the network's matrices have the ranks {ranks}, and those recorded {ranks_before}; "
            "take a new SpectrumHistory for another network"
        )
    return recorded


def measure(
    weights: Mapping[str, Tensor], before: Mapping[str, Sequence[Tensor]], step: int
) -> dict[str, Tensor]:
    """Return the eigenvalues of each matrix, with a warning of spectra that are no longer finite.

    Args:
        weights: The matrices by name.
        before: The `(K,)` spectra of all records so far, by name.
        step: The step, which the warning names.

    Returns:
        The `(K,)` eigenvalues by name, as `measured_spectrum` computes them.
    """
    with torch.no_grad():
        measured = {name: measured_spectrum(W, name) for name, W in weights.items()}
    lost = [
        name
        for name, lam in measured.items()
        if not bool(lam.isfinite().all())
        and (not before.get(name) or bool(before[name][-1].isfinite().all()))
    ]
    if lost:
        warnings.warn(
            f"at step {step} the spectrum of {', '.join(lost)} is not finite, and is recorded so: "
            "the weights have diverged; a smaller learning rate may help",
            stacklevel=3,
        )
    return measured


def measured_spectrum(W: Tensor, name: str) -> Tensor:
    """Return the eigenvalues of a matrix.

    They have the precision of the matrix, or float64 if the range of that precision is too small.

    Args:
        W: `(out, ...)` the weight.
        name: Name of the matrix in error messages.

    Returns:
        `(K,)`, descending, on the CPU: NaN throughout where `W` has entries that are not finite,
        and infinite where an eigenvalue leaves float64.
    """
    try:
        sigma = singular_values(W, name)
        lam, largest = sigma.square(), float(sigma[0])
        if W.dtype != torch.float64 and largest and not _SMALLEST < float(lam[0]) < math.inf:
            lam = singular_values(W.cpu().double(), name).square()
    except (SpectrumError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        matrix = as_matrix(W)
        return torch.full((min(matrix.shape),), math.nan)
    return lam.cpu()


def stacked(records: Sequence[Tensor]) -> Tensor:
    """Return `(T, K)` the records of one matrix, in the widest precision that one of them has."""
    wide = any(lam.dtype == torch.float64 for lam in records)
    return torch.stack([lam.double() if wide else lam for lam in records])


def next_log_step(after: int, per_decade: float) -> int:
    """Return the first number above `after` among 0 and the rounded powers `10^(i / per_decade)`.

    For 8 per decade these are 0, 1, 2, 3, 4, 6, 7, 10, 13, 18, ...: dense where a network changes
    fast, and few in all.
    """
    if after < 0:
        return 0
    i = max(0, math.floor(per_decade * math.log10(after + 0.5)))
    while round(10 ** (i / per_decade)) <= after:
        i += 1
    return round(10 ** (i / per_decade))
