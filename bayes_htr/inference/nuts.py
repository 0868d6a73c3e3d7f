"""The no-U-turn sampler in spectral coordinates: the reference for small models.

Update: Hamiltonian trajectories that double until they turn, on all training data at once.
Target: `log p(D | W)` plus the density of spectra, frames and hyperparameters
(`bayes_htr.models.programs`), without approximation. Not for `W` itself: its density has poles
where eigenvalues meet.
Source: Hoffman & Gelman (2014), *JMLR* 15; `docs/nuts.md`.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyro
import torch
from torch import Tensor

from bayes_htr._checks import number, whole_number
from bayes_htr._parallel import Workers
from bayes_htr._terminal import TrainingProgress
from bayes_htr._threads import with_threads
from bayes_htr._torch import isolated_randomness
from bayes_htr.distributed import world_size
from bayes_htr.errors import CheckpointError, DataError
from bayes_htr.inference.chains import (
    FEWEST,
    Chains,
    ChainSettings,
    bulk_ess,
    run_chains,
    split_rhat,
)
from bayes_htr.inference.guides import Samples
from bayes_htr.inference.problem import Fitted, Problem, warn_of_generalised_posterior
from bayes_htr.inference.run_folder import WEIGHTS, RunFolder
from bayes_htr.models import BayesianModel
from bayes_htr.models.inputs import concatenated, map_inputs
from bayes_htr.models.programs import FRAMES, Frames, spectral_program, spectral_start
from bayes_htr.priors import MatrixPrior
from bayes_htr.priors.parameter_prior import hyperparameters_by_name
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.matrices import set_parameters

LARGEST = 20_000
"""Unconstrained coordinates above which a run would take days."""

RHAT = 1.01
"""The R-hat above which chains do not agree (Vehtari et al. 2021)."""


@dataclass(frozen=True)
class NUTS:
    """Samples from the exact posterior in spectral coordinates, for small models.

    The sampler has no epochs: pass `epochs=0` to `fit`. It starts near the present weights, sees
    all training data at each step, whatever `batch_size`, and works in float64 with the network in
    evaluation mode. Parameters without a prior stay as they are, and a warning names them.

    The posterior's guide is `Samples`: the draws of the first chain, then those of the second, and
    so on. The last row of its `history` has `rhat` (the largest), `ess` (the smallest, bulk),
    `divergences`, `seconds`, and `rhat:NAME` and `ess:NAME` of each log eigenvalue, hyperparameter
    and the log density; the rows before it are the chains'. With frames held, eigenvalues are
    labelled by their frame; with frames sampled their labels mean nothing, and they are sorted.

    Args:
        warmup: Draws per chain that adapt step size and mass matrix, and are dropped.
        samples: Draws per chain that are kept.
        chains: The number of chains.
        processes: How many chains run at a time, each in a process of its own. The draws do not
            depend on it. The classes of the model must be defined in a module, and a script needs
            `if __name__ == "__main__":` around what it runs.
        frames: Whether the singular vectors are `"sampled"`, or `"held"` at those of the present
            weights.
        target_accept: The acceptance probability to which the step size is adapted.
        max_tree_depth: The largest depth of trajectories, which take at most
            `2^max_tree_depth - 1` steps.
        dense_mass: Whether the mass matrix is dense and not diagonal.
        jitter: Standard deviation of the chains' starts around the present weights, in
            unconstrained coordinates.

    Raises:
        ValueError: A setting is out of range.
    """

    warmup: int = 500
    samples: int = 500
    chains: int = 2
    frames: Frames = "sampled"
    target_accept: float = 0.8
    max_tree_depth: int = 10
    dense_mass: bool = False
    jitter: float = 0.1
    processes: int = 1

    def __post_init__(self) -> None:
        least = {"warmup": 1, "samples": FEWEST, "chains": 1, "max_tree_depth": 1, "processes": 1}
        for name, low in least.items():
            object.__setattr__(self, name, whole_number(getattr(self, name), name, at_least=low))
        if self.frames not in FRAMES:
            raise ValueError(f"frames={self.frames!r} must be one of {', '.join(FRAMES)}")
        number(self.target_accept, "target_accept", above=0, below=1)
        if not isinstance(self.dense_mass, bool):
            raise ValueError(f"dense_mass={self.dense_mass!r} must be True or False")
        number(self.jitter, "jitter", at_least=0)

    def describe(self) -> dict[str, Any]:
        """Return the settings on which the draws depend as plain data."""
        settings = asdict(self)
        del settings["processes"]
        return {"name": "nuts", **settings}

    def prepare(self, problem: Problem) -> NUTSSampler:
        """Build the density, and evaluate it at the start, before anything is written.

        Raises:
            ValueError: There are epochs, callbacks, validation data or several processes, there is
                nothing to sample, the model is too large, or the density is not finite at the
                start.
            PriorError: A prior is not a density, or is scheduled.
            DataError: The loader does not give each example once.
        """
        _refuse_what_does_nothing(problem)
        warn_of_generalised_posterior(problem, "NUTS")
        with isolated_randomness():
            _require_each_example(problem)
            sampler = NUTSSampler(self, problem)
            sampler.require_small()
            density = sampler.log_density_at_start()
        if not math.isfinite(density):
            raise ValueError(
                f"the log density is {density} at the start; start from other weights, or look at "
                "the scale of the data"
            )
        return sampler


@dataclass
class _Program:
    """The program whose sites are sampled. Processes to which it is sent build it for themselves.

    Attributes:
        model: The model.
        x: The inputs of all training data.
        y: The labels or targets.
        frames: Whether the singular vectors are `"sampled"` or `"held"`, as in `NUTS`.
    """

    model: BayesianModel
    x: Any
    y: Tensor
    frames: Frames

    def __call__(self) -> Any:
        return self._program(self.x, self.y, num_data=len(self.y))

    @cached_property
    def _program(self) -> Callable[..., Any]:
        return self.model.pyro_model("spectral", frames=self.frames)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_program"}


class NUTSSampler:
    """The density that NUTS samples, the point where it starts, and the weights of each draw.

    Args:
        method: The settings.
        problem: The model and its data; the network ends at the mean of the draws.

    Raises:
        PriorError: A prior is not a density, or is scheduled.
    """

    def __init__(self, method: NUTS, problem: Problem) -> None:
        self.method = method
        self.problem = problem
        inputs, labels = zip(*problem.train, strict=True)
        x, y = concatenated(inputs), torch.cat(labels)
        weights = [p for p in problem.net.parameters() if p.requires_grad]
        self.dtype = weights[0].dtype if weights else torch.get_default_dtype()
        net = copy.deepcopy(problem.net).double().eval()
        likelihood = problem.model.likelihood
        self.model = BayesianModel(net, problem.model.priors, likelihood=likelihood)
        densities = self.model.densities()
        self.parameters = densities.trainable
        self.hyperpriors = hyperparameters_by_name([*densities.trainable, *densities.frozen])
        self.hyperpriors |= likelihood.hyperparameters
        self.hyperparameters = problem.hyperparameters
        x = map_inputs(lambda t: t.double() if t.dtype.is_floating_point else t, x)
        y = likelihood.cast(y, torch.float64)
        self.program = _Program(self.model, x, y, method.frames)
        self._weights = spectral_program(self.parameters, method.frames)

    def run(
        self, folder: RunFolder | None = None, checkpoint: dict[str, Any] | None = None
    ) -> Fitted:
        """Sample, and put the mean into the problem's network; see `bayes_htr.fit`.

        A run that was cut off starts anew: there are no checkpoints.

        Args:
            folder: The run folder, if any.
            checkpoint: Not used.

        Raises:
            CheckpointError: The run folder holds a finished run.
        """
        if folder is not None and (folder.path / WEIGHTS).exists():
            raise CheckpointError(
                f"{folder.path} holds a finished run, and NUTS does not go on with one; read it "
                "with htr.load, or name another folder"
            )
        self.warn_of_flat()
        start = time.perf_counter()
        method = self.method
        bar = TrainingProgress(
            self.problem.progress,
            with_threads("NUTS", self.problem.train.device),
            epochs=method.chains,
            done=0,
            batches=method.warmup + method.samples,
        )
        settings = {k: v for k, v in method.describe().items() if k not in ("name", "frames")}
        settings["reflected"] = self.reflected
        processes = min(method.processes, method.chains)
        workers = Workers(processes, max(1, torch.get_num_threads() // processes))
        with bar if processes == 1 else nullcontext():
            chains = run_chains(
                self.program,
                self.start,
                ChainSettings(**settings),
                seed=self.problem.seed,
                step=bar.advance,
                workers=workers,
                progress=self.problem.progress,
            )
        guide = Samples(self.draws(chains))
        history = _history(chains, self.quantities(chains), time.perf_counter() - start)
        _warn(history[-1], method)
        return self._fitted(guide, history)

    def _fitted(self, guide: Samples, history: list[dict[str, float]]) -> Fitted:
        """Put the network at the draws' mean, and take the hyperparameters' means."""
        net, centre = self.problem.net, guide.centre()
        set_parameters(parameters_of(net), centre)
        hyperparameters = {}
        for name, hyperparameter in self.hyperpriors.items():
            hyperparameters[name] = hyperparameter.coordinate(centre[name]).cpu()
        return Fitted(net.eval(), hyperparameters, history, guide)

    @property
    def matrices(self) -> list[MatrixPrior]:
        """The priors of the matrices that are sampled."""
        return [m for p in self.parameters for m in p.matrices]

    @property
    def reflected(self) -> tuple[str, ...]:
        """The frames of square matrices, whose determinant keeps its sign along trajectories."""
        if self.method.frames == "held":
            return ()
        return tuple(
            f"{m.name}:left" for m in self.matrices if m.spectral and m.shape[0] == m.shape[1]
        )

    def require_small(self) -> None:
        """Raise `ValueError` if there is nothing to sample, or too much."""
        if not self.matrices:
            raise ValueError("no parameter has a prior, so there is nothing to sample; add priors")
        size = len(self.hyperpriors) + sum(self._size(m) for m in self.matrices)
        if size > LARGEST:
            raise ValueError(
                f"the model has {size} unconstrained coordinates, and NUTS takes at most "
                f"{LARGEST}; hold the frames (frames='held'), freeze layers, or use a smaller "
                "network or another method"
            )

    def _size(self, prior: MatrixPrior) -> int:
        m, n = prior.shape
        if not prior.spectral:
            return m * n
        return prior.rank * (1 + (m + n if self.method.frames == "sampled" else 0))

    @property
    def start(self) -> dict[str, Tensor]:
        """The sites' values at the present weights, with hyperparameters where MAP starts them."""
        like = self.parameters[0].parameter.tensor.detach()
        hyper = {
            name: h.value(self.hyperparameters.get(name, h.start()).to(like))
            for name, h in self.hyperpriors.items()
        }
        sites = spectral_start(self.parameters, hyper)
        if self.method.frames == "held":
            for m in self.matrices:
                for side in ("left", "right") if m.spectral else ():
                    del sites[f"{m.name}:{side}"]
        return sites

    def log_density_at_start(self) -> float:
        """Evaluate the log density at `start`."""
        given = pyro.poutine.condition(self.program, data=self.start)
        with torch.no_grad():
            return float(pyro.poutine.trace(given).get_trace().log_prob_sum())

    def warn_of_flat(self) -> None:
        """Warn of parameters without a prior, which are not sampled."""
        flat = [p.name for p in self.parameters if not p.matrices]
        if flat:
            warnings.warn(
                f"no prior on {', '.join(flat)}: NUTS leaves them at their present values; give "
                "vectors Entries(Normal(0.0, 1.0)), for instance",
                stacklevel=5,
            )

    def draws(self, chains: Chains) -> dict[str, Tensor]:
        """Return trainable parameters and hyperparameters, `(chains * samples, ...)`, by name."""
        sites = {name: value.flatten(0, 1) for name, value in chains.sites.items()}
        rows = []
        for i in range(self.method.chains * self.method.samples):
            given = {name: value[i] for name, value in sites.items()}
            with torch.no_grad():
                rows.append(pyro.poutine.condition(self._weights, data=given)())
        values = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        values |= {name: sites[name] for name in self.hyperpriors}
        return {name: value.to(self.dtype) for name, value in values.items()}

    def quantities(self, chains: Chains) -> dict[str, Tensor]:
        """Return what has to converge: scalars by name, each `(chains, samples)`."""
        scalars = {"log_density": chains.log_density}
        scalars |= {name: chains.sites[name] for name in self.hyperpriors}
        for m in self.matrices:
            if not m.spectral:
                square = chains.sites[m.name].flatten(2).square().sum(-1)
                scalars[f"{m.name}:log_square_norm"] = square.log()
                continue
            values = log_eigenvalues(m, chains.sites)
            if self.method.frames == "sampled":
                values = values.sort(-1, descending=True).values
            for i, value in enumerate(values.unbind(-1)):
                scalars[f"{m.name}:log_eigenvalue[{i}]"] = value
        return scalars


