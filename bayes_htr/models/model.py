"""`BayesianModel`: a network, priors on its weights, a likelihood, and their joint density.

There is one definition in the three coordinates of `docs/theory.md`. In `"map"` the mode is the
point that `htr.MAP` finds: each spectral statistic is in its natural coordinate, every
hyperparameter in an unconstrained one. `"weight"` is a density over the entries, and `"spectral"`
is the generative model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from bayes_htr._checks import number
from bayes_htr._torch import input_dtype, isolated_randomness
from bayes_htr.engine import bind
from bayes_htr.errors import DataError
from bayes_htr.models.categorical import Categorical
from bayes_htr.models.examples import as_tensor, is_abstract
from bayes_htr.models.inputs import Inputs, call, call_with, describe_inputs, num_examples
from bayes_htr.models.likelihood import TEMPERING_SITE, Likelihood
from bayes_htr.models.likelihood_forms import as_likelihood
from bayes_htr.models.programs import FRAMES, Frames, Weights, spectral_program, weight_program
from bayes_htr.models.sites import WeightSite, with_data_dimension
from bayes_htr.priors import Densities, Hyperparameter, Priors
from bayes_htr.priors.law import Law
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.modules import unwrap

Coordinates = Literal["map", "weight", "spectral"]
COORDINATES = ("map", "weight", "spectral")


class BayesianModel:
    """A network, priors on the spectra of its weights, and a likelihood of labels given outputs.

    Args:
        net: Any module that takes `(N, ...)` inputs, one or several, to outputs `(N, ...)`, or to
            an object with these as `logits`. It is never changed.
        priors: The priors on its parameters.
        likelihood: The likelihood: `Categorical(...)`, which is the default, or `Bernoulli()`;
            `Normal(scale=...)` for real-valued targets, with a law as the scale if the noise is to
            be learnt; or a callable that takes outputs to a distribution of Pyro over the labels,
            such as `lambda f: dist.Poisson(f.squeeze(-1).exp())`.

    Attributes:
        likelihood: The likelihood.

    Raises:
        PriorError: The priors do not fit the network, or `likelihood` is a law that is not a
            likelihood.
        ValueError: The likelihood is something else.
    """

    def __init__(
        self,
        net: nn.Module,
        priors: Priors,
        *,
        likelihood: Likelihood | Law | Callable[[Tensor], Any] | None = None,
    ) -> None:
        self._net = net
        self._priors = priors
        self.likelihood = as_likelihood(likelihood)
        self._energy = bind(priors, net)
        parameters = parameters_of(net)
        self._paths = {p.name: p.path for p in parameters}
        self._shapes = {p.name: p.tensor.shape for p in parameters}
        self._shapes |= {name: u.shape for name, u in self._latents().items()}

    @property
    def net(self) -> nn.Module:
        """The network, read-only: for another one make another model."""
        return self._net

    @property
    def priors(self) -> Priors:
        """The priors, read-only: for others make another model."""
        return self._priors

    @property
    def hyperpriors(self) -> dict[str, Hyperparameter]:
        """The hyperparameters of priors and likelihood that MAP optimises, by name."""
        return self._energy.hyperpriors | self.likelihood.hyperparameters

    def __repr__(self) -> str:
        net = type(self.net).__name__
        return f"BayesianModel({net}, {self.priors!r}, likelihood={self.likelihood!r})"

    def initial_params(self) -> dict[str, Tensor]:
        """Return copies of the network's trainable parameters and hyperparameters, by name.

        The hyperparameters are in unconstrained coordinates. Pass the result to Pyro's
        `init_to_value`, or change it and pass it to `log_joint`.
        """
        return {name: value.clone() for name, value in self._sites().items()}

    def log_joint(
        self,
        params: Mapping[str, Tensor],
        batch: tuple[Inputs, Tensor],
        *,
        num_data: int,
        coordinates: Coordinates = "map",
        epoch: int | None = None,
    ) -> Tensor:
        """Return `num_data / batch * log p(y | x, W) + log prior(W)`.

        Args:
            params: In `"map"`, parameters by name and hyperparameters in unconstrained
                coordinates; those left out stay at their present values. In the other coordinates,
                the values of all sites of `pyro_model(coordinates)`, untransformed.
            batch: `(x, y)` on the parameters' device; `x` is a tensor, or a tuple or dictionary of
                tensors for a network with several inputs.
            num_data: The size of the data set that the batch was drawn from.
            coordinates: `"map"`: the density whose mode `htr.MAP` finds, constants of the prior
                dropped. `"weight"`: over the entries, with all constants where a matrix has
                one factor at strength 1. `"spectral"`: over spectra, frames and hyperparameters.
            epoch: Counted from 0; needed where a prior is scheduled.

        Returns:
            0-d, differentiable with respect to `params`; in `"map"` once.

        Raises:
            ValueError: The coordinates are unknown; the model has no such parameter or site, or has
                it with another shape; or, except in `"map"`, a parameter or site is missing.
            DataError: The labels do not suit the likelihood, or are not one for each example.
            PriorError: A prior is no density, which only `"map"` allows.
        """
        _check_coordinates(coordinates)
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise DataError(f"the batch must be a pair (x, y), not {type(batch).__name__}")
        number(num_data, "num_data", above=0)
        x: Any = batch[0]
        y: Any = batch[1]
        if not isinstance(x, Tensor | tuple | dict):
            x = as_tensor(x, "the batch inputs")
        if not (isinstance(y, Tensor) and is_abstract(y)):
            y = self.likelihood.checked(y, "the batch")
        if len(y) != num_examples(x):
            raise DataError(
                f"the batch: {describe_inputs(x, dtypes=False)} and labels of shape "
                f"{tuple(y.shape)}; they must have one label for each example"
            )
        y = self.likelihood.cast(y, self._dtype())
        if coordinates != "map":
            program = self.pyro_model(coordinates, epoch=epoch)
            return _log_density(program, params, x, y, num_data)
        values = self._complete(params)
        outputs, _ = self._outputs(values, x, y, "the batch")
        nll = self.likelihood(outputs, y, self._likelihood_values(values))
        return -num_data * nll - self._prior_energy(values, epoch)

    def pyro_model(
        self,
        coordinates: Coordinates = "map",
        *,
        epoch: int | None = None,
        frames: Frames = "sampled",
    ) -> Callable[..., Tensor]:
        """Return the model as a Pyro program: `model(x, y=None, *, num_data)` with labels `y`.

        Labels that are given are observed under the likelihood, with its weights and smoothing as
        a factor `y:tempering`. Without them, labels are drawn from it, without weights and
        smoothing. A noise that is learnt is the site `likelihood:scale`.

        - `"map"`: the sites are the trainable parameters and the hyperparameters in unconstrained
          coordinates, with a flat base measure, and the prior is the factor `prior`. `AutoDelta` on
          it is MAP.
        - `"weight"`: the trainable parameters have their density over the entries, from which they
          are drawn, and hyperparameters are sites with their hyperpriors. For guides over the
          weights.
        - `"spectral"`: spectra, frames and hyperparameters, as in `bayes_htr.models.programs`;
          flat parameters stay as they are. For NUTS.

        In `"map"` and `"weight"`, guides and samplers such as NUTS start at the present weights or
        around them. A site without a distribution to draw from stays at its present value, with a
        warning that names it: every site in `"map"`, parameters without a prior, and priors without
        a simulator. These two programs accept plates to the left of the data, such as those of
        `vectorize_particles=True` and `Predictive(parallel=True)`, and loop over the values.

        Args:
            coordinates: The coordinates.
            epoch: The epoch at which scheduled priors are taken.
            frames: In spectral coordinates, whether the frames are sites (`"sampled"`) or those
                of the present weights (`"held"`).

        Raises:
            ValueError: There are no such coordinates or frames.
            PriorError: A prior is no density, which only `"map"` allows.
        """
        _check_coordinates(coordinates)
        if frames not in FRAMES:
            raise ValueError(f"frames={frames!r} must be one of {', '.join(FRAMES)}")
        weights = self._weights_program(coordinates, epoch, frames)

        def model(x: Inputs, y: Tensor | None = None, *, num_data: int) -> Tensor:
            number(num_data, "num_data", above=0)
            values = weights()
            own = self._likelihood_values(values) if coordinates == "map" else self._draw_values()
            outputs, left = self._outputs(values, x, y, "the model")
            return self.likelihood.sample(outputs, y, num_data, own, left)

        return model

    def densities(self, epoch: int | None = None) -> Densities:
        """Return the parameters with their priors as densities at an epoch.

        Raises:
            PriorError: A prior is not a density.
        """
        return self.priors.densities(self.net, epoch)

    def _weights_program(self, coordinates: str, epoch: int | None, frames: Frames) -> Weights:
        if coordinates == "weight":
            densities = self.densities(epoch)
            return weight_program(densities.trainable, densities.frozen)
        if coordinates == "spectral":
            densities = self.densities(epoch)
            return spectral_program(densities.trainable, frames, densities.frozen)

        reason = "in the coordinates 'map' a prior is a factor, from which nothing is drawn"
        sites = self._sites()

        def program() -> dict[str, Tensor]:
            values = {
                name: pyro.sample(name, WeightSite(name, start, reason=reason))
                for name, start in sites.items()
            }
            batch, each = self._by_place(values)
            energies = torch.stack([self._prior_energy(place, epoch) for place in each])
            pyro.factor("prior", -energies.reshape(batch))
            return values

        return program

    def _complete(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = self._parameters() | self._latents()
        if unknown := set(params) - set(values):
            raise ValueError(
                f"the model has no parameter {', '.join(sorted(unknown))}; it has "
                f"{', '.join(values)}"
            )
        for name, value in params.items():
            if value.shape != values[name].shape:
                raise ValueError(
                    f"{name} has shape {tuple(values[name].shape)}, not {tuple(value.shape)}"
                )
        return values | dict(params)

    def _prior_energy(self, values: Mapping[str, Tensor], epoch: int | None) -> Tensor:
        """Return the energy of the weights and of all hyperparameters.

        These include the hyperparameters of the likelihood.
        """
        tensors = self._parameters() | dict(values)
        energy = self._energy.total(self._energy.terms_at(tensors, values, epoch))
        for name, hyperparameter in self.likelihood.hyperparameters.items():
            energy = energy + hyperparameter.energy(values[name]).to(energy)
        return energy

    def _likelihood_values(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the likelihood's hyperparameters, from their unconstrained coordinates."""
        own = self.likelihood.hyperparameters
        return {name: h.value(values[name]) for name, h in own.items()}

    def _draw_values(self) -> dict[str, Tensor]:
        """Return the sites of the likelihood's hyperparameters."""
        like = torch.zeros((), dtype=self._dtype())
        return {
            name: pyro.sample(name, hyperparameter.distribution(like))
            for name, hyperparameter in self.likelihood.hyperparameters.items()
        }

    def _dtype(self) -> torch.dtype:
        """Return the dtype of real-valued labels: that of the network, float32 at least."""
        dtype = input_dtype(self.net)
        return dtype if dtype in (torch.float32, torch.float64) else torch.float32

    def _outputs(
        self, values: Mapping[str, Tensor], x: Inputs, y: Tensor | None, name: str
    ) -> tuple[Tensor, int]:
        """Return outputs `(N, ...)`, or `(*left, N, ...)` for values of batch shape `(*left, 1)`.

        The last dimension of a batch shape is that of the data, in whose plate weights have no
        part.

        Returns:
            The outputs, and the number of dimensions to the left of the data.

        Raises:
            DataError: The likelihood does not take such outputs, or they do not fit the labels.
        """
        batch, each = self._by_place(values)
        outputs = [self._outputs_at(place, x) for place in each]
        self.likelihood.check_outputs(outputs[0], num_examples(x), name, y)
        stacked = torch.stack(outputs)
        left = batch[:-1]
        return stacked.reshape(left + stacked.shape[1:]), len(left)

    def _outputs_at(self, values: Mapping[str, Tensor], x: Inputs) -> Any:
        root = unwrap(self.net)
        weights = {path: values[name] for name, path in self._paths.items() if name in values}
        # Copies: batch normalisation in training mode would change the network's own buffers.
        buffers = {name: b.clone() for name, b in root.named_buffers()}
        if torch._C._is_tracing():  # functional_call refuses
            with _reparametrize_module(root, weights | buffers):
                return call(root, x)
        return call_with(root, weights | buffers, x)

    def _latents(self) -> dict[str, Tensor]:
        """Return the unconstrained coordinates of all hyperparameters, where training starts."""
        own = self.likelihood.hyperparameters
        starts = {name: h.start().to(self._dtype()) for name, h in own.items()}
        return self._energy.latents() | starts

    def _sites(self) -> dict[str, Tensor]:
        """Return the trainable parameters and the hyperparameters, without gradient.

        The hyperparameters are in unconstrained coordinates.
        """
        own = {name: p for name, p in self._parameters().items() if p.requires_grad}
        return {name: value.detach() for name, value in (own | self._latents()).items()}

    def _parameters(self) -> dict[str, Tensor]:
        """Return all parameters of the network by name."""
        root = unwrap(self.net)
        return {name: root.get_parameter(path) for name, path in self._paths.items()}

    def _by_place(self, values: Mapping[str, Tensor]) -> tuple[torch.Size, list[dict[str, Tensor]]]:
        """Return the common batch shape of values, and the values at each of its places.

        Args:
            values: Parameters and hyperparameters by name, `(..., *shape)`.
        """
        shapes = self._shapes
        full = {n: with_data_dimension(v, len(shapes[n])) for n, v in values.items()}
        own = [v.shape[: v.ndim - len(shapes[n])] for n, v in full.items()]
        batch = torch.Size(torch.broadcast_shapes(*own))
        if not batch:
            return batch, [dict(values)]
        flat = {n: v.expand(batch + shapes[n]).flatten(0, len(batch) - 1) for n, v in full.items()}
        return batch, [{n: v[i] for n, v in flat.items()} for i in range(batch.numel())]


