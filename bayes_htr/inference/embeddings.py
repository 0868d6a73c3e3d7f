"""What SVI asks of embeddings."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.matrices import unwrap


def check_embeddings(net: nn.Module, drawn: Collection[str]) -> None:
    """Hold a network's embeddings to what SVI can train.

    The row of an embedding that stands for padding is not updated in training: the data say
    nothing of it, and a guide that draws the weights would give it the prior's spread.

    Args:
        net: The network.
        drawn: Names of the parameters of which every entry is drawn.

    Raises:
        ValueError: Sparse gradients, or padding in a parameter that is drawn.
    """
    net = unwrap(net)
    names = {id(p.tensor): p.name for p in parameters_of(net)}
    for path, module in net.named_modules():
        if not (isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.weight.requires_grad):
            continue
        if module.sparse:
            raise ValueError(f"{path} has sparse gradients, which SVI cannot use; set sparse=False")
        if module.padding_idx is not None and names.get(id(module.weight)) in drawn:
            raise ValueError(
                f"{path}.weight has padding_idx={module.padding_idx}, a row that the data do not "
                "inform and that draws would fill with noise; take guide='spectral', freeze the "
                "embedding, or mask the padding in the network"
            )
