"""The runs of `python -m benchmarks guides`: plain training, our guides, and Pyro's.

Our steps are whole steps of `htr.MAP` and `htr.SVI`. Pyro's steps are those of `pyro.infer.SVI`
with `AutoNormal` over the `PyroSample` weights of the same network, as in Pyro's own examples of
Bayesian networks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.params.param_store import StateDict
from torch import Tensor, nn

import bayes_htr as htr
from bayes_htr.experiments import build_network
from bayes_htr.inference import Batches, Problem
from benchmarks.common.stopwatch import Steps
from benchmarks.cost.training import Training, Workload, random_data

SHAPE = (1, 28, 28)
CLASSES = 10
SCALE = 0.05
"""Standard deviation of the guides at the start, in the coordinates of the laws."""
INPUTS = {"fc1": 784, "fc2": 512, "fc3": 256}
"""The number of inputs of each layer of the network."""

_NORMAL_BIASES = {"*.bias": htr.Entries(htr.Normal(0.0, 1.0))}
NORMAL = htr.Priors(
    {f"{name}.*": htr.Entries(htr.Normal(0.0, inputs**-0.5)) for name, inputs in INPUTS.items()}
)
FRECHET = htr.Priors({"*.weight": htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)), **_NORMAL_BIASES})
LOMAX = htr.Priors({"*.weight": htr.ESD(htr.Lomax(2.0, 1.0)), **_NORMAL_BIASES})


def random_images(examples: int, batch_size: int, seed: int) -> Workload:
    """Return the network of all runs, on random images."""

    def build(seed: int) -> nn.Module:
        return build_network("mlp", SHAPE, CLASSES, seed=seed)

    training = Training(batch_size=batch_size, seed=seed)
    return Workload(build, *random_data(examples, SHAPE, CLASSES, seed), training)


class _Loop:
    """A step that is called with one batch after another."""

    def __init__(self, work: Workload, step: Callable[[Tensor, Tensor], Any]) -> None:
        self._batches = work.batches()
        self._step = step

    def steps(self, count: int) -> None:
        """Take `count` steps."""
        for _ in range(count):
            self._step(*next(self._batches))


def adam_run(work: Workload) -> Steps:
    """Training without a prior, by Adam in one kernel."""
    net = work.network()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    return _Loop(work, step)


class TrainerRun(_Loop):
    """Steps of `htr.MAP` or `htr.SVI`, with everything that happens in one.

    Args:
        work: The network and its data.
        priors: The priors.
        method: The method.

    Attributes:
        trainer: What `htr.fit` would run.
    """

    def __init__(self, work: Workload, priors: htr.Priors, method: htr.MAP | htr.SVI) -> None:
        self.trainer = method.prepare(_problem(work, priors))
        super().__init__(work, lambda x, y: self.trainer.update([(x, y)], len(y)))


def _problem(work: Workload, priors: htr.Priors) -> Problem:
    """Return what `htr.fit` gives a method."""
    net = work.network()
    first = next(net.parameters())
    train = Batches(
        (work.x, work.y),
        batch_size=work.training.batch_size,
        device=first.device,
        dtype=first.dtype,
        seed=work.training.seed,
        name="train",
    )
    return Problem(
        model=htr.BayesianClassifier(copy.deepcopy(net), priors),
        net=net,
        train=train,
        validation=None,
        epochs=1,
        seed=work.training.seed,
        progress=False,
    )


class PyroNetwork(PyroModule):
    """The network with `PyroSample` weights, under the prior `NORMAL`.

    Args:
        num_data: The number of examples.
    """

    def __init__(self, num_data: int) -> None:
        super().__init__()
        self.num_data = num_data
        outputs = [*list(INPUTS.values())[1:], CLASSES]
        for (layer, inputs), out in zip(INPUTS.items(), outputs, strict=True):
            linear: Any = PyroModule[nn.Linear]
            linear = linear(inputs, out)
            law = dist.Normal(0.0, inputs**-0.5)
            linear.weight = PyroSample(law.expand([out, inputs]).to_event(2))
            linear.bias = PyroSample(law.expand([out]).to_event(1))
            setattr(self, layer, linear)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits `(N, classes)`, with the labels as observed sites."""
        hidden = F.relu(self.fc2(F.relu(self.fc1(x.flatten(1)))))
        logits: Tensor = self.fc3(hidden)
        with pyro.plate("data", self.num_data, subsample_size=len(x)):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)
        return logits


