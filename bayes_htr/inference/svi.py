"""Stochastic variational inference: a guide over the weights, fitted to the posterior.

Update: gradient steps by any optimiser of Torch on
`mean cross-entropy at W + KL / num_data`, `W` one draw of the guide (averaged over `particles`),
each mini-batch an unbiased estimate whatever its size.
Target: the evidence lower bound `E_q[log p(D | W)] - KL(q | prior)`, over weights and
hyperparameters, with the prior's density over the entries at its strength `s` as `p^s`.
Source: Ranganath, Gerrish & Blei (2014); Kingma & Welling (2014), arXiv:1312.6114; Blundell et al.
(2015), arXiv:1505.05424; `docs/theory.md`.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from bayes_htr._terminal import TrainingProgress
from bayes_htr._torch import evaluation_mode, isolated_randomness
from bayes_htr.engine import Drift, Refresh
from bayes_htr.inference.data import Batches
from bayes_htr.inference.embeddings import check_embeddings
from bayes_htr.inference.guide_choice import check_options, guide_class
from bayes_htr.inference.guides import SpectralGuide, VariationalGuide
from bayes_htr.inference.guides.example_noise import ExampleNoise
from bayes_htr.inference.guides.gaussian import unconstrained
from bayes_htr.inference.guides.latent_laws import LatentLaws
from bayes_htr.inference.problem import Fitted, Problem
from bayes_htr.inference.settings import HYPER_LR, check_whole, fused_adam, is_positive
from bayes_htr.inference.training import (
    SchedulerFactory,
    TrainingRun,
    check_problem,
    check_settings,
    described_settings,
)
from bayes_htr.models.placed import placed_parameters
from bayes_htr.processes import world_size
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.matrices import unwrap

VALIDATION_DRAWS = 8
_RANK = 4


@dataclass(frozen=True)
class SVI:
    """Stochastic variational inference.

    Args:
        guide: The family of posteriors: `"spectral"`, over the spectra of matrices with a spectral
            prior; `"meanfield"` and `"lowrank"`, over the weights; or one of five classes of
            `pyro.infer.autoguide`, such as `AutoNormal`, over the weights.
        lr: Learning rate; laws of hyperparameters have 0.05, by Adam, lowered as this one is.
        optimizer: Called as `optimizer(parameters, lr=lr)`; Adam, in one kernel, if not given.
        scheduler: As in `MAP`.
        particles: Draws of the weights in each step.
        kl_warmup: Over so many epochs the divergence's weight rises linearly to its full value.
        temperature: `T`, the full weight of the divergence. The target is the posterior of
            `p(D | W)^(1/T) pi(W)`: below 1 a cold one, as if the data had been seen `1/T` times.
        init_scale: Standard deviation at the start, which is around the network's weights. In
            `"spectral"` that of the logarithm of singular values, 0.1 if not given. Else that of
            every weight; if not given 0.01, but as wide as the weights under a spectral prior.
        rank: In `"lowrank"`, how many directions a layer's weights share; 4 if not given.
        directions: In `"spectral"`, how many leading eigenvalues of each matrix have a spread, the
            others being points; all if not given. Fewer cost less.
        refresh: In `"spectral"`, when singular vectors are computed anew; `Drift()` if not given.
        noise: `"shared"`: one draw for all examples of a batch. `"example"`, with `"spectral"` and
            one particle: a draw for each example, which has the same bound with less variance and
            costs less; for networks of linear layers and convolutions without batch normalisation.
        clip: Clip the gradient of all that is learnt together to this norm.
        patience: Stop after this many epochs without a better validation NLL, and keep the best
            guide. Needs `validation`.

    The guides are for densities: a prior that is none raises `PriorError`. A parameter with a flat
    prior is a point, and adds nothing to the divergence. Per epoch the history holds `loss`, the
    negative evidence lower bound per example (without warm-up; at a temperature other than 1, the
    objective at this temperature), `train_nll` and `train_accuracy` of
    draws, `kl` in nats, and on validation data scores of the mean prediction of 8 draws.

    Raises:
        ValueError: A setting out of range, or one that the guide would not use.
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

    def __post_init__(self) -> None:
        check_settings(self)
        self.guide_class()
        for name, least in (("particles", 1), ("kl_warmup", 0), ("rank", 1), ("directions", 1)):
            if not (name in ("rank", "directions") and getattr(self, name) is None):
                check_whole(name, getattr(self, name), least)
        if not (self.refresh is None or isinstance(self.refresh, Refresh)):
            raise ValueError(f"refresh={self.refresh!r} must be htr.Drift, htr.Every or htr.Exact")
        if self.noise not in ("shared", "example"):
            raise ValueError(f"noise={self.noise!r} must be 'shared' or 'example'")
        if self.noise == "example" and (self.guide != "spectral" or self.particles != 1):
            raise ValueError(
                f"noise='example' is for guide='spectral' and one particle, not for "
                f"guide={self.guide!r} and {self.particles}; take noise='shared'"
            )
        if self.init_scale is not None and not is_positive(self.init_scale):
            raise ValueError(f"init_scale={self.init_scale!r} must be a positive number")
        if not is_positive(self.temperature):
            raise ValueError(f"temperature={self.temperature!r} must be a positive number")
        check_options(self)

    def describe(self) -> dict[str, Any]:
        """The settings as plain data."""
        return {
            "name": "svi",
            **described_settings(self),
            "particles": int(self.particles),
            "kl_warmup": int(self.kl_warmup),
            "temperature": float(self.temperature),
            "noise": self.noise,
            **self.options(),
        }

    def options(self) -> dict[str, Any]:
        """What guides are built with."""
        return {
            "guide": self.guide if isinstance(self.guide, str) else self.guide.__name__,
            "init_scale": None if self.init_scale is None else float(self.init_scale),
            "rank": _RANK if self.rank is None else int(self.rank),
            "directions": None if self.directions is None else int(self.directions),
            "refresh": (Drift() if self.refresh is None else self.refresh).to_dict(),
        }

    def guide_class(self) -> type[VariationalGuide]:
        """The class of guides."""
        return guide_class(self.guide)

    def check(self, problem: Problem) -> None:
        """Set everything up and evaluate the divergence once, before anything is written.

        Raises:
            ValueError: Early stopping without validation data, nothing to train, an optimiser that
                needs a closure, several processes, `noise="example"` for a network that cannot
                have it, an embedding with sparse gradients, or with padding under a guide over
                the weights.
            PriorError: A prior that is no density, or is none any more at some epoch.
            SpectrumError: Weights that a law cannot score.
        """
        check_problem(self, problem)
        if problem.model.priors.is_scheduled:
            for epoch in range(1, problem.epochs):
                placed_parameters(problem.model.priors, problem.net, epoch)
        if world_size() > 1:
            raise ValueError(
                "SVI trains in one process; start one, or train a mode: htr.MAP, --method map"
            )
        with isolated_randomness(), torch.no_grad():
            run = _Run(self, problem)
            check_embeddings(problem.net, run.guide.drawn)
            run.guide.divergence(run.guide.rsample())
            if run.examples is not None:
                run.examples.check(problem.train.first()[0])

    def run(self, problem: Problem) -> Fitted:
        """Fit a guide; `problem.net` is left at its centre. See `bayes_htr.fit`.

        Raises:
            DivergenceError: A loss or a parameter of the guide left the finite numbers.
        """
        with isolated_randomness():
            torch.manual_seed(problem.seed)
            return _Run(self, problem).train()


