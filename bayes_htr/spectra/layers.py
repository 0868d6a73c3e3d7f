"""Which tensors of a network are the weights of its layers, and why others are not.

`Priors(prior)` takes the weights of layers alone: of linear layers, convolutions, recurrent layers,
attention and embeddings, of `Conv1D` of transformers and of any other module that calls its
parameter `weight`, and the weights of fused experts. It leaves out class tokens, embeddings of
positions, tables of biases, gains of normalisations and whatever else a module calls by another
name. Patterns on names reach all of them.

`analyze` of a state dict knows names alone, and leaves out what the name says is no weight: masks,
scales of quantised weights, statistics and other buffers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn

from bayes_htr.spectra.modules import class_name, is_layer

NORMS = (nn.LayerNorm, nn.RMSNorm)
"""Normalisation layers whose parameters can have two or more dimensions."""

LONGEST_NAME = 500
"""Longer names come from no network, and say nothing."""

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
    """Why a tensor of this name is no weight, as far as its last part says; else `None`."""
    last = name.rpartition(".")[2]
    if len(last) > LONGEST_NAME:
        return None
    return next((reason for pattern, reason in _NAMES if pattern.fullmatch(last)), None)


def is_of_experts(name: str, shape: Sequence[int], owner: nn.Module | None = None) -> bool:
    """Whether a tensor `(E, ., .)` stacks the weights of fused experts, as names say.

    Args:
        name: The parameter's name.
        shape: Its shape.
        owner: The module that it is in, if that is known.
    """
    if len(shape) != 3 or shape[0] > _MOST_EXPERTS or reason_against_name(name) is not None:
        return False
    if owner is None:
        return "experts" in name.lower().split(".")[:-1]
    if is_layer(owner, _LAYERS):
        return False
    return "experts" in class_name(owner).lower() or shape[0] == getattr(owner, "num_experts", None)


def reason_against_layer(name: str, tensor: Tensor, owner: nn.Module) -> str:
    """Why a parameter is not the weight of a layer; empty if it is one.

    Args:
        name: The parameter's name.
        tensor: The parameter, of two or more dimensions.
        owner: The module that it is in.
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
