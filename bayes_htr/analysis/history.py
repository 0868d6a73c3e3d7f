"""The spectra of a network's matrices over the steps of its training.

The spectra are recorded at steps that are evenly spaced on a logarithmic axis. The trainer may be
`htr.fit`, a training loop of your own, Lightning or the `Trainer` of Transformers. Each record
computes the singular values of each matrix, and a step without a record costs only a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayes_htr._checks import number, texts
from bayes_htr._plotting import save
from bayes_htr.analysis.alarms import AlarmCallback, AlarmWatch
from bayes_htr.analysis.history_files import read_history, write_history
from bayes_htr.analysis.history_plots import QUANTITIES, Trace, trace
from bayes_htr.analysis.recording import measure, next_log_step, recorded_weights, stacked
from bayes_htr.inference.callbacks import EpochEvent, StepCallback, StepEvent
from bayes_htr.spectra.layout import LayoutsLike, as_layouts, plain_layouts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bayes_htr.posterior import PosteriorSpectra


class SpectrumHistory(StepCallback, Mapping[str, Tensor]):
    """Spectra by matrix over steps: `history["fc1.weight"]` is `(T, K)`, each row descending.

    A history is a callback of `htr.fit`; for other training loops there are `watch`, `record`,
    `lightning` and `transformers`. Under `htr.SVI` the spectra are those of the guide's centre, and
    not of draws.

    A run that diverges keeps all its records. A matrix with entries that are not finite has a
    spectrum of NaN at that step, with a warning, and `not_finite` returns the steps.

    Args:
        matrices: Patterns as in `fnmatch`, one or several, of the matrices that are recorded.
        per_decade: About how many records there are from one power of ten to the next. The start
            and the end of training are recorded too.
        path: If given, the file in which the history is saved after each record; see `save`.
        on_alarm: If given, it is called with a `SpectrumAlarm` when an alarm begins: when alpha
            falls below 2 with its whole interval, when single large entries make spikes (traps;
            looking for them costs a second decomposition), or when entries are not finite. If it
            returns `True`, `htr.fit` ends training after that epoch.
        layouts: The axes of a parameter that form its matrices, where these are declared; see
            `MatrixLayout`. `Priors` and `analyze` take the same mapping as `matrices=`.

    Attributes:
        steps: The `T` steps, ascending.
        epochs: The steps in epochs, or `None` where the epoch is not known.

    Raises:
        ValueError: `per_decade` is not positive, or `layouts` is no mapping to layouts.
    """

    def __init__(
        self,
        matrices: str | Sequence[str] = "*",
        *,
        per_decade: float = 8,
        path: str | PathLike[str] | None = None,
        on_alarm: AlarmCallback | None = None,
        layouts: LayoutsLike | None = None,
    ) -> None:
        number(per_decade, "per_decade", above=0)
        self.matrices = texts(matrices, "matrices")
        self.per_decade = per_decade
        self.path = None if path is None else Path(path)
        self.on_alarm = on_alarm
        self.layouts = as_layouts(layouts)
        self._alarms = AlarmWatch()
        self.steps: list[int] = []
        self.epochs: list[float | None] = []
        self._spectra: dict[str, list[Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        try:
            return stacked(self._spectra[name])
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
        """Return whether a step of the logarithmic axis has come since the last record."""
        return step >= next_log_step(self.steps[-1] if self.steps else -1, self.per_decade)

    def record(self, net: nn.Module, step: int, epoch: float | None = None) -> None:
        """Record the spectra of a network now, whether a record is due or not.

        Args:
            net: The network.
            step: The number of updates so far.
            epoch: The number of epochs so far, if it is known.

        Raises:
            ValueError: The step is not after the last one, no matrix matches the patterns, or the
                matrices differ from those recorded before.
        """
        if self.steps and step <= self.steps[-1]:
            raise ValueError(
                f"step={step} is not after the last record, {self.steps[-1]}; take a new "
                "SpectrumHistory for another run"
            )
        weights = recorded_weights(net, self.matrices, self._spectra, self.layouts)
        measured = measure(weights, self._spectra, step)
        for name, lam in measured.items():
            self._spectra.setdefault(name, []).append(lam)
        self.steps.append(int(step))
        self.epochs.append(None if epoch is None else float(epoch))
        if self.path is not None:
            self.save(self.path)
        if self.on_alarm is not None:
            self._alarms.look(weights, measured, int(step), self.on_alarm)

    @contextmanager
    def watch(self, net: nn.Module, optimizer: Optimizer) -> Iterator[SpectrumHistory]:
        """Record during a training loop of your own, after those updates that are due.

        The start is recorded at the beginning of the block, and the last update at its end unless
        an error ends the block. A second block continues to count from the last record.

        Args:
            net: The network.
            optimizer: The optimiser whose updates are counted.

        Raises:
            ValueError: The same errors as in `record`.
        """
        if not self.steps:
            self.record(net, 0)
        step = self.steps[-1]

        def after_update(*_: Any) -> None:
            nonlocal step
            step += 1
            if self.is_due(step):
                self.record(net, step)

        hook = optimizer.register_step_post_hook(after_update)
        try:
            yield self
        finally:
            hook.remove()
        if step > self.steps[-1]:
            self.record(net, step)

    def __call__(self, event: EpochEvent) -> bool:
        """Return whether an alarm's callback has asked to end training."""
        return self._alarms.stop

    def on_start(self, event: StepEvent) -> None:
        """Record where a run starts; a resumed run discards what was recorded after that step.

        Raises:
            ValueError: A new run begins although the history has records; or the same errors as in
                `record`.
        """
        if self.steps and event.step == 0:
            raise ValueError(
                f"{self!r} holds another run; take a new SpectrumHistory for one that begins"
            )
        kept = sum(step <= event.step for step in self.steps)
        for records in (self.steps, self.epochs, *self._spectra.values()):
            del records[kept:]  # type: ignore[attr-defined]
        self.on_end(event)

    def on_step(self, event: StepEvent) -> None:
        """Record a step."""
        self.record(event.network, event.step, event.epoch)

    def on_end(self, event: StepEvent) -> None:
        """Record the last step, unless it has been recorded already."""
        if not self.steps or event.step > self.steps[-1]:
            self.on_step(event)

    def lightning(self) -> Any:
        """Make a callback for the `Trainer` of Lightning that records here.

        Raises:
            ImportError: Lightning is not installed.
        """
        from bayes_htr.integrations import lightning_recorder

        return lightning_recorder(self)

    def transformers(self) -> Any:
        """Make a callback for the `Trainer` of Transformers, as `lightning` does for Lightning."""
        from bayes_htr.integrations import transformers_recorder

        return transformers_recorder(self)

    # Files

    def save(self, path: str | PathLike[str]) -> None:
        """Write a safetensors file of the spectra, with everything else in its header.

        Raises:
            OutputError: The file cannot be written.
            ValueError: The history has no records.
        """
        if not self.steps:
            raise ValueError("nothing is recorded yet; record a network first")
        about = {
            "steps": self.steps,
            "epochs": self.epochs,
            "matrices": list(self.matrices),
            "per_decade": self.per_decade,
            "layouts": plain_layouts(self.layouts),
            "names": list(self),
        }
        write_history(path, about, dict(self.items()))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> SpectrumHistory:
        """Read a file that `save` wrote, without running code from it; recording can continue.

        Raises:
            CheckpointError: The file is missing, truncated, or foreign.
        """
        about, spectra = read_history(path)
        history = cls(about["matrices"], per_decade=about["per_decade"], layouts=about["layouts"])
        history.steps, history.epochs = about["steps"], about["epochs"]
        history._spectra = {name: list(lam) for name, lam in spectra.items()}
        return history

    # Numbers

    def at(self, step: int) -> PosteriorSpectra:
        """Return the spectra at the last record that is not after a step, as those of a point mass.

        Raises:
            ValueError: There is no such record.
        """
        row = sum(s <= step for s in self.steps) - 1
        if row < 0:
            first = f"; the first is {self.steps[0]}" if self.steps else ""
            raise ValueError(f"no record at or before step={step}{first}")
        from bayes_htr.posterior import PosteriorSpectra

        return PosteriorSpectra({name: lams[row][None] for name, lams in self._spectra.items()})

    def not_finite(self, name: str) -> list[int]:
        """Return the steps at which the spectrum of a matrix was not finite.

        Raises:
            KeyError: There is no such matrix.
        """
        finite = torch.isfinite(self[name]).all(dim=1).tolist()
        return [step for step, kept in zip(self.steps, finite, strict=True) if not kept]

    def trace(self, name: str, quantity: str, *, level: float = 0.95) -> Trace:
        """Compute a quantity of one matrix over the steps.

        Alpha is estimated as in every table of this library (`bayes_htr.tails.fit_tail`): it is the
        exponent of the tail whose start was searched. Its interval takes the start of the tail as
        known, and shows how well this number of eigenvalues determines an exponent. It does not
        contain the uncertainty of the weights, which a single training run cannot show.

        Args:
            name: The matrix.
            quantity: `lambda_max`; `alpha`, the exponent of the tail's density; or `stable_rank`,
                `sum lambda / lambda_1`, which is nan for a zero matrix.
            level: Probability of the credible interval of alpha, equal-tailed.

        Raises:
            KeyError: There is no such matrix.
            ValueError: There is no such quantity, or `level` does not lie between 0 and 1.
        """
        return trace(self[name], quantity, self.steps, level=level)

    def rows(self) -> list[dict[str, float]]:
        """Return a row for each record: `step`, `epoch` where it is known, and `NAME:QUANTITY`.

        Alpha is left out where the tail has no exponent. `pandas.DataFrame` takes the rows, and so
        does `bayes_htr.posterior.training_plots.plot_trace`.
        """
        rows: list[dict[str, float]] = [{"step": float(step)} for step in self.steps]
        for row, epoch in zip(rows, self.epochs, strict=True):
            if epoch is not None:
                row["epoch"] = epoch
        for name in self:
            for quantity in QUANTITIES:
                values = self.trace(name, quantity).values
                for row, value in zip(rows, values.tolist(), strict=True):
                    if not math.isnan(value):
                        row[f"{name}:{quantity}"] = value
        return rows

    # Pictures

    def plot(
        self, name: str, *, panels: int = 8, path: str | PathLike[str] | None = None
    ) -> Figure:
        """Draw the ESD of a matrix on log-log axes, a panel for each of several records.

        All panels have the same axes and bins; the first record is an outline in each. Alpha, with
        its 95 % interval, is that of the tail whose start was searched.

        Args:
            name: The matrix.
            panels: The largest number of panels, which are evenly spaced over the records, with the
                first and the last among them.
            path: If given, the file in which the figure is saved.

        Raises:
            KeyError: There is no such matrix.
            ValueError: `panels` is less than 1, or nothing is recorded.
            ImportError: matplotlib is not installed.
        """
        from bayes_htr.analysis.history_plots import plot_steps

        alpha = self.trace(name, "alpha")
        figure = plot_steps(name, self[name], alpha, self._titles(), panels)
        save(figure, path)
        return figure

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
        """Draw a quantity of each matrix over the records, on a logarithmic axis of steps.

        Up to ten matrices have colours of their own, and bands with the credible interval of alpha;
        more are coloured by depth, from dark to light, and have no bands.

        Args:
            quantity: `lambda_max`, `alpha` or `stable_rank`.
            names: The matrices; all by default.
            ax: The axes to draw on; those of a new figure by default.
            against: `step` or `epoch`.
            level: Probability of the interval of alpha.
            path: If given, the file in which the figure is saved.

        Raises:
            KeyError: There is no such matrix.
            ValueError: There is no such quantity, or the epochs are not known.
            ImportError: matplotlib is not installed.
        """
        from bayes_htr.analysis.history_plots import plot_trace

        traces = self._traces(quantity, names, level)
        x = self._positions(against)
        ax = plot_trace(x, traces, quantity, ax, against=against, level=level)
        save(ax, path)
        return ax

    def plot_traces(
        self,
        names: str | Sequence[str] | None = None,
        *,
        against: str = "step",
        path: str | PathLike[str] | None = None,
    ) -> Figure:
        """Draw a panel for each quantity, as `plot_trace` does.

        Raises:
            KeyError, ValueError, ImportError: The same errors as in `plot_trace`.
        """
        from bayes_htr.analysis.history_plots import plot_traces

        traces = {quantity: self._traces(quantity, names) for quantity in QUANTITIES}
        figure = plot_traces(self._positions(against), traces, against=against)
        save(figure, path)
        return figure

    def animate(
        self,
        path: str | PathLike[str],
        names: str | Sequence[str] | None = None,
        *,
        frames_per_second: float = 5.0,
    ) -> None:
        """Write the ESD over the steps as a GIF with a frame for each record.

        The last frame is shown for two seconds.

        Args:
            path: The file to write.
            names: The matrices, side by side; all by default.
            frames_per_second: The number of frames per second.

        Raises:
            KeyError: There is no such matrix.
            ValueError: The history has no records, or `frames_per_second` does not lie between 0
                and 50.
            ImportError: matplotlib or Pillow is not installed.
        """
        from bayes_htr.analysis.history_plots import animate

        alphas = self._traces("alpha", names)
        spectra = {name: self[name] for name in alphas}
        animate(path, spectra, alphas, self._titles(), frames_per_second=frames_per_second)

    def _traces(
        self, quantity: str, names: str | Sequence[str] | None, level: float = 0.95
    ) -> dict[str, Trace]:
        """Return the trace of a quantity for one or several matrices, all by default."""
        if not self.steps:
            raise ValueError("nothing is recorded; record a network first")
        if names is None:
            names = list(self)
        chosen = [names] if isinstance(names, str) else names
        return {name: self.trace(name, quantity, level=level) for name in chosen}

    def _positions(self, against: str) -> list[float]:
        """Return the `T` records on an axis of steps or epochs."""
        if against not in ("step", "epoch"):
            raise ValueError(f"against={against!r} must be 'step' or 'epoch'")
        if against == "step":
            return [float(step) for step in self.steps]
        epochs = [epoch for epoch in self.epochs if epoch is not None]
        if len(epochs) < len(self.steps):
            raise ValueError("the history has records without an epoch; take against='step'")
        return epochs

    def _titles(self) -> list[str]:
        """Return the step of each record, with the epoch where it is known."""
        return [
            f"step {step}" + ("" if epoch is None else f" (epoch {epoch:.3g})")
            for step, epoch in zip(self.steps, self.epochs, strict=True)
        ]
