"""Callbacks of `htr.fit` that log the metrics of each epoch: CSV, TensorBoard, W&B, MLflow.

All of them log the same numbers under the same names: the metrics of `EpochEvent`, and for each
weight matrix `spectra/NAME/alpha`, `spectra/NAME/lambda_max` and `spectra/NAME/stable_rank`.
`docs/loggers.md` lists the names. A number that is not defined, such as alpha of a spectrum without
a power-law tail, is not logged.

The packages are imported when a logger is made: `pip install "bayes-htr[loggers]"`.
"""

from __future__ import annotations

import csv
import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bayes_htr._checks import texts, whole_number
from bayes_htr._files import write_output
from bayes_htr.analysis.weights import matches
from bayes_htr.errors import CheckpointError, OutputError
from bayes_htr.inference.callbacks import EpochEvent, StepCallback, StepEvent
from bayes_htr.spectra import matrices_of
from bayes_htr.tails import fit_tail

_BINS = 64
"""Bins of the histograms of eigenvalues."""


def spectral_metrics(spectra: Mapping[str, Tensor]) -> dict[str, float]:
    """Summarise the spectra of several matrices as metrics.

    Args:
        spectra: `(K,)` eigenvalues by name of the matrix, descending.

    Returns:
        For each matrix `spectra/NAME/lambda_max`, its largest eigenvalue;
        `spectra/NAME/stable_rank`, the sum of the eigenvalues over the largest one; and
        `spectra/NAME/alpha`, the exponent that `htr.analyze` reports. Where one of the last two is
        not defined, it is left out.
    """
    metrics = {}
    for name, lam in spectra.items():
        largest = float(lam[0])
        metrics[f"spectra/{name}/lambda_max"] = largest
        if largest > 0:
            metrics[f"spectra/{name}/stable_rank"] = float(lam.sum()) / largest
        tail = fit_tail(lam.numpy())
        if tail.fit is not None and not tail.problem:
            metrics[f"spectra/{name}/alpha"] = tail.fit.alpha
    return metrics


class MetricsLogger(StepCallback):
    """A callback of `htr.fit` that logs metrics and spectra after each epoch.

    A subclass defines `open` and `write`, and `close` if it holds anything. Under `htr.SVI` the
    spectra are those of the guide's centre.

    Args:
        spectra: Patterns as in `fnmatch`, one or several, of the matrices whose spectra are logged;
            `None` for none.
        every: Spectra are logged after each epoch whose number is divisible by this.

    Raises:
        ValueError: `every` is not a whole number from 1 on, or `spectra` holds no texts.
    """

    def __init__(self, *, spectra: str | Sequence[str] | None = "*", every: int = 1) -> None:
        self.spectra = () if spectra is None else texts(spectra, "spectra")
        self.every = whole_number(every, "every", at_least=1)

    @abstractmethod
    def open(self, epoch: int) -> None:
        """Prepare for a run, or for the rest of a run that is resumed.

        Args:
            epoch: The number of epochs done before. What was logged for later epochs is to be
                discarded.
        """

    @abstractmethod
    def write(
        self, epoch: int, metrics: Mapping[str, float], spectra: Mapping[str, Tensor]
    ) -> None:
        """Log one epoch.

        Args:
            epoch: The number of epochs done, from 1.
            metrics: Finite numbers by name, those of the spectra among them.
            spectra: `(K,)` eigenvalues by name of the matrix, descending, in float64 on the CPU;
                empty after an epoch whose spectra are not logged.
        """

    def on_start(self, event: StepEvent) -> None:
        """Check the patterns, and open the log.

        Raises:
            ValueError: A pattern matches no matrix of the network.
            OutputError: The log exists already, or cannot be written.
        """
        names = list(matrices_of(event.network, event.layouts))
        for pattern in self.spectra:
            if pattern != "*" and not any(matches(name, [pattern]) for name in names):
                raise ValueError(
                    f"spectra={pattern!r} matches no matrix of the network; there are "
                    f"{', '.join(names) or 'none'}"
                )
        self.open(round(event.epoch or 0))

    def __call__(self, event: EpochEvent) -> None:
        """Log an epoch."""
        spectra = {}
        if self.spectra and event.epoch % self.every == 0:
            for name in matrices_of(event.network, event.layouts):
                if matches(name, self.spectra):
                    spectra[name] = event.spectrum(name)
        metrics = event.metrics | spectral_metrics(spectra)
        metrics.pop("epoch", None)
        self.write(event.epoch, {k: v for k, v in metrics.items() if math.isfinite(v)}, spectra)

    def is_due(self, step: int) -> bool:
        """Return `False`: steps are not logged."""
        return False

    def on_step(self, event: StepEvent) -> None:
        """Do nothing."""

    def on_end(self, event: StepEvent) -> None:
        """Do nothing; `close` follows."""


