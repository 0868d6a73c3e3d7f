"""Each example of a batch under its own draw of the spectra, without a matrix for each.

With `W = b W_0 + W_0 V (g - b) V'` a layer's output is `b W_0 x + W_0 V (g - b) V'x`: two thin
products with vectors, in which `g` and `b` may differ from example to example. One example uses the
same draw at all its positions. The mean over a batch then estimates the same expectation as a draw
shared by all, with less variance: the noise of the examples is independent.

Of a large matrix, only every `j`-th direction may have noise in a step, with a random first one.
Each direction keeps the mean and the variance of its factor, so that the bound is the same to
second order in the spreads.

Source: Kingma, Salimans & Welling (2015), arXiv:1506.02557, for normal laws over the weights;
`docs/spectral-guide.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bayes_htr.inference.data import mixes_examples
from bayes_htr.inference.guides.spectral import SpectralGuide
from bayes_htr.inference.guides.spectral_state import SpectralState
from bayes_htr.models.inputs import Inputs, call_with
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.computed import computed_weights

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class _Layer:
    """A layer whose weight has a spectral prior."""

    path: str
    module: nn.Module
    place: int
    """The index of the layer's weight in the guide."""
    state: SpectralState


@dataclass(frozen=True)
class DirectionNoise:
    """The noise of the examples of a batch in one matrix.

    Attributes:
        values: `(examples, count)`.
        part: The directions that have noise.
    """

    values: Tensor
    part: slice


def finest_noise(net: nn.Module) -> Literal["example", "shared"]:
    """Return `"example"` if the network allows a draw for each example, otherwise `"shared"`.

    Batch normalisation mixes the examples of a batch, and examples cannot have their own draws of
    the product of an adapter's factors.
    """
    if mixes_examples(net) or any(w.adapter is not None for w in computed_weights(net)):
        return "shared"
    return "example"


class ExampleNoise:
    """The draws of the spectra of a network's layers, one for each example.

    Args:
        guide: The guide.
        root: The network.
        noisy_directions: In about how many directions of a matrix an example has noise; `None` for
            all that have a spread.

    Raises:
        ValueError: A layer is neither linear nor a plain convolution, or its class has a forward
            pass of its own; the network has batch normalisation, which mixes examples; an adapter
            has a spectral prior; or a layer has `Entries` beside its spectral prior.

    Attributes:
        noise_of: The function that makes the noise of a matrix, from its state and the number of
            examples.
    """

    def __init__(
        self, guide: SpectralGuide, root: nn.Module, noisy_directions: int | None = None
    ) -> None:
        self.guide, self.root, self.noisy_directions = guide, root, noisy_directions
        self.noise_of: Callable[[SpectralState, int], DirectionNoise] = self.noise
        if guide.adapters:
            raise ValueError(
                f"{guide.adapters[0].name} is the product of an adapter's factors: examples cannot "
                "have their own draws of its spectrum; take noise='shared'"
            )
        paths = {id(p.tensor): p.name for p in parameters_of(root)}
        spectral = {p.name: (place, p) for place, p in enumerate(guide.priors) if p.is_spectral}
        self.layers: list[_Layer] = []
        for path, module in root.named_modules():
            if isinstance(module, _BatchNorm):
                raise _refused(path, module, "takes statistics over examples")
            for parameter in module.parameters(recurse=False):
                if (name := paths.get(id(parameter))) in spectral:
                    place, prior = spectral[name]
                    _check(path, module, parameter)
                    (matrix,) = prior.matrices
                    if matrix.entries:
                        raise _refused(path, module, "has Entries(...) beside its spectral prior")
                    self.layers.append(_Layer(path, module, place, guide.state_of(matrix.name)))

    def check(self, x: Inputs) -> None:
        """Call the network, and check how it uses the weights that have draws.

        Args:
            x: Inputs.

        Raises:
            ValueError: A layer is not called, or its weight is used elsewhere too.
        """
        if not self.layers:
            return
        called: dict[str, None] = {}  # in the order of the calls

        def hook_of(layer: _Layer) -> Any:
            def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
                called[layer.path] = None
                return _with_constant_weight(module, _input(args, kwargs))

            return hook

        with _hooks(self.layers, hook_of), torch.enable_grad():
            buffers = {name: b.clone() for name, b in self.root.named_buffers()}
            total = call_with(self.root, buffers, x).sum()
        self._require_called(self.layers, called)
        self.layers.sort(key=lambda layer: list(called).index(layer.path))
        if not total.requires_grad:
            return
        weights = [layer.module.get_parameter("weight") for layer in self.layers]
        gradients = torch.autograd.grad(total, weights, allow_unused=True)
        for layer, gradient in zip(self.layers, gradients, strict=True):
            if gradient is not None:
                raise _refused(layer.path, layer.module, "has a weight that is used elsewhere too")

    def _require_called(self, layers: list[_Layer], called: Collection[str]) -> None:
        for layer in layers:
            if layer.path not in called:
                raise _refused(layer.path, layer.module, "was not called by the network")

    def noise(self, state: SpectralState, examples: int) -> DirectionNoise:
        """Draw the noise of a matrix from Torch's global generator."""
        step = state.every(self.noisy_directions)
        part = slice(int(torch.randint(step, ())) if step > 1 else 0, None, step)
        count = len(range(state.law.free)[part])
        return DirectionNoise(state.noise(examples=examples, count=count), part)

    def skip(self) -> None:
        """Draw and discard the noise of a batch of which this process has no examples.

        The random numbers that follow are then the same as those of other processes.
        """
        places = {x.place: x.state for x in self.layers if self.guide.has_law(x.state.name)}
        for state in places.values():
            self.noise_of(state, 0)

    @contextmanager
    def drawn(self, examples: int) -> Iterator[None]:
        """Give each example a draw of its own in a call of the network within this context.

        Matrices whose prior has ended by its schedule are points.

        Raises:
            ValueError: A layer was not called, or not with an example in each row.
        """
        called: set[str] = set()
        layers = [x for x in self.layers if self.guide.has_law(x.state.name)]
        noise: dict[int, DirectionNoise] = {}  # of tied weights the same

        def hook_of(layer: _Layer) -> Any:
            def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
                x = _input(args, kwargs)
                if len(x) != examples:
                    raise _refused(
                        layer.path,
                        module,
                        f"is given {len(x)} rows, and the batch has {examples} examples",
                    )
                called.add(layer.path)
                if layer.place not in noise:
                    noise[layer.place] = self.noise_of(layer.state, examples)
                W = self.guide.weights[layer.place]
                return _noisy(layer.state, W, module, x, output, noise[layer.place])

            return hook

        with _hooks(layers, hook_of):
            yield
        self._require_called(layers, called)


