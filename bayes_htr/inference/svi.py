"""Stochastic variational inference: a guide over the weights, fitted to the posterior.

Update: gradient steps by any optimiser of Torch on
`mean -log p(y | x, W) + KL / num_data`, `W` one draw of the guide (averaged over `particles`),
each mini-batch an unbiased estimate whatever its size.
Target: the evidence lower bound `E_q[log p(D | W)] - KL(q | prior)`, over weights and
hyperparameters, with the prior's density over the entries at its strength `s` as `p^s`.
Source: Ranganath, Gerrish & Blei (2014); Kingma & Welling (2014), arXiv:1312.6114; Blundell et al.
(2015), arXiv:1505.05424; `docs/theory.md`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from bayes_htr._checks import number, whole_number
from bayes_htr._torch import isolated_randomness
from bayes_htr.distributed import world_size
from bayes_htr.engine import Drift, Refresh
from bayes_htr.inference.guides import GUIDES, VariationalGuide
from bayes_htr.inference.guides.pyro_guide import (
    PYRO_GUIDES,
    PyroGuide,
    is_pyro_guide,
    takes_scale,
)
from bayes_htr.inference.problem import (
    Problem,
    warn_of_generalised_posterior,
)
from bayes_htr.inference.replica import (
    of_one_process,
)
from bayes_htr.inference.settings import (
    SchedulerFactory,
    check_settings,
    describe_settings,
    fused_adam,
)
from bayes_htr.inference.svi_trainer import DistributedSVITrainer, SVITrainer
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.modules import unwrap

NAMED_GUIDES: dict[str, type[VariationalGuide]] = {
    kind: guide
    for kind, guide in GUIDES.items()
    if issubclass(guide, VariationalGuide) and guide is not PyroGuide
}
"""The guides that `SVI` takes by name."""

_GUIDE_OPTIONS = ("init_scale", "rank", "directions", "refresh", "full_gradient")
"""The settings of `SVI` that only some guides use."""
_RANK = 4


@dataclass(frozen=True)
class SVI:
    """Stochastic variational inference.

    Args:
        guide: The family of posteriors: `"spectral"`, over the spectra of matrices with a spectral
            prior; `"meanfield"` and `"lowrank"`, over the weights; or one of five classes of
            `pyro.infer.autoguide`, such as `AutoNormal`, over the weights.
        lr: Learning rate. The posteriors of hyperparameters are trained by Adam with a learning
            rate of 0.05, which falls in proportion if the schedule lowers `lr`.
        optimizer: A callable that makes the optimiser, as `optimizer(parameters, lr=lr)`; by
            default an Adam in one kernel.
        scheduler: The schedule of the learning rate, as in `MAP`.
        particles: The number of draws of the weights in each step.
        kl_warmup: The number of epochs over which the weight of the KL divergence rises linearly to
            its full value.
        temperature: `T`, the full weight of the KL divergence. The target is the posterior of
            `p(D | W)^(1/T) pi(W)`: below 1 a cold one, as if the data had been seen `1/T` times.
        init_scale: The standard deviation of the guide around the network's weights at the start.
            In `"spectral"` it is that of the logarithm of singular values, 0.1 if not given. In
            other guides it is that of every weight, 0.01 if not given; but under a spectral prior
            the guide then starts as wide as the weights.
        rank: In `"lowrank"`, the number of directions that a layer's weights share; 4 if not given.
        directions: In `"spectral"`, the number of leading eigenvalues of each matrix that have a
            spread, the others being points; all if not given. Fewer cost less.
        refresh: In `"spectral"`, the policy that says when singular vectors are computed anew;
            `Drift()` if not given.
        noise: `"shared"` takes one draw for all examples of a batch. `"example"`, for `"spectral"`
            and one particle, takes a draw for each example, which has the same bound with less
            variance and costs less; it is for networks of linear layers and convolutions without
            batch normalisation.
        noisy_directions: With `noise="example"`, in about how many directions of a large matrix an
            example has noise; all if not given. In each step they are every `j`-th one, with a
            random first one, and their factors are rescaled so that each direction keeps the mean
            and the variance of its factor. The bound is then the same to second order in the
            spreads, and a step costs less (`docs/spectral-guide.md`).
        clip: Clip the gradient of all that is learnt together to this norm.
        patience: Stop after this many epochs without a better validation NLL, and keep the best
            guide. Early stopping needs `validation`.
        scheduler_interval: As in `MAP`.
        full_gradient: In `"spectral"`, whether the gradient with respect to the weights includes
            how the singular vectors turn with the weights, at the cost of two more thin products
            per matrix (`docs/spectral-guide.md`); if not given, it does not.

    The guides need priors that are densities; others raise `PriorError`. A parameter with a flat
    prior is a point, and adds nothing to the KL divergence. For each epoch the history holds
    `loss`, the negative evidence lower bound per example (without warm-up; at a temperature other
    than 1, the objective at this temperature), `train_nll` and `train_accuracy` (for real-valued
    targets `train_rmse`) of draws, `kl` in nats, and on validation data the scores of the mean
    prediction of 8 draws.

    Raises:
        ValueError: A setting is out of range, or the guide would not use it.
    """

    guide: str | type = "spectral"
    lr: float = 1e-3
    optimizer: Callable[..., Optimizer] = fused_adam
    scheduler: Literal["cosine"] | SchedulerFactory | None = "cosine"
    particles: int = 1
    kl_warmup: int = 0
    temperature: float = 1.0
    init_scale: float | None = None
    rank: int | None = None
    directions: int | None = None
    refresh: Refresh | None = None
    noise: Literal["shared", "example"] = "shared"
    clip: float | None = None
    patience: int | None = None
    scheduler_interval: Literal["epoch", "step"] = "epoch"
    full_gradient: bool | None = None
    noisy_directions: int | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        self._check_guide_options()
        whole_number(self.particles, "particles", at_least=1)
        whole_number(self.kl_warmup, "kl_warmup")
        number(self.temperature, "temperature", above=0)
        for name in ("rank", "directions", "noisy_directions"):
            if getattr(self, name) is not None:
                whole_number(getattr(self, name), name, at_least=1)
        if self.init_scale is not None:
            number(self.init_scale, "init_scale", above=0)
        if not isinstance(self.full_gradient, bool | None):
            raise ValueError(f"full_gradient={self.full_gradient!r} must be True or False")
        if not (self.refresh is None or isinstance(self.refresh, Refresh)):
            raise ValueError(f"refresh={self.refresh!r} must be htr.Drift, htr.Every or htr.Exact")
        if self.noise not in ("shared", "example"):
            raise ValueError(f"noise={self.noise!r} must be 'shared' or 'example'")
        if self.noise == "example" and (self.guide != "spectral" or self.particles != 1):
            raise ValueError(
                f"noise='example' is for guide='spectral' and one particle, not for "
                f"guide={self.guide!r} and {self.particles}; take noise='shared'"
            )
        if self.noisy_directions is not None and self.noise != "example":
            raise ValueError(
                f"noisy_directions={self.noisy_directions!r} is a setting of noise='example'; "
                "leave it out"
            )

    def _check_guide_options(self) -> None:
        """Require the guide to use each setting that is given.

        Raises:
            ValueError: The guide would ignore a setting.
        """
        used = self.guide_class().options
        if not (isinstance(self.guide, str) or takes_scale(self.guide)):
            used = used - {"init_scale"}
        for name in _GUIDE_OPTIONS:
            value = getattr(self, name)
            if value is not None and name not in used:
                shown = repr(self.guide) if isinstance(self.guide, str) else self.guide.__name__
                others = [kind for kind, guide in NAMED_GUIDES.items() if name in guide.options]
                raise ValueError(
                    f"{name}={value!r} is no setting of guide={shown}; leave it out, or take "
                    f"guide={' or '.join(map(repr, others))}"
                )

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {
            "name": "svi",
            **describe_settings(self),
            "particles": int(self.particles),
            "kl_warmup": int(self.kl_warmup),
            "temperature": float(self.temperature),
            "noise": self.noise,
            # Runs of earlier versions do not name it, and resume.
            **(
                {}
                if self.noisy_directions is None
                else {"noisy_directions": int(self.noisy_directions)}
            ),
            **self.options(),
        }

    def options(self) -> dict[str, Any]:
        """Return the settings from which guides are built, as plain data."""
        return {
            "guide": self.guide if isinstance(self.guide, str) else self.guide.__name__,
            "init_scale": None if self.init_scale is None else float(self.init_scale),
            "rank": _RANK if self.rank is None else int(self.rank),
            "directions": None if self.directions is None else int(self.directions),
            "refresh": (Drift() if self.refresh is None else self.refresh).to_dict(),
            # Runs of earlier versions do not name it, and resume.
            **({"full_gradient": True} if self.full_gradient else {}),
        }

    def guide_class(self) -> type[VariationalGuide]:
        """Return the class of guides that `guide` asks for.

        Raises:
            ValueError: `guide` is neither a name nor one of the classes of Pyro.
        """
        if is_pyro_guide(self.guide):
            return PyroGuide
        if not (isinstance(self.guide, str) and self.guide in NAMED_GUIDES):
            raise ValueError(
                f"guide={self.guide!r} must be one of {', '.join(NAMED_GUIDES)}, or of the classes "
                f"{', '.join(PYRO_GUIDES)} of pyro.infer.autoguide"
            )
        return NAMED_GUIDES[self.guide]

    def prepare(self, problem: Problem) -> SVITrainer:
        """Build the trainer, and evaluate the KL divergence once, before anything is written.

        Raises:
            ValueError: Early stopping lacks validation data, there is nothing to train, the
                optimiser needs a closure, the network cannot have `noise="example"`, or an
                embedding has sparse gradients, or padding under a guide over the weights.
            DataError: The last batch has one example, on which batch normalisation cannot train.
            PriorError: A prior is not a density, or stops being one at some epoch.
            SpectrumError: A law cannot score the weights.
        """
        if problem.epochs and world_size() == 1:
            problem.train.check_last_batch(problem.net)
        if problem.model.priors.is_scheduled:
            for epoch in range(1, problem.epochs):
                self.guide_class().densities_of(problem.model.priors, problem.net, epoch)
        warn_of_generalised_posterior(problem, "SVI")
        with isolated_randomness():
            torch.manual_seed(problem.seed)
            if world_size() > 1:
                trainer: SVITrainer = DistributedSVITrainer(self, of_one_process(problem))
            else:
                trainer = SVITrainer(self, problem)
            _check_embeddings(problem.net, trainer.guide.drawn)
            with torch.no_grad():
                guide = copy.deepcopy(trainer.guide)  # a draw counts as a step of the guide
                guide.kl(guide.rsample())
                if trainer.examples is not None:
                    trainer.examples.check(problem.train.first()[0])
        return trainer


def _check_embeddings(net: nn.Module, drawn: Collection[str]) -> None:
    """Require that SVI can train a network's embeddings.

    The row of an embedding that stands for padding is not updated in training. The data say nothing
    about it, and a guide that draws the weights would give it the prior's spread.

    Args:
        net: The network.
        drawn: Names of the parameters of which every entry is drawn.

    Raises:
        ValueError: An embedding has sparse gradients, or padding in a parameter that is drawn.
    """
    net = unwrap(net)
    names = {id(p.tensor): p.name for p in parameters_of(net)}
    for path, module in net.named_modules():
        if not (isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.weight.requires_grad):
            continue
        if module.sparse:
            raise ValueError(f"{path} has sparse gradients, which SVI cannot use; set sparse=False")
        if module.padding_idx is not None and names.get(id(module.weight)) in drawn:
            raise ValueError(
                f"{path}.weight has padding_idx={module.padding_idx}, a row that the data do not "
                "inform and that draws would fill with noise; take guide='spectral', freeze the "
                "embedding, or mask the padding in the network"
            )
