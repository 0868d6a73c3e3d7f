"""The weights in a mapping from names to tensors, where only names tell what a tensor is.

Weights that a network computes are computed here as well: those of `weight_norm` and
`spectral_norm` in both forms, of pruning with a mask, of LoRA (`scale * B A`, with the scale if it
is stored), and quantised weights with their scales (per tensor, per row or column, per block). If a
weight cannot be computed, it is left out with the reason. Tensors whose names say that they are no
weights are left out too: masks, scales, statistics and other buffers. A tensor that equals another
one in every entry counts once, such as an output layer that is tied to an embedding and was saved
as a copy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bayes_htr.analysis.weights import EXPERTS, Source, reason_against
from bayes_htr.spectra.computed import LORA, lora_product
from bayes_htr.spectra.layers import LONGEST_NAME, is_of_experts, reason_against_name
from bayes_htr.spectra.layout import declared


@dataclass(frozen=True)
class Stored:
    """A tensor of a state dict, which is read on demand.

    Attributes:
        name: The tensor's name.
        shape: The tensor's shape.
        dtype: The name of the dtype in the source.
        floating: Whether the dtype is a floating-point type that can be read.
        load: The function that reads the tensor.
        load_slice: A function that reads one index of the first axis, `(1, ...)`, if that is
            cheaper.
        reason: The reason why the tensor cannot be read, if it cannot.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    floating: bool
    load: Callable[[], Tensor]
    load_slice: Callable[[int], Tensor] | None = None
    reason: str | None = None

    @property
    def is_short(self) -> bool:
        """Whether an entry has eight bits, as in a quantised weight with a scale."""
        return "float8" in self.dtype or self.dtype.startswith("F8") or self.is_int8

    @property
    def is_int8(self) -> bool:
        """Whether the entries are signed integers of eight bits."""
        return self.dtype in ("torch.int8", "I8")


class _Rebuilt(NamedTuple):
    """A weight that is computed from several tensors.

    Attributes:
        name: The weight's name.
        parts: The names of the tensors.
        shape: The weight's shape.
        load: The function that reads the tensors and returns the weight.
        reason: The reason why the weight cannot be computed, if it cannot.
        kind: The type of the layer, if it is known.
        rank: The largest rank of a product of an adapter's factors.
    """

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...] = ()
    load: Callable[[], Tensor] | None = None
    reason: str | None = None
    kind: str = ""
    rank: int | None = None


State = Mapping[str, Stored]


def add_stored(source: Source, state: State) -> None:
    """Add the weights of a state dict to a source.

    Raises:
        SpectrumError: A declared layout does not fit its tensor.
    """
    source.names += [(name,) for name in state]
    rebuilt = list(_rebuilt(state))
    source.names += [(r.name,) for r in rebuilt if r.name not in state]
    at = {r.parts[0]: r for r in rebuilt}
    whole = {part: r.name for r in rebuilt for part in r.parts}
    copies = _copies([s for s in state.values() if s.name not in whole])
    for name, stored in state.items():
        is_declared = declared(source.layouts, (name,)) is not None
        weight = at.get(name)
        if weight is not None and (weight.name not in state or weight.name in weight.parts):
            _add_rebuilt(source, weight)
        if len(stored.shape) < 2:
            continue
        if name in whole and not is_declared:
            if name != whole[name]:
                source.skipped[name] = f"{whole[name]} is computed from it"
            continue
        reason = stored.reason or reason_against(stored.shape, stored.floating, stored.dtype)
        if reason is None and not is_declared and (why := reason_against_name(name)):
            reason = f"{why} is no weight matrix"
        if reason is None and not is_declared and _FACTOR.fullmatch(name[-LONGEST_NAME:]):
            reason = "a factor of a weight whose other factors are missing or not understood"
        if reason is None and name in copies:
            reason = f"equal to {copies[name]} in every entry"
        experts = is_of_experts(name, stored.shape)
        source.add(
            name,
            stored.shape,
            stored.load,
            kind="expert" if experts else "",
            reason=reason,
            layout=EXPERTS if experts else None,
            load_slice=stored.load_slice,
        )


