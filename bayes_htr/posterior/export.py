"""Export of posterior spectra to ArviZ. Requires `pip install "bayes-htr[arviz]"`."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayes_htr.errors import SpectrumError
from bayes_htr.posterior.spectrum_draws import SpectrumDraws


def to_inference_data(
    spectra: SpectrumDraws, *, repeats: int = 1, fraction: float | None = None, seed: int = 0
) -> Any:
    """The draws as an `arviz.InferenceData` with one chain.

    For each matrix, here `w`, the group `posterior` contains `w:eigenvalues` with the dimension
    `w:rank` (counted from 1), `w:lambda_max`, `w:log_lambda_max`, `w:stable_rank`, and `w:alpha`
    with one draw of the exponent for each draw of the spectrum. `w:alpha` is missing if there is no
    tail to fit. The group also contains the hyperparameters under their own names.

    Args:
        spectra: The draws.
        repeats: How often each draw is repeated; alpha is drawn again each time. Use this for a
            point estimate, whose single spectrum still has a posterior of alpha.
        fraction: The tail, as in `PosteriorSpectra.alpha`.
        seed: Seed of the draws of alpha.

    Raises:
        ImportError: ArviZ is not installed.
        ValueError: `repeats` less than 1.
    """
    try:
        import arviz as az
    except ImportError as error:
        raise ImportError('to_arviz needs ArviZ: pip install "bayes-htr[arviz]"') from error
    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be at least 1")
    generator = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {}
    for name in spectra:
        lam = np.repeat(spectra[name].double().numpy(), repeats, axis=0)
        values[f"{name}:eigenvalues"] = lam
        values[f"{name}:lambda_max"] = lam[:, 0]
        values[f"{name}:log_lambda_max"] = np.log(lam[:, 0])
        values[f"{name}:stable_rank"] = lam.sum(1) / lam[:, 0]
        try:
            gamma = spectra.tail_index_laws(name, fraction).gamma
        except SpectrumError:  # one eigenvalue, or ties: no tail
            continue
        drawn = gamma.rvs(size=(repeats, len(spectra[name])), random_state=generator)
        values[f"{name}:alpha"] = 1 + drawn.T.reshape(-1)
    for name, draws in spectra.hyperparameters.items():
        values[name] = np.repeat(draws.double().numpy(), repeats)
    return az.from_dict(
        posterior={name: value[None] for name, value in values.items()},
        dims={f"{name}:eigenvalues": [f"{name}:rank"] for name in spectra},
        coords={f"{name}:rank": np.arange(1, spectra[name].shape[1] + 1) for name in spectra},
    )
