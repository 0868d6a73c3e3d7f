"""Training with a prior and without it: the same data, steps and seeds, several fits at a time.

Each fit has a run folder. The main fit of the first seed is in `out`, and the fits that it is
compared with are in `out/compare/NAME`. Every further seed has the same folders below
`out/seeds/SEED`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import nn

from bayes_htr._locks import FolderLock
from bayes_htr._parallel import Workers, run_jobs
from bayes_htr.distributed import run_on_rank0
from bayes_htr.errors import OutputError
from bayes_htr.experiments.datasets import Dataset, load_dataset
from bayes_htr.experiments.networks import build_network
from bayes_htr.experiments.own_data import is_own_data, load_own
from bayes_htr.fitting import fit, load
from bayes_htr.inference import Method, RunFolder
from bayes_htr.inference.run_folder import COMPARISON_LOCK, RESULTS, SPECTRA_BEFORE
from bayes_htr.members import member_seed
from bayes_htr.models import BayesianClassifier
from bayes_htr.posterior import Posterior, PosteriorMixture, network_spectra
from bayes_htr.priors import Priors


@dataclass(frozen=True)
class FitSettings:
    """Training settings that all fits of a comparison share.

    Attributes:
        data: Name of the data set, or the path of the user's own data.
        data_dir: Folder of its file; `None` to use the embedded data or to download them.
        net: Name of the network.
        epochs: Number of epochs of each fit.
        batch_size: Examples per batch.
        device: Where to train.
        label_smoothing: Share of each label that is spread over all classes in training.
        threads: PyTorch threads of each fit on the CPU; `None` lets `fit` choose.
        target: The column with the labels, if the data are a table of the user.
        members: Members of each fit, which is a mixture if there are several.
        processes: Members of one fit that are trained at a time.
        shard: Whether several processes shard the weights.
    """

    data: str
    data_dir: Path | None
    net: str
    epochs: int
    batch_size: int
    device: str
    label_smoothing: float = 0.0
    threads: int | None = None
    target: str | None = None
    members: int = 1
    processes: int = 1
    shard: bool = False

    def dataset(self, seed: int) -> Dataset:
        """Return the data, split by a seed if the data set has no split of its own."""
        if is_own_data(self.data):
            return load_own(self.data, self.target, seed=seed)
        return load_dataset(self.data, self.data_dir, seed=seed)

    def network(self, data: Dataset, seed: int) -> nn.Module:
        """Return the network with its initial weights."""
        return build_network(self.net, data.input_shape, data.num_classes, seed=seed)

    def of_members(self, data: Dataset, seed: int, init: Posterior | None) -> dict[str, Any]:
        """Return the arguments of `fit` that make a mixture; none for a single member.

        Args:
            data: The data set.
            seed: The seed of the first member.
            init: A mixture to start from; otherwise each member has initial weights of its own.
        """
        if self.members == 1:
            return {}
        seeds = [member_seed(seed, number) for number in range(self.members)]
        nets = [self.network(data, each) for each in seeds] if init is None else self.members
        return {"members": nets, "processes": self.processes}


@dataclass(frozen=True)
class Entrant:
    """A method that is compared.

    Attributes:
        label: The name of the fit in the results.
        priors: The priors.
        method: The inference method.
        folder: The run folder, relative to the folder of a seed.
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
    """Return the folder of a seed's fits; for the first seed it is `out` itself."""
    return out if seed == seeds[0] else out / "seeds" / str(seed)


@contextlib.contextmanager
def claimed_folder(out: Path | None, default: Path, *, resume: bool) -> Iterator[Path]:
    """Keep other commands from a folder and from what is below it.

    Args:
        out: The folder; if `None`, it is `default`, or `default` with a number if that folder is
            used already.
        default: The path of a new folder.
        resume: Whether the folder may hold runs.

    Yields:
        The folder, in all processes.

    Raises:
        OutputError: The folder is in use, holds something, or cannot be written.
    """
    locks: list[FolderLock] = []

    def claim(folder: Path) -> Path:
        if not resume:
            RunFolder(folder).check_unused()  # before a lock file is made there
        lock = FolderLock(folder, COMPARISON_LOCK)
        try:
            if not resume:
                RunFolder(folder).check_unused()
        except OutputError:
            lock.release()
            raise
        locks.append(lock)
        return folder

    def claim_default() -> Path:
        for number in itertools.count(1):
            folder = default if number == 1 else default.with_name(f"{default.name}-{number}")
            try:
                return claim(folder)
            except OutputError:
                if not folder.exists():  # otherwise another command has it
                    raise
        raise AssertionError

    try:
        yield run_on_rank0(claim_default if out is None else partial(claim, out))
    finally:
        for lock in locks:
            lock.release()


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
        out: The run folder, which `claimed_folder` keeps others from.
        console: Where a line for each finished fit is printed.
        workers: How many fits are trained at a time.
        resume: Continue with the fits that exist.
        progress: Whether to show a progress bar; by default on a terminal.

    Raises:
        The errors of `bayes_htr.fit`.
    """
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
        epochs = len(jobs) * settings.epochs * settings.members
        scores = run_jobs(work, jobs, workers, epochs=epochs, note=note, progress=progress)
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
        threads=settings.threads,
        **settings.of_members(data, job.seed, init),
        shard=settings.shard,
        metadata=_metadata(settings, data),
    )
    return run_on_rank0(lambda: posterior.evaluate((data.x_test, data.y_test)))


def _metadata(settings: FitSettings, data: Dataset) -> dict[str, Any]:
    """Describe the data of a run by name, and the user's own data as `predict` needs them."""
    if data.preparation is None:
        return {"data": data.name}
    return {"data": data.name, "net": settings.net, "preparation": data.preparation}


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
        start = load(first.init, net)
        net = (start.members[0] if isinstance(start, PosteriorMixture) else start).network()
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