_FACTOR = re.compile(r"(.*[._])?(weight_(g|orig)|(lora|hada|lokr)_[^.]+(\..+)?)")


def _add_rebuilt(source: Source, weight: _Rebuilt) -> None:
    experts = is_of_experts(weight.name, weight.shape)
    source.add(
        weight.name,
        weight.shape,
        weight.load or _nothing,
        kind="expert" if experts else weight.kind,
        reason=weight.reason,
        layout=EXPERTS if experts else None,
        rank=weight.rank,
    )


def _nothing() -> Tensor:
    return torch.zeros(0)


def _rebuilt(state: State) -> Iterator[_Rebuilt]:
    """Yield the weights computed from several tensors, each by the name of its first part."""
    seen: set[str] = set()
    order = {name: i for i, name in enumerate(state)}
    rules = (_normalised, _masked_or_spectral, _Parametrised(state), _adapter, _quantised)
    for name in state:
        if name in seen or len(name) > LONGEST_NAME:
            continue
        for rule in rules:
            weight = rule(name, state)
            if weight is not None and not seen.intersection(weight.parts):
                seen.update(weight.parts)
                yield weight._replace(parts=tuple(sorted(weight.parts, key=order.__getitem__)))
                break


# Normalisations, pruning and parametrizations


def _normalised(name: str, state: State) -> _Rebuilt | None:
    """Compute the weight from `weight_g` and `weight_v` of the older `weight_norm`."""
    stem, _, kind = name.rpartition("_")
    if kind not in ("g", "v") or not {f"{stem}_g", f"{stem}_v"} <= state.keys():
        return None
    return _weight_norm(stem, state[f"{stem}_g"], state[f"{stem}_v"])


def _weight_norm(name: str, g: Stored, v: Stored) -> _Rebuilt | None:
    alike = len(g.shape) == len(v.shape) and sum(side != 1 for side in g.shape) <= 1
    alike = alike and all(a in (1, b) for a, b in zip(g.shape, v.shape, strict=True))
    if not (alike or math.prod(g.shape) == 1) or not (g.floating and v.floating):
        return None

    def load() -> Tensor:
        gain, direction = g.load().float(), v.load().float()
        axes = [axis for axis, side in enumerate(g.shape) if side == 1] if alike else None
        return direction * (gain / torch.linalg.vector_norm(direction, dim=axes, keepdim=True))

    return _Rebuilt(name, (g.name, v.name), v.shape, load)


def _masked_or_spectral(name: str, state: State) -> _Rebuilt | None:
    """Compute the weight from `weight_orig` and a mask, or vectors of the older `spectral_norm`."""
    for end in ("_orig", "_mask", "_u", "_v"):
        stem = name.removesuffix(end)
        if stem == name or (original := state.get(f"{stem}_orig")) is None:
            continue
        mask, u, v = (state.get(f"{stem}_{kind}") for kind in ("mask", "u", "v"))
        if mask is not None and mask.shape == original.shape:
            load = partial(_masked, original, mask)
            return _Rebuilt(stem, (original.name, mask.name), original.shape, load)
        if u is not None:
            return _spectral_norm(stem, original, u, v)
    return None


def _masked(original: Stored, mask: Stored) -> Tensor:
    return original.load().float() * mask.load().float()


def _spectral_norm(name: str, original: Stored, u: Stored, v: Stored | None) -> _Rebuilt | None:
    parts = (original.name, u.name) + (() if v is None else (v.name,))
    axes = [axis for axis, side in enumerate(original.shape) if (side,) == u.shape]
    if not axes or not original.floating:
        return None

    def load() -> Tensor:
        W, left = original.load().float(), u.load().float()
        flat = W.movedim(axes[0], 0).flatten(1)
        right = flat.mT @ left if v is None else v.load().float()
        return W * (right.norm() / torch.dot(left, flat @ right))

    return _Rebuilt(name, parts, original.shape, load)


