"""What fixed singular vectors leave out: log eigenvalues of 72 weights under three posteriors.

The posteriors of a network with one hidden layer and 400 examples under a Lomax prior: the spectral
guide, NUTS with the singular vectors of the guide, and NUTS that samples singular vectors as well.
The chains of NUTS start at the guide's weights, and biases stay where the guide left them. Of each
sorted log eigenvalue, the script prints the median and the standard deviation over draws, and the
bulk effective sample size of the sampled ones. It prints what the chains say of themselves.

Run: `python benchmarks/frames_reference.py`, which takes some fifteen minutes on one core. `--out
DIR` keeps the runs of NUTS in a folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import bayes_htr as htr
from bayes_htr.models.programs import Frames

Data = tuple[Tensor, Tensor]

WEIGHTS = ("0.weight", "2.weight")


def small_classifier() -> tuple[nn.Sequential, Data]:
    """72 weights, and 400 examples with noisy labels: no eigenvalue runs away."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(400, 6)
    logits = x @ normal(6, 3) + 0.7 * normal(400, 3) + 2 * torch.tanh(x[:, :3] * x[:, 3:])
    flipped = torch.rand(400, generator=generator) < 0.3
    y = torch.where(flipped, torch.randint(3, (400,), generator=generator), logits.argmax(1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return net, (x, y)


def fitted_guide(model: htr.BayesianClassifier, data: Data) -> htr.Posterior:
    """The spectral guide after 1000 steps on all data, from a mode."""
    whole = len(data[1])
    mode = htr.fit(model, data, method=htr.MAP(), epochs=100, batch_size=whole, progress=False)
    method = htr.SVI(lr=0.02, particles=4, refresh=htr.Exact())
    return htr.fit(
        model, data, method=method, epochs=1000, batch_size=whole, init=mode, progress=False
    )


def log_eigenvalues(posterior: htr.Posterior, draws: int) -> dict[str, Tensor]:
    """Sorted log eigenvalues of each matrix, `(draws, K)`."""
    assert posterior.guide is not None
    found = list(posterior.guide.draws(draws, 0))
    W = {name: torch.stack([draw[name] for draw in found]) for name in WEIGHTS}
    return {name: torch.linalg.svdvals(value).square().log() for name, value in W.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--warmup", type=int, default=300, metavar="N", help="draws that adapt")
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="draws per chain")
    parser.add_argument("--chains", type=int, default=1, metavar="N", help="chains of NUTS")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the runs of NUTS")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    net, data = small_classifier()
    model = htr.BayesianClassifier(net, htr.Priors(htr.ESD(htr.Lomax(3.0))))
    guide = fitted_guide(model, data)
    spectra = {"guide": log_eigenvalues(guide, 4000)}
    sizes = {}
    for frames in sorted(get_args(Frames)):  # "held" is quick
        method = htr.NUTS(
            warmup=args.warmup,
            samples=args.samples,
            chains=args.chains,
            frames=frames,
            target_accept=0.65,
        )
        out = None if args.out is None else args.out / frames
        chain = htr.fit(model, data, method=method, epochs=0, init=guide, out=out)
        *rows, sizes = chain.history
        said = {k: round(sizes[k], 3) for k in ("rhat", "ess", "divergences", "saturated")}
        steps = sum(row["leapfrogs"] for row in rows) / len(rows)
        console.print(f"{frames}: {said}, {steps:.0f} steps, {sizes['seconds']:.0f} s")
        spectra[f"NUTS, {frames}"] = log_eigenvalues(chain, args.chains * args.samples)
    table = Table("log eigenvalue", *spectra, "draws, effective")
    for name in WEIGHTS:
        for i in range(spectra["guide"][name].shape[1]):
            values = [lam[name][:, i] for lam in spectra.values()]
            cells = [f"{float(v.median()):.2f} ± {float(v.std()):.2f}" for v in values]
            size = sizes[f"ess:{name}:log_eigenvalue[{i}]"]
            table.add_row(f"{name} {i + 1}", *cells, f"{size:.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