class CSVLogger(MetricsLogger):
    """A logger that writes metrics and spectra into a CSV file with a row for each epoch.

    The file is complete after each epoch. The first column is `epoch`; a number that is not defined
    has an empty cell. A resumed run continues the file.

    Args:
        path: The file; its folder is made where it is missing.
        overwrite: Whether a new run may replace a file that exists.
        spectra: As in `MetricsLogger`.
        every: As in `MetricsLogger`.

    Raises:
        ValueError: `every` is out of range.

    Example:
        >>> htr.fit(model, (X, y), callbacks=[htr.CSVLogger("metrics.csv")])
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        overwrite: bool = False,
        spectra: str | Sequence[str] | None = "*",
        every: int = 1,
    ) -> None:
        super().__init__(spectra=spectra, every=every)
        self.path = Path(path)
        self.overwrite = overwrite
        self._rows: list[dict[str, Any]] = []

    def open(self, epoch: int) -> None:
        """Read the rows of a run that is resumed, up to an epoch.

        Raises:
            OutputError: A new run finds the file, and may not overwrite it.
            CheckpointError: The file of the resumed run has no column of whole epochs.
        """
        self._rows = []
        if not self.path.exists():
            return
        if epoch > 0:
            try:
                with self.path.open(newline="", encoding="utf-8") as file:
                    rows: list[dict[str, Any]] = list(csv.DictReader(file))
                self._rows = [row for row in rows if int(row["epoch"]) <= epoch]
            except (KeyError, ValueError, TypeError, csv.Error, OSError) as error:
                raise CheckpointError(
                    f"{self.path} cannot be continued ({error!r}): it is not the file of a "
                    "CSVLogger; name another file"
                ) from error
        elif not self.overwrite:
            raise OutputError(
                f"{self.path} exists; name another file, or pass overwrite=True to replace it"
            )

    def write(
        self, epoch: int, metrics: Mapping[str, float], spectra: Mapping[str, Tensor]
    ) -> None:
        """Add a row, and write the file."""
        self._rows.append({"epoch": epoch, **metrics})
        columns = dict.fromkeys(name for row in self._rows for name in row)

        def write_rows(target: Path) -> None:
            with target.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(columns), restval="")
                writer.writeheader()
                writer.writerows(self._rows)

        write_output(self.path, write_rows, make_folder=True)


class TensorBoardLogger(MetricsLogger):
    """A logger of metrics, spectra and histograms of `log10(eigenvalue)` for TensorBoard.

    It needs `pip install "bayes-htr[loggers]"`, or TensorBoard alone. A power law is a straight
    line in the logarithm of the histogram's counts.

    Args:
        folder: The folder of the event files; by default `runs/` and the time.
        spectra: As in `MetricsLogger`.
        every: As in `MetricsLogger`.

    Raises:
        ImportError: TensorBoard is not installed.
        ValueError: `every` is out of range.
    """

    def __init__(
        self,
        folder: str | PathLike[str] | None = None,
        *,
        spectra: str | Sequence[str] | None = "*",
        every: int = 1,
    ) -> None:
        super().__init__(spectra=spectra, every=every)
        self.folder = folder
        self._module = _required("torch.utils.tensorboard", "TensorBoardLogger", "tensorboard")
        self._writer: Any = None

    def open(self, epoch: int) -> None:
        """Begin an event file, which replaces what the folder holds of later epochs."""
        folder = None if self.folder is None else str(self.folder)
        try:
            self._writer = self._module.SummaryWriter(folder, purge_step=epoch + 1)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error}; name another") from error

    def write(
        self, epoch: int, metrics: Mapping[str, float], spectra: Mapping[str, Tensor]
    ) -> None:
        """Add scalars and histograms at the step `epoch`."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        for name, lam in spectra.items():
            if len(logs := _logarithms(lam)):
                self._writer.add_histogram(f"spectra/{name}/log10_eigenvalues", logs, epoch)
        self._writer.flush()

    def close(self, error: BaseException | None) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WandbLogger(MetricsLogger):
    """A logger of metrics, spectra and histograms of `log10(eigenvalue)` to Weights & Biases.

    It needs `pip install "bayes-htr[loggers]"`, or `wandb` alone. All metrics are plotted over
    `epoch`.

    Args:
        run: The run to log to, which is left open. By default a run is begun by
            `wandb.init(**settings)`, and finished at the end.
        spectra: As in `MetricsLogger`.
        every: As in `MetricsLogger`.
        settings: The arguments of `wandb.init`, such as `project="spectra"` or `config={...}`; to
            continue a run, its `id` with `resume="must"`.

    Raises:
        ImportError: `wandb` is not installed.
        ValueError: `every` is out of range, or there is both a run and settings of a new one.
    """

    def __init__(
        self,
        run: Any = None,
        *,
        spectra: str | Sequence[str] | None = "*",
        every: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(spectra=spectra, every=every)
        self._wandb = _required("wandb", "WandbLogger", "wandb")
        if run is not None and settings:
            raise ValueError(
                f"{', '.join(settings)}: settings of a new run, beside run={run!r}; leave one out"
            )
        self.run = run
        self.settings = settings
        self._is_own = run is None
        self._known: set[str] = set()

    def open(self, epoch: int) -> None:
        """Begin a run, unless one was given."""
        if self._is_own:
            self.run = self._wandb.init(**{"reinit": "create_new", **self.settings})
        self._known = set()
        self.run.define_metric("epoch")

    def write(
        self, epoch: int, metrics: Mapping[str, float], spectra: Mapping[str, Tensor]
    ) -> None:
        """Log the epoch in one row."""
        row: dict[str, Any] = dict(metrics)
        for name, lam in spectra.items():
            if len(logs := _logarithms(lam)):
                counts = np.histogram(logs, bins=_BINS)
                key = f"spectra/{name}/log10_eigenvalues"
                row[key] = self._wandb.Histogram(np_histogram=counts)
        for name in row.keys() - self._known:
            self.run.define_metric(name, step_metric="epoch")
        self._known |= row.keys()
        self.run.log({"epoch": epoch, **row})

    def close(self, error: BaseException | None) -> None:
        """Finish the run if the logger has begun it; after an error it is marked as failed."""
        if self._is_own and self.run is not None:
            self.run.finish(exit_code=0 if error is None else 1)
            self.run = None


class MLflowLogger(MetricsLogger):
    """A logger of metrics and spectra to MLflow, with the eigenvalues as JSON artifacts.

    It needs `pip install "bayes-htr[loggers]"`, or MLflow alone. MLflow has no histograms; the
    artifact `spectra/epoch_00001.json` has all eigenvalues of epoch 1 by matrix. Names keep their
    letters, digits and `_ - . /`; other characters become `_`, because MLflow allows no others.

    Args:
        run_id: A run to continue, which is left open. By default a run is begun, and ended with
            the fit.
        tracking_uri: Where runs are kept, such as `sqlite:///mlflow.db`; by default where MLflow's
            own settings say.
        experiment: The experiment of a new run; it is made where it is missing.
        run_name: The name of a new run.
        spectra: As in `MetricsLogger`.
        every: As in `MetricsLogger`.

    Raises:
        ImportError: MLflow is not installed.
        ValueError: `every` is out of range, or there is both a run and a setting of a new one.
    """

    def __init__(
        self,
        run_id: str | None = None,
        *,
        tracking_uri: str | None = None,
        experiment: str = "Default",
        run_name: str | None = None,
        spectra: str | Sequence[str] | None = "*",
        every: int = 1,
    ) -> None:
        super().__init__(spectra=spectra, every=every)
        tracking = _required("mlflow.tracking", "MLflowLogger", "mlflow")
        if run_id is not None and (run_name is not None or experiment != "Default"):
            raise ValueError(f"run_id={run_id!r} has its experiment and name; leave those out")
        self.run_id = run_id
        self.experiment = experiment
        self.run_name = run_name
        self._client = tracking.MlflowClient(tracking_uri=tracking_uri)
        self._is_own = run_id is None

    def open(self, epoch: int) -> None:
        """Begin a run, unless one was given."""
        if not self._is_own:
            return
        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            experiment = self._client.create_experiment(self.experiment)
        else:
            experiment = found.experiment_id
        self.run_id = self._client.create_run(experiment, run_name=self.run_name).info.run_id

    def write(
        self, epoch: int, metrics: Mapping[str, float], spectra: Mapping[str, Tensor]
    ) -> None:
        """Log the metrics at the step `epoch`, and the eigenvalues."""
        for name, value in metrics.items():
            allowed = re.sub(r"[^\w\-./]", "_", name, flags=re.ASCII)
            self._client.log_metric(self.run_id, allowed, value, step=epoch)
        if spectra:
            values = {name: lam.tolist() for name, lam in spectra.items()}
            self._client.log_dict(self.run_id, values, f"spectra/epoch_{epoch:05d}.json")

    def close(self, error: BaseException | None) -> None:
        """End the run if the logger has begun it; `run_id` keeps its name."""
        if self._is_own and self.run_id is not None:
            status = "FINISHED" if error is None else "FAILED"
            self._client.set_terminated(self.run_id, status=status)


def _logarithms(lam: Tensor) -> np.ndarray:
    """Return `log10` of the eigenvalues that are positive, `(K',)`."""
    return lam[lam > 0].log10().numpy()


def _required(module: str, logger: str, package: str) -> Any:
    """Import the module of an optional package.

    Raises:
        ImportError: The package is not installed; the message says what to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{logger} needs {package}: pip install "bayes-htr[loggers]" (or {package} alone)'
        ) from error
