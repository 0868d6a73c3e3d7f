"""The density of a Pyro program over unconstrained coordinates of its latent sites.

Each site's coordinates are those of its support as the program gives it, also where that depends on
another site, as the lower end of a power law with a hyperprior does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

Program = Callable[[], Any]


class _Substitute(Messenger):
    """Gives sites the values at unconstrained coordinates, and sums what the change costs."""

    def __init__(self, z: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.z = z
        self.values: dict[str, Tensor] = {}
        self.log_density: Tensor | float = 0.0

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.z:
            u = self.z[msg["name"]]
            transform = biject_to(msg["fn"].support)
            value = transform(u)
            self.log_density = self.log_density + transform.log_abs_det_jacobian(u, value).sum()
            self.values[msg["name"]] = msg["value"] = value
            msg["done"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            log_prob = msg["fn"].log_prob(msg["value"])
            scaled = scale_and_mask(log_prob, msg["scale"], msg["mask"])
            self.log_density = self.log_density + scaled.sum()


def at(program: Program, z: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The log density, 0-d, at unconstrained coordinates of all latent sites, and their values."""
    with _Substitute(z) as found:
        program()
    return torch.as_tensor(found.log_density), found.values


def coordinates_of(program: Program, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The unconstrained coordinates at values of all latent sites.

    Raises:
        ValueError: A latent site without a value, or a value without a site.
    """
    given = pyro.poutine.condition(program, data=dict(values))
    with torch.no_grad():
        trace = pyro.poutine.trace(given).get_trace()
    sites = {n: s for n, s in trace.iter_stochastic_nodes() if not site_is_subsample(s)}
    if missing := sites.keys():
        raise ValueError(f"no value for the sites {', '.join(sorted(missing))}")
    if unknown := values.keys() - set(trace.observation_nodes):
        raise ValueError(f"no site {', '.join(sorted(unknown))}")
    found = {}
    for name, value in values.items():
        law: Any = trace.nodes[name]["fn"]
        found[name] = biject_to(law.support).inv(value).detach().clone()
    return found
