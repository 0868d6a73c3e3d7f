"""Reference networks for the experiments, with readable parameter names and seeded weights.

Patterns of priors match parameter names, so these networks give every weight a name (`fc1.weight`,
`conv2.weight`, `layer3.0.conv1.weight`) instead of a number.

References:
    LeNet-5: LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document
    recognition; here with ReLU and max pooling.
    ResNet-18: He, Zhang, Ren & Sun (2016), arXiv:1512.03385; here in the form used for CIFAR: a 3x3
    stem and no max pooling.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import inf, prod

import torch
from torch import Tensor, nn

from bayes_htr._torch import isolated_randomness

_Shape = tuple[int, int, int]
_Units = Callable[[int], int]
"""Maps the number of hidden units or channels of a network to that at another width."""


def build_network(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    seed: int = 0,
    dropout: float = 0.0,
    width: float = 1.0,
) -> nn.Module:
    """Build a network that maps images to logits, on the CPU.

    Args:
        name: one of `NETWORKS`. `mlp` has two hidden layers of 512 and 256 units; `lenet5` needs
            images of at least 28x28; `resnet18` accepts any size.
        input_shape: channels, height and width of one image.
        num_classes: the number of logits.
        seed: seed of the initial weights; the global random state does not change.
        dropout: probability in `[0, 1)` of dropping an activation, in the hidden fully connected
            layers, and in `resnet18` in the input of `fc`. With 0, no module is added. The weights,
            their names and their values do not depend on it.
        width: factor by which the numbers of hidden units and of channels are multiplied; products
            are rounded, and at least 1.

    Raises:
        ValueError: the name is unknown, the network cannot process images of this shape, or the
            probability or the width is out of range.
    """
    if name not in _BUILDERS:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(NETWORKS)}")
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(
            f"input_shape is {tuple(input_shape)}: give three positive sizes, "
            "(channels, height, width)"
        )
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}: give at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout!r} must be at least 0 and below 1")
    if not 0 < width < inf:
        raise ValueError(f"width={width!r} must be above 0 and finite")

    def units(count: int) -> int:
        return max(1, round(count * width))

    channels, rows, columns = input_shape
    with isolated_randomness(), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: that seeds GPUs too
        return _BUILDERS[name]((channels, rows, columns), num_classes, dropout, units)


def _dropped(name: str, dropout: float) -> dict[str, nn.Module]:
    """Return dropout on the input of the next layer, or no module if the probability is 0."""
    return {name: nn.Dropout(dropout)} if dropout else {}


def _mlp(shape: _Shape, num_classes: int, dropout: float, units: _Units) -> nn.Module:
    first, second = units(512), units(256)
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            flatten=nn.Flatten(),
            fc1=nn.Linear(prod(shape), first),
            relu1=nn.ReLU(),
            **_dropped("drop1", dropout),
            fc2=nn.Linear(first, second),
            relu2=nn.ReLU(),
            **_dropped("drop2", dropout),
            fc3=nn.Linear(second, num_classes),
        )
    )


def _lenet5(shape: _Shape, num_classes: int, dropout: float, units: _Units) -> nn.Module:
    channels, *sizes = shape
    if min(sizes) < 28:
        raise ValueError(
            f"lenet5 needs images of at least 28x28, got {sizes[0]}x{sizes[1]}: "
            "pad or enlarge the images, or choose mlp or resnet18"
        )
    # LeNet-5 was made for 32x32: smaller images get the border that theirs had.
    padding = [2 if size < 32 else 0 for size in sizes]
    height, width = (
        ((size + 2 * pad - 4) // 2 - 4) // 2 for size, pad in zip(sizes, padding, strict=True)
    )
    first, second, third, fourth = map(units, (6, 16, 120, 84))
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(channels, first, 5, padding=(padding[0], padding[1])),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(first, second, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(second * height * width, third),
            relu3=nn.ReLU(),
            **_dropped("drop1", dropout),
            fc2=nn.Linear(third, fourth),
            relu4=nn.ReLU(),
            **_dropped("drop2", dropout),
            fc3=nn.Linear(fourth, num_classes),
        )
    )


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        hidden = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(hidden)) + shortcut)
        return out


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_BasicBlock(inputs, outputs, stride), _BasicBlock(outputs, outputs, 1))


def _resnet18(shape: _Shape, num_classes: int, dropout: float, units: _Units) -> nn.Module:
    first, second, third, fourth = map(units, (64, 128, 256, 512))
    network = nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=_conv3x3(shape[0], first),
            bn1=nn.BatchNorm2d(first),
            relu=nn.ReLU(),
            layer1=_stage(first, first, 1),
            layer2=_stage(first, second, 2),
            layer3=_stage(second, third, 2),
            layer4=_stage(third, fourth, 2),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            **_dropped("drop", dropout),
            fc=nn.Linear(fourth, num_classes),
        )
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


_BUILDERS: dict[str, Callable[[_Shape, int, float, _Units], nn.Module]] = {
    "mlp": _mlp,
    "lenet5": _lenet5,
    "resnet18": _resnet18,
}

NETWORKS: tuple[str, ...] = tuple(_BUILDERS)
"""The names that `build_network` accepts."""
