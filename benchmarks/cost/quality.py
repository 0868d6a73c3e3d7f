"""How good cached gradients are compared with exact ones, and where training ends with either.

The exact gradient is that of the naive energy in float64: the library does not judge itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import bayes_htr as htr
from benchmarks.common.stopwatch import Tick
from benchmarks.cost.naive import TOP_ALONE, NaiveEnergy
from benchmarks.cost.training import Case, Run, WithPrior

WHOLE = "all matrices"


@dataclass(frozen=True)
class Note:
    """A quantity of a matrix at a step.

    Attributes:
        value: The quantity.
        matrix: The name of the matrix, or `WHOLE`.
        step: The step, counted from 0.
        norm: The norm of the exact gradient there. A cosine means little if the norm is close to
            zero, as at the minimum of a Fréchet energy, where the gradient reverses.
    """

    value: float
    matrix: str
    step: int
    norm: float


def sampled_steps(steps: int, count: int) -> list[int]:
    """About `count` of `steps` steps, half evenly spaced and half in logarithm, with both ends."""
    half = max(2, count // 2)
    last = steps - 1
    even = {round(i * last / (half - 1)) for i in range(half)}
    log = {round(math.expm1(i * math.log1p(last) / (half - 1))) for i in range(half)}
    return sorted(even | log)


def cosine(a: Tensor, b: Tensor) -> float | None:
    """Return `<a, b> / (|a| |b|)` in float64; `None` if one of them is zero."""
    a, b = a.double().flatten(), b.double().flatten()
    norm = (a.norm() * b.norm()).item()
    return (a @ b).item() / norm if norm > 0 else None


def top_agreement(gradient: Tensor, W: Tensor) -> float | None:
    """`|<G, W>| / (|G|_* sigma_1)` of a gradient `G` through the largest singular value alone.

    This is `|u'Wv| / sigma_1` for a gradient `c u v'` of rank one, and otherwise its mean over the
    pairs of vectors that share the gradient. `|G|_*` is the nuclear norm.
    """
    G, W = gradient.double().flatten(1), W.detach().double().flatten(1)
    norm = (torch.linalg.matrix_norm(G, "nuc") * torch.linalg.matrix_norm(W, 2)).item()
    return abs((G * W).sum().item()) / norm if norm > 0 else None


class Watched:
    """The line of training under a prior, which looks at the gradient in use at some steps.

    Args:
        prior: The line itself.
        exact: The exact energy of the same weights.
        steps: The steps at which it looks, counted from 0.
        top_alone: Whether the gradients act through the largest singular value alone.

    Attributes:
        cosines: Cosines to exact gradients.
        tops: What `top_agreement` says, if `top_alone`.
    """

    def __init__(
        self, prior: WithPrior, exact: NaiveEnergy, steps: list[int], top_alone: bool
    ) -> None:
        self._prior, self._exact, self._top_alone = prior, exact, top_alone
        self._steps = frozenset(steps)
        self._step = 0
        self.cosines: list[Note] = []
        self.tops: list[Note] = []

    def __call__(self, loss: Tensor) -> None:
        """Compute the gradients of the loss and of the prior."""
        if self._step in self._steps:
            loss.backward()
            self._look()
        else:
            self._prior(loss)
        self._step += 1

    def _look(self) -> None:
        """Add the gradient of the prior on its own, and compare it with the exact one."""
        weights = self._exact.weights
        # One call, as in every other step, so that refreshes come at the same steps.
        used = torch.autograd.grad(self._prior.energy(), list(weights.values()))
        exact = self._exact.gradients()
        for (name, W), gradient in zip(weights.items(), used, strict=True):
            self._compare(gradient, exact[name], name)
            top = top_agreement(gradient, W) if self._top_alone else None
            if top is not None:
                self.tops.append(Note(top, name, self._step, exact[name].norm().item()))
            assert W.grad is not None
            W.grad.add_(gradient, alpha=self._prior.scale)
        self._compare(_joined(used), _joined(exact.values()), WHOLE)

    def _compare(self, used: Tensor, exact: Tensor, name: str) -> None:
        value = cosine(used, exact)
        if value is not None:
            self.cosines.append(Note(value, name, self._step, exact.norm().item()))


def lowest(notes: Sequence[Note]) -> dict[str, dict[str, float]]:
    """For each matrix the note with the lowest value, and the largest norm of its notes."""
    found = {}
    for matrix in dict.fromkeys(note.matrix for note in notes):
        own = [note for note in notes if note.matrix == matrix]
        worst = min(own, key=lambda note: note.value)
        found[matrix] = {
            "value": worst.value,
            "step": worst.step,
            "norm": worst.norm,
            "largest_norm": max(note.norm for note in own),
        }
    return found


def measure_quality(
    case: Case, steps: int, samples: int, test: tuple[Tensor, Tensor], tick: Tick
) -> dict[str, Any]:
    """Gradients, energy and accuracy compared with those of exact gradients at every step.

    Args:
        case: The network and the prior.
        steps: Steps of each run.
        samples: The approximate number of steps at which gradients are compared.
        test: Test inputs and labels.
        tick: Called with numbers of steps.

    Returns:
        `cosine`: by matrix and for all together, the lowest `value` with its `step`, the `norm` of
        the exact gradient there and the `largest_norm` of all samples. `top`: the same for
        gradients through the largest singular value alone. `energy`: at the `start`, and at the end
        of the runs `cached`, `exact`, `disturbed` (exact, from weights changed by `_DISTURBANCE`,
        which shows differences by chance) and `plain` (without the prior); and the difference from
        exact over the drop, `relative` and `relative_disturbed`, and over the effect of the prior,
        `of_effect` and `of_effect_disturbed`. `accuracy`: `cached` and `exact`. `samples` and
        `refreshes`: numbers.
    """
    run = case.prior_run()
    exact_energy = case.naive_energy(run.net, torch.float64)
    at = sampled_steps(steps, samples)
    watched = Watched(run.prior, exact_energy, at, case.prior in TOP_ALONE)
    run.backward = watched
    start = _value(exact_energy)
    _advance(run, steps, tick)
    exact_run, disturbed_run = case.prior_run(htr.Exact()), case.prior_run(htr.Exact())
    _disturb(disturbed_run.net)
    ends = {"start": start, "cached": _value(exact_energy)}
    others = {"exact": exact_run, "disturbed": disturbed_run, "plain": case.plain_run()}
    for name, other in others.items():
        _advance(other, steps, tick)
        ends[name] = _value(case.naive_energy(other.net, torch.float64))
    return {
        "cosine": lowest(watched.cosines),
        "top": lowest(watched.tops),
        "energy": {**ends, **_compared(ends)},
        "accuracy": {
            "cached": accuracy(run.net, test, case),
            "exact": accuracy(exact_run.net, test, case),
        },
        "samples": len(at),
        "refreshes": run.prior.energy.refreshes,
    }


_DISTURBANCE = 1e-6


def _disturb(net: nn.Module) -> None:
    """Change every weight by normal noise of `_DISTURBANCE` times the root mean square of all."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            noise = torch.randn(p.shape, generator=generator).to(p)
            p.add_(noise, alpha=_DISTURBANCE * p.square().mean().sqrt().item())


