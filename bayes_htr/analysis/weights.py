"""The weights of a network, and the matrices that are analysed for each weight.

A module tells the type of the layer of each weight. If a parametrization, a normalisation, pruning
or an adapter computes a weight, the computed weight is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from bayes_htr.spectra import MatrixLayout, weights_of
from bayes_htr.spectra.computed import ComputedWeight
from bayes_htr.spectra.layers import NORMS, is_of_experts, reason_against_name
from bayes_htr.spectra.layout import Layouts, declared, of_slice
from bayes_htr.spectra.modules import groups_of, is_layer, submodule, unwrap
from bayes_htr.spectra.names import matches_matrix
from bayes_htr.spectra.shards import is_distributed

Conv = Literal["flatten", "slices"]

EXPERTS = MatrixLayout(batch=(0,), rows=(1,), columns=(2,))
"""Fused experts `(E, out, in)`: one matrix for each."""
_STACKED = MatrixLayout(parts="qkv")
_RECURRENT = re.compile(r"weight_(ih|hh|hr)(_l\d+)?(_reverse)?")
_KINDS_BY_DIMENSIONS = {2: "dense", 3: "conv1d", 4: "conv2d", 5: "conv3d"}

_KINDS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Linear, "dense"),
    (nn.Bilinear, "bilinear"),
    (nn.Embedding, "embedding"),
    (nn.EmbeddingBag, "embedding"),
    (nn.Conv1d, "conv1d"),
    (nn.Conv2d, "conv2d"),
    (nn.Conv3d, "conv3d"),
    (nn.ConvTranspose1d, "conv_transpose1d"),
    (nn.ConvTranspose2d, "conv_transpose2d"),
    (nn.ConvTranspose3d, "conv_transpose3d"),
    (nn.MultiheadAttention, "attention"),
    (nn.RNNBase, "recurrent"),
    (nn.RNNCellBase, "recurrent"),
)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Weight:
    """A tensor of two or more dimensions, the output first, which is read on demand.

    Attributes:
        name: The parameter's name, followed by the part in brackets if it has several matrices.
        kind: The type of the layer: `dense`, `conv2d`, `embedding`, ...
        shape: `(out, in, ...)`.
        load: The function that reads the tensor.
        spread: Whether several processes have parts of the tensor, which they read together.
        rank: The largest rank that the tensor can have as the product of an adapter's factors;
            `None` if it is no such product.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    load: Callable[[], Tensor]
    spread: bool = False
    rank: int | None = None

    @property
    def positions(self) -> int:
        """The number of positions of a convolution's kernel; 1 for a matrix."""
        return math.prod(self.shape[2:])

    def sides(self, conv: Conv) -> tuple[int, int]:
        """Return the numbers of rows and columns of each matrix of the weight."""
        if conv == "slices":
            return self.shape[0], self.shape[1]
        return self.shape[0], math.prod(self.shape[1:])

    def size(self, conv: Conv) -> int:
        """Return the shorter side of a matrix, times the number of matrices of the weight."""
        return min(self.sides(conv)) * (self.positions if conv == "slices" else 1)

    def count(self, conv: Conv) -> int:
        """Return the number of eigenvalues of all matrices together that can differ from zero."""
        size, shorter = self.size(conv), min(self.sides(conv))
        return size if self.rank is None else size // shorter * min(self.rank, shorter)

    def matrices(self, conv: Conv) -> list[Tensor]:
        """Read the weight as one `out x (in kh kw)` matrix, or one `out x in` per kernel position.

        Args:
            conv: `"flatten"` for one matrix, `"slices"` for one per position.
        """
        tensor = self.load().detach()
        if conv == "flatten" or tensor.ndim == 2:
            return [tensor.reshape(tensor.shape[0], -1)]
        return list(tensor.flatten(2).movedim(2, 0).contiguous())

    def factor(self, conv: Conv) -> float:
        """Return the factor of the eigenvalues.

        It is 1/2 for slices of convolutions, as in WeightWatcher, and 1 for other matrices.
        """
        return 0.5 if conv == "slices" and len(self.shape) > 2 else 1.0


