"""The spectra of a network's matrices over the steps of its training.

They are recorded at steps that lie evenly on a logarithmic axis, whoever trains: `htr.fit`, a loop
of one's own, Lightning or the `Trainer` of Transformers. A record costs the singular values of each
matrix; a step without one costs a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayes_htr.analysis.log_steps import next_log_step
from bayes_htr.analysis.spectrum_records import SpectrumRecords
from bayes_htr.analysis.weights import matches
from bayes_htr.inference.callbacks import StepCallback, StepEvent
from bayes_htr.spectra import matrices_of, singular_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class SpectrumHistory(StepCallback, SpectrumRecords):
    """Spectra by matrix over steps: `history["fc1.weight"]` is `(T, K)`, each row descending.

    A callback of `htr.fit`; for other loops there are `watch`, `record`, `lightning` and
    `transformers`. Under `htr.SVI` the spectra are those of the guide's centre, not of draws.

    Args:
        matrices: Patterns as of `fnmatch`, one or several: which matrices are recorded.
        per_decade: About how many steps between one power of ten and the next. The start and the
            end are recorded too.
        path: If given, the history is saved there after each record; see `save`.

    Attributes:
        steps: `T` of them, ascending.
        epochs: The same in epochs, `None` where that is not known.

    Raises:
        ValueError: `per_decade` is not positive.
    """

    def __init__(
        self,
        matrices: str | Sequence[str] = "*",
        *,
        per_decade: float = 8,
        path: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__(matrices, per_decade=per_decade)
        self.path = None if path is None else Path(path)

    # Recording

    def is_due(self, step: int) -> bool:
        """Whether a step of the logarithmic axis has come since the last record."""
        return step >= next_log_step(self.steps[-1] if self.steps else -1, self.per_decade)

    def record(self, net: nn.Module, step: int, epoch: float | None = None) -> None:
        """Record the spectra of a network now, whether a record is due or not.

        Args:
            net: The network.
            step: How many updates are done.
            epoch: The same in epochs, if that is known.

        Raises:
            ValueError: A step that is not after the last, no matrix that is to be recorded, or
                other matrices than before.
            SpectrumError: Weights that are not finite.
        """
        if self.steps and step <= self.steps[-1]:
            raise ValueError(
                f"step={step} is not after the last record, {self.steps[-1]}; take a new "
                "SpectrumHistory for another run"
            )
        found = self._measured(net)
        for name, lam in found.items():
            self._spectra.setdefault(name, []).append(lam)
        self.steps.append(int(step))
        self.epochs.append(None if epoch is None else float(epoch))
        if self.path is not None:
            self.save(self.path)

    @contextmanager
    def watch(self, net: nn.Module, optimizer: Optimizer) -> Iterator[SpectrumHistory]:
        """Record during a loop of one's own: after updates of an optimiser that are due.

        The start is recorded at the beginning of the block, and the last update at its end unless
        an error ends it. A second block goes on counting from the last record.

        Args:
            net: The network.
            optimizer: Whose updates count.

        Raises:
            ValueError: As `record`.
        """
        if not self.steps:
            self.record(net, 0)
        step = self.steps[-1]

        def stepped(*_: Any) -> None:
            nonlocal step
            step += 1
            if self.is_due(step):
                self.record(net, step)

        hook = optimizer.register_step_post_hook(stepped)
        try:
            yield self
        finally:
            hook.remove()
        if step > self.steps[-1]:
            self.record(net, step)

    def on_start(self, event: StepEvent) -> None:
        """Record where a run starts. One that goes on discards what was recorded after there.

        Raises:
            ValueError: A run from its beginning, and the history holds records already; or as
                `record`.
        """
        if self.steps and event.step == 0:
            raise ValueError(
                f"{self!r} holds another run; take a new SpectrumHistory for one that begins"
            )
        kept = sum(step <= event.step for step in self.steps)
        del self.steps[kept:], self.epochs[kept:]
        for lams in self._spectra.values():
            del lams[kept:]
        self.on_end(event)

    def on_step(self, event: StepEvent) -> None:
        """Record a step."""
        self.record(event.network, event.step, event.epoch)

    def on_end(self, event: StepEvent) -> None:
        """Record the last step, if it is not there yet."""
        if not self.steps or event.step > self.steps[-1]:
            self.on_step(event)

    def lightning(self) -> Any:
        """A callback for the `Trainer` of Lightning that records here: `adapters`.

        Raises:
            ImportError: Lightning is not installed.
        """
        from bayes_htr.analysis.adapters import lightning_callback

        return lightning_callback(self)

    def transformers(self) -> Any:
        """A callback for the `Trainer` of Transformers that records here: `adapters`.

        Raises:
            ImportError: Transformers is not installed.
        """
        from bayes_htr.analysis.adapters import transformers_callback

        return transformers_callback(self)

    # Files

    def save(self, path: str | PathLike[str]) -> None:
        """Write a safetensors file of the spectra, with all else in its header.

        Raises:
            OutputError: It cannot be written.
            ValueError: Nothing is recorded.
        """
        from bayes_htr.analysis.history_file import write

        write(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> SpectrumHistory:
        """Read what `save` wrote; nothing in the file is run. It can be recorded to further.

        Raises:
            CheckpointError: A file that is missing, truncated, or foreign.
        """
        from bayes_htr.analysis.history_file import read

        return read(cls, path)

    # Pictures

    def plot(
        self, name: str, *, panels: int = 8, path: str | PathLike[str] | None = None
    ) -> Figure:
        """The matrix's ESD at several steps side by side: `history_plots.plot_steps`."""
        from bayes_htr.analysis.history_plots import plot_steps

        return plot_steps(self, name, panels=panels, path=path)

    def plot_trace(
        self,
        quantity: str,
        names: str | Sequence[str] | None = None,
        ax: Axes | None = None,
        *,
        against: str = "step",
        level: float = 0.95,
        path: str | PathLike[str] | None = None,
    ) -> Axes:
        """A quantity of each matrix over steps or epochs: `history_plots.plot_trace`."""
        from bayes_htr.analysis.history_plots import plot_trace

        return plot_trace(self, quantity, names, ax, against=against, level=level, path=path)

    def plot_traces(
        self,
        names: str | Sequence[str] | None = None,
        *,
        against: str = "step",
        path: str | PathLike[str] | None = None,
    ) -> Figure:
        """All quantities over steps or epochs, one above the other: `history_plots.plot_traces`."""
        from bayes_htr.analysis.history_plots import plot_traces

        return plot_traces(self, names, against=against, path=path)

    def animate(
        self,
        path: str | PathLike[str],
        names: str | Sequence[str] | None = None,
        *,
        frames_per_second: float = 5.0,
    ) -> None:
        """Write the ESD over the steps as a GIF: `history_plots.animate`."""
        from bayes_htr.analysis.history_plots import animate

        animate(self, path, names, frames_per_second=frames_per_second)

    def _measured(self, net: nn.Module) -> dict[str, Tensor]:
        there = matrices_of(net)
        chosen = {name: W for name, W in there.items() if matches(name, self.matrices)}
        if not chosen:
            raise ValueError(
                f"matrices={self.matrices!r} matches no matrix of the network; there are "
                f"{', '.join(there) or 'none'}"
            )
        sizes = {name: min(W.shape) for name, W in chosen.items()}
        before = {name: len(lams[0]) for name, lams in self._spectra.items() if lams}
        if before and sizes != before:
            raise ValueError(
                f"the network's matrices have the ranks {sizes}, and those recorded {before}; "
                "take a new SpectrumHistory for another network"
            )
        with torch.no_grad():
            return {n: singular_values(W, n).square().cpu() for n, W in chosen.items()}