@contextmanager
def _hooks(layers: list[_Layer], hook_of: Callable[[_Layer], Any]) -> Iterator[None]:
    """Give layers forward hooks within this context, which see outputs before any other hook."""
    how = {"with_kwargs": True, "prepend": True}
    handles = [x.module.register_forward_hook(hook_of(x), **how) for x in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _input(args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    """Return the input of a linear layer or a convolution, given by position or by name."""
    return args[0] if args else kwargs["input"]


def _with_constant_weight(module: nn.Module, x: Tensor) -> Tensor:
    """Return the output of a layer, without a gradient to its weight."""
    assert isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    weight = module.weight.detach()
    if isinstance(module, nn.Linear):
        return F.linear(x, weight, module.bias)
    output: Tensor = module._conv_forward(x, weight, module.bias)
    return output


def _noisy(
    state: SpectralState,
    W: Tensor,
    module: nn.Module,
    x: Tensor,
    output: Tensor,
    noise: DirectionNoise,
) -> Tensor:
    """Return the output of a layer whose singular values differ between the examples.

    Each example multiplies them by its own factors. A wide matrix `W` has `V` on the side of its
    outputs: the noise is that of the output. A tall one has `V` on the side of its inputs, so that
    `V'x` needs the inputs of the layer.
    """
    matrix = W.flatten(1).to(x.dtype)
    tall = matrix if state.is_tall else matrix.mT
    V = state.vectors(tall)[:, noise.part].to(x.dtype)
    Y = tall @ V if state.is_tall or state.law.needs_medians else None
    medians = None if Y is None else Y.square().sum(0).double()
    change, base = state.changes(medians, noise.values, noise.part)
    change = change.to(x.dtype)
    bias: Tensor | None = module.bias if isinstance(module.bias, Tensor) else None
    start = output
    if base is not None:
        free = output if bias is None else output - _over_positions(bias, output, module)
        start = output + _over_positions(base.to(x.dtype) - 1, output, module) * free
    if Y is None or not state.is_tall:
        return _plus_product(start, output, bias, V, change, V, module)
    if isinstance(module, nn.Linear):
        return _plus_product(start, x, None, V, change, Y, module)
    return _plus_product(start, _inner(module, x, V), None, None, change, Y, module)


def _plus_product(
    start: Tensor,
    x: Tensor,
    bias: Tensor | None,
    inner: Tensor | None,
    factors: Tensor,
    outer: Tensor,
    module: nn.Module,
) -> Tensor:
    """Return `start + outer diag(f) inner' (x - bias)` at all positions.

    Each example has its own factors `f`. The result is computed in the order that needs fewer
    multiplications. A convolution has few channels and many positions, so that a small matrix for
    each example is cheaper than two thin products. A bias is subtracted from a product, which is
    smaller than `x`.

    Args:
        start: `(N, m)`, `(N, ..., m)` of a linear layer, or `(N, m, ...)` of a convolution.
        x: As `start`, with `n` in place of `m`.
        bias: `(n,)`, or `None` for zero.
        inner: `(n, d)`; `None` for the identity, without a bias.
        factors: `(N, d)`.
        outer: `(m, d)`.
        module: The layer.

    Returns:
        As `start`.
    """
    if x.ndim == 2:
        z = x if inner is None else x @ inner
        z = z if bias is None or inner is None else z - bias @ inner
        return torch.addmm(start, z * factors, outer.mT)
    is_linear = isinstance(module, nn.Linear)
    channels, total = (t.flatten(1, -2).mT if is_linear else t.flatten(2) for t in (x, start))
    (N, n, P), (m, d) = channels.shape, outer.shape
    if inner is not None and m * d * n + P * n * m < P * d * (n + m):
        each = (outer * factors.unsqueeze(1)) @ inner.mT
        shift = None if bias is None else -(each @ bias).unsqueeze(2)
        if x is start:  # `(I + each) start` in one product
            each = each + torch.eye(m, dtype=each.dtype, device=each.device)
            result = each @ channels if shift is None else torch.baddbmm(shift, each, channels)
        else:
            result = torch.baddbmm(total if shift is None else total + shift, each, channels)
    else:
        z = channels if inner is None else inner.mT @ channels
        z = z if bias is None or inner is None else z - (bias @ inner).unsqueeze(1)
        result = torch.baddbmm(total, outer.expand(N, m, d), z * factors.unsqueeze(2))
    return (result.mT if is_linear else result).reshape(start.shape)


def _inner(module: nn.Module, x: Tensor, V: Tensor) -> Tensor:
    """Return `V'x` of a convolution that has as many outputs as `V` has columns, and no bias."""
    assert isinstance(module, _CONVOLUTIONS)
    filters = V.mT.reshape(-1, *module.weight.shape[1:])
    inner: Tensor = module._conv_forward(x, filters, None)
    return inner


def _over_positions(values: Tensor, output: Tensor, module: nn.Module) -> Tensor:
    """Return values `(..., channels)` with sides of 1 for the positions of an output."""
    ones = [1] * (output.ndim - 2)
    if isinstance(module, nn.Linear):
        return values.view(*values.shape[:-1], *ones, -1)
    return values.view(*values.shape, *ones)


def _check(path: str, module: nn.Module, parameter: nn.Parameter) -> None:
    kinds = (nn.Linear, *_CONVOLUTIONS)
    kind = next((k for k in kinds if isinstance(module, k)), None)
    if kind is None:
        raise _refused(path, module, "is neither linear nor a convolution")
    for name in ("forward", "_conv_forward"):
        own = name in vars(module) or getattr(type(module), name, None) is not getattr(
            kind, name, None
        )
        if own:
            raise _refused(path, module, f"has a {name} that is not that of {kind.__name__}")
    if parameter is not module.weight:
        raise _refused(path, module, "has a spectral prior on a parameter that is not its weight")
    if isinstance(module, _CONVOLUTIONS) and module.groups != 1:
        raise _refused(path, module, f"has {module.groups} groups")


def _refused(path: str, module: nn.Module, reason: str) -> ValueError:
    return ValueError(
        f"{path or 'the network'} ({type(module).__name__}) {reason}: examples cannot have their "
        "own draws of the spectra; take noise='shared'"
    )
