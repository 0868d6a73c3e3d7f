"""The matrices of a module, and how each is obtained from its parameter.

A parameter with two or more dimensions is one matrix of shape `(out, everything else)`, with these
rules and exceptions:

- a convolution `[out, in, kh, kw]` is `out x (in kh kw)`, grouped or not;
- for a transposed convolution `[in, out / groups, kh, kw]`, `out` is moved first, group by group;
- `MultiheadAttention.in_proj_weight` contains three matrices: query, key and value;
- fused experts `(E, out, in)` contain one matrix for each expert;
- a parameter with a declared `MatrixLayout` contains the matrices that the layout says;
- a weight that the network computes is a matrix, and the parameters from which it is computed are
  not (`spectra/computed.py`);
- scales and biases of normalisation layers, of any shape, and complex parameters contain no matrix;
- tied parameters count once, and can be addressed by any of their names.

Names are those of `named_parameters()` of the plain network, without the prefixes of
`DataParallel`, `DistributedDataParallel`, `torch.compile` and checkpoint wrappers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayes_htr.errors import SpectrumError
from bayes_htr.spectra.computed import ComputedWeight, computed_weights
from bayes_htr.spectra.layers import NORMS, is_of_experts, reason_against_layer
from bayes_htr.spectra.layout import (
    Arrangement,
    Layouts,
    LayoutsLike,
    Matrix,
    MatrixLayout,
    as_layouts,
    declared,
)
from bayes_htr.spectra.modules import (
    checked_module,
    groups_of,
    is_layer,
    require_whole,
    submodule,
    unwrap,
)
from bayes_htr.spectra.names import plain_name

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_EXPERTS = MatrixLayout(batch=(0,), rows=(1,), columns=(2,))
_STACKED = MatrixLayout(parts="qkv")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a module and the matrices in it (none for a vector).

    Attributes:
        name: The parameter's first name.
        aliases: All names of the parameter; a tied parameter has more than one.
        path: The name of the parameter in the unwrapped module.
        tensor: The parameter.
        matrices: The matrices in it.
        raw: The name of the weight that the network computes from this parameter, for example by
            a parametrisation; else empty. Then the parameter is not the weight and contains no
            matrix of the network.
        reason: The reason why the parameter is not the weight of a layer, so that priors on every
            weight matrix leave it out; empty if it is one.
        computed: The way in which the network computes the weight, if it is no parameter. The
            tensor is then its present value, and requires a gradient if one of its parts does.
    """

    name: str
    aliases: tuple[str, ...]
    path: str
    tensor: nn.Parameter
    matrices: tuple[Matrix, ...]
    raw: str = ""
    reason: str = ""
    computed: ComputedWeight | None = None


def parameters_of(
    module: nn.Module, layouts: Layouts = (), *, spread: bool = False
) -> list[Parameter]:
    """Return the parameters of a module in its own order, where tied parameters count once.

    Args:
        module: The module.
        layouts: The declared layouts of tensors, by patterns on names.
        spread: Whether parameters may be `DTensor`s, of which this process has only a part.

    Raises:
        SpectrumError: `module` is no module, a lazy parameter has no shape yet, this process has
            only a part of a parameter, or a layout does not fit its tensor.
    """
    root = unwrap(checked_module(module))
    return _parameters(root, layouts, computed_weights(root), spread)


def weights_of(
    module: nn.Module, layouts: Layouts = (), *, spread: bool = False
) -> list[Parameter]:
    """Return the parameters of a module and the weights that it computes from some of them.

    Args:
        module: The module.
        layouts: The declared layouts of tensors, by patterns on names.
        spread: Whether parameters may be `DTensor`s, of which this process has only a part.

    Returns:
        The parameters in the module's own order, in which tied parameters count once. A computed
        weight comes after the first parameter from which it is computed.

    Raises:
        SpectrumError: The same errors as for `parameters_of`.
    """
    root = unwrap(checked_module(module))
    computed = computed_weights(root)
    parameters = _parameters(root, layouts, computed, spread)
    tensors = dict(root.named_parameters(remove_duplicate=False)) if computed else {}
    after: dict[int, list[ComputedWeight]] = {}
    for weight in computed:
        after.setdefault(id(tensors[weight.part_paths[0]]), []).append(weight)
    weights = []
    for parameter in parameters:
        weights.append(parameter)
        for weight in after.get(id(parameter.tensor), []):
            weights.append(_computed_parameter(root, weight, layouts))
    return weights