def log_eigenvalues(prior: MatrixPrior, sites: dict[str, Tensor]) -> Tensor:
    """Return log eigenvalues `(..., K)` of a matrix, in the order of its sites.

    Args:
        prior: The matrix's prior.
        sites: Draws of the sites, `(..., *shape)`, by name.
    """
    statistic = prior.spectral[0].statistic
    if not statistic.of_largest:
        x = sites[f"{prior.name}:spectrum"]
        return statistic.to_eigenvalues(x.double()).log().to(x)
    top = sites[f"{prior.name}:lambda_max"].unsqueeze(-1).log()
    if prior.rank == 1:
        return top
    return torch.cat([top, top + sites[f"{prior.name}:ratios"].log()], dim=-1)


def _refuse_what_does_nothing(problem: Problem) -> None:
    if problem.epochs != 0:
        raise ValueError(
            f"epochs={problem.epochs}: NUTS has no epochs, its length is warmup and samples; pass "
            "epochs=0"
        )
    if len(problem.callbacks):
        raise ValueError("NUTS has no epochs after which callbacks could be called; leave them out")
    if problem.validation is not None:
        raise ValueError(
            "NUTS has no epochs after which to measure validation data; leave validation out, and "
            "call posterior.evaluate(validation)"
        )
    if world_size() > 1:
        raise ValueError(f"NUTS runs in one process, and there are {world_size()}")


