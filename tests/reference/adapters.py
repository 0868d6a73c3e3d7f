"""Layers with a low-rank adapter, as peft and loralib build them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Adapted(nn.Module):
    """As `peft.tuners.lora.Linear`: a frozen layer plus `2 B A`."""

    def __init__(self, inputs: int, outputs: int, rank: int = 3) -> None:
        super().__init__()
        self.base_layer = nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(inputs, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, outputs, bias=False)})
        self.scaling = {"default": 2.0}

    def forward(self, x: Tensor) -> Tensor:
        """The layer with its adapter."""
        change = self.lora_B["default"](self.lora_A["default"](x))
        return self.base_layer(x) + self.scaling["default"] * change


class Loralib(nn.Linear):
    """As `loralib.Linear`: a linear layer with the factors as parameters."""

    def __init__(self, inputs: int, outputs: int, rank: int = 3) -> None:
        super().__init__(inputs, outputs)
        self.weight.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(rank, inputs))
        self.lora_B = nn.Parameter(torch.randn(outputs, rank))
        self.scaling = 2.0

    def forward(self, x: Tensor) -> Tensor:
        """The layer with its adapter."""
        return super().forward(x) + self.scaling * (x @ self.lora_A.T @ self.lora_B.T)