def _parameters(
    root: nn.Module, layouts: Layouts, computed: Sequence[ComputedWeight], spread: bool
) -> list[Parameter]:
    raw = {path: plain_name(c.path) for c in computed for path in c.part_paths}
    names: dict[int, list[str]] = {}
    tensors: dict[int, nn.Parameter] = {}
    for name, tensor in root.named_parameters(remove_duplicate=False):
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    parameters = []
    for key, tensor in tensors.items():
        path = names[key][0]
        if isinstance(tensor, nn.parameter.UninitializedParameter):
            raise SpectrumError(
                f"{path} has no shape yet; run the network once before its spectra are used"
            )
        require_whole(path, tensor, spread=spread and path not in raw)
        aliases = tuple(dict.fromkeys(plain_name(n) for n in names[key]))
        owners = [submodule(root, n.rpartition(".")[0]) for n in names[key]]
        whole = next((raw[n] for n in names[key] if n in raw), "")
        if is_layer(owners[0], nn.utils.parametrize.ParametrizationList):  # also in TorchScript
            whole = aliases[0].rpartition(".")[0].replace("parametrizations.", "")
        is_declared = declared(layouts, aliases) is not None
        matrices: tuple[Matrix, ...] = ()
        reason = ""
        if is_declared or not whole:
            matrices = _matrices(aliases, tensor, owners[0], layouts)
        if matrices and not is_declared:
            pairs = zip(names[key], owners, strict=True)
            reasons = [reason_against_layer(plain_name(n), tensor, o) for n, o in pairs]
            reason = reasons[0] if all(reasons) else ""  # a tied weight is one under any name
        parameters.append(Parameter(aliases[0], aliases, path, tensor, matrices, whole, reason))
    return parameters


def _computed_parameter(root: nn.Module, weight: ComputedWeight, layouts: Layouts) -> Parameter:
    value = weight.of(root)
    tensor = nn.Parameter(value.detach(), requires_grad=value.requires_grad)
    name, owner = plain_name(weight.path), submodule(root, weight.module)
    found = _matrices((name,), tensor, owner, layouts)
    matrices = tuple(replace(matrix, factors=weight.rank) for matrix in found)
    reason = ""
    if matrices and weight.adapter is None and declared(layouts, (name,)) is None:
        reason = reason_against_layer(name, tensor, owner)
    return Parameter(name, (name,), weight.path, tensor, matrices, "", reason, weight)


def set_parameters(parameters: Iterable[Parameter], values: Mapping[str, Tensor]) -> None:
    """Write values into parameters, in place; a parameter without a value does not change.

    Args:
        parameters: The parameters, as `parameters_of` returns them.
        values: Tensors by name, with the shapes of the parameters; other names are ignored.
    """
    with torch.no_grad():
        for p in parameters:
            if p.name in values:
                p.tensor.copy_(values[p.name])


def matrices_of(
    module: nn.Module, matrices: LayoutsLike | Layouts | None = None
) -> dict[str, Tensor]:
    """Return every matrix of a module by name, as a differentiable view of its parameter.

    Weights that the module computes, as with `weight_norm`, are included, and the parameters from
    which they are computed are not.

    Args:
        module: The module.
        matrices: Which axes form matrices, as in `Priors`.

    Raises:
        SpectrumError: A lazy parameter has no shape yet, or a layout does not fit its tensor.
        ValueError: `matrices` is no mapping from patterns to layouts.
    """
    root = unwrap(checked_module(module))
    return {
        matrix.name: matrix.view(p.tensor if p.computed is None else p.computed.of(root))
        for p in weights_of(module, as_layouts(matrices))
        for matrix in p.matrices
    }


def as_matrix(W: Tensor) -> Tensor:
    """Return a tensor of two or more dimensions as `(out, everything else)`.

    Raises:
        SpectrumError: The tensor has fewer than two dimensions, or no entries.
    """
    if W.ndim < 2 or W.numel() == 0:
        raise SpectrumError(
            f"a tensor of shape {tuple(W.shape)} has no spectrum; "
            "give one with two or more dimensions, none of them 0"
        )
    return W if W.ndim == 2 else W.reshape(W.shape[0], -1)


