"""The inference method and the number of epochs where none is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from bayes_htr.engine import Drift
from bayes_htr.inference.guides.per_example import finest_noise
from bayes_htr.inference.map import MAP
from bayes_htr.inference.nuts import NUTS
from bayes_htr.inference.problem import Method
from bayes_htr.inference.svi import SVI
from bayes_htr.models import BayesianModel

EPOCHS = 30
"""The number of epochs where none is given."""
_NOISY_DIRECTIONS = 192
"""The number of noisy directions. With fewer, even small networks, which are cheap anyway, would
have noise in only some of their directions."""


def method_and_epochs(
    model: BayesianModel, method: Method | str | None, epochs: int | None
) -> tuple[Method, int]:
    """Return the method and the number of epochs, the default ones where none are given.

    Raises:
        ValueError: There is no method of a given name.
    """
    if isinstance(method, str):
        method = _named_method(method, model)
    method = default_method(model.net) if method is None else method
    if epochs is None:
        epochs = 0 if isinstance(method, NUTS) else EPOCHS
    return method, epochs


def default_method(net: nn.Module, **changed: Any) -> SVI:
    """Return the method that finds a posterior where none is named: SVI by the spectral guide.

    Each example of a batch has its own draw, in about 192 directions of a large matrix. With batch
    normalisation, which mixes examples, and with low-rank adapters (LoRA), all examples of a batch
    share one draw. The learning rate and the initial spread were chosen on validation data, see
    `docs/choosing-a-prior.md`; what the other settings cost and save is in
    `docs/spectral-guide.md`.

    Args:
        net: The network.
        changed: Settings of `SVI` that replace the default ones.

    Raises:
        ValueError: A setting is out of range.
    """
    noise = changed.get("noise", finest_noise(net))
    settings: dict[str, Any] = {"lr": 6e-3, "init_scale": 0.3, "refresh": Drift(0.25)}
    settings["noise"] = noise
    if noise == "example":
        settings["noisy_directions"] = _NOISY_DIRECTIONS
    return SVI(guide="spectral", **settings | changed)


def _named_method(name: str, model: BayesianModel) -> Method:
    """Return the method of a name, such as `"map"`, with its default settings.

    Raises:
        ValueError: There is no such name.
    """
    named: dict[str, Callable[[], Method]] = {
        "map": MAP,
        "svi": lambda: default_method(model.net),
        "nuts": NUTS,
    }
    if name.lower() not in named:
        raise ValueError(
            f"method={name!r} must be one of {', '.join(named)}, or a method with settings, such "
            "as MAP(lr=0.05)"
        )
    return named[name.lower()]()