def _require_each_example(problem: Problem) -> None:
    count = sum(len(y) for _, y in problem.train)
    if count != problem.train.num_data:
        raise DataError(
            f"train: the loader gives {count} of {problem.train.num_data} examples, and NUTS "
            "needs each once; leave out drop_last and samplers that draw with replacement"
        )


def _history(
    chains: Chains, quantities: dict[str, Tensor], seconds: float
) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = [
        {
            "chain": float(i),
            "acceptance": chains.acceptance[i],
            "divergences": float(chains.divergences[i]),
            "saturated": float(chains.saturated[i]),
            "step_size": chains.step_size[i],
            "leapfrogs": chains.leapfrogs[i],
        }
        for i in range(len(chains.acceptance))
    ]
    rhats = {name: split_rhat(draws) for name, draws in quantities.items()}
    sizes = {name: bulk_ess(draws) for name, draws in quantities.items()}
    summary = {
        "rhat": max(rhats.values(), key=lambda r: math.inf if math.isnan(r) else r),
        "ess": min(sizes.values()),
        "divergences": float(sum(chains.divergences)),
        "saturated": float(sum(chains.saturated)),
        "seconds": seconds,
    }
    summary |= {f"rhat:{name}": value for name, value in rhats.items()}
    summary |= {f"ess:{name}": value for name, value in sizes.items()}
    return [*rows, summary]


def _warn(summary: dict[str, float], method: NUTS) -> None:
    draws = method.chains * method.samples
    rhats = {k.removeprefix("rhat:"): v for k, v in summary.items() if k.startswith("rhat:")}
    bad = [name for name, value in rhats.items() if not value <= RHAT]
    if bad:
        worst = max(bad, key=lambda n: math.inf if math.isnan(rhats[n]) else rhats[n])
        warnings.warn(
            f"the chains do not agree: R-hat is above {RHAT} for {len(bad)} of {len(rhats)} "
            f"quantities, the largest {rhats[worst]:.3f} for {worst}, where the effective sample "
            f"size is {summary[f'ess:{worst}']:.0f} of {draws} draws; take more warmup and samples",
            stacklevel=5,
        )
    if summary["divergences"]:
        warnings.warn(
            f"{summary['divergences']:.0f} of {draws} trajectories diverged: the draws may miss "
            f"narrow places; raise target_accept={method.target_accept}",
            stacklevel=5,
        )
    if summary["saturated"]:
        warnings.warn(
            f"{summary['saturated']:.0f} of {draws} trajectories reached "
            f"max_tree_depth={method.max_tree_depth}; raise it, or take dense_mass=True",
            stacklevel=5,
        )
