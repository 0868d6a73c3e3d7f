"""What all commands share at a terminal: options and their help, safe text, progress bars.

The help of the command line imports this module, so `rich.progress` is loaded only when a bar is
made.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from typing_extensions import Self

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of characters that are invisible, or that a terminal may obey."""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help that states the default of each option, except of those that are off by default."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        off = action.default is None or action.default is False
        return action.help if off else super()._get_help_string(action)


def positive(text: str) -> int:
    """Parse the value of an option as a whole number of at least 1."""
    return _at_least(text, 1)


def count(text: str) -> int:
    """Parse the value of an option as a whole number of at least 0."""
    return _at_least(text, 0)


def _at_least(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least} on")
    return value


def preload(*modules: str) -> None:
    """Import modules that a command needs; an interruption meanwhile ends the process at once.

    Otherwise an interruption could surface as another error, which the interrupted module raises in
    its place. Modules that are not installed are skipped; importing them where they are used raises
    the usual error.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    if not in_main_thread or handler is not signal.default_int_handler:
        return  # the caller has its own way of interruption
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        for module in modules:
            with contextlib.suppress(ImportError):
                import_module(module)
    finally:
        signal.signal(signal.SIGINT, handler)


def plural(count: int, word: str) -> str:
    """Return a number with its noun, in the plural unless the number is one."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def visible(text: str) -> str:
    """Escape the characters of a text that are invisible or that change how others are shown.

    Names in files of unknown origin may contain such characters, and a terminal obeys some of them.
    """
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNSAFE else c
        for c in text
    )


_no_bars: ContextVar[bool] = ContextVar("no_bars", default=False)


@contextlib.contextmanager
def hidden_bars(hidden: bool) -> Iterator[None]:
    """Hide all progress bars in a block if `hidden` is true, whoever asks for them.

    Args:
        hidden: Whether to hide the bars. If not, an enclosing block may still hide them.
    """
    token = _no_bars.set(hidden or _no_bars.get())
    try:
        yield
    finally:
        _no_bars.reset(token)


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """A progress bar for one task, on standard error.

    Args:
        columns: The columns of the bar.
        show: Whether the bar is shown; `None` shows it on a terminal, and in a notebook with
            ipywidgets.
        task: The arguments of `rich.progress.Progress.add_task`.
    """

    def __init__(self, columns: tuple[ProgressColumn, ...], show: bool | None, **task: Any) -> None:
        from rich.progress import Progress

        console = Console(stderr=True)
        shown = (sys.stderr.isatty() or _is_live_notebook(console)) if show is None else show
        self._progress = Progress(*columns, console=console, disable=_no_bars.get() or not shown)
        self._task = self._progress.add_task(**task)

    def advance(self, amount: float = 1) -> None:
        """Move the bar forward by an amount."""
        self._progress.advance(self._task, amount)

    def say(self, text: str) -> None:
        """Show a line of text above the bar, if the bar is shown and there is any text."""
        if text and not self._progress.disable:
            self._progress.console.print(text, markup=False, highlight=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


def _is_live_notebook(console: Console) -> bool:
    """Return whether this is a notebook that can redraw a bar in its place."""
    return console.is_jupyter and find_spec("ipywidgets") is not None


class TrainingProgress(ProgressBar):
    """The bar of a training run, over epochs and batches, with the metrics of the last epoch.

    Args:
        show: Whether the bar is shown; `None` shows it on a terminal, and in a notebook with
            ipywidgets.
        label: The text before the bar.
        epochs: The number of epochs.
        done: The number of epochs that an earlier run has finished.
        batches: The number of batches per epoch.
    """

    def __init__(
        self, show: bool | None, label: str, *, epochs: int, done: int, batches: int
    ) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
        )
        self._epochs = epochs
        total, completed = epochs * batches, done * batches
        super().__init__(
            columns, show, description=label, total=total, completed=completed, metrics=""
        )

    def epoch(self, metrics: dict[str, float]) -> None:
        """Show the metrics of an epoch that has ended."""
        parts = [f"loss {metrics['loss']:.4f}", *_score(metrics, "train")]
        if "val_nll" in metrics:
            parts.append(" ".join([f"val nll {metrics['val_nll']:.4f}", *_score(metrics, "val")]))
        self._progress.update(self._task, metrics="  ".join(parts))

    def kept(self, best: Mapping[str, Any], epoch: int, *, is_early: bool) -> None:
        """Say what early stopping did: which epoch's weights are kept, and why the run ended.

        Args:
            best: The best epoch, with its validation NLL as `nll`.
            epoch: The number of epochs done.
            is_early: Whether the run ended because no later epoch was better.
        """
        kept = f"the weights of epoch {best['epoch']} are kept, with val_nll {best['nll']:.4f}"
        if is_early and epoch < self._epochs:
            since = plural(epoch - best["epoch"], "epoch")
            kept = f"stopped after epoch {epoch} of {self._epochs}: none better for {since}; {kept}"
        self.say(kept)


def _score(metrics: dict[str, float], where: str) -> list[str]:
    """Return the accuracy or the error, whichever an epoch has, as texts."""
    labels = {"accuracy": "acc", "rmse": "rmse"}
    found = {label: metrics.get(f"{where}_{name}") for name, label in labels.items()}
    return [f"{label} {value:.4f}" for label, value in found.items() if value is not None]


class AnalysisProgress(ProgressBar):
    """The bar of an analysis, over matrices, each weighted by the work that it costs.

    Args:
        show: Whether the bar is shown; `None` shows it on a terminal, and in a notebook with
            ipywidgets.
        work: The work of all matrices together, in any unit.
    """

    def __init__(self, show: bool | None, work: float) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeRemainingColumn(),
        )
        super().__init__(columns, show, description="", total=work)

    def begin(self, name: str) -> None:
        """Show the name of the matrix that is analysed next."""
        self._progress.update(self._task, description=visible(name))