_PARAMETRIZATION = re.compile(r"((?:.*\.)?)parametrizations\.([^.]+)\.(.+)")


class _Parametrised:
    """The tensors that `torch.nn.utils.parametrize` has stored."""

    def __init__(self, state: State) -> None:
        self._groups: dict[str, dict[str, Stored]] = {}
        for name, stored in state.items():
            if len(name) <= LONGEST_NAME and (match := _PARAMETRIZATION.fullmatch(name)):
                prefix, weight, part = match.groups()
                self._groups.setdefault(prefix + weight, {})[part] = stored

    def __call__(self, name: str, state: State) -> _Rebuilt | None:
        match = _PARAMETRIZATION.fullmatch(name)
        if match is None:
            return None
        full = match.group(1) + match.group(2)
        parts = self._groups[full]
        rebuilt = None
        if parts.keys() == {"original0", "original1"}:
            rebuilt = _weight_norm(full, parts["original0"], parts["original1"])
        elif parts.keys() == {"original", "0._u", "0._v"}:
            rebuilt = _spectral_norm(full, parts["original"], parts["0._u"], parts["0._v"])
        return rebuilt or _Rebuilt(
            full,
            tuple(stored.name for stored in parts.values()),
            reason="a parametrization computes it in a way that a state dict does not say; give "
            "the module",
        )


# LoRA


_LARGEST_PRODUCT = 2**29  # entries: a small file can stand for any amount of memory
_ADAPTER = re.compile(r"((?:.*[._])?lora_)(A|down|embedding_A)((?:\.[^.]+)?)")


def _adapter(name: str, state: State) -> _Rebuilt | None:
    """Return the product of LoRA factors, or `None` if the tensor is no such factor.

    The factors have the names that peft (`lora_A.default.weight`), loralib or kohya give them.
    """
    stem = name.removesuffix(".weight")
    match = _ADAPTER.fullmatch(stem)
    if match is None:
        return None
    before, kind, adapter = match.groups()
    other = {"A": "B", "down": "up", "embedding_A": "embedding_B"}[kind]
    B = state.get(f"{before}{other}{adapter}{name.removeprefix(stem)}")
    A = state[name]
    if B is None or len(A.shape) < 2 or len(B.shape) < 2 or not (A.floating and B.floating):
        return None
    if A.shape[0] != math.prod(B.shape[1:]):
        return None
    path = before.removesuffix("lora_")
    alpha = state.get(f"{path}alpha") if kind == "down" else None

    def load() -> Tensor:
        scale = 1.0 if alpha is None else float(alpha.load()) / A.shape[0]
        return scale * lora_product(A.load().float(), B.load().float())

    full, shape = f"{path}{LORA}{adapter}", (B.shape[0], *A.shape[1:])
    reason = None
    if math.prod(shape) > _LARGEST_PRODUCT:
        reason = f"the product of {A.name} and {B.name} has {math.prod(shape)} entries"
    return _Rebuilt(full, (A.name, B.name), shape, load, reason, kind="lora", rank=A.shape[0])


# Quantised weights


_SCALES = ("{}_scale", "{}_scale_inv", "{}_scales", "{}.scale", "{}.scales")


