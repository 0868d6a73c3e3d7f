"""Training of a guide by SVI, in one process and in several."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from bayes_htr._terminal import TrainingProgress
from bayes_htr.distributed import AsideStream, average_gradients, local_slice, world_size
from bayes_htr.engine.optimizer import HYPER_LR
from bayes_htr.errors import DivergenceError
from bayes_htr.inference.guides import Guide, SpectralGuide, VariationalGuide
from bayes_htr.inference.guides.likelihood import GuideWithLikelihood, likelihood_posterior
from bayes_htr.inference.guides.per_example import DirectionNoise, ExampleNoise
from bayes_htr.inference.guides.spectral_state import SpectralState
from bayes_htr.inference.problem import (
    Fitted,
    Problem,
    draw_sums,
)
from bayes_htr.inference.replica import (
    DistributedTrainer,
    Replica,
    evaluate_replicas,
)
from bayes_htr.inference.settings import TrainingSettings
from bayes_htr.inference.trainer import Trainer, trainable_weights
from bayes_htr.models.inputs import Inputs, call_with, num_examples
from bayes_htr.spectra import parameters_of, working_dtype
from bayes_htr.spectra.matrices import Parameter, set_parameters
from bayes_htr.spectra.modules import unwrap

Sample: TypeAlias = Mapping[str, Tensor]
"""A draw of parameters, or of hyperparameters, by name."""


class SVISettings(TrainingSettings, Protocol):
    """The settings of `htr.SVI` that training needs."""

    @property
    def particles(self) -> int:
        """The number of draws of the weights in each step."""

    @property
    def kl_warmup(self) -> int:
        """The number of epochs over which the weight of the KL divergence rises."""

    @property
    def temperature(self) -> float:
        """The full weight of the KL divergence."""

    @property
    def noise(self) -> Literal["shared", "example"]:
        """Whether all examples of a batch share a draw."""

    @property
    def noisy_directions(self) -> int | None:
        """In about how many directions of a matrix an example has noise; `None` for all."""

    def guide_class(self) -> type[VariationalGuide]:
        """Return the class of the guide."""

    def options(self) -> dict[str, Any]:
        """Return the settings from which guides are built, as plain data."""


class SVITrainer(Trainer):
    """Training of a guide by SVI.

    Args:
        method: The settings.
        problem: The problem to train on; its network follows the guide's centre.

    Raises:
        ValueError: There is nothing to train, early stopping has no validation data, the
            optimiser needs a closure, or the network cannot have `noise="example"`.
        PriorError: A prior is not a density.
    """

    label: ClassVar[str] = "SVI"
    method: SVISettings

    def __init__(self, method: SVISettings, problem: Problem) -> None:
        weights = trainable_weights(problem.net)
        kind = method.guide_class()
        densities = kind.densities_of(problem.model.priors, problem.net, 0)
        self.guide: VariationalGuide = kind.from_weights(
            densities, problem.hyperparameters, method.options()
        )
        self.guide.to(weights[0].device)
        hyper = self.guide.hyperparameter_coordinates()
        own = {id(p) for p in hyper}
        rest = [p for p in self.guide.parameters() if p.requires_grad and id(p) not in own]
        like = torch.zeros((), dtype=working_dtype(weights[0].dtype), device=weights[0].device)
        self.of_likelihood = likelihood_posterior(
            problem.model.likelihood, problem.hyperparameters, like, problem.train.num_data
        )
        learnt: dict[str, nn.Module] = {"guide": self.guide}
        if self.of_likelihood.hyperparameters:
            learnt["likelihood"] = self.of_likelihood
            hyper = [*hyper, *self.of_likelihood.parameters()]
        super().__init__(method, problem, learnt, rest, hyper)
        if self.needs_closure:
            raise ValueError(
                f"{type(self.optimizer).__name__} compares losses within a step, and those of SVI "
                "are of different draws; take torch.optim.Adam"
            )
        self.trainable = self._trainable_names()
        self.root = unwrap(self.net)
        self.parameters: list[Parameter] = parameters_of(self.root)
        self.warmup_steps = method.kl_warmup * len(problem.train)
        self.examples: ExampleNoise | None = None
        if method.noise == "example":
            assert isinstance(self.guide, SpectralGuide)
            self.examples = ExampleNoise(self.guide, self.root, method.noisy_directions)

    def update(self, parts: Sequence[tuple[Inputs, Tensor]], size: int) -> tuple[Tensor, Tensor]:
        """Update by one batch; the sums are of likelihood, KL divergence, and score."""
        ((x, y),) = parts
        self.optimizer.zero_grad()
        if self.hyper_optimizer is not None:
            self.hyper_optimizer.zero_grad()
        particles, weight = self.method.particles, self._kl_weight() / self.num_data
        nlls, divergences, scores = [], [], []
        for particle in range(particles):
            try:
                sample = self._sample(again=particle > 0)
                kl = self.guide.kl_in_step(sample)
                values = self.of_likelihood.rsample()
                if values:
                    kl = kl + self.of_likelihood.kl().to(kl)
            except (ValueError, RuntimeError) as error:  # a law has NaN, or left its range
                raise self.diverged(str(error), self.step, x) from error
            nll, score = self.score(sample, values, x, y, size)
            loss = (nll + weight * kl.to(nll)) / particles
            if loss.requires_grad:  # a process may have none of the batch's examples
                loss.backward()
            nlls.append(nll.detach())
            divergences.append(kl.detach())
            scores.append(score)
        self.share_gradients()
        self.guide.add_known_gradient(weight)
        if self.method.clip is not None:
            learnt = [*self.guide.parameters(), *self.of_likelihood.parameters()]
            nn.utils.clip_grad_norm_(learnt, self.method.clip)
        self.optimizer.step()
        if self.hyper_optimizer is not None:
            self.hyper_optimizer.step()
        nll = torch.stack(nlls).double().mean()
        kl = torch.stack(divergences).double().mean().to(nll)
        nll, score = self.combine(nll, torch.stack(scores).double().mean())
        return nll + kl, torch.stack([nll * size, kl * size, score])

    def score(
        self, sample: Sample, values: Sample, x: Inputs, y: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        """Return the mean negative log likelihood of a batch under a draw, and its score.

        Args:
            sample: The draw of the parameters by name.
            values: The likelihood's hyperparameters by name.
            x: The inputs.
            y: The labels.
            size: The number of examples in the batch, of which another process may have a part.
        """
        outputs = self._outputs(sample, x)
        return self.likelihood(outputs, y, values), self.likelihood.score(outputs, y)

    def share_gradients(self) -> None:
        """Do nothing: with one process there are no gradients to average."""

    def combine(self, nll: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Return likelihood and score as they are: there is only one process."""
        return nll, score

    def _sample(self, *, again: bool) -> dict[str, Tensor]:
        if self.examples is not None:
            return self.examples.guide.points()
        return self.guide.rsample(again=again)

    def _noise(self, x: Inputs) -> contextlib.AbstractContextManager[None]:
        """Return the context for the call of the network on a batch.

        Within it each example has its own draw, unless `examples` is `None`.
        """
        if self.examples is None:
            return contextlib.nullcontext()
        return self.examples.drawn(num_examples(x))

    def _outputs(self, sample: Sample, x: Inputs) -> Tensor:
        weights = {p.path: sample[p.name] for p in self.parameters if p.name in sample}
        with self._noise(x):
            outputs: Tensor = call_with(self.root, weights, x)
        return outputs

    def _kl_weight(self) -> float:
        """Return the weight of the KL divergence in this step: the temperature, after warm-up."""
        if self.step + 1 >= self.warmup_steps:
            return self.method.temperature
        return self.method.temperature * ((self.step + 1) / self.warmup_steps)

    def metrics(self, means: list[float]) -> dict[str, float]:
        """Name the means: loss, train_nll, kl, and the score, such as train_accuracy."""
        nll, kl, score = means
        return {
            "loss": nll + self.method.temperature * kl / self.num_data,
            "train_nll": nll,
            "kl": kl,
            **self.named_score("train", score),
        }

    def validate(self) -> tuple[float, float]:
        """Return NLL and score of the mean prediction of 8 draws on the validation data."""
        assert self.problem.validation is not None
        nll, score, count = draw_sums(
            self.net, self.whole_guide, self.problem.validation, self.likelihood
        )
        return nll / count, score / count

    @property
    def whole_guide(self) -> Guide:
        """The guide, with the posterior of the likelihood's hyperparameters if it has any."""
        if not self.of_likelihood.hyperparameters:
            return self.guide
        return GuideWithLikelihood(self.guide, self.of_likelihood)

    def follow_priors(self, epoch: int) -> None:
        """Use the priors as they are at an epoch: a schedule or freezing may have changed them."""
        trainable = self._trainable_names()
        if trainable == self.trainable and not self.problem.model.priors.is_scheduled:
            self.guide.epoch = epoch
            return
        self.trainable = trainable
        densities = self.guide.densities_of(self.problem.model.priors, self.net, epoch)
        self.guide.set_epoch(densities, epoch)

    def _trainable_names(self) -> frozenset[str]:
        return frozenset(name for name, p in self.net.named_parameters() if p.requires_grad)

    def train_batches(self, bar: TrainingProgress) -> tuple[list[float], Inputs | None]:
        """Update by every batch; the rate of hyperparameters falls as the schedule's does."""
        if self.hyper_optimizer is not None:
            left = min(1.0, self.schedule.lr / float(self.method.lr))
            self.hyper_optimizer.param_groups[0]["lr"] = HYPER_LR * left
        return super().train_batches(bar)

    def update_network(self, x: Inputs) -> None:
        """Put the network's weights at the guide's centre."""
        try:
            set_parameters(self.parameters, self.guide.centre())
        except ValueError as error:
            raise self.diverged(str(error), self.step - 1, x) from error

    def diverged(self, reason: str, step: int, x: Inputs) -> DivergenceError:
        """Return the error to raise, with the network at the guide's centre."""
        with contextlib.suppress(ValueError):  # a law may have no centre any more
            set_parameters(self.parameters, self.guide.centre())
        return super().diverged(reason, step, x)

    def fitted(self) -> Fitted:
        """Return the guide, and the network at its centre."""
        set_parameters(self.parameters, self.guide.centre())
        guide = self.whole_guide
        hyperpriors = self.guide.hyperpriors | self.likelihood.hyperparameters
        coordinates = guide.coordinates(hyperpriors)
        coordinates = {name: u.detach().cpu().clone() for name, u in coordinates.items()}
        return Fitted(self.net.eval(), coordinates, self.history, guide=guide)


