"""The strength of the default prior for tables: a weak one or a strong one, by held-out data.

No single strength suits all tables (`docs/tables.md`): on clean data a strong prior underfits, and
where labels are noisy a weak one is far too sure of what it predicts. The log loss of a fifth of
the examples tells the two apart, at the price of two more fits.
"""

from __future__ import annotations

from typing import Any

from bayes_htr.choosing import tune
from bayes_htr.estimator.settings import Array, divided
from bayes_htr.inference import Method
from bayes_htr.models import BayesianModel

FACTORS = (1.0, 4.0)
"""What the strength 2 is multiplied by: the strengths are 2 and 8."""
FEWEST = 200
"""With fewer training examples than this, too few are held out to tell the strengths apart."""
_SHARE = 0.2


def chosen_factor(
    model: BayesianModel,
    train: tuple[Array, Array],
    validation: tuple[Array, Array] | None,
    *,
    method: Method,
    epochs: int | None,
    batch_size: int,
    seed: int,
    device: Any,
) -> float:
    """Return the factor of the strength that predicts held-out data best.

    Both strengths are tried from the same weights, with the same seed, and scored by the negative
    log likelihood. The fits are on what is not held out.

    Args:
        model: The model, with its priors at the weaker strength.
        train: Inputs, `(N, D)`, and the numbers of their classes, `(N,)`.
        validation: The data to score on, if there are any; otherwise a fifth of each class of
            `train`.
        method: The method.
        epochs: The number of epochs of each fit.
        batch_size: The number of examples per update.
        seed: The seed of the fits, and of what is held out.
        device: Where to train.

    Raises:
        DivergenceError: The loss did not stay finite with either strength.
        PriorError: The prior does not suit the network.
    """
    if validation is None:
        train, validation = divided(*train, _SHARE, seed)
    tuning = tune(
        model,
        train,
        validation=validation,
        strengths=FACTORS,
        prune=False,
        criterion="nll",
        refit=False,
        method=method,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        device=device,
        progress=False,
    )
    return tuning.strength
