"""The laws of eigenvalues, weights and hyperparameters as Pyro distributions.

They take numbers or tensors, and they broadcast, differentiate and sample like any PyTorch
distribution:

    >>> import torch
    >>> from bayes_htr.distributions import Lomax
    >>> law = Lomax(alpha=torch.tensor([2.5, 4.0]), scale=1.0)
    >>> law.log_prob(torch.tensor(0.0))
    tensor([0.4055, 1.0986])
    >>> law.rsample((3,)).shape
    torch.Size([3, 2])

For the power laws, `alpha` is the exponent of the density. For `Frechet`, `alpha` is the exponent
of the tail probability, which is smaller by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayes_htr._lazy import lazy

if TYPE_CHECKING:
    from pyro.distributions import Exponential, Gamma, HalfCauchy, LogNormal, Normal

    from bayes_htr.distributions.frechet import Frechet
    from bayes_htr.distributions.improper_powerlaw import ImproperPowerlaw
    from bayes_htr.distributions.lomax import Lomax
    from bayes_htr.distributions.marchenko_pastur import MarchenkoPastur
    from bayes_htr.distributions.powerlaw import Powerlaw
    from bayes_htr.distributions.truncated_powerlaw import TruncatedPowerlaw
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "pyro.distributions": "Exponential Gamma HalfCauchy LogNormal Normal",
            "frechet": "Frechet",
            "improper_powerlaw": "ImproperPowerlaw",
            "lomax": "Lomax",
            "marchenko_pastur": "MarchenkoPastur",
            "powerlaw": "Powerlaw",
            "truncated_powerlaw": "TruncatedPowerlaw",
        },
    )

__all__ = [
    "Exponential",
    "Frechet",
    "Gamma",
    "HalfCauchy",
    "ImproperPowerlaw",
    "LogNormal",
    "Lomax",
    "MarchenkoPastur",
    "Normal",
    "Powerlaw",
    "TruncatedPowerlaw",
]
