"""Each example of a batch under its own draw of the spectra, without a matrix for each.

With `W = b W_0 + W_0 V (g - b) V'` a layer's output is `b W_0 x + W_0 V (g - b) V'x`: two thin
products with vectors, in which `g` and `b` may differ from example to example. One example uses the
same draw at all its positions. The mean over a batch then estimates the same expectation as a draw
shared by all, with less variance: the noise of the examples is independent.

Source: Kingma, Salimans & Welling (2015), arXiv:1506.02557, for normal laws over the weights;
`docs/spectral-guide.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class _Layer:
    """A layer whose weight has a spectral prior."""

    path: str
    module: nn.Module
    place: int
    """Of its weight in the guide."""
    state: SpectralState


def finest_noise(net: nn.Module) -> Literal["example", "shared"]:
    """A draw for each example; one for a batch where batch normalisation mixes its examples."""
    return "shared" if mixes_examples(net) else "example"


class ExampleNoise:
    """Draws the spectra of a network's layers for each example.

    Args:
        guide: The guide.
        root: The network.

    Raises:
        ValueError: A layer that is neither linear nor a plain convolution, or whose class has a
            forward pass of its own, batch normalisation, which mixes examples, an adapter with a
            spectral prior, or `Entries` beside a spectral prior.
    """

    def __init__(self, guide: SpectralGuide, root: nn.Module) -> None:
        self.guide, self.root = guide, root
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
        """Call the network, and look how it uses the weights that have draws.

        Args:
            x: Inputs.

        Raises:
            ValueError: A layer is not called, or its weight is used elsewhere too.
        """
        if not self.layers:
            return
        called: set[str] = set()

        def hook_of(layer: _Layer) -> Any:
            def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
                called.add(layer.path)
                return _with_constant_weight(module, _input(args, kwargs))

            return hook

        with _hooks(self.layers, hook_of), torch.enable_grad():
            buffers = {name: b.clone() for name, b in self.root.named_buffers()}
            total = call_with(self.root, buffers, x).sum()
        self._require_called(self.layers, called)
        if not total.requires_grad:
            return
        weights = [layer.module.get_parameter("weight") for layer in self.layers]
        gradients = torch.autograd.grad(total, weights, allow_unused=True)
        for layer, gradient in zip(self.layers, gradients, strict=True):
            if gradient is not None:
                raise _refused(layer.path, layer.module, "has a weight that is used elsewhere too")

    def _require_called(self, layers: list[_Layer], called: set[str]) -> None:
        for layer in layers:
            if layer.path not in called:
                raise _refused(layer.path, layer.module, "was not called by the network")

    @contextmanager
    def drawn(self, examples: int) -> Iterator[None]:
        """Within it a call of the network has a draw for each example.

        Matrices whose prior is over are points.

        Raises:
            ValueError: A layer was not called, or not with an example in each row.
        """
        called: set[str] = set()
        layers = [x for x in self.layers if self.guide.has_law(x.state.name)]
        noise: dict[int, Tensor] = {}  # of tied weights the same

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
                    noise[layer.place] = layer.state.noise(examples=examples)
                W = self.guide.weights[layer.place]
                return _noisy(layer.state, W, module, x, output, noise[layer.place])

            return hook

        with _hooks(layers, hook_of):
            yield
        self._require_called(layers, called)


@contextmanager
def _hooks(layers: list[_Layer], hook_of: Callable[[_Layer], Any]) -> Iterator[None]:
    """Within it layers have forward hooks, which see outputs before any other hook does."""
    how = {"with_kwargs": True, "prepend": True}
    handles = [x.module.register_forward_hook(hook_of(x), **how) for x in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _input(args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    """What a linear layer or a convolution is called with, by position or by name."""
    return args[0] if args else kwargs["input"]


def _with_constant_weight(module: nn.Module, x: Tensor) -> Tensor:
    """The output of a layer, of which its weight has no gradient."""
    assert isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    weight = module.weight.detach()
    if isinstance(module, nn.Linear):
        return F.linear(x, weight, module.bias)
    output: Tensor = module._conv_forward(x, weight, module.bias)
    return output


def _noisy(
    state: SpectralState, W: Tensor, module: nn.Module, x: Tensor, output: Tensor, noise: Tensor
) -> Tensor:
    """The output of a layer whose singular values each example multiplies by its own factors."""
    is_linear = isinstance(module, nn.Linear)
    matrix = W.flatten(1).to(x.dtype)
    V = state.vectors(matrix if state.is_tall else matrix.mT).to(x.dtype)
    Y: Tensor | None = None
    if state.is_tall or state.law.needs_medians:
        Y = (matrix if state.is_tall else matrix.mT) @ V
    medians = None if Y is None else Y.square().sum(0).double()
    factors, base = (
        _spread_out(f.to(x.dtype), x, is_linear) for f in state.factors(medians, noise)
    )
    if state.is_tall:
        assert Y is not None
        inner, outer = _inner(module, x, V), Y
    else:
        inner, outer = _without_bias(_mixed(output, V.mT, is_linear), module, V.mT), V
    noisy = output + _mixed(inner * (factors - base), outer, is_linear)
    return noisy + (base - 1) * _without_bias(output, module) if state.law.has_ratios else noisy


def _without_bias(output: Tensor, module: nn.Module, A: Tensor | None = None) -> Tensor:
    """`A (W x)` of a layer whose `output` is `A (W x + bias)`; `A` may be left out."""
    if not isinstance(module.bias, Tensor):
        return output
    bias = module.bias if A is None else A @ module.bias
    is_linear = isinstance(module, nn.Linear)
    return output - (bias if is_linear else bias.view(-1, *[1] * (output.ndim - 2)))


def _inner(module: nn.Module, x: Tensor, V: Tensor) -> Tensor:
    """`V'x` of a layer with as many outputs as `V` has columns."""
    if isinstance(module, nn.Linear):
        return x @ V
    assert isinstance(module, _CONVOLUTIONS)
    filters = V.mT.reshape(-1, *module.weight.shape[1:])
    inner: Tensor = module._conv_forward(x, filters, None)
    return inner


def _mixed(x: Tensor, A: Tensor, is_linear: bool) -> Tensor:
    """`A x` over the channels: the last dimension, or that after the examples."""
    if is_linear:
        return x @ A.mT
    convolve = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    mixed: Tensor = convolve(x, A.reshape(*A.shape, *[1] * (x.ndim - 2)))
    return mixed


def _spread_out(factors: Tensor, x: Tensor, is_linear: bool) -> Tensor:
    """`(N, d)` with dimensions of size 1 for positions."""
    ones = [1] * (x.ndim - 2)
    shape = (len(x), *ones, -1) if is_linear else (len(x), -1, *ones)
    return factors.view(shape)


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
