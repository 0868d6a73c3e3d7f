"""Train under a prior, without one, and with weight decay: the same data, steps and seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bayes_htr.experiments.datasets import Dataset
from bayes_htr.experiments.named_priors import named_priors
from bayes_htr.fit import fit
from bayes_htr.inference import Method, RunFolder
from bayes_htr.inference.distributed import from_main
from bayes_htr.models import BayesianClassifier
from bayes_htr.posterior import Posterior, network_spectra
from bayes_htr.priors import Priors
from bayes_htr.report import RESULTS, SPECTRA_BEFORE

COMPARED = ("none", "weight_decay")
"""What a prior is compared with, by the names of `named_priors`."""


@dataclass(frozen=True)
class Settings:
    """How every compared run is trained; those that are compared with by `compared`, if given."""

    method: Method
    epochs: int
    batch_size: int
    seed: int
    device: str
    progress: bool | None = None
    compared: Method | None = None
    label_smoothing: float = 0.0


def compare(
    data: Dataset,
    net: nn.Module,
    priors: Priors,
    settings: Settings,
    out: Path,
    *,
    label: str,
    against: tuple[str, ...] = COMPARED,
    resume: bool = False,
    init: Posterior | None = None,
) -> Posterior:
    """Fit under `priors` into `out`, and the runs compared with into `out/compare`.

    Args:
        data: The data set.
        net: The network, trained from the same weights in every run.
        priors: The priors.
        settings: How to train.
        out: The run folder; `results.json` in it is written last.
        label: What the results call the fit.
        against: Names of the priors to compare with.
        resume: Go on with what is there.
        init: Where the fit starts; what it is compared with starts from the network's weights.

    Returns:
        The fitted posterior.

    Raises:
        What `bayes_htr.fit` raises.
    """
    num_data = len(data.y_train)
    runs = {label: (priors, Path())} | {
        name: (named_priors(name, strength=None, num_data=num_data), Path("compare") / name)
        for name in against
    }
    fitted: dict[str, Posterior] = {}
    for name, (run_priors, folder) in runs.items():
        fitted[name] = fit(
            BayesianClassifier(net, run_priors, label_smoothing=settings.label_smoothing),
            (data.x_train, data.y_train),
            method=settings.method if name == label else settings.compared or settings.method,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            seed=settings.seed,
            device=settings.device,
            out=out / folder,
            resume=resume,
            init=init if name == label else None,
            progress=settings.progress,
            metadata={"data": data.name},
        )
    folders = {name: str(folder) for name, (_, folder) in runs.items()}
    start = net if init is None else init.network()
    from_main(lambda: _write(RunFolder(out), data, start, fitted, folders))
    return fitted[label]


def _write(
    run: RunFolder,
    data: Dataset,
    net: nn.Module,
    fitted: dict[str, Posterior],
    folders: dict[str, str],
) -> None:
    """Write the spectra before training, and the scores of every run."""
    test = (data.x_test, data.y_test)
    scores = {name: posterior.evaluate(test) for name, posterior in fitted.items()}
    before = {name: torch.stack([lam]) for name, lam in network_spectra(net).items()}
    run.write_tensors(SPECTRA_BEFORE, before)
    run.write_json(RESULTS, {"scores": scores, "runs": folders})
