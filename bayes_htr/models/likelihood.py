"""The likelihood of class labels given logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def negative_log_likelihood(logits: Tensor, y: Tensor, class_weights: Tensor | None) -> Tensor:
    """Mean over the examples of `-w_y log softmax(logits)_y`, in nats.

    Class weights are powers of the likelihood: the sum is divided by the number of examples and not
    by the sum of weights, so that its expectation does not depend on the batch size.

    Args:
        logits: `(N, C)`.
        y: `(N,)` int64, in `[0, C)`.
        class_weights: `(C,)` or `None` for ones.

    Returns:
        0-d.
    """
    if class_weights is None:
        return F.cross_entropy(logits, y)
    weights = class_weights.to(logits)
    return F.cross_entropy(logits, y, weight=weights, reduction="sum") / len(y)
