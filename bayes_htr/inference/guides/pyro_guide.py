"""Any automatic guide of Pyro over the weights.

The guide belongs to the sites of `model.pyro_model("weight")`: the parameters with a flat base
measure, and the hyperparameters. Its KL divergence is the one-sample estimate
`log q(W, h) - log p(h) - log p(W | h)`. A parameter with a flat prior has a law too. Unless this
law is a point, its scale grows as far as the data allow, because no prior bounds it.

Pyro makes a guide's parameters in its first call and keeps them in a global store; here that call
is made at once, and the parameters live in the module alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import autoguide
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor

from bayes_htr._threads import exclusive
from bayes_htr._torch import isolated_randomness
from bayes_htr.inference.guides.base import VariationalGuide, start_scale
from bayes_htr.inference.guides.hyperparameters import HyperparameterMoments
from bayes_htr.priors import Densities, Hyperparameter
from bayes_htr.priors.parameter_prior import hyperparameters_by_name

PYRO_GUIDES = (
    "AutoDelta",
    "AutoNormal",
    "AutoDiagonalNormal",
    "AutoLowRankMultivariateNormal",
    "AutoMultivariateNormal",
)
"""Guides of Pyro that start at given weights, need no sample of the prior, and have a median."""


class DrawWithDensity(dict[str, Tensor]):
    """A draw, and its log density under the guide."""

    def __init__(self, values: Mapping[str, Tensor], log_density: Tensor) -> None:
        super().__init__(values)
        self.log_density = log_density


class PyroGuide(VariationalGuide):
    """An automatic guide of Pyro.

    Args:
        guide: The class of the guide, one of `PYRO_GUIDES` of `pyro.infer.autoguide`.
        densities: The densities, as in the base class.
        hyperparameters: The initial coordinates of hyperparameters, as in the base class.
        init_scale: The standard deviation at the start, of a guide that takes one; `start_scale`
            says the default.
    """

    kind: ClassVar[str] = "pyro"

    def __init__(
        self,
        guide: Any,
        densities: Densities,
        hyperparameters: Mapping[str, Tensor] | None = None,
        *,
        init_scale: float | None = None,
    ) -> None:
        super().__init__(densities, hyperparameters, init_scale=init_scale)
        trainable = densities.trainable
        self.hyperparameters = hyperparameters_by_name([*trainable, *densities.frozen])
        start = {p.name: p.parameter.tensor.detach().clone() for p in trainable}
        like = next(iter(start.values()))
        for name, h in self.hyperparameters.items():
            u = self.start.get(name, h.start()).to(like)
            start[name] = h.value(u)
        shapes = {p.name: p.shape for p in trainable}
        program = _Sites(shapes, self.hyperparameters, like.new_zeros(()))
        options = {}
        if takes_scale(guide):
            options["init_scale"] = start_scale(init_scale, trainable)
        with isolated_randomness(), _own_parameters():
            self.guide = guide(program, init_loc_fn=init_to_value(values=start), **options)
            self.guide()

    @property
    def drawn(self) -> tuple[str, ...]:
        """Names of all parameters; there are none under `AutoDelta`, which draws nothing."""
        return () if isinstance(self.guide, autoguide.AutoDelta) else self.names

    @classmethod
    def from_weights(
        cls,
        densities: Densities,
        hyperparameters: Mapping[str, Tensor],
        options: Mapping[str, Any],
    ) -> PyroGuide:
        """Make an untrained guide; the options are `guide`, a class's name, and `init_scale`.

        Raises:
            ValueError: There is no class of automatic guides of that name.
        """
        guide = getattr(autoguide, str(options["guide"]), None)
        if not is_pyro_guide(guide):
            raise ValueError(f"{options['guide']!r} is none of {', '.join(PYRO_GUIDES)}")
        return cls(guide, densities, hyperparameters, init_scale=options["init_scale"])

    def rsample(self, *, again: bool = False) -> dict[str, Tensor]:
        """Return one draw with gradient, in the form that `kl` takes."""
        with _own_parameters():
            trace = pyro.poutine.trace(self.guide).get_trace()
        values: dict[str, Any] = {
            name: trace.nodes[name]["value"] for name in (*self.names, *self.hyperparameters)
        }
        return DrawWithDensity(values, torch.as_tensor(trace.log_prob_sum()))

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return one draw, without gradient; the generator is on the CPU."""
        seed = int(torch.randint(2**62, (), generator=generator))
        with isolated_randomness(), torch.no_grad():
            torch.manual_seed(seed)
            return {name: value.clone() for name, value in self.rsample().items()}

    def centre(self) -> dict[str, Tensor]:
        """Return the medians of parameters and hyperparameters."""
        with torch.no_grad(), _own_parameters():
            median = self.guide.median()
        return {n: median[n].detach().clone() for n in (*self.names, *self.hyperparameters)}

    def kl(self, sample: Mapping[str, Tensor]) -> Tensor:
        """Estimate the KL divergence from one sample, 0-d, in float64.

        Raises:
            ValueError: `rsample` did not return the sample.
        """
        if not isinstance(sample, DrawWithDensity):
            raise ValueError("kl needs a draw of rsample as it is, with its density")
        total = sample.log_density.double()
        for name, h in self.hyperparameters.items():
            hyperprior = h.distribution(sample[name])
            total = total - hyperprior.log_prob(sample[name]).double()
        total = total + self.evidence.energy(HyperparameterMoments(sample)).to(total)
        for p in self.priors:
            if p.matrices:
                total = total - p.log_density(sample[p.name], sample).double()
        return total

    def settings(self) -> dict[str, Any]:
        """Return the settings of the base class, and the name of the class of Pyro."""
        return super().settings() | {"guide": type(self.guide).__name__}


def is_pyro_guide(guide: object) -> bool:
    """Return whether this is one of the classes of `PYRO_GUIDES`."""
    return any(getattr(autoguide, name) is guide for name in PYRO_GUIDES)


class _Sites:
    """A program with the sites of the weights and hyperparameters alone."""

    def __init__(
        self,
        shapes: Mapping[str, torch.Size],
        hyperparameters: Mapping[str, Hyperparameter],
        like: Tensor,
    ) -> None:
        self.shapes, self.hyperparameters, self.like = dict(shapes), dict(hyperparameters), like

    def __call__(self) -> None:
        for name, h in self.hyperparameters.items():
            pyro.sample(name, h.distribution(self.like))
        for name, shape in self.shapes.items():
            pyro.sample(name, dist.ImproperUniform(dist.constraints.real, (), shape))


def takes_scale(guide: Any) -> bool:
    """Return whether a class of Pyro's guides takes a standard deviation to start from."""
    return "init_scale" in inspect.signature(guide.__init__).parameters


@contextmanager
def _own_parameters() -> Iterator[None]:
    """Let Pyro's modules use their own parameters, not those of the global store.

    This holds within the context. One thread at a time is within it, since Pyro's handlers are
    those of the whole process.
    """
    with exclusive(), cast(Any, pyro.settings.context)(module_local_params=True):
        yield