class DistributedSVITrainer(SVITrainer, DistributedTrainer):
    """Training by SVI in several processes, each of which has such a trainer and its own guide.

    The guides are equal throughout. PyTorch's global generator is the same in all processes, and
    all draw the same weights from it; of the noise of a batch with a draw for each example, every
    process takes the rows of its own examples. The run therefore draws the same numbers as in one
    process. What the network draws, as dropout does, comes from a stream of the process's own.
    Gradients are averaged in one sum over processes, and each process computes the KL divergence
    and refreshes singular vectors by itself.
    """

    def __init__(self, method: SVISettings, problem: Problem) -> None:
        super().__init__(method, problem)
        self.replica = Replica()
        self.stream = AsideStream(problem.train.device)
        self.size = 0  # of the present batch, with the examples of all processes
        if self.examples is not None:
            self.examples.noise_of = self._rows_of_noise

    def start_epoch(self, seed: int) -> None:
        """Seed the stream of what the network draws."""
        self.stream.seed(seed)

    def aligned(self) -> list[Tensor]:
        """Return the tensors that process 0 gives to all: buffers of the network, and the guide."""
        learnt = [self.guide, self.of_likelihood]
        tensors = [*self.net.buffers()]
        for module in learnt:
            tensors += [*module.parameters(), *module.buffers()]
        return tensors

    def score(
        self, sample: Sample, values: Sample, x: Inputs, y: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        """Score this process's part of a batch; the mean over processes is that over the batch."""
        nothing = next(self.guide.parameters()).new_zeros(())
        self.size = size
        try:
            if self.replica.failure is None and len(y):
                nll, score = super().score(sample, values, x, y, size)
                return nll * (len(y) * world_size() / size), score
            if self.examples is not None:
                self.examples.skip()
        except Exception as error:
            self.replica.failure = error
        return nothing, nothing

    def share_gradients(self) -> None:
        """Average the gradients of all that is learnt over processes."""
        learnt = [*self.guide.parameters(), *self.of_likelihood.parameters()]
        average_gradients([p for p in learnt if p.requires_grad])

    def combine(self, nll: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Average the likelihood and sum the score over processes."""
        return self.replica.combine(nll, score)

    def validate(self) -> tuple[float, float]:
        """Return NLL and score on the validation data, of which each process has a part."""
        assert self.problem.validation is not None
        guide, likelihood = self.whole_guide, self.likelihood
        return evaluate_replicas(
            self.problem.validation, lambda parts: draw_sums(self.net, guide, parts, likelihood)
        )

    def _outputs(self, sample: Sample, x: Inputs) -> Tensor:
        with self.stream.swapped():
            return super()._outputs(sample, x)

    def _rows_of_noise(self, state: SpectralState, examples: int) -> DirectionNoise:
        """Return the noise of this process's examples.

        It is a part of the noise that all processes draw for the whole batch.
        """
        assert self.examples is not None
        with self.stream.swapped() if examples else contextlib.nullcontext():
            noise = self.examples.noise(state, self.size)
        return replace(noise, values=noise.values[local_slice(self.size)])
