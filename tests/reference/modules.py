"""The matrices of a layer by explicit loops, and one layer of each kind in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MAKERS = {
    "square": lambda: nn.Linear(7, 7),
    "wide": lambda: nn.Linear(12, 5),
    "tall": lambda: nn.Linear(5, 12),
    "large tall": lambda: nn.Linear(90, 110),
    "large wide": lambda: nn.Linear(130, 80),
    "embedding": lambda: nn.Embedding(20, 6),
    "convolution": lambda: nn.Conv2d(3, 8, 3),
    "grouped convolution": lambda: nn.Conv2d(6, 4, (2, 3), groups=2),
    "convolution 1d": lambda: nn.Conv1d(5, 6, 3),
    "convolution 3d": lambda: nn.Conv3d(2, 5, 2),
    "transposed": lambda: nn.ConvTranspose2d(3, 5, 2),
    "grouped transposed": lambda: nn.ConvTranspose2d(4, 6, (2, 3), groups=2),
    "grouped transposed 1d": lambda: nn.ConvTranspose1d(6, 9, 4, groups=3),
    "attention": lambda: nn.MultiheadAttention(8, 2),
}


def layer(kind: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module = MAKERS[kind]().double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.6)
    return module


def matrices(module: nn.Module) -> list[Tensor]:
    """Each matrix of a layer, row by row: a row holds all weights that lead into one output."""
    found = []
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            continue
        if name == "in_proj_weight":
            n = len(parameter) // 3
            found += [torch.stack([parameter[j * n + i] for i in range(n)]) for j in range(3)]
        elif isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d):
            ins, outs = module.in_channels // module.groups, parameter.shape[1]
            rows = [
                torch.cat([parameter[g * ins + i, o].flatten() for i in range(ins)])
                for g in range(module.groups)
                for o in range(outs)
            ]
            found.append(torch.stack(rows))
        else:
            found.append(torch.stack([row.flatten() for row in parameter]))
    return found