def _compared(ends: dict[str, float]) -> dict[str, float | None]:
    """How far runs end from the exact one, over its drop and over the effect of the prior."""
    found: dict[str, float | None] = {}
    for name, whole in (
        ("relative", ends["start"] - ends["exact"]),
        ("of_effect", ends["plain"] - ends["exact"]),
    ):
        for suffix, other in (("", "cached"), ("_disturbed", "disturbed")):
            off = abs(ends[other] - ends["exact"])
            found[name + suffix] = off / abs(whole) if whole else None
    return found


def measure_accuracy(
    case: Case, steps: int, test: tuple[Tensor, Tensor], tick: Tick
) -> dict[str, float]:
    """Test accuracy after training with cached gradients and with exact ones: `cached`, `exact`."""
    found = {}
    for name, refresh in (("cached", None), ("exact", htr.Exact())):
        run = case.prior_run(refresh)
        _advance(run, steps, tick)
        found[name] = accuracy(run.net, test, case)
    return found


def accuracy(net: nn.Module, test: tuple[Tensor, Tensor], case: Case) -> float:
    """Return the share of test examples for which the logit of the label is the largest."""
    right = 0
    net.eval()
    with torch.no_grad(), case.autocast():
        for x, y in zip(test[0].split(512), test[1].split(512), strict=True):
            labels = net(x.to(case.device)).argmax(1)
            right += int((labels == y.to(case.device)).sum())
    net.train()
    return right / len(test[1])


def _advance(run: Run, steps: int, tick: Tick) -> None:
    for start in range(0, steps, 10):
        count = min(10, steps - start)
        run.steps(count)
        tick(count)


def _value(energy: NaiveEnergy) -> float:
    with torch.no_grad():
        return energy().item()


def _joined(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors])
