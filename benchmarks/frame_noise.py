"""Whether uncertain singular vectors would improve the predictions of the spectral guide.

Its singular vectors are points. Let both frames of a matrix turn by independent normal angles of
standard deviation `tau`, in every plane of two singular vectors, and of one and the complement. To
first order in `tau` a draw of a linear layer is then

    y = W (x + tau |x| e) + tau |W x| e',

with standard normal `e`, `e'`: relative noise of the inputs and of the outputs, without any product
with singular vectors. For `W = U diag(sigma) V'` the noise in the plane of `u_i` and `v_j` has
the variance `tau^2 (sigma_i^2 + sigma_j^2)`, of which `W e` has the first part and `|W x| e'` the
second.

This script trains networks with such noise, a draw for each example, in their linear layers, and
scores training images that were held out; test images are never seen. A convolution has none,
since all positions of an example share the draw of its weights. The KL divergence of the angles
depends on `tau` alone, which is not learnt but tried.

Run: `python -m benchmarks.frame_noise --data-dir DIR`, which takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import bayes_htr as htr
from bayes_htr.experiments import build_network, load_dataset
from bayes_htr.inference.defaults import default_method
from benchmarks.common.held_out import scored_fit

CASES = (("mlp", "kmnist", 7000), ("mlp", "fashion_mnist", 9000), ("lenet5", "kmnist", 7000))
"""Networks, data sets and numbers of training images."""
LOMAX = htr.Priors(htr.ESD(htr.Lomax(2.0, 1.0))).scaled(3.0)


def relative_noise(x: Tensor, tau: float) -> Tensor:
    """Return rows `(N, n)` with normal noise of the standard deviation `tau |x|` in each entry."""
    norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x + tau * norms * torch.randn_like(x)


def turn_frames(net: nn.Module, tau: float) -> None:
    """Make the frames of the linear layers of a network turn at random whenever it is called."""

    def turn_right(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (relative_noise(inputs[0], tau),)

    def turn_left(layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return relative_noise(output - layer.bias, tau) + layer.bias

    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(turn_right)
            layer.register_forward_hook(turn_left)


def scored(
    network: str, name: str, examples: int, tau: float, seed: int, settings: argparse.Namespace
) -> dict[str, float]:
    """Scores of a posterior on images that were held out, and its `seconds` of processor time."""
    data = load_dataset(name, settings.data_dir)
    net = build_network(network, data.input_shape, data.num_classes, seed=seed)
    if tau:
        turn_frames(net, tau)
    return scored_fit(
        net,
        LOMAX,
        default_method(net),
        data,
        examples=examples,
        epochs=settings.epochs,
        seed=seed,
    )


def rows(network: str, name: str, examples: int, settings: argparse.Namespace) -> list[list[str]]:
    """Return a row for each standard deviation of the angles, the first one without noise."""
    taus = (0.0, *settings.angles)
    found: dict[float, list[dict[str, float]]] = {tau: [] for tau in taus}
    for seed in range(settings.rounds):
        for tau in taus:
            found[tau].append(scored(network, name, examples, tau, seed, settings))
    table = []
    for tau, runs in found.items():
        cells = [f"{mean(one['accuracy'] for one in runs):.4f}"]
        for key in ("nll", "brier"):
            differences = [a[key] - b[key] for a, b in zip(runs, found[0.0], strict=True)]
            error = stdev(differences) / len(differences) ** 0.5
            cells += [f"{mean(one[key] for one in runs):.4f}"]
            cells += [f"{mean(differences):+.4f} ± {error:.4f}" if tau else ""]
        seconds = f"{mean(one['seconds'] for one in runs):.1f}"
        table.append([network, name, f"{tau:g}", *cells, seconds])
    return table


def main() -> None:
    """Print the table; differences are paired by seed, with their standard errors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, metavar="DIR", help="folder of .npz files")
    add("--angles", type=float, nargs="+", default=[0.001, 0.003, 0.01], help="values of tau")
    add("--epochs", type=int, default=10, help="epochs of a fit")
    add("--rounds", type=int, default=4, help="fits of each kind, each with a seed; two or more")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    heads = ("accuracy", "NLL", "minus none", "Brier", "minus none", "seconds")
    table = Table("network", "data", "tau", *heads)
    for case in CASES:
        for row in rows(*case, settings):
            table.add_row(*row)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
