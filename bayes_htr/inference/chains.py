"""Chains of the no-U-turn sampler on a Pyro program, and their diagnostics.

The coordinates are the unconstrained ones of the program's sites.

Transitions are Pyro's: multinomial sampling along trajectories that double until they turn, step
size and mass matrix adapted during warm-up. Between two transitions a chain may jump: the sign of a
random column of a site is changed, and the change is accepted with the probability of Metropolis.
Source: Hoffman & Gelman (2014), *JMLR* 15; Betancourt (2017), arXiv:1701.02434.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import mcmc
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from bayes_htr._parallel import Workers, packed, run_jobs
from bayes_htr._torch import isolated_randomness

Program = Callable[[], Any]
"""A Pyro program without arguments."""

_TRIES = 100


@dataclass(frozen=True)
class ChainSettings:
    """The settings of chains, which `bayes_htr.NUTS` explains."""

    warmup: int
    samples: int
    chains: int
    target_accept: float = 0.8
    max_tree_depth: int = 10
    dense_mass: bool = False
    jitter: float = 0.1
    reflected: tuple[str, ...] = ()
    """Sites `(n, K)` of which a random column changes its sign, where that is accepted."""


@dataclass(frozen=True)
class Chains:
    """Draws of all chains.

    Attributes:
        sites: `(chains, samples, *shape)` by site, in the sites' own coordinates.
        log_density: The log density of the unconstrained coordinates, `(chains, samples)`.
        divergences: The number of divergent trajectories after warm-up, by chain.
        saturated: The number of draws whose trajectory reached the depth limit, by chain.
        acceptance: The mean acceptance probability after warm-up, by chain.
        step_size: The step size after warm-up, by chain.
        leapfrogs: The mean number of leapfrog steps per draw after warm-up, by chain.
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
    settings: ChainSettings,
    *,
    seed: int,
    step: Callable[[], Any] = lambda: None,
    workers: Workers | None = None,
    progress: bool | None = None,
) -> Chains:
    """Sample the latent sites of a program, one chain after another or several at a time.

    The draws are the same either way.

    Args:
        program: A Pyro program without arguments.
        start: Values of its latent sites, inside their supports.
        settings: The settings of the chains.
        seed: The seed from which every chain's own seed and start follow; the global random state
            is left as it was.
        step: A callable that is called after each draw, also of warm-up, in this process.
        workers: With several processes, how many chains run at a time, each in one of them; the
            program must then be picklable.
        progress: Whether the processes have a progress bar, which shows the draws of all chains.

    Raises:
        ValueError: The density is not finite at the start, or the program cannot be sent to other
            processes.
        ProcessError: A process ended without a result.
    """
    with isolated_randomness(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        seeds = torch.randint(2**62, (settings.chains,)).tolist()
        z = coordinates_of(program, start)
        jobs = [_Job(program, z, settings, s) for s in seeds]
        if workers is None or workers.count == 1:
            runs = [job.run(step) for job in jobs]
        else:
            draws = settings.chains * (settings.warmup + settings.samples)
            found = run_jobs(
                _run_packed,
                [packed(job) for job in jobs],
                workers,
                epochs=draws,
                progress=progress,
                units=("draws", "chains"),
            )
            runs = [pickle.loads(run) for run in found]
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
        return -density_at(self.program, z)[0]


@dataclass(frozen=True)
class _Chain:
    sites: dict[str, Tensor]
    log_density: Tensor
    divergences: int
    saturated: int
    acceptance: float
    step_size: float
    leapfrogs: float


@dataclass(frozen=True)
class _Job:
    """The program, the start, the settings and the seed of one chain."""

    program: Program
    centre: Mapping[str, Tensor]
    settings: ChainSettings
    seed: int

    def run(self, step: Callable[[], Any]) -> _Chain:
        """Sample the chain."""
        return _chain(self.program, self.centre, self.settings, self.seed, step)


def _run_packed(job: bytes, *, progress: bool, on_epoch: Callable[[], None]) -> bytes:
    with pyro.validation_enabled(False):
        run: _Chain = pickle.loads(job).run(on_epoch)
    return packed(run)


def _chain(
    program: Program,
    centre: Mapping[str, Tensor],
    settings: ChainSettings,
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
        z = _reflected(kernel, kernel.sample(z), settings.reflected)
        step()
    kept = []
    leapfrogs = []
    for _ in range(settings.samples):
        before = potential.calls
        z = kernel.sample(z)
        leapfrogs.append(potential.calls - before)
        z = _reflected(kernel, z, settings.reflected)
        with torch.no_grad():
            kept.append(density_at(program, z))
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


def _reflected(
    kernel: mcmc.NUTS, z: dict[str, Tensor], sites: tuple[str, ...]
) -> dict[str, Tensor]:
    """Try to change the sign of a random column of each site; the kernel goes on from there."""
    for name in sites:
        column = int(torch.randint(z[name].shape[-1], ()))
        moved = z[name].clone()
        moved[..., column] *= -1
        proposed = {**z, name: moved}
        with torch.no_grad():
            rise = float(kernel.potential_fn(z) - kernel.potential_fn(proposed))
        if rise >= 0 or float(torch.rand(())) < math.exp(rise):  # false for NaN
            z = proposed
            kernel.clear_cache()
    return z


def _jittered(
    potential: _Potential, centre: Mapping[str, Tensor], jitter: float
) -> dict[str, Tensor]:
    """Take a normal step from the start, in unconstrained coordinates, to a finite density.

    Raises:
        ValueError: The density was not finite in a hundred tries.
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


class _Substitute(Messenger):
    """A Pyro handler that gives sites their values, and sums up the log density there."""

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


def density_at(program: Program, z: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Evaluate a program at unconstrained coordinates of all latent sites.

    Each site's coordinates are those of its support as the program gives it, also where that
    depends on another site, as the lower end of a power law with a hyperprior does.

    Returns:
        The log density of the coordinates, 0-d, and the sites' values.
    """
    with _Substitute(z) as substitute:
        program()
    return torch.as_tensor(substitute.log_density), substitute.values


def coordinates_of(program: Program, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the unconstrained coordinates of values of all latent sites.

    Raises:
        ValueError: A latent site has no value, or a value has no site.
    """
    given = pyro.poutine.condition(program, data=dict(values))
    with torch.no_grad():
        trace = pyro.poutine.trace(given).get_trace()
    sites = {n: s for n, s in trace.iter_stochastic_nodes() if not site_is_subsample(s)}
    if missing := sites.keys():
        raise ValueError(f"no value for the sites {', '.join(sorted(missing))}")
    if unknown := values.keys() - set(trace.observation_nodes):
        raise ValueError(f"no site {', '.join(sorted(unknown))}")
    coordinates = {}
    for name, value in values.items():
        law: Any = trace.nodes[name]["fn"]
        coordinates[name] = biject_to(law.support).inv(value).detach().clone()
    return coordinates


FEWEST = 4
"""Draws per chain without which there is nothing to compute."""


def split_rhat(draws: Tensor) -> float:
    """Return the rank-normalised split R-hat.

    It is the larger of the R-hat of location and that of scale.

    Args:
        draws: `(chains, draws)`, at least four draws.

    Returns:
        A value near 1 for chains that agree; NaN if all values are equal; infinite if each half of
        a chain stays at a value of its own.
    """
    halves = _halves(draws)
    folded = (halves - _median(halves)).abs()
    return max(_rhat(_normal_scores(halves)), _rhat(_normal_scores(folded)), key=_nan_first)


def bulk_ess(draws: Tensor) -> float:
    """Return the bulk effective sample size.

    It is that of the mean of the rank-normalised values.

    Args:
        draws: `(chains, draws)`, at least four draws.

    Returns:
        At most `S log10 S` for `S` draws in all; `S` if all values are equal.
    """
    halves = _halves(draws)
    if bool((halves == halves[0, 0]).all()):
        return float(halves.numel())
    return _ess(_normal_scores(halves))


def _halves(draws: Tensor) -> Tensor:
    """Split each chain in two halves, in float64; of an odd number the middle draw is left out."""
    if draws.ndim != 2 or draws.shape[1] < FEWEST:
        raise ValueError(
            f"draws of shape {tuple(draws.shape)} must be (chains, draws) with at least {FEWEST} "
            "draws"
        )
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, -half:]]).detach().cpu().double()


def _median(x: Tensor) -> Tensor:
    return x.flatten().quantile(0.5)


def _normal_scores(x: Tensor) -> Tensor:
    """Return normal quantiles of the ranks by Blom's formula; ties have their average rank."""
    _, inverse, counts = x.flatten().unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0) - (counts.double() - 1) / 2
    return torch.special.ndtri((ranks[inverse] - 0.375) / (x.numel() + 0.25)).reshape(x.shape)


def _rhat(x: Tensor) -> float:
    n = x.shape[1]
    within = x.var(1).mean()
    between = n * x.mean(1).var()
    return float(((between / within + n - 1) / n).sqrt())


def _ess(x: Tensor) -> float:
    """Return the effective sample size.

    It is computed by Geyer's initial monotone sequence on the autocorrelation of all chains
    together.
    """
    chains, n = x.shape
    covariance = _autocovariance(x).mean(0)
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + (x.mean(1).var() if chains > 1 else 0.0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    pairs = rho[: n - n % 2].reshape(-1, 2).sum(1)
    # As arviz: the last pair is not looked at, and the even half of the first that ends it counts.
    last = max(1, (n - 1) // 2)
    negative = (pairs[:last] < 0).nonzero()
    end = int(negative[0]) if len(negative) else last - 1
    kept = pairs[:end].cummin(0).values if end else pairs[:0]
    tau = float(-1 + 2 * kept.sum() + rho[2 * end].clamp(min=0))
    return chains * n / max(tau, 1 / math.log10(chains * n))


def _autocovariance(x: Tensor) -> Tensor:
    n = x.shape[1]
    spectrum = torch.fft.rfft(x - x.mean(1, keepdim=True), n=2 * n)
    return torch.fft.irfft(spectrum.abs().square(), n=2 * n)[:, :n] / n


def _nan_first(value: float) -> float:
    return math.inf if math.isnan(value) else value
