"""Mean field under a spectral prior: how wide it starts, for how long it trains, and its width.

The script fits the digits network from a plain MAP fit, at learning rate 0.01. The strength is 1
if no other is given. The first table shows test scores and the negative evidence bound for several
starts and numbers of epochs. The second shows test accuracy and the KL divergence by the number of
hidden units, also under normal entries, at a lower temperature, and with the spectral guide. It
takes about two minutes on two cores.

Run: `python -m benchmarks.mean_field`.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import bayes_htr as htr
from bayes_htr.experiments import load_dataset

LOMAX = htr.Priors(htr.ESD(htr.Lomax(2.0, 1.0)))
NORMAL = htr.Priors(htr.Entries(htr.Normal(0.0, 1.0)))
STARTS: tuple[tuple[str, float, dict[str, Any], int], ...] = (
    ("0.001", 1.0, {"init_scale": 0.001}, 60),
    ("0.01", 1.0, {"init_scale": 0.01}, 60),
    ("0.01, kl_warmup=30", 1.0, {"init_scale": 0.01, "kl_warmup": 30}, 60),
    ("0.03", 1.0, {"init_scale": 0.03}, 60),
    ("0.03", 1.0, {"init_scale": 0.03}, 300),
    ("0.03, strength 10", 10.0, {"init_scale": 0.03}, 60),
    ("0.1", 1.0, {"init_scale": 0.1}, 60),
    ("0.1", 1.0, {"init_scale": 0.1}, 200),
)
WIDE: dict[str, Any] = {"guide": "meanfield", "init_scale": 0.03}
ROWS: tuple[tuple[str, htr.Priors, dict[str, Any]], ...] = (
    ("mean field, ESD(Lomax)", LOMAX, WIDE),
    ("mean field, normal entries", NORMAL, WIDE),
    ("mean field, ESD(Lomax), temperature 0.1", LOMAX, WIDE | {"temperature": 0.1}),
    ("spectral guide, ESD(Lomax)", LOMAX, {"guide": "spectral"}),
)
UNITS = (32, 128, 512)


def fit(priors: htr.Priors, svi: dict[str, Any], epochs: int, units: int) -> dict[str, float]:
    """Test scores, the negative bound and the KL divergence, in nats, of a fit of the digits."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load_dataset("digits", seed=0)
    train, test = (data.x_train, data.y_train), (data.x_test, data.y_test)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, units), nn.ReLU(), nn.Linear(units, 10))
    options: dict[str, Any] = {"batch_size": 64, "seed": 0, "progress": False}
    plain = htr.fit(
        htr.BayesianClassifier(net, htr.Priors({})), train, method=htr.MAP(), epochs=20, **options
    )
    posterior = htr.fit(
        htr.BayesianClassifier(net, priors),
        train,
        method=htr.SVI(lr=0.01, **svi),
        epochs=epochs,
        init=plain,
        **options,
    )
    last = posterior.history[-1]
    bound = len(data.y_train) * last["loss"]
    return posterior.evaluate(test) | {"negative_bound": bound, "kl": last["kl"]}


def main() -> None:
    """Fit everything, and print both tables."""
    widths = list(product(ROWS, UNITS))
    jobs = [
        (LOMAX.scaled(strength), {"guide": "meanfield"} | start, epochs, 512)
        for _, strength, start, epochs in STARTS
    ]
    jobs += [(priors, svi, 60, units) for (_, priors, svi), units in widths]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        found = list(pool.map(fit, *zip(*jobs, strict=True)))
    table = Table("init_scale", "epochs", "test accuracy", "test NLL", "negative bound")
    for (label, _, _, epochs), row in zip(STARTS, found, strict=False):
        scores = (f"{row['accuracy']:.2f}", f"{row['nll']:.2f}", f"{row['negative_bound']:.0f}")
        table.add_row(label, str(epochs), *scores)
    Console().print(table)
    table = Table("guide and prior", *(f"{units} units (KL)" for units in UNITS))
    by_width = iter(found[len(STARTS) :])
    for label, _, _ in ROWS:
        fits = [next(by_width) for _ in UNITS]
        table.add_row(label, *(f"{one['accuracy']:.3f} ({one['kl']:.0f})" for one in fits))
    Console().print(table)


if __name__ == "__main__":
    main()
