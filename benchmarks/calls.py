"""The number of functions of the library that a step passes through.

The script counts calls of functions of the library, distinct functions, and files. It does so for
a step of MAP with a cached gradient, a step of MAP that refreshes every matrix, a step of SVI with
the spectral guide, and `htr.fit` by MAP for one epoch of ten batches. The network is 784-512-256-10
under the Lomax prior. The counts do not depend on the machine, and the script takes a few seconds.

Run: `python benchmarks/calls.py`.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

import bayes_htr as htr
from bayes_htr.experiments import build_network
from bayes_htr.inference import StepCallback, StepEvent

PACKAGE = str(Path(htr.__file__).parent)
PRIORS = htr.Priors(htr.ESD(htr.Lomax(2.0, 1.0)))
NUM_DATA = 320
BATCH = 32


class Counting:
    """Counts calls of functions of the library within its context."""

    def __init__(self) -> None:
        self.calls: Counter[CodeType] = Counter()

    def _seen(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.calls[frame.f_code] += 1

    def __enter__(self) -> Counting:
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def row(self) -> tuple[int, int, int]:
        """Return the number of calls, of distinct functions, and of files.

        Comprehensions are part of the function that they are in, and the body of a class or module,
        which runs at its import, is no function.
        """
        functions = [
            code
            for code in self.calls
            if code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith("<")
        ]
        files = {code.co_filename for code in functions}
        return sum(self.calls[code] for code in functions), len(functions), len(files)


class _OneStep(StepCallback):
    """Counts the calls between two successive updates of a fit, beginning with a given step."""

    def __init__(self, step: int) -> None:
        self.counting, self.step = Counting(), step

    def is_due(self, step: int) -> bool:
        return step in (self.step, self.step + 1)

    def on_start(self, event: StepEvent) -> None:
        pass

    def on_step(self, event: StepEvent) -> None:
        if event.step == self.step:
            self.counting.__enter__()
        else:
            self.counting.__exit__()

    def on_end(self, event: StepEvent) -> None:
        pass


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Random images and labels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(NUM_DATA, 1, 28, 28, generator=generator), torch.arange(NUM_DATA) % 10


def map_step(*, refresh: bool) -> Counting:
    """A call of `energy.backward` in a loop, with cached gradients or a refresh of all matrices."""
    x, y = data()
    net = build_network("mlp", (1, 28, 28), 10)
    energy = htr.bind(PRIORS, net, refresh=htr.Drift(0.1, check_every=4))
    for _ in range(5):  # the first call refreshes, and the one that is counted checks no drift
        F.cross_entropy(net(x[:BATCH]), y[:BATCH]).backward()
        energy.backward(1 / NUM_DATA)
    if refresh:
        energy.invalidate()
    with Counting() as counting:
        energy.backward(1 / NUM_DATA)
    return counting


def svi_step() -> Counting:
    """Count the calls of a step of SVI that computes no singular vectors."""
    model = htr.BayesianClassifier(build_network("mlp", (1, 28, 28), 10), PRIORS)
    one = _OneStep(step=5)
    htr.fit(model, data(), epochs=1, batch_size=BATCH, callbacks=[one], progress=False)
    return one.counting


def map_fit() -> Counting:
    """Count the calls of a whole `htr.fit` by MAP."""
    model = htr.BayesianClassifier(build_network("mlp", (1, 28, 28), 10), PRIORS)
    with Counting() as counting:
        htr.fit(model, data(), method=htr.MAP(), epochs=1, batch_size=BATCH, progress=False)
    return counting


ROWS: dict[str, Callable[[], Counting]] = {
    "MAP, a step with a cached gradient": lambda: map_step(refresh=False),
    "MAP, a step that refreshes": lambda: map_step(refresh=True),
    "SVI by the spectral guide, a step": svi_step,
    "fit by MAP, one epoch of ten batches": map_fit,
}


def main() -> None:
    """Count, and print the table."""
    table = Table("", "calls", "functions", "files")
    for label, count in ROWS.items():
        table.add_row(label, *map(str, count().row()))
    Console().print(table)


if __name__ == "__main__":
    main()
