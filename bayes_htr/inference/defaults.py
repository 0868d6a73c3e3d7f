"""The inference method where none is named: the posterior, by the spectral guide.

Rate and initial spread were chosen on validation data, see `docs/choosing-a-prior.md`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from bayes_htr.inference.guides.per_example import finest_noise
from bayes_htr.inference.svi import SVI

EPOCHS = 30
"""How many epochs, if that is not said."""


def default_method(net: nn.Module, **changed: Any) -> SVI:
    """Stochastic variational inference with the spectral guide, as suits a network.

    Each example has a draw of its own, but with batch normalisation, which mixes examples, a batch
    has one.

    Args:
        net: The network.
        changed: Settings of `SVI` that are to be others.

    Raises:
        ValueError: A setting out of range.
    """
    settings: dict[str, Any] = {"lr": 6e-3, "init_scale": 0.3, "noise": finest_noise(net)}
    return SVI(guide="spectral", **settings | changed)
