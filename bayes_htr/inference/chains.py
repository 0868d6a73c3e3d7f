"""Chains of the no-U-turn sampler on a Pyro program.

Transitions are Pyro's: multinomial sampling along trajectories that double until they turn, step
size and mass matrix adapted during warm-up.
Source: Hoffman & Gelman (2014), *JMLR* 15; Betancourt (2017), arXiv:1701.02434.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import mcmc
from torch import Tensor

from bayes_htr._torch import isolated_randomness
from bayes_htr.inference.unconstrained import Program, at, coordinates_of

_TRIES = 100


@dataclass(frozen=True)
class Settings:
    """How the chains run; see `bayes_htr.NUTS`."""

    warmup: int
    samples: int
    chains: int
    target_accept: float = 0.8
    max_tree_depth: int = 10
    dense_mass: bool = False
    jitter: float = 0.1


@dataclass(frozen=True)
class Chains:
    """Draws of all chains.

    Attributes:
        sites: `(chains, samples, *shape)` by site, in the sites' own coordinates.
        log_density: `(chains, samples)`, of the unconstrained coordinates.
        divergences: After warm-up, by chain.
        saturated: Draws whose trajectory reached the depth limit, by chain.
        acceptance: Mean acceptance probability after warm-up, by chain.
        step_size: After warm-up, by chain.
        leapfrogs: Mean number of leapfrog steps per draw after warm-up, by chain.
    """

    sites: dict[str, Tensor]
    log_density: Tensor
    divergences: list[int]
    saturated: list[int]
    acceptance: list[float]
    step_size: list[float]
    leapfrogs: list[float]


def run_chains(
    program: Program,
    start: Mapping[str, Tensor],
    settings: Settings,
    *,
    seed: int,
    step: Callable[[], Any] = lambda: None,
) -> Chains:
    """Sample the latent sites of a program, one chain after another.

    Args:
        program: A Pyro program without arguments.
        start: Values of its latent sites, inside their supports.
        settings: How.
        seed: Every chain's own seed and start follow from it; the global state is left alone.
        step: Called after each draw, those of warm-up included.

    Raises:
        ValueError: The density is not finite at the start.
    """
    with isolated_randomness(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        seeds = torch.randint(2**62, (settings.chains,)).tolist()
        z = coordinates_of(program, start)
        runs = [_chain(program, z, settings, s, step) for s in seeds]
    return Chains(
        sites={name: torch.stack([run.sites[name] for run in runs]) for name in z},
        log_density=torch.stack([run.log_density for run in runs]),
        divergences=[run.divergences for run in runs],
        saturated=[run.saturated for run in runs],
        acceptance=[run.acceptance for run in runs],
        step_size=[run.step_size for run in runs],
        leapfrogs=[run.leapfrogs for run in runs],
    )


class _Potential:
    """The negative log density of a program's coordinates, which counts its calls."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.calls = 0

    def __call__(self, z: dict[str, Tensor]) -> Tensor:
        self.calls += 1
        return -at(self.program, z)[0]


@dataclass(frozen=True)
class _Chain:
    sites: dict[str, Tensor]
    log_density: Tensor
    divergences: int
    saturated: int
    acceptance: float
    step_size: float
    leapfrogs: float


def _chain(
    program: Program,
    centre: Mapping[str, Tensor],
    settings: Settings,
    seed: int,
    step: Callable[[], Any],
) -> _Chain:
    torch.manual_seed(seed)
    potential = _Potential(program)
    kernel = mcmc.NUTS(
        potential_fn=potential,
        target_accept_prob=settings.target_accept,
        max_tree_depth=settings.max_tree_depth,
        full_mass=settings.dense_mass,
    )
    kernel.initial_params = z = _jittered(potential, centre, settings.jitter)
    kernel.setup(settings.warmup)
    for _ in range(settings.warmup):
        z = kernel.sample(z)
        step()
    kept = []
    leapfrogs = []
    for _ in range(settings.samples):
        before = potential.calls
        z = kernel.sample(z)
        leapfrogs.append(potential.calls - before)
        with torch.no_grad():
            kept.append(at(program, z))
        step()
    full = 2**settings.max_tree_depth - 1
    return _Chain(
        sites={name: torch.stack([values[name] for _, values in kept]) for name in centre},
        log_density=torch.stack([log_density for log_density, _ in kept]),
        divergences=len(kernel.diagnostics()["divergences"]),
        saturated=sum(n >= full for n in leapfrogs),
        acceptance=float(kernel.logging()["acc. prob"]),
        step_size=float(kernel.step_size),
        leapfrogs=sum(leapfrogs) / len(leapfrogs),
    )


def _jittered(
    potential: _Potential, centre: Mapping[str, Tensor], jitter: float
) -> dict[str, Tensor]:
    """A normal step away from the start in unconstrained coordinates, where the density is finite.

    Raises:
        ValueError: There is none in a hundred tries.
    """
    for _ in range(_TRIES):
        z = {name: u + jitter * torch.randn_like(u) for name, u in centre.items()}
        with torch.no_grad():
            if bool(torch.isfinite(potential(z))):
                return z
    raise ValueError(
        f"the log density is not finite in {_TRIES} tries within jitter={jitter} of the start; "
        "start from other weights, or look at the data's scale"
    )
