"""`python -m benchmarks fits`: processor time of whole fits of a posterior against plain training.

Networks are trained on a part of the training images of KMNIST: plainly by SGD (`htr.MAP` without a
prior), and by the default method of `htr.fit` under the Lomax prior. Each round has a seed of its
own, and the two take turns to be the first. Scores are of training images that were held out; test
images are never seen.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import bayes_htr as htr
from bayes_htr.experiments import build_network, load_dataset
from bayes_htr.inference.defaults import default_method
from benchmarks.common.held_out import scored_fit
from benchmarks.common.results import Results
from benchmarks.common.running import Benchmark, Part, positive
from benchmarks.common.stopwatch import Tick, summary
from benchmarks.common.tables import TextTable, spread

NETWORKS = ("mlp", "lenet5")
LOMAX = htr.Priors(htr.ESD(htr.Lomax(2.5, 0.05)))
PLAIN, POSTERIOR = "plain training, SGD", "posterior, Lomax prior"
SCORES = ("accuracy", "nll", "brier")


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, metavar="DIR", help="folder with kmnist's .npz")
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="what is trained")
    images = [2000, 7000]
    add("--examples", nargs="+", type=positive, default=images, help="numbers of training images")
    add("--epochs", type=positive, default=10, help="epochs of a fit")
    add("--rounds", type=positive, default=5, help="fits of each kind")


def _parts(args: argparse.Namespace) -> list[Part]:
    """Return a part for each network, number of images and round."""
    return [
        Part(
            f"{network}/{examples}",
            f"fits/{seed}",
            2,
            partial(measure, network, args.data_dir, examples, args.epochs, seed),
            {"epochs": args.epochs, "seed": seed},
        )
        for network in args.networks
        for examples in args.examples
        for seed in range(args.rounds)
    ]


def measure(
    network: str, data_dir: Path, examples: int, epochs: int, seed: int, tick: Tick
) -> dict[str, Any]:
    """Return the scores of both fits on images that were held out, and their `seconds`.

    Args:
        network: The name of the network.
        data_dir: The folder with the images.
        examples: The number of training images.
        epochs: The number of epochs.
        seed: The seed of the network, of the split and of the fits.
        tick: Called after each fit.

    Raises:
        DataError: There is no such file.
        ValueError: There are fewer images.
    """
    data = load_dataset("kmnist", data_dir)
    found = {}
    for fit in (PLAIN, POSTERIOR)[:: -1 if seed % 2 else 1]:
        net = build_network(network, data.input_shape, data.num_classes, seed=seed)
        plain, posterior = (htr.Priors({}), htr.MAP()), (LOMAX, default_method(net))
        priors, method = plain if fit == PLAIN else posterior
        found[fit] = scored_fit(
            net, priors, method, data, examples=examples, epochs=epochs, seed=seed
        )
        tick(1)
    return found


def fit_tables(results: Results) -> list[TextTable]:
    """Return the table of processor times, their ratios to plain training, and scores."""
    rows = []
    for cell, parts in results.cells.items():
        network, examples = cell.split("/")
        rounds = [part["result"] for part in parts.values()]
        for fit in (PLAIN, POSTERIOR):
            seconds = summary([r[fit]["seconds"] for r in rounds])
            ratios = summary([r[fit]["seconds"] / r[PLAIN]["seconds"] for r in rounds])
            scores = [f"{mean(r[fit][score] for r in rounds):.4f}" for score in SCORES]
            own = [f"{seconds['median']:.1f}", spread(ratios, 2), *scores]
            rows.append([network, fit, examples, str(len(rounds)), *own])
    columns = ("network", "fit", "images", "rounds", "seconds", "to plain", *SCORES)
    return [TextTable("Processor time of whole fits", columns, rows)]


FITS = Benchmark(
    "fits",
    "processor time and scores of whole fits of the default posterior against plain training",
    "What a posterior costs",
    _add_options,
    _parts,
    fit_tables,
    threads=1,
)
