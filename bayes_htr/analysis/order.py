"""The order of weights: from the first layer to the last, as far as the source tells it.

A module tells it by its submodules, and a state dict is in the order of its module. A safetensors
file is in alphabetical order, in which layer 10 comes before layer 2; there the names are put into
their natural order, by the numbers in them.
"""

from __future__ import annotations

import re

from torch import nn

from bayes_htr.analysis.weights import Source
from bayes_htr.spectra.modules import unwrap
from bayes_htr.spectra.names import plain_name

_DIGITS = re.compile(r"(\d+)")


def natural(name: str) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """A key by which numbers in names are compared as numbers: `h.2.w` comes before `h.10.w`.

    The parts of one tensor, such as `in_proj_weight[q]`, have equal keys.
    """
    components = (_DIGITS.split(part) for part in name.partition("[")[0].split("."))
    return tuple(
        tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p)
        for parts in components
    )


def in_module_order(source: Source, module: nn.Module) -> Source:
    """Put the weights into the order of the submodules that own them, computed ones too.

    Args:
        source: The weights of the module, which are reordered.
        module: The module.
    """
    paths = (plain_name(path) for path, _ in unwrap(module).named_modules())
    places = {path: place for place, path in reversed(list(enumerate(paths)))}

    def place(name: str) -> int:
        owner = name.partition("[")[0]
        while owner and owner not in places:
            owner = owner.rpartition(".")[0]
        return places.get(owner, 0)

    source.weights.sort(key=lambda weight: place(weight.name))
    return source