def as_row(tensor: Tensor) -> Tensor:
    """Return a tensor as a matrix with one row, which is the form of vectors for priors."""
    return tensor.reshape(1, -1)


def _matrices(
    names: Sequence[str], tensor: Tensor, owner: nn.Module, layouts: Layouts
) -> tuple[Matrix, ...]:
    name = names[0]
    if tensor.ndim < 2 or tensor.numel() == 0 or not tensor.is_floating_point():
        return ()
    if (declaration := declared(layouts, names)) is not None:
        (layout,) = declaration
        return () if layout is None else layout.matrices(name, tensor.shape)
    if is_layer(owner, NORMS):
        return ()
    if is_layer(owner, nn.MultiheadAttention) and name.endswith("in_proj_weight"):
        return _STACKED.matrices(name, tensor.shape)
    if is_of_experts(name, tensor.shape, owner):
        return _EXPERTS.matrices(name, tensor.shape)
    view: Callable[[Tensor], Tensor] = as_matrix
    if is_layer(owner, _TRANSPOSED):
        view = _OutFirst(groups_of(owner, name))
    rows, columns = view(torch.empty(tensor.shape, device="meta")).shape
    return (Matrix(name, (rows, columns), view),)


@dataclass(frozen=True)
class _OutFirst:
    """The view `out x (in / groups ...)` of a transposed convolution `[in, out / groups, ...]`."""

    groups: int

    def __call__(self, tensor: Tensor) -> Tensor:
        grouped = tensor.reshape(self.groups, -1, *tensor.shape[1:]).transpose(1, 2)
        return grouped.reshape(self.groups * tensor.shape[1], -1)

    def arrangement(self, shape: Sequence[int]) -> Arrangement:
        """Return the axes of a tensor of this shape that form the matrix."""
        if self.groups == 1:
            return Arrangement(None, (), (1,), (0, *range(2, len(shape))))
        split = 0, (self.groups, shape[0] // self.groups)
        return Arrangement(split, (), (0, 2), (1, *range(3, len(shape) + 1)))


def arrangement_of(view: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Arrangement:
    """Return the axes of a tensor of this shape from which a matrix's view makes the matrix."""
    if hasattr(view, "arrangement"):  # of a layout or a transposed convolution
        found: Arrangement = view.arrangement(shape)
        return found
    axes = tuple(range(len(shape)))
    rows, columns = ((), axes) if view is as_row else ((0,), axes[1:])
    return Arrangement(None, (), rows, columns)


def check_finite(W: Tensor, name: str) -> None:
    """Raise `SpectrumError` if an entry of `W` is NaN or infinite, or if it has no values."""
    if W.is_meta:
        raise SpectrumError(
            f"{name} is on the meta device and has no entries; load the weights first"
        )
    if W.is_floating_point() and W.itemsize == 1:
        W = W.float()  # eight bits have no minimum
    # One pass without a temporary; NaN is passed on.
    ends = torch.view_as_real(W.resolve_conj()) if W.is_complex() else W
    if W.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(ends))).all()):
        bad = ~torch.isfinite(W)
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise SpectrumError(
            f"{name} holds {int(bad.sum())} entries that are not finite, the first "
            f"{W[first].item()} at {first}; lower the learning rate or clip gradients "
            "(if training led here), or load other weights"
        )


def working(W: Any) -> Tensor:
    """Convert an array or tensor to a tensor of float32 or float64.

    Half precision and integers are converted. The result is differentiable with respect to the
    given tensor.

    Raises:
        SpectrumError: The numbers are complex.
    """
    tensor = W if isinstance(W, Tensor) else torch.as_tensor(np.asarray(W))
    if tensor.is_complex():
        raise SpectrumError(
            f"a matrix of dtype {tensor.dtype}: spectra are of real matrices; pass its real and "
            "imaginary parts, or abs()"
        )
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.to(working_dtype(tensor.dtype))


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to which `working` converts a dtype."""
    if dtype in (torch.float32, torch.float64):
        return dtype
    return torch.float32 if dtype.is_floating_point else torch.float64
