"""Step callbacks, such as a spectrum history, as callbacks of other trainers.

The other trainers are imported only in this file. Both callbacks count updates of the optimiser,
not batches, and call the step callback only in the main process. This process has to have complete
weights, as it has in data-parallel training.
"""

from __future__ import annotations

import sys
from typing import Any

from bayes_htr.inference.callbacks import StepCallback, StepEvent


def lightning_callback(history: StepCallback) -> Any:
    """Make a `Callback` of Lightning, which passes on the `LightningModule` as the network.

    Raises:
        ImportError: Lightning is not installed.
    """

    class SpectrumCallback(_lightning_base()):  # type: ignore[misc]
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


def transformers_callback(history: StepCallback) -> Any:
    """Make a `TrainerCallback` of Transformers, which passes on the trainer's model.

    Raises:
        ImportError: Transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise ImportError("history.transformers() needs it: pip install transformers") from error

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


def _lightning_base() -> Any:
    """The base class of callbacks, from the older package if that alone has been imported."""
    names = ["lightning.pytorch", "pytorch_lightning"]
    for name in sorted(names, key=lambda name: name not in sys.modules):
        try:
            return __import__(name, fromlist=["Callback"]).Callback
        except ImportError:
            continue
    raise ImportError("history.lightning() needs it: pip install lightning")
