"""Heavy-tailed regularisation in your own training loop.

Trains the digits network for a few epochs with a Weighted Alpha penalty whose strength decays, and
prints the energy and the test accuracy of each epoch.

Run: `python examples/own_loop.py`.
"""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import bayes_htr as htr
from bayes_htr.experiments import build_network, load_dataset


def main(epochs: int = 5) -> float:
    """Train, print, and return the test accuracy after the last epoch."""
    data = load_dataset("digits")
    num_data = len(data.y_train)
    net = build_network("mlp", data.input_shape, data.num_classes)
    loader = DataLoader(
        TensorDataset(data.x_train, data.y_train),
        batch_size=64,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
    )
    priors = htr.Priors(htr.penalties.weighted_alpha()).scaled(0.01 * num_data)
    priors = priors.scheduled(htr.ExpDecay(k=0.5, period=1, cutoff=0.05))
    print(priors.explain(net, num_data=num_data))

    energy = htr.bind(priors, net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    accuracy = 0.0
    for epoch in range(epochs):
        net.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y) + energy(epoch=epoch) / num_data
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            accuracy = float((net(data.x_test).argmax(1) == data.y_test).float().mean())
            print(f"epoch {epoch + 1}: energy {energy(epoch=epoch):.2f}, accuracy {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main()