def _quantised(name: str, state: State) -> _Rebuilt | None:
    """Return a weight of eight bits with its scale, or a weight whose scale cannot be applied."""
    weight = state[name]
    if len(weight.shape) < 2 or reason_against_name(name) is not None:
        return None
    path, dot, last = name.rpartition(".")
    forms = [form.format(name) for form in _SCALES]
    if last == "weight":
        forms += [f"{path}{dot}scale_weight", f"{path}{dot}SCB", f"{path}{dot}scale"]
    full = name
    if last == "_data":  # of optimum-quanto: `weight._data` and `weight._scale`
        forms, full = [f"{path}{dot}_scale"], path
    scale = next((state[form] for form in forms if form in state), None)
    if scale is None:
        return None
    zero = next(
        (state[z] for z in (f"{name}_zero_point", f"{path}{dot}_shift") if z in state), None
    )
    parts = (name, scale.name) + (() if zero is None else (zero.name,))
    expand = _expansion(scale.shape, weight.shape)
    if not weight.is_short or not scale.floating or expand is None or weight.reason is not None:
        return _Rebuilt(
            full,
            parts,
            reason=weight.reason
            or f"how its scale {scale.name} {tuple(scale.shape)}, {scale.dtype}, applies to "
            f"{tuple(weight.shape)}, {weight.dtype} is not known",
        )
    factor = 1 / 127 if scale.name.endswith("SCB") else 1.0  # of bitsandbytes: the largest entry

    def load() -> Tensor:
        W = weight.load().float()
        if zero is not None:
            W = W - _expanded(zero.load().float(), weight.shape)
        return W * (factor * _expanded(scale.load().float(), weight.shape))

    return _Rebuilt(full, parts, weight.shape, load)


def _expansion(scale: Sequence[int], shape: Sequence[int]) -> list[int] | None:
    """Return the side of the blocks that share a scale, for each axis; `None` if no blocks fit."""
    if math.prod(scale) == 1:
        return list(shape)
    if len(scale) < len(shape):  # of the first axes: a scale for each row
        scale = (*scale, *(1,) * (len(shape) - len(scale)))
    if len(scale) != len(shape):
        return None
    blocks = [_block(count, side) for count, side in zip(scale, shape, strict=True)]
    return [b for b in blocks if b is not None] if None not in blocks else None


def _block(count: int, side: int) -> int | None:
    """Return the side of `count` blocks that cover `side` entries; the last may be smaller.

    Blocks have a power of 2 where one fits, as in practice.
    """
    if count in (1, side):
        return side // count
    fitting = [b for b in (2**k for k in range(1, 15)) if -(-side // b) == count]
    exact = side // count if count and side % count == 0 else None
    return fitting[0] if fitting else exact


def _expanded(scale: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a scale, or a zero point, with the shape of the weight."""
    blocks = _expansion(scale.shape, shape)
    if blocks is None:
        raise ValueError(f"a scale of shape {tuple(scale.shape)} does not fit {tuple(shape)}")
    if scale.numel() == 1:
        return scale.reshape(())
    scale = scale.reshape(*scale.shape, *(1,) * (len(shape) - scale.ndim))
    for axis, (block, side) in enumerate(zip(blocks, shape, strict=True)):
        scale = scale.repeat_interleave(block, dim=axis).narrow(axis, 0, side)
    return scale


# Copies


def _copies(stored: Sequence[Stored]) -> dict[str, str]:
    """Return the tensors that equal an earlier one in every entry, with the name of that one.

    Tensors whose names differ only in numbers are not copies of each other: they belong to layers
    of one kind, which have equal weights at first if the network copies its layers. Nor are
    constant tensors copies.
    """
    groups: dict[tuple[object, ...], list[Stored]] = {}
    for s in stored:
        if len(s.shape) == 2 and 0 not in s.shape and s.floating and s.reason is None:
            groups.setdefault((s.shape, s.dtype), []).append(s)
    copies: dict[str, str] = {}
    for group in groups.values():
        if len({_kind_of_name(s.name) for s in group}) < 2:
            continue
        firsts: dict[bytes, list[Stored]] = {}
        for s in group:
            alike = firsts.setdefault(_first_row(s), [])
            original = next((other for other in alike if _is_copy(s, other)), None)
            if original is None:
                alike.append(s)
            else:
                copies[s.name] = original.name
    return copies


def _is_copy(s: Stored, other: Stored) -> bool:
    if _kind_of_name(s.name) == _kind_of_name(other.name):
        return False
    W = s.load()
    return bool((W[:1, :1] != W).any()) and torch.equal(W, other.load())


def _kind_of_name(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _first_row(s: Stored) -> bytes:
    row = s.load()[:1] if s.load_slice is None else s.load_slice(0)
    return bytes(row[0, :64].float().cpu().numpy().tobytes())