class _Run(TrainingRun):
    """The state of one training run."""

    label: ClassVar[str] = "SVI"
    method: SVI

    def __init__(self, method: SVI, problem: Problem) -> None:
        super().__init__(method, problem)
        self.placed = placed_parameters(problem.model.priors, self.net, 0)
        self.trainable = self._trainable()
        self.guide: VariationalGuide = method.guide_class().around(
            problem.model,
            self.placed.trainable,
            problem.hyperparameters,
            method.options(),
            self.placed.informing,
        )
        self.guide.to(self.weights[0].device)
        self.root = unwrap(self.net)
        self.paths = {p.name: p.path for p in parameters_of(self.root)}
        self.examples: ExampleNoise | None = None
        if method.noise == "example":
            assert isinstance(self.guide, SpectralGuide)
            self.examples = ExampleNoise(self.guide, self.root)
        laws = [module for module in self.guide.modules() if isinstance(module, LatentLaws)]
        hyper = [p for law in laws for p in law.parameters()]
        self.hyper = torch.optim.Adam(hyper, lr=HYPER_LR) if hyper else None
        own = {id(p) for p in hyper}
        self._start([p for p in self.guide.parameters() if p.requires_grad and id(p) not in own])
        if self.needs_closure:
            raise ValueError(
                f"{type(self.optimizer).__name__} compares losses within a step, and those of SVI "
                "are of different draws; take torch.optim.Adam"
            )

    def train(self) -> Fitted:
        self._train_epochs()
        if self.best is not None:
            self.net.load_state_dict(self.best["net"])
            self._follow(int(self.best["epoch"]) - 1)
            self.guide.load_state_dict(self.best["guide"])
        self._centre_network()
        self.net.eval()
        latents = unconstrained(self.guide, [*self.placed.trainable, *self.placed.informing])
        latents = {name: u.detach().cpu().clone() for name, u in latents.items()}
        return Fitted(self.net, latents, self.history, guide=self.guide)

    def _trainable(self) -> frozenset[str]:
        return frozenset(name for name, p in self.net.named_parameters() if p.requires_grad)

    def _follow(self, epoch: int) -> None:
        """Take the priors as they are at an epoch: a schedule or freezing may have changed them."""
        trainable = self._trainable()
        if trainable == self.trainable and not self.problem.model.priors.is_scheduled:
            self.guide.epoch = epoch
            return
        self.trainable = trainable
        now = placed_parameters(self.problem.model.priors, self.net, epoch)
        self.guide.follow(now.trainable, now.informing, epoch)

    def _train_batches(self, bar: TrainingProgress) -> dict[str, float]:
        train = self.problem.train
        if self.epoch:
            self._follow(self.epoch)
        self._schedule_hyper()
        totals = torch.zeros(3, dtype=torch.float64, device=train.device)  # nll, kl, correct
        unseen: list[Tensor] = []
        count = 0
        x = None
        for x, y in train:
            nll, kl, correct = self._step(x, y)
            totals += torch.stack([nll * len(y), kl * len(y), correct]).to(totals)
            count += len(y)
            unseen.append(nll + kl)
            if self._is_time_to_check(unseen):
                self._check(unseen, x)
            self._stepped(x)
            bar.advance()
        if x is not None:
            self._check(unseen, x)
            self._check_weights(x)
            self._present(x)
        self.last_batch = x
        nll_, kl_, correct_ = (totals / count).tolist()
        return {
            "loss": nll_ + self.method.temperature * kl_ / train.num_data,
            "train_nll": nll_,
            "kl": kl_,
            "train_accuracy": correct_,
        }

    def _schedule_hyper(self) -> None:
        """Lower the rate of hyperparameters as the schedule has lowered that of the others."""
        if self.hyper is not None:
            left = min(1.0, float(self.optimizer.param_groups[0]["lr"]) / float(self.method.lr))
            self.hyper.param_groups[0]["lr"] = HYPER_LR * left

    def _step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One update: negative log likelihood, divergence, and labels right, before it."""
        self.optimizer.zero_grad()
        if self.hyper is not None:
            self.hyper.zero_grad()
        particles, weight = self.method.particles, self._warmth() / self.problem.train.num_data
        nlls, divergences, corrects = [], [], []
        for particle in range(particles):
            try:
                sample = self._sample(again=particle > 0)
                kl = self.guide.divergence_in_step(sample)
            except (ValueError, RuntimeError) as error:  # laws of NaN, or outside of their range
                raise self._diverged(str(error), self.step, x) from error
            logits = self._logits(sample, x)
            nll = self.problem.model.likelihood(logits, y)
            loss = nll + weight * kl.to(nll)
            (loss / particles).backward()
            nlls.append(nll.detach())
            divergences.append(kl.detach())
            corrects.append((logits.detach().argmax(1) == y).sum())
        self.guide.add_known_gradient(weight)
        if self.method.clip is not None:
            nn.utils.clip_grad_norm_(self.guide.parameters(), self.method.clip)
        self.optimizer.step()
        if self.hyper is not None:
            self.hyper.step()
        self.step += 1
        means = (torch.stack(values).double().mean() for values in (nlls, divergences, corrects))
        nll, kl, correct = means
        return nll, kl.to(nll), correct

    def _sample(self, *, again: bool) -> dict[str, Tensor]:
        if self.examples is not None:
            return self.examples.guide.points()
        return self.guide.rsample(again=again)

    def _logits(self, sample: Mapping[str, Tensor], x: Tensor) -> Tensor:
        weights = {path: sample[n] for n, path in self.paths.items() if n in sample}
        with contextlib.nullcontext() if self.examples is None else self.examples.drawn(len(x)):
            logits: Tensor = functional_call(self.root, weights, (x,))
        return logits

    def _warmth(self) -> float:
        """The weight of the divergence in this step."""
        steps = self.method.kl_warmup * len(self.problem.train)
        risen = min(1.0, (self.step + 1) / steps) if steps else 1.0
        return self.method.temperature * risen

    def _validate(self) -> tuple[float, float]:
        assert self.problem.validation is not None
        return evaluate_draws(self.net, self.guide, self.problem.validation)

    def _diverged(self, reason: str, step: int, x: Tensor) -> Exception:
        with contextlib.suppress(ValueError):  # of laws that have no centre any more
            self._centre_network()
        return super()._diverged(reason, step, x)

    def _present(self, x: Tensor) -> None:
        try:
            self._centre_network()
        except ValueError as error:
            raise self._diverged(str(error), self.step - 1, x) from error

    def _centre_network(self) -> None:
        """Put the network's weights where the guide has its centre."""
        set_weights(self.net, self.guide.centre())

    def _learnt(self) -> list[Tensor]:
        return list(self.guide.parameters())

    def _best_state(self) -> dict[str, Any]:
        return {
            "net": copy.deepcopy(self.net.state_dict()),
            "guide": copy.deepcopy(self.guide.state_dict()),
        }

    def _state(self) -> dict[str, Any]:
        return {
            "guide": self.guide.state_dict(),
            "hyper": None if self.hyper is None else self.hyper.state_dict(),
        }

    def _load_state(self, state: Mapping[str, Any]) -> None:
        if state["epoch"]:
            self._follow(state["epoch"] - 1)  # that of the state, before what belongs to it
        self.guide.load_state_dict(state["guide"])
        if self.hyper is not None:
            self.hyper.load_state_dict(state["hyper"])


def set_weights(net: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set those parameters of a network that `values` has."""
    with torch.no_grad():
        for p in parameters_of(net):
            if p.name in values:
                p.tensor.copy_(values[p.name])


def evaluate_draws(
    net: nn.Module, guide: VariationalGuide, batches: Batches
) -> tuple[float, float]:
    """NLL and accuracy of the mean prediction of 8 draws, always of the same noise."""
    root = unwrap(net)
    paths = {p.name: p.path for p in parameters_of(root)}
    draws = [
        {paths[n]: v for n, v in draw.items() if n in paths}
        for draw in guide.draws(VALIDATION_DRAWS, seed=0)
    ]
    nll, correct, count = 0.0, 0, 0
    with evaluation_mode(net), torch.no_grad(), isolated_randomness():
        for x, y in batches:
            logs = torch.stack([functional_call(root, d, (x,)).log_softmax(1) for d in draws])
            mixed = logs.logsumexp(0) - math.log(len(draws))
            nll += float(nn.functional.nll_loss(mixed, y, reduction="sum"))
            correct += int((mixed.argmax(1) == y).sum())
            count += len(y)
    return nll / count, correct / count
