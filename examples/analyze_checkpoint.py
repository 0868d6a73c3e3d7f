"""How training changes the spectra of a network: two checkpoints, analysed and compared.

Trains the digits network without a prior, saves it before and after training, and prints the
report of the trained network, the differences between the two checkpoints, and the path of the CSV
table.

Run: `python examples/analyze_checkpoint.py`.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.utils.data import DataLoader, TensorDataset

import bayes_htr as htr
from bayes_htr.experiments import build_network, load_dataset

OUT = Path("runs") / "analyze_checkpoint"


def train(net: torch.nn.Module, data, epochs: int) -> None:
    """Train by SGD with momentum, without a prior."""
    loader = DataLoader(
        TensorDataset(data.x_train, data.y_train),
        batch_size=64,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()


def main(epochs: int = 20) -> htr.SpectraReport:
    """Train, save, analyse, compare, and return the report of the trained network."""
    data = load_dataset("digits")
    net = build_network("mlp", data.input_shape, data.num_classes)
    OUT.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), OUT / "before.safetensors")
    train(net, data, epochs)
    save_file(net.state_dict(), OUT / "after.safetensors")

    before, after = (
        htr.analyze(OUT / f"{name}.safetensors", bootstrap=200, randomize=True)
        for name in ("before", "after")
    )
    print(after)
    print(before.compare(after))
    for row in after.rows:
        print(f"{row['name']}: {row['num_above_rand']} eigenvalues above the randomised matrix")
    print(f"written: {after.to_csv(OUT / 'after.csv')}")
    return after


if __name__ == "__main__":
    main()
