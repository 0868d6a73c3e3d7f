"""The full gradient of the spectral guide against its gradient at fixed singular vectors.

The script has two parts. In the first, networks with 37 examples are trained by full batches under
a Lomax prior, and the bound at the end is estimated from 2000 draws. In the second, a network is
trained by mini-batches as `htr.fit` does by default, and scored on validation images: a fifth of
the training images of digits, and of the first 5000 of KMNIST. Test images are never seen. Both
parts print one line for each seed and gradient, with the computing time of a fit.

Run: `python benchmarks/full_gradient.py --data-dir DIR`; without a folder, KMNIST is left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call

import bayes_htr as htr
from bayes_htr.experiments import build_network, load_dataset
from bayes_htr.inference.defaults import default_method
from bayes_htr.inference.guides import SpectralGuide

EXAMPLES, INPUTS, CLASSES = 37, 5, 3
STEPS, PARTICLES, DRAWS = 1000, 2, 2000
SEEDS = 5
GRADIENTS = {"at fixed singular vectors": False, "full": True}


def small_data(seed: int) -> tuple[Tensor, Tensor]:
    """Inputs `(37, 5)` and labels of three classes, which are linear with noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(EXAMPLES, INPUTS, generator=generator, dtype=torch.float64)
    W = torch.randn(CLASSES, INPUTS, generator=generator, dtype=torch.float64)
    noise = torch.randn(EXAMPLES, CLASSES, generator=generator, dtype=torch.float64)
    return x, (x @ W.T + noise).argmax(1)


def small_bound(seed: int, full: bool) -> float:
    """The bound in nats, at the end of training a network with one hidden layer of 4 units."""
    x, y = small_data(seed)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, CLASSES)).double()
    priors = htr.Priors({"*weight": htr.ESD(htr.Lomax(2.0))})
    densities = htr.BayesianClassifier(net, priors).densities(0)
    guide = SpectralGuide(densities, init_scale=0.1, refresh=htr.Exact(), full_gradient=full)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

    def nll(sample: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(net, sample, (x,)), y, reduction="sum")

    for _ in range(STEPS):
        optimizer.zero_grad()
        for particle in range(PARTICLES):
            sample = guide.rsample(again=particle > 0)
            ((nll(sample) + guide.kl(sample)) / PARTICLES).backward()
        optimizer.step()
        schedule.step()
    torch.manual_seed(123)
    guide.refresh()
    with torch.no_grad():
        mean = sum(nll(guide.rsample(again=True)).item() for _ in range(DRAWS)) / DRAWS
        return -mean - guide.kl(guide.rsample(again=True)).item()


def validated(
    name: str, network: str, folder: Path | None, seed: int, full: bool
) -> dict[str, float]:
    """Validation scores of a fit by the default method, its bound in nats, and its seconds."""
    data = load_dataset(name, folder, seed=seed)
    x, y = data.x_train[:5000], data.y_train[:5000]
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1000 + seed))
    held, rest = order[: len(y) // 5], order[len(y) // 5 :]
    net = build_network(network, data.input_shape, data.num_classes, seed=seed)
    start = time.process_time()
    posterior = htr.fit(
        htr.BayesianClassifier(net, htr.Priors(htr.ESD(htr.Lomax(2.5, 0.05)))),
        (x[rest], y[rest]),
        method=default_method(net, full_gradient=full),
        epochs=30 if name == "digits" else 15,
        batch_size=32 if name == "digits" else 128,
        seed=seed,
        progress=False,
        threads=1,
    )
    seconds = time.process_time() - start
    bound = -posterior.history[-1]["loss"] * len(rest)
    return posterior.evaluate((x[held], y[held])) | {"bound": bound, "seconds": seconds}


def rows(folder: Path | None) -> Iterator[list[str]]:
    """A row for each network, seed and gradient."""
    for seed in range(SEEDS):
        for label, full in GRADIENTS.items():
            bound = small_bound(seed, full)
            yield ["37 examples", str(seed), label, f"{bound:.2f}", "", "", ""]
    cells = [("digits", "mlp", None)] + ([("kmnist", "lenet5", folder)] if folder else [])
    for name, network, where in cells:
        for seed in range(100, 100 + SEEDS):
            for label, full in GRADIENTS.items():
                found = validated(name, network, where, seed, full)
                scores = [f"{found[key]:.4f}" for key in ("bound", "nll", "brier")]
                yield [f"{network}, {name}", str(seed), label, *scores, f"{found['seconds']:.1f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with kmnist's .npz")
    torch.set_num_threads(1)
    table = Table("network", "seed", "gradient", "bound", "NLL", "Brier", "seconds")
    for row in rows(parser.parse_args().data_dir):
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