@dataclass
class Source:
    """The weights of a network.

    Attributes:
        label: The name of the network in errors and titles.
        weights: The weights in the network's own order, in which tied weights count once.
        skipped: Tensors of two or more dimensions that are not weights, by name, with the reason.
        layouts: The declared layouts of tensors, by patterns on names.
        names: The names of all tensors, each with its aliases.
        spread: The names of tensors of which several processes have parts.
    """

    label: str
    weights: list[Weight] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    layouts: Layouts = ()
    names: list[tuple[str, ...]] = field(default_factory=list)
    spread: set[str] = field(default_factory=set)

    def add(
        self,
        name: str,
        shape: Sequence[int],
        load: Callable[[], Tensor],
        *,
        kind: str = "",
        reason: str | None = None,
        layout: MatrixLayout | None = None,
        aliases: tuple[str, ...] = (),
        load_slice: Callable[[int], Tensor] | None = None,
        rank: int | None = None,
    ) -> None:
        """Add a tensor of two or more dimensions.

        The query, key and value matrices of an `in_proj_weight` become three weights. A tensor with
        a layout becomes one weight for each of its matrices.

        Args:
            name: The parameter's name.
            shape: `(out, in, ...)`.
            load: The function that reads the tensor.
            kind: The type of the layer; by default the one that name and dimensions suggest.
            reason: The reason why the tensor is not a weight, if it is not.
            layout: The layout of the tensor if none is declared; by default it is a single matrix.
            aliases: All names of the tensor.
            load_slice: A function that reads one index of the first axis, `(1, ...)`, if that is
                cheaper.
            rank: The largest rank of a product of an adapter's factors.

        Raises:
            SpectrumError: A declared layout does not fit the tensor.
        """
        declaration = declared(self.layouts, aliases or (name,))
        if reason is None and declaration == (None,):
            reason = "it is declared as no matrix"
        if reason is not None:
            self.skipped[name] = reason
            return
        if declaration is not None:
            (layout,) = declaration
        elif layout is None and name.endswith("in_proj_weight") and len(shape) == 2:
            layout, kind = (None, kind) if shape[0] % 3 else (_STACKED, "attention")
        if not kind:
            kind = _KINDS_BY_DIMENSIONS.get(len(shape), f"{len(shape)}-dimensional")
            if _RECURRENT.fullmatch(name.rpartition(".")[2]):
                kind = "recurrent"
        if layout is None:
            self.weights.append(Weight(name, kind, tuple(shape), load, name in self.spread, rank))
            return
        for matrix in layout.matrices(name, shape):
            load_matrix = partial(_load_view, load, matrix.view)
            if load_slice is not None and (place := of_slice(matrix)) is not None:
                index, view = place
                load_matrix = partial(_load_view, partial(load_slice, index), view)
            spread = name in self.spread
            self.weights.append(Weight(matrix.name, kind, matrix.shape, load_matrix, spread, rank))


def reason_against(shape: Sequence[int], floating: bool, dtype: str) -> str | None:
    """Return the reason why a tensor is not a weight, or `None` if it is one.

    The tensor has two or more dimensions.
    """
    if not floating or "float4" in dtype:
        return f"{dtype} is no floating-point type that can be read"
    if math.prod(shape) == 0:
        return f"it is empty: {tuple(shape)}"
    return None


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a pattern matches the name of a matrix, or that of its parameter.

    The name of a matrix that is a part of a parameter is, for example, `proj[q]`.
    """
    return any(matches_matrix(pattern, name) for pattern in patterns)


def _load_view(load: Callable[[], Tensor], view: Callable[[Tensor], Tensor]) -> Tensor:
    return view(load())


# Modules


def module_source(module: nn.Module, layouts: Layouts = (), *, spread: bool = False) -> Source:
    """Collect the weights of a module.

    Args:
        module: The module.
        layouts: The declared layouts of tensors, by patterns on names.
        spread: Whether parameters may be `DTensor`s, which all processes then read together.

    Raises:
        SpectrumError: A lazy parameter has no shape yet, or a layout does not fit its tensor.
    """
    net = unwrap(module)
    source = Source(type(net).__name__, layouts=layouts)
    for parameter in weights_of(net, layouts, spread=spread):
        tensor, computed = parameter.tensor, parameter.computed
        source.names.append(parameter.aliases)
        if tensor.ndim < 2:
            continue
        if parameter.raw and not parameter.matrices:
            source.skipped[parameter.name] = f"{parameter.raw} is computed from it"
            continue
        load, path = tensor.detach, parameter.path.rpartition(".")[0]
        if is_distributed(tensor):
            source.spread.add(parameter.name)
            load = tensor.detach().full_tensor  # type: ignore[attr-defined]
        if computed is not None:
            load, path = partial(_compute, net, computed), computed.module
        owner = submodule(net, path)
        _add(source, parameter.aliases, owner, tensor, load, computed)
    return source


def _add(
    source: Source,
    names: tuple[str, ...],
    owner: nn.Module,
    tensor: Tensor,
    load: Callable[[], Tensor],
    computed: ComputedWeight | None,
) -> None:
    reason = reason_against(tensor.shape, tensor.is_floating_point(), str(tensor.dtype))
    if declared(source.layouts, names) is None:
        if is_layer(owner, NORMS):
            reason = "a gain or bias of a normalisation is no weight matrix"
        elif reason is None and computed is None and (why := reason_against_name(names[0])):
            reason = f"{why} is no weight matrix"
    if tensor.is_meta:
        reason = "it is on the meta device, without values"
    shape, layout = tuple(tensor.shape), None
    if reason is None and is_layer(owner, _TRANSPOSED):
        groups = groups_of(owner, names[0])
        shape = tuple(_out_first(torch.empty(shape, device="meta"), groups).shape)
        load = partial(_load_out_first, load, groups)
    kind = next((kind for layer, kind in _KINDS if is_layer(owner, layer)), "")
    rank = None
    if computed is not None and computed.adapter is not None:
        kind, rank = "lora", computed.rank
    elif is_of_experts(names[0], shape, owner):
        kind, layout = "expert", EXPERTS
    source.add(
        names[0],
        shape,
        load,
        kind=kind,
        reason=reason,
        layout=layout,
        aliases=names,
        rank=rank,
    )


def _compute(net: nn.Module, computed: ComputedWeight) -> Tensor:
    return computed.of(net).detach()


def _out_first(tensor: Tensor, groups: int) -> Tensor:
    """Return the weight of a transposed convolution with `out` first.

    The given weight has the shape `[in, out / groups, ...]`.
    """
    grouped = tensor.reshape(groups, -1, *tensor.shape[1:]).transpose(1, 2)
    return grouped.reshape(groups * tensor.shape[1], -1, *tensor.shape[2:])


def _load_out_first(load: Callable[[], Tensor], groups: int) -> Tensor:
    return _out_first(load().detach(), groups)
