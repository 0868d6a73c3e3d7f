"""The choice of the Lomax law of the default posterior: validation scores of laws at strength 1.

The script trains the digits network under each law with ten seeds of the split and the initial
weights. It trains on four fifths of the training images and scores the rest. Test images are never
seen, and the seeds differ from those of `make demo`. For each law it prints the mean NLL, accuracy
and Brier score, and the least number of eigenvalues in a tail of `fc1` and of `fc2` over the seeds.
It takes about seven minutes on two cores.

Run: `python benchmarks/digits_prior.py`.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import torch
from rich.console import Console
from rich.table import Table

import bayes_htr as htr
from bayes_htr.experiments import build_network, load_dataset

LAWS = (None, (2.0, 1.0), (2.0, 0.1), (2.0, 0.03), (2.5, 0.05), (3.0, 0.1), (4.0, 0.3))
SEEDS = range(100, 110)
EPOCHS, BATCH = 30, 32
SCORES = ("nll", "accuracy", "brier")


def score(law: tuple[float, float] | None, seed: int) -> dict[str, float]:
    """Validation scores and the sizes of two tails under a law; `None` is plain training."""
    torch.set_num_threads(1)
    data = load_dataset("digits", seed=seed)
    order = torch.randperm(len(data.y_train), generator=torch.Generator().manual_seed(1000 + seed))
    held = len(order) // 5
    (x, y), (x_val, y_val) = (
        (data.x_train[part], data.y_train[part]) for part in (order[held:], order[:held])
    )
    net = build_network("mlp", data.input_shape, data.num_classes, seed=seed)
    priors = htr.Priors({} if law is None else htr.ESD(htr.Lomax(*law)))
    posterior = htr.fit(
        htr.BayesianClassifier(net, priors),
        (x, y),
        method=htr.MAP() if law is None else None,
        epochs=EPOCHS,
        batch_size=BATCH,
        seed=seed,
        progress=False,
    )
    spectra = posterior.spectra(samples=50)
    tails = {name: spectra.tail(f"{name}.weight").fit for name in ("fc1", "fc2")}
    return posterior.evaluate((x_val, y_val)) | {
        name: 0 if fit is None else fit.n_tail for name, fit in tails.items()
    }


def main() -> None:
    """Score every law with every seed, and print the table."""
    jobs = list(product(LAWS, SEEDS))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        found = list(pool.map(score, *zip(*jobs, strict=True)))
    table = Table("law", "NLL", "accuracy", "Brier", "fewest in the tails")
    for law in LAWS:
        rows = [row for (other, _), row in zip(jobs, found, strict=True) if other == law]
        means = [sum(row[name] for row in rows) / len(rows) for name in SCORES]
        fewest = ", ".join(str(min(row[name] for row in rows)) for name in ("fc1", "fc2"))
        label = "none" if law is None else "Lomax({}, {})".format(*law)
        table.add_row(label, *(f"{mean:.4f}" for mean in means), fewest)
    Console().print(table)


if __name__ == "__main__":
    main()
