"""Mixtures of posteriors beside an ensemble of plain networks: validation scores and their cost.

The script trains the digits network on four fifths of the training images of each split and scores
the rest. Test images are never seen. It fits five plain networks and three members of the default
posterior, and scores the first one, the first two, and so on, with 32 draws for each prediction.
Seconds are those of the processor in training, one thread. The table has a row for each split and
mixture, and paired differences from the ensemble with their 95 % intervals by Student's t.

Run: `python benchmarks/members.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy
import torch
from rich.console import Console
from rich.table import Table

import bayes_htr as htr
from bayes_htr.experiments import build_network, load_dataset

SPLITS = (200, 201, 202)
EPOCHS, BATCH = 30, 32
KINDS: Mapping[str, tuple[htr.Priors, Any, int]] = {
    "plain": (htr.Priors({}), htr.MAP(), 5),
    "posterior": (htr.Priors(htr.ESD(htr.Lomax(2.5, 0.05))), None, 3),
}
SHOWN = (("plain", 1), ("plain", 5), ("posterior", 1), ("posterior", 2), ("posterior", 3))
SCORES = ("brier", "nll", "accuracy", "ece", "seconds")


def scored(split: int) -> dict[tuple[str, int], dict[str, float]]:
    """Validation scores of the shown mixtures, with the processor time of their training."""
    data = load_dataset("digits", seed=split)
    order = torch.randperm(len(data.y_train), generator=torch.Generator().manual_seed(1000 + split))
    held = len(order) // 5
    (x, y), validation = (
        (data.x_train[part], data.y_train[part]) for part in (order[held:], order[:held])
    )
    found: dict[tuple[str, int], dict[str, float]] = {}
    for kind, (priors, method, count) in KINDS.items():
        nets = [
            build_network("mlp", data.input_shape, data.num_classes, seed=1000 * split + i)
            for i in range(count)
        ]
        clock = [time.process_time()]

        def note(event: htr.EpochEvent, clock: list[float] = clock) -> None:
            if event.epoch == EPOCHS:
                clock.append(time.process_time())

        mixture = htr.fit(
            htr.BayesianClassifier(nets[0], priors),
            (x, y),
            method=method,
            members=nets,
            epochs=EPOCHS,
            batch_size=BATCH,
            seed=split,
            threads=1,
            callbacks=[note],
            progress=False,
        )
        assert isinstance(mixture, htr.PosteriorMixture)
        for shown, size in SHOWN:
            if shown == kind:
                part = htr.PosteriorMixture(mixture.members[:size])
                seconds = clock[size] - clock[0]
                found[kind, size] = dict(part.evaluate(validation)) | {"seconds": seconds}
    return found


def difference(values: list[float]) -> str:
    """Return the mean of paired differences with the half width of its 95 % interval."""
    half = scipy.stats.sem(values) * scipy.stats.t.isf(0.025, len(values) - 1)
    return f"{np.mean(values):+.4f} ± {half:.4f}"


def main() -> None:
    """Score every split, and print the tables."""
    torch.set_num_threads(1)
    found = {split: scored(split) for split in SPLITS}
    table = Table("split", "members", *SCORES)
    for split, rows in found.items():
        for (kind, size), row in rows.items():
            table.add_row(str(split), f"{size} {kind}", *(f"{row[name]:.4g}" for name in SCORES))
    console = Console(width=100)
    console.print(table)
    ensemble = ("plain", 5)
    paired = Table("minus 5 plain", *SCORES)
    for key in SHOWN:
        if key != ensemble:
            cells = (
                difference([rows[key][name] - rows[ensemble][name] for rows in found.values()])
                for name in SCORES
            )
            paired.add_row(f"{key[1]} {key[0]}", *cells)
    console.print(paired)


if __name__ == "__main__":
    main()
