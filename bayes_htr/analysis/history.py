"""The spectra of a network's matrices over the steps of its training.

They are recorded at steps that lie evenly on a logarithmic axis, whoever trains: `htr.fit`, a loop
of one's own, Lightning or the `Trainer` of Transformers. A record costs the singular values of each
matrix; a step without one costs a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayes_htr.analysis.log_steps import next_log_step
from bayes_htr.analysis.names import matches
from bayes_htr.analysis.traces import QUANTITIES, Trace, trace
from bayes_htr.inference.callbacks import StepCallback, StepEvent
from bayes_htr.spectra import matrices_of, singular_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bayes_htr.posterior import PosteriorSpectra


class SpectrumHistory(StepCallback, Mapping[str, Tensor]):
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
        if isinstance(per_decade, bool) or not 0 < per_decade < float("inf"):
            raise ValueError(f"per_decade={per_decade!r} must be a positive number")
        self.matrices = (matrices,) if isinstance(matrices, str) else tuple(matrices)
        self.per_decade = per_decade
        self.path = None if path is None else Path(path)
        self.steps: list[int] = []
        self.epochs: list[float | None] = []
        self._spectra: dict[str, list[Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        try:
            return torch.stack(self._spectra[name])
        except KeyError:
            raise KeyError(f"no matrix {name!r}; there are {', '.join(self) or 'none'}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._spectra)

    def __len__(self) -> int:
        return len(self._spectra)

    def __repr__(self) -> str:
        span = f", steps {self.steps[0]} to {self.steps[-1]}" if self.steps else ""
        return f"SpectrumHistory({len(self)} matrices, {len(self.steps)} records{span})"

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

    # Reading

    def at(self, step: int) -> PosteriorSpectra:
        """The spectra at the last record that is not after a step, as those of a point mass.

        Raises:
            ValueError: There is none.
        """
        row = sum(s <= step for s in self.steps) - 1
        if row < 0:
            first = f"; the first is {self.steps[0]}" if self.steps else ""
            raise ValueError(f"no record at or before step={step}{first}")
        from bayes_htr.posterior import PosteriorSpectra

        return PosteriorSpectra({name: lams[row][None] for name, lams in self._spectra.items()})

    def trace(self, name: str, quantity: str, *, level: float = 0.95) -> Trace:
        """A quantity of one matrix over the steps: see `traces.trace`.

        Args:
            name: The matrix.
            quantity: `lambda_max`, `alpha` or `stable_rank`.
            level: Of the credible interval of alpha.

        Raises:
            KeyError: No such matrix.
            ValueError: No such quantity, or `level` outside (0, 1).
        """
        return trace(self[name], quantity, self.steps, level=level)

    def rows(self) -> list[dict[str, float]]:
        """A row for each record: `step`, `epoch` where it is known, and `NAME:QUANTITY`.

        Alpha is left out where no exponent can be read. `pandas.DataFrame` takes them, and so does
        `bayes_htr.posterior.plots.plot_trace`.
        """
        rows: list[dict[str, float]] = [{"step": float(step)} for step in self.steps]
        for row, epoch in zip(rows, self.epochs, strict=True):
            if epoch is not None:
                row["epoch"] = epoch
        for name in self:
            for quantity in QUANTITIES:
                values = self.trace(name, quantity).values
                for row, value in zip(rows, values.tolist(), strict=True):
                    if value == value:
                        row[f"{name}:{quantity}"] = value
        return rows

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