class _PyroLoop(_Loop):
    """Steps of Pyro's SVI. The parameter store is as before after each call."""

    def __init__(self, work: Workload, elbo: Any) -> None:
        self._store: StateDict = {"params": {}, "constraints": {}}
        model = PyroNetwork(len(work.x))
        guide = AutoNormal(model, init_scale=SCALE)
        svi = pyro.infer.SVI(
            model, guide, pyro.optim.PyroOptim(torch.optim.Adam, {"lr": 1e-3}), elbo
        )
        super().__init__(work, svi.step)

    def steps(self, count: int) -> None:
        """Take `count` steps."""
        with pyro.get_param_store().scope(self._store):
            super().steps(count)


def _map(priors: htr.Priors) -> Callable[[Workload], Steps]:
    return lambda work: TrainerRun(work, priors, htr.MAP(lr=0.05))


def _guide(name: str, priors: htr.Priors, **settings: Any) -> Callable[[Workload], Steps]:
    return lambda work: TrainerRun(work, priors, htr.SVI(guide=name, **settings))


@dataclass(frozen=True)
class Timed:
    """A run whose steps are timed.

    Attributes:
        label: The name of the run in tables.
        run: Makes a fresh run.
    """

    label: str
    run: Callable[[Workload], Steps]


PLAIN = "plain"
TIMED = {
    PLAIN: Timed("plain training, SGD", Workload.plain_run),
    "plain_adam": Timed("plain training, Adam", adam_run),
    "map_lomax": Timed("MAP, Lomax prior", _map(LOMAX)),
    "map_frechet": Timed(
        "MAP, Fréchet prior", lambda work: TrainerRun(work, FRECHET, htr.MAP(lr=0.05))
    ),
    "meanfield": Timed("mean field, normal entries", _guide("meanfield", NORMAL, init_scale=SCALE)),
    "lowrank": Timed("low rank, normal entries", _guide("lowrank", NORMAL)),
    "spectral_lomax": Timed("spectral guide, Lomax prior", _guide("spectral", LOMAX)),
    "spectral_lomax_8": Timed(
        "spectral guide, Lomax prior, 8 directions", _guide("spectral", LOMAX, directions=8)
    ),
    "spectral_lomax_example": Timed(
        "spectral guide, Lomax prior, noise per example",
        _guide("spectral", LOMAX, noise="example"),
    ),
    "spectral_lomax_8_example": Timed(
        "spectral guide, Lomax prior, 8 directions, noise per example",
        _guide("spectral", LOMAX, directions=8, noise="example"),
    ),
    "spectral_frechet": Timed("spectral guide, Fréchet prior", _guide("spectral", FRECHET)),
    "meanfield_lomax": Timed("mean field, Lomax prior", _guide("meanfield", LOMAX)),
    "meanfield_frechet": Timed("mean field, Fréchet prior", _guide("meanfield", FRECHET)),
    "pyro_trace": Timed(
        "Pyro's AutoNormal, Trace_ELBO", lambda work: _PyroLoop(work, Trace_ELBO())
    ),
    "pyro_meanfield": Timed(
        "Pyro's AutoNormal, TraceMeanField_ELBO",
        lambda work: _PyroLoop(work, TraceMeanField_ELBO()),
    ),
}
"""What is timed, by name. Ratios are to `PLAIN`, and to both runs of Pyro."""