class BayesianClassifier(BayesianModel):
    """A classifier `p(y | x, W) = softmax(net(x))` with priors on the spectra of its weights.

    It is `BayesianModel(net, priors, likelihood=Categorical(...))`.

    Args:
        net: Any module that takes `(N, ...)` inputs to `(N, C)` logits. It is never changed.
        priors: The priors on its parameters.
        class_weights: `(C,)` positive powers of the likelihood of each class; ones by default.
        label_smoothing: In `[0, 1)`: the share `eps` of each label that is spread evenly over all
            classes, in the likelihood `prod_c p(c | x, W)^(q_c)` with
            `q = (1 - eps) e_y + eps / C`. Predictions and scores are not smoothed.

    Attributes:
        likelihood: The likelihood, with the class weights and the label smoothing.

    Raises:
        PriorError: The priors do not fit the network.
        DataError: A class weight is not positive and finite.
        ValueError: The label smoothing is out of range.
    """

    def __init__(
        self,
        net: nn.Module,
        priors: Priors,
        *,
        class_weights: Any = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(net, priors, likelihood=Categorical(class_weights, label_smoothing))

    def __repr__(self) -> str:
        return f"BayesianClassifier({type(self.net).__name__}, {self.priors!r})"


def _check_coordinates(coordinates: str) -> None:
    if coordinates not in COORDINATES:
        raise ValueError(f"coordinates={coordinates!r} must be one of {', '.join(COORDINATES)}")


class _Given(Messenger):
    """Values for all sites of a program, which must be there and have the right shape."""

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.params = params

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["is_observed"] or name == "data":
            return
        if name not in self.params:
            raise ValueError(f"no value for the site {name}")
        value, shape = self.params[name], msg["fn"].shape()
        if value.shape != shape:
            raise ValueError(f"{name} has shape {tuple(shape)}, not {tuple(value.shape)}")
        msg["value"], msg["is_observed"] = value, True


def _log_density(
    program: Callable[..., Tensor],
    params: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    num_data: int,
) -> Tensor:
    """Return the log density of a program at values of all its sites."""
    with isolated_randomness():  # a network may draw
        trace = pyro.poutine.trace(_Given(params)(program)).get_trace(x, y, num_data=num_data)
    sites = [
        name
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and name not in ("data", "y", TEMPERING_SITE)
        and not name.endswith((":factor", ":prior"))
    ]
    if unknown := params.keys() - set(sites):
        raise ValueError(f"no site {', '.join(sorted(unknown))}; there are {', '.join(sites)}")
    return torch.as_tensor(trace.log_prob_sum())
