"""The processor time of whole fits of the default posterior against plain training.

Networks are trained on a part of the training images of KMNIST: plainly by SGD (`htr.MAP` without a
prior), and by the default method of `htr.fit` under the Lomax prior. The two take turns, with a new
seed in each round, on one thread. The table has medians over rounds with their ranges, and scores
on training images that were held out. Test images are never seen.

Run: `python -m benchmarks.posterior_cost --data-dir DIR`, which takes a few minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, median

import torch
from rich.console import Console
from rich.table import Table

import bayes_htr as htr
from bayes_htr.experiments import build_network, load_dataset
from bayes_htr.inference.defaults import default_method
from benchmarks.common.held_out import scored_fit

NETWORKS = ("mlp", "lenet5")
LOMAX = htr.Priors(htr.ESD(htr.Lomax(2.5, 0.05)))
FITS = ("plain training, SGD", "posterior, Lomax prior")


def fitted(network: str, fit: str, seed: int, settings: argparse.Namespace) -> dict[str, float]:
    """Return scores of a fit on images that were held out, and its `seconds` of processor time."""
    data = load_dataset("kmnist", settings.data_dir)
    net = build_network(network, data.input_shape, data.num_classes, seed=seed)
    is_plain = fit == FITS[0]
    return scored_fit(
        net,
        htr.Priors({}) if is_plain else LOMAX,
        htr.MAP() if is_plain else default_method(net),
        data,
        examples=settings.examples,
        epochs=settings.epochs,
        seed=seed,
    )


def rows(network: str, settings: argparse.Namespace) -> list[list[str]]:
    """Return a row for each fit of a network."""
    found: dict[str, list[dict[str, float]]] = {fit: [] for fit in FITS}
    for seed in range(settings.rounds):
        for fit in FITS:
            found[fit].append(fitted(network, fit, seed, settings))
    plain = [one["seconds"] for one in found[FITS[0]]]
    table = []
    for fit, runs in found.items():
        seconds = [one["seconds"] for one in runs]
        ratios = [a / b for a, b in zip(seconds, plain, strict=True)]
        ranged = f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        scores = [f"{mean(one[key] for one in runs):.4f}" for key in ("accuracy", "nll", "brier")]
        table.append([network, fit, f"{median(seconds):.1f}", ranged, *scores])
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, metavar="DIR", help="folder with kmnist's .npz")
    add("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="what is trained")
    add("--examples", type=int, default=4000, help="training images")
    add("--epochs", type=int, default=10, help="epochs of a fit")
    add("--rounds", type=int, default=5, help="fits of each kind")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("network", "fit", "seconds", "to plain (range)", "accuracy", "NLL", "Brier")
    for network in settings.networks:
        for row in rows(network, settings):
            table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
