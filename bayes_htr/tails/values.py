"""The values that a tail is fitted to: positive, ascending, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from bayes_htr.errors import SpectrumError
from bayes_htr.tails.rules import Array

_FEWEST = 3


@dataclass(frozen=True)
class Values:
    """Values as given, sorted out.

    Attributes:
        used: `(n,)` the positive ones up to xmax, ascending.
        zeros: How many were zero.
        above: How many lay above xmax.
    """

    used: Array
    zeros: int
    above: int


def read_values(lam: Any, xmax: float | Literal["largest"] | None = None) -> Values:
    """Values from an array, a list or a tensor.

    Zeros are left out: a rank-deficient matrix has them, and no power law does.

    Args:
        lam: `(K,)` in any order.
        xmax: Values above it are left out.

    Raises:
        SpectrumError: Another number of dimensions, values that are not finite real numbers,
            negative ones, or fewer than three positive ones or two different ones.
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
    _check(values)
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
    return Values(used, zeros, above)


def _check(values: Array) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        where = int(bad.argmax())
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
