"""Training with a prior and without it: the same data, steps and seeds, several fits at a time.

Each fit has a run folder. The main fit of the first seed is in `out`, and the fits that it is
compared with are in `out/compare/NAME`. Every further seed has the same folders below
`out/seeds/SEED`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from torch import nn

from bayes_htr.distributed import run_on_rank0
from bayes_htr.experiments.datasets import Dataset, load_dataset
from bayes_htr.experiments.networks import build_network
from bayes_htr.experiments.parallel import Workers, run_parallel
from bayes_htr.fitting import fit, load
from bayes_htr.inference import Method, RunFolder
from bayes_htr.models import BayesianClassifier
from bayes_htr.posterior import network_spectra
from bayes_htr.priors import Priors
from bayes_htr.report import RESULTS, SPECTRA_BEFORE


@dataclass(frozen=True)
class FitSettings:
    """Training settings that all fits of a comparison share.

    Attributes:
        data: Name of the data set.
        data_dir: Folder of its file; `None` to use the embedded data or to download them.
        net: Name of the network.
        epochs: Number of epochs of each fit.
        batch_size: Examples per batch.
        device: Where to train.
        label_smoothing: Share of each label that is spread over all classes in training.
    """

    data: str
    data_dir: Path | None
    net: str
    epochs: int
    batch_size: int
    device: str
    label_smoothing: float = 0.0

    def dataset(self, seed: int) -> Dataset:
        """The data, split by a seed if the data set has no split of its own."""
        return load_dataset(self.data, self.data_dir, seed=seed)

    def network(self, data: Dataset, seed: int) -> nn.Module:
        """The network with its initial weights."""
        return build_network(self.net, data.input_shape, data.num_classes, seed=seed)


@dataclass(frozen=True)
class Entrant:
    """A method that is compared.

    Attributes:
        label: Its name in the results.
        priors: Its priors.
        method: Its inference method.
        folder: Its run folder, relative to the folder of a seed.
        init: The run folder of a fit to start from; otherwise the initial weights of the network.
    """

    label: str
    priors: Priors
    method: Method
    folder: str = ""
    init: Path | None = None


class Job(NamedTuple):
    """One fit of an entrant, with a seed, in a folder."""

    entrant: Entrant
    seed: int
    folder: Path
    resume: bool


def seed_folder(out: Path, seeds: Sequence[int], seed: int) -> Path:
    """The folder of a seed's fits; for the first seed it is `out` itself."""
    return out if seed == seeds[0] else out / "seeds" / str(seed)


def compare(
    settings: FitSettings,
    entrants: Sequence[Entrant],
    seeds: Sequence[int],
    out: Path,
    *,
    console: Console,
    workers: Workers,
    resume: bool = False,
    progress: bool | None = None,
) -> None:
    """Fit every entrant with every seed, and write `results.json` into `out` at the end.

    Args:
        settings: Training settings.
        entrants: The methods to compare, with the main one first.
        seeds: Seeds of the split, the initial weights and the order of the data.
        out: The run folder.
        console: Where a line for each finished fit is printed.
        workers: How many fits are trained at a time.
        resume: Continue with the fits that exist.
        progress: Whether to show a progress bar; by default on a terminal.

    Raises:
        The errors of `bayes_htr.fit`.
    """
    if not resume:
        run_on_rank0(RunFolder(out).check_unused)
    jobs = [
        Job(entrant, seed, seed_folder(out, seeds, seed) / entrant.folder, resume)
        for seed in seeds
        for entrant in entrants
    ]

    def note(number: int, scores: Mapping[str, float]) -> None:
        job = jobs[number]
        seed = f", seed {job.seed}" if len(seeds) > 1 else ""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        console.print(f"{job.entrant.label}{seed}: {shown}", markup=False, highlight=False)

    if workers.count == 1:
        scores: list[Mapping[str, float]] = []
        for number, job in enumerate(jobs):
            scores.append(run_job(settings, job, progress=progress))
            note(number, scores[-1])
    else:
        work = partial(run_job, settings)
        epochs = len(jobs) * settings.epochs
        scores = run_parallel(work, jobs, workers, epochs=epochs, note=note, progress=progress)
    run_on_rank0(lambda: _write(RunFolder(out), settings, entrants, seeds, scores))


def run_job(
    settings: FitSettings,
    job: Job,
    *,
    progress: bool | None = None,
    on_epoch: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Fit one entrant with one seed.

    Args:
        settings: Training settings.
        job: The fit.
        progress: As in `bayes_htr.fit`.
        on_epoch: Called without arguments after every epoch.

    Returns:
        The scores on the test data.
    """
    data = run_on_rank0(lambda: settings.dataset(job.seed))
    net = settings.network(data, job.seed)
    init = None if job.entrant.init is None else load(job.entrant.init, net)
    posterior = fit(
        BayesianClassifier(net, job.entrant.priors, label_smoothing=settings.label_smoothing),
        (data.x_train, data.y_train),
        method=job.entrant.method,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=job.seed,
        device=settings.device,
        out=job.folder,
        resume=job.resume,
        init=init,
        callbacks=() if on_epoch is None else [lambda event: on_epoch()],
        progress=progress,
        metadata={"data": data.name},
    )
    return run_on_rank0(lambda: posterior.evaluate((data.x_test, data.y_test)))


def _write(
    run: RunFolder,
    settings: FitSettings,
    entrants: Sequence[Entrant],
    seeds: Sequence[int],
    scores: Sequence[Mapping[str, float]],
) -> None:
    """Write the spectra before training, and the scores of every fit."""
    first = entrants[0]
    data = settings.dataset(seeds[0])
    net = settings.network(data, seeds[0])
    if first.init is not None:
        net = load(first.init, net).network()
    before = {
        name: torch.stack([lam])
        for name, lam in network_spectra(net, first.priors.matrices).items()
    }
    run.write_tensors(SPECTRA_BEFORE, before)
    by_seed = {
        entrant.label: [dict(s) for s in scores[i :: len(entrants)]]
        for i, entrant in enumerate(entrants)
    }
    results = {
        "seeds": list(seeds),
        "scores": {label: _mean(rows) for label, rows in by_seed.items()},
        "by_seed": by_seed,
        "runs": {entrant.label: entrant.folder or "." for entrant in entrants},
    }
    run.write_json(RESULTS, results)


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
