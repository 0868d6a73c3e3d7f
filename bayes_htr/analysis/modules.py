"""The weights of a module, each with its layer's type.

Where a parametrization, a normalisation or pruning computes a weight, the computed weight is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm

from bayes_htr.analysis.weights import Source, reason_against
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.matrices import NORMS, hooked, plain_name, unwrap

_KINDS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Linear, "dense"),
    (nn.Embedding, "embedding"),
    (nn.EmbeddingBag, "embedding"),
    (nn.Conv1d, "conv1d"),
    (nn.Conv2d, "conv2d"),
    (nn.Conv3d, "conv3d"),
    (nn.ConvTranspose1d, "conv_transpose1d"),
    (nn.ConvTranspose2d, "conv_transpose2d"),
    (nn.ConvTranspose3d, "conv_transpose3d"),
    (nn.MultiheadAttention, "attention"),
)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def module_source(module: nn.Module) -> Source:
    """Collect the weights of a module.

    Raises:
        SpectrumError: A lazy parameter has no shape yet.
    """
    net = unwrap(module)
    source = Source(type(net).__name__)
    for parameter in parameters_of(net):
        tensor = parameter.tensor
        if parameter.raw or tensor.ndim < 2:
            continue
        owner = net.get_submodule(parameter.path.rpartition(".")[0])
        _add(source, parameter.name, owner, tensor.detach(), tensor.detach)
    for path, owner in net.named_modules():
        for name in _computed(owner):
            with torch.no_grad(), _evaluating(owner):
                tensor = getattr(owner, name)
            if tensor.ndim >= 2:
                full_name = plain_name(f"{path}.{name}" if path else name)
                _add(source, full_name, owner, tensor, partial(_compute, owner, name))
    return source


def _add(
    source: Source, name: str, owner: nn.Module, tensor: Tensor, load: Callable[[], Tensor]
) -> None:
    reason = reason_against(tensor.shape, tensor.is_floating_point(), str(tensor.dtype))
    if isinstance(owner, NORMS):
        reason = "a gain or bias of a normalisation is no weight matrix"
    if tensor.is_meta:
        reason = "it is on the meta device, without values"
    shape = tuple(tensor.shape)
    if reason is None and isinstance(owner, _TRANSPOSED):
        shape = tuple(_out_first(tensor, owner.groups).shape)
        load = partial(_load_out_first, load, owner.groups)
    kind = next((kind for layer, kind in _KINDS if isinstance(owner, layer)), "")
    source.add(name, shape, load, kind=kind, reason=reason)


def _computed(owner: nn.Module) -> list[str]:
    """Names of the weights that a parametrization, a normalisation or pruning computes."""
    names = list(owner.parametrizations) if parametrize.is_parametrized(owner) else []  # type: ignore[arg-type]
    masks = [name for name, _ in owner.named_buffers(recurse=False) if name.endswith("_mask")]
    pruned = [m[:-5] for m in masks if f"{m[:-5]}_orig" in owner._parameters]
    return [*names, *pruned, *hooked(owner)]


def _compute(owner: nn.Module, name: str) -> Tensor:
    with torch.no_grad(), _evaluating(owner):
        hook = hooked(owner).get(name)  # with a hook or a mask the attribute may be out of date
        if isinstance(hook, SpectralNorm):
            return hook.compute_weight(owner, do_power_iteration=False)
        if hook is not None:
            return hook.compute_weight(owner)
        if f"{name}_orig" in owner._parameters:
            return getattr(owner, f"{name}_orig") * getattr(owner, f"{name}_mask")
        return getattr(owner, name)


@contextmanager
def _evaluating(owner: nn.Module) -> Iterator[None]:
    """Set evaluation mode: in training mode spectral normalisation changes with each access."""
    modules = list(owner.modules())
    modes = [m.training for m in modules]
    try:
        for m in modules:
            m.training = False
        yield
    finally:
        for m, mode in zip(modules, modes, strict=True):
            m.training = mode


def _out_first(tensor: Tensor, groups: int) -> Tensor:
    """A transposed convolution's `[in, out / groups, ...]` as `[out, in / groups, ...]`."""
    grouped = tensor.reshape(groups, -1, *tensor.shape[1:]).transpose(1, 2)
    return grouped.reshape(groups * tensor.shape[1], -1, *tensor.shape[2:])


def _load_out_first(load: Callable[[], Tensor], groups: int) -> Tensor:
    return _out_first(load().detach(), groups)
