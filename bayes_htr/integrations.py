"""Other people's trainers: Lightning and the Trainer of Transformers.

They are imported here and nowhere else, when they are asked for. `lightning_prior` and
`TransformersPriorMixin` train under priors, by `htr.with_prior`. The recorders pass networks in
training to a step callback, such as a spectrum history. They count updates of the optimiser, not
batches, and call the step callback in the main process alone. The weights have to be complete in
that process, as they are under data parallelism.
"""

from __future__ import annotations

import sys
from typing import Any

from bayes_htr.engine import PriorOptimizer, Refresh, with_prior
from bayes_htr.errors import PriorError
from bayes_htr.inference.callbacks import StepCallback, StepEvent
from bayes_htr.priors import Priors


def lightning_prior(
    priors: Priors,
    *,
    num_data: float,
    decoupled: bool | None = None,
    refresh: Refresh | None = None,
) -> Any:
    """Make a `Callback` of Lightning that trains a `LightningModule` under priors.

    When training starts, and before a checkpoint is restored, it wraps the optimiser of the module
    by `htr.with_prior`. The optimiser's state in checkpoints then includes that of the prior.
    Priors with a schedule follow the trainer's epochs. The energy is logged as `prior_energy`.

    Args:
        priors: The priors, by names of parameters of the `LightningModule`, such as
            `"net.0.weight"`.
        num_data: The number of terms of which the loss is the mean, as for `htr.with_prior`.
        decoupled: As for `htr.with_prior`.
        refresh: As for `htr.with_prior`.

    Raises:
        ImportError: Lightning is not installed.
        PriorError: Training raises the same errors as `htr.with_prior`; or the module has several
            optimisers.

    Example:
        >>> trainer = Trainer(callbacks=[lightning_prior(priors, num_data=len(train))])
    """

    class PriorCallback(_lightning_base("htr.integrations.lightning_prior")):  # type: ignore[misc]
        """A callback that wraps the optimiser, tells it the epochs, and logs the energy."""

        optimizer: PriorOptimizer

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            if len(trainer.optimizers) != 1:
                raise PriorError(
                    f"{type(pl_module).__name__} has {len(trainer.optimizers)} optimisers, and "
                    "lightning_prior() wraps a single one; call htr.with_prior(optimizer, ...) in "
                    "configure_optimizers for those that train weights with a prior"
                )
            self.optimizer = with_prior(
                trainer.optimizers[0],
                priors,
                pl_module,
                num_data=num_data,
                decoupled=decoupled,
                refresh=refresh,
            )
            trainer.optimizers = [self.optimizer]

        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            self.optimizer.epoch = trainer.current_epoch

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if self.optimizer.prior_energy is not None:
                pl_module.log("prior_energy", self.optimizer.prior_energy)

    return PriorCallback()


class TransformersPriorMixin:
    """A mixin with which a `Trainer` of Transformers trains under priors.

    It wraps the optimiser that the trainer makes, or is given, by `htr.with_prior`. The optimiser's
    state in checkpoints then includes that of the prior. Priors with a schedule follow the
    trainer's epochs. The energy is logged as `prior_energy` beside the loss.

    Args:
        args: The positional arguments of the `Trainer`.
        priors: The priors, by names of the model's parameters.
        num_data: The number of terms of which the loss is the mean, as for `htr.with_prior`:
            training examples, or tokens with a label for a language model.
        decoupled: As for `htr.with_prior`.
        refresh: As for `htr.with_prior`.
        options: The keyword arguments of the `Trainer`.

    Attributes:
        prior_optimizer: The wrapped optimiser; `None` before training.

    Raises:
        PriorError: Training raises the same errors as `htr.with_prior`.

    Example:
        >>> class Trainer(htr.integrations.TransformersPriorMixin, transformers.Trainer):
        ...     pass
        >>> trainer = Trainer(model, arguments, train_dataset=train, priors=priors, num_data=1000)
    """

    def __init__(
        self,
        *args: Any,
        priors: Priors,
        num_data: float,
        decoupled: bool | None = None,
        refresh: Refresh | None = None,
        **options: Any,
    ) -> None:
        self.prior_optimizer: PriorOptimizer | None = None
        self._prior_options: dict[str, Any] = {
            "priors": priors,
            "num_data": num_data,
            "decoupled": decoupled,
            "refresh": refresh,
        }
        super().__init__(*args, **options)

    def create_optimizer(self, *args: Any) -> Any:
        """Make the optimiser with its prior; called by the trainer."""
        trainer: Any = self
        optimizer = super().create_optimizer(*args)  # type: ignore[misc]
        if getattr(optimizer, "optimizer", optimizer) is not self.prior_optimizer:
            optimizer = with_prior(optimizer, net=trainer.model, **self._prior_options)
            trainer.optimizer = self.prior_optimizer = optimizer
        return optimizer

    def training_step(self, *args: Any, **options: Any) -> Any:
        """Tell the prior the epoch, and then compute the gradients of a batch."""
        trainer: Any = self
        if self.prior_optimizer is not None:
            self.prior_optimizer.epoch = int((trainer.state.epoch or 0) + 1e-6)
        return super().training_step(*args, **options)  # type: ignore[misc]

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log the given values together with the energy of the prior."""
        optimizer = self.prior_optimizer
        if "loss" in logs and optimizer is not None and optimizer.prior_energy is not None:
            logs = {**logs, "prior_energy": float(optimizer.prior_energy)}
        super().log(logs, *args, **options)  # type: ignore[misc]


def lightning_recorder(history: StepCallback) -> Any:
    """Make a `Callback` of Lightning that passes on the `LightningModule` as the network.

    Raises:
        ImportError: Lightning is not installed.
    """

    class SpectrumCallback(_lightning_base("history.lightning")):  # type: ignore[misc]
        """Call the step callback at the start, at due steps and at the end."""

        epoch = 0.0

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.epoch = float(trainer.current_epoch)
            if trainer.is_global_zero:
                history.on_start(StepEvent(trainer.global_step, self.epoch, pl_module))

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            self.epoch = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
            if trainer.is_global_zero and history.is_due(trainer.global_step):
                history.on_step(StepEvent(trainer.global_step, self.epoch, pl_module))

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.is_global_zero:
                history.on_end(StepEvent(trainer.global_step, self.epoch, pl_module))

    return SpectrumCallback()


def transformers_recorder(history: StepCallback) -> Any:
    """Make a `TrainerCallback` of Transformers that passes on the trainer's model.

    Raises:
        ImportError: Transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise ImportError(
            "history.transformers() needs Transformers: pip install transformers"
        ) from error

    class SpectrumCallback(TrainerCallback):
        """Call the step callback at the start, at due steps and at the end."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.is_world_process_zero:
                history.on_start(_event(state, more["model"]))

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.is_world_process_zero and history.is_due(state.global_step):
                history.on_step(_event(state, more["model"]))

        def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.is_world_process_zero:
                history.on_end(_event(state, more["model"]))

    return SpectrumCallback()


def _event(state: Any, model: Any) -> StepEvent:
    return StepEvent(state.global_step, state.epoch, model)


def _lightning_base(wanted_by: str) -> Any:
    """Return Lightning's base class of callbacks.

    It is that of the older package if that alone has been imported.
    """
    names = ["lightning.pytorch", "pytorch_lightning"]
    for name in sorted(names, key=lambda name: name not in sys.modules):
        try:
            return __import__(name, fromlist=["Callback"]).Callback
        except ImportError:
            continue
    raise ImportError(f"{wanted_by}() needs Lightning: pip install lightning")
