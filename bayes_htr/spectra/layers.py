"""Which tensors of a network are the weights of its layers, and why others are not.

`Priors(prior)` applies only to the weights of layers: linear layers, convolutions, recurrent
layers, attention, embeddings, `Conv1D` of transformers, any other module whose parameter is called
`weight`, and fused experts. It leaves out class tokens, embeddings of positions, tables of biases,
gains of normalisations, and every parameter with another name. Patterns on names match all of them.

For a state dict, `analyze` only has names. It leaves out tensors whose names say that they are no
weights: masks, scales of quantised weights, statistics and other buffers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn

from bayes_htr.spectra.modules import class_name, is_layer

NORMS = (nn.LayerNorm, nn.RMSNorm)
"""Normalisation layers whose parameters can have two or more dimensions."""

LONGEST_NAME = 500
"""A longer name does not come from a network, and is not examined."""

_MOST_EXPERTS = 4096

_LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.modules.conv._ConvNd,
)

_NAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), reason)
    for pattern, reason in (
        (r"(.*_)?bias(es)?(_.*)?", "a bias or a table of biases"),
        (r"(.*_)?masks?(_.*)?", "a mask"),
        (r"running_(mean|var|std).*|(.*_)?num_batches_tracked", "a running statistic"),
        (r"(.*_)?(scales?|scb|absmax|quant_map)(_.*)?", "a scale"),
        (r"q?zeros?|(.*_)?zero_points?|g_idx", "a zero point or index of a quantised weight"),
        (r"(.*_)?(cos|sin)(_cached)?|inv_freq|freqs?(_.*)?|rope(_.*)?", "a table of frequencies"),
        (r"position_ids|(.*_)?index|anchors?(_grid)?", "a table of indices"),
        (r"pe|queue|embed_avg|ema_.*|cluster_size", "a buffer"),
        (r"mel_(basis|filters?)|fb|filterbank|window|(inverse|forward)_basis", "a filter bank"),
    )
)
_POSITIONS = re.compile(
    r"(.*_)?(pos|positions?|positional)(_.*)?|pos_?(emb|enc).*|wpe|w_?pos.*", re.IGNORECASE
)
_BIAS_TABLE = re.compile(r"(.*_)?bias(es)?(_.*)?", re.IGNORECASE)


def reason_against_name(name: str) -> str | None:
    """Return the reason why a tensor of this name is no weight, or `None`.

    Only the last part of the name gives a reason.
    """
    last = name.rpartition(".")[2]
    if len(last) > LONGEST_NAME:
        return None
    return next((reason for pattern, reason in _NAMES if pattern.fullmatch(last)), None)


def is_of_experts(name: str, shape: Sequence[int], owner: nn.Module | None = None) -> bool:
    """Return whether a tensor contains the weights of fused experts, according to the names.

    Only a tensor `(E, ., .)` can contain them.

    Args:
        name: The parameter's name.
        shape: The parameter's shape.
        owner: The module that has the parameter, if it is known.
    """
    if len(shape) != 3 or shape[0] > _MOST_EXPERTS or reason_against_name(name) is not None:
        return False
    if owner is None:
        return "experts" in name.lower().split(".")[:-1]
    if is_layer(owner, _LAYERS):
        return False
    return "experts" in class_name(owner).lower() or shape[0] == getattr(owner, "num_experts", None)


def reason_against_layer(name: str, tensor: Tensor, owner: nn.Module) -> str:
    """Return the reason why a parameter is not the weight of a layer; empty if it is one.

    Args:
        name: The parameter's name.
        tensor: The parameter, of two or more dimensions.
        owner: The module that has the parameter.
    """
    path, _, last = name.rpartition(".")
    if reason := reason_against_name(name):
        return reason
    known = is_layer(owner, _LAYERS)
    if not known or is_layer(owner, (nn.Embedding, nn.EmbeddingBag)):
        if any(_POSITIONS.fullmatch(part) for part in name.split(".")[-2:]):
            return "an embedding of positions"
        if _BIAS_TABLE.fullmatch(path.rpartition(".")[2]):
            return "a table of biases"
    if "norm" in class_name(owner).lower() and not known:
        return "a gain or bias of a normalisation"
    if is_of_experts(name, tensor.shape, owner):
        return ""
    if not ("weight" in last if known else re.fullmatch(r"(.*_)?weights?(_.*)?", last)):
        return "not the weight of a layer"
    if not known and tensor.ndim > 2 and tensor.numel() == max(tensor.shape):
        return "a vector by its entries"
    return ""
