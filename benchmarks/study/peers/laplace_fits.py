"""Laplace approximations of plainly trained networks; needs laplace-torch.

The settings are those that its authors recommend: Kronecker factors of the generalised Gauss-Newton
matrix, a prior precision by the marginal likelihood, and the predictions of the linearised network.

Sources: Daxberger et al. (2021), Laplace redux, arXiv:2106.14806. Immer, Korzepa & Bauer (2021),
Improving predictions of Bayesian neural nets via local linearization, arXiv:2008.08711.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.utils.data import DataLoader, TensorDataset

import bayes_htr as htr
from benchmarks.common.packages import LAPLACE
from benchmarks.study.method import Fitted, Task
from benchmarks.study.peers.draws import BATCH, Draws, Network
from benchmarks.study.peers.training import seeded, trained_with_decay


@dataclass(frozen=True)
class _Probit:
    """Predictions in closed form.

    Attributes:
        laplace: The object of laplace-torch.
        device: Where it is.
    """

    laplace: Any
    device: torch.device

    def predict(self, x: Tensor, samples: int) -> htr.Prediction:
        """The predictive distribution of images, whose mutual information is left at zero."""
        parts = [
            self.laplace(part.to(self.device), link_approx="probit") for part in x.split(BATCH)
        ]
        probs = torch.cat(parts).detach().cpu().clamp_min(torch.finfo(torch.float32).tiny)
        return htr.Prediction((probs / probs.sum(1, keepdim=True)).log(), torch.zeros(len(x)))


def laplace_last(task: Task) -> Fitted:
    """A posterior of the last layer.

    The numbers are `temperature`, which divides the log likelihood; `probit`, 0 for draws of the
    weights and 1 for the approximation in closed form; and `decay`, the weight decay of the
    training before.

    Raises:
        DivergenceError: Weights are not finite, or a matrix has no decomposition.
        ImportError: laplace-torch is not installed.
    """
    laplace = _approximation(task, trained_with_decay(task), "last_layer")
    device = task.data[0].device
    if task.numbers["probit"]:
        return _Probit(laplace, device)
    copied = laplace.model  # laplace-torch copies the network
    return Draws(_drawing(copied.model, laplace, copied.last_layer), device)


def laplace_kron(task: Task) -> Draws:
    """Return a posterior of all weights, with predictions of the linearised network.

    The numbers are `temperature`, which divides the log likelihood, and `decay`, the weight decay
    of the training before.

    Raises:
        DivergenceError: Weights are not finite, or a matrix has no decomposition.
        ImportError: laplace-torch is not installed.
    """
    net = trained_with_decay(task)
    laplace = _approximation(task, net, "all")
    return Draws(_drawing(net, laplace, net), task.data[0].device)


def _drawing(net: nn.Module, laplace: Any, part: nn.Module) -> Callable[[int], Iterator[Network]]:
    """Draws of the network, linear in the weights of a part of it.

    Weights are drawn, and not logits: the Jacobian of a whole network is too large to be kept, and
    the covariance of logits is singular, as a shift of all of them does not change the likelihood.
    """
    own = {id(p) for p in part.parameters()}
    weights = {n: p.detach().clone() for n, p in net.named_parameters() if id(p) in own}
    sizes = [p.numel() for p in weights.values()]

    def draw(count: int) -> Iterator[Network]:
        for _ in range(count):
            steps = (laplace.sample(1)[0] - laplace.mean).split(sizes)
            pairs = zip(weights.items(), steps, strict=True)
            yield _linearised(net, weights, {n: step.view_as(p) for (n, p), step in pairs})

    return draw


def _linearised(net: nn.Module, weights: dict[str, Tensor], step: dict[str, Tensor]) -> Network:
    """The network to first order in some of its weights, at `weights + step`."""

    def logits(x: Tensor) -> Tensor:
        found = jvp(lambda own: functional_call(net, own, (x,)), (weights,), (step,))
        return found[0] + found[1]

    return logits


def _approximation(task: Task, net: nn.Module, weights: str) -> Any:
    """Return the object of laplace-torch for a trained network."""
    loader = DataLoader(TensorDataset(*task.data), batch_size=task.batch_size)
    laplace = LAPLACE.load().Laplace(
        net.eval(),
        "classification",
        subset_of_weights=weights,
        hessian_structure="kron",
        temperature=task.numbers["temperature"],
    )
    try:
        with seeded(task.seed):
            laplace.fit(loader)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # links matter to other methods alone
                laplace.optimize_prior_precision(method="marglik", prior_structure="scalar")
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise htr.DivergenceError(f"the Laplace approximation has failed: {error}") from error
    return laplace
