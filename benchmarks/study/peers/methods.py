"""The peers by name, each with at most six trials, as many as other methods have.

A posterior of a peer is a single fit, as its authors recommend; the ensemble is what a mixture of
any size costs and brings without a prior. Post-hoc methods are costed with the training of their
network. Numbers that authors leave open were looked for on validation data of `mlp-digits`. Those
that go on from a trained network, or through several modes, may take two or three times as long as
plain training, which their costs show.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from benchmarks.common.packages import IVON, LAPLACE, Package
from benchmarks.study.method import PEER, Fitted, Method, Numbers, Task
from benchmarks.study.methods import GENERALISATION
from benchmarks.study.peers.dropout import mc_dropout
from benchmarks.study.peers.laplace_fits import laplace_kron, laplace_last
from benchmarks.study.peers.sghmc import sghmc
from benchmarks.study.peers.swag import swag
from benchmarks.study.peers.variational import ivon


def _grid(**values: tuple[float, ...]) -> tuple[Numbers, ...]:
    """Trials of all combinations of some numbers."""
    return tuple(
        dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())
    )


def _peer(
    label: str,
    fit: Callable[[Task], Fitted],
    trials: tuple[Numbers, ...],
    package: Package | None = None,
) -> Method:
    return Method(label, PEER, trials, fit=fit, package=package)


_DECAY = 1e-3

PEERS: dict[str, Method] = {
    "ensemble10": replace(
        GENERALISATION["none"], label="ensemble of plain networks", family=PEER, members=10
    ),
    "mc_dropout": _peer(
        "MC dropout", mc_dropout, _grid(dropout=(0.1, 0.3, 0.5), decay=(0.0, _DECAY))
    ),
    "swag": _peer("SWAG", swag, _grid(share=(0.1, 0.2, 0.5), passes=(1.0, 2.0))),
    "ivon": _peer("IVON", ivon, _grid(lr=(0.3, 1.0), hess_init=(0.1, 1.0, 10.0)), IVON),
    "laplace_last": _peer(
        "Laplace, last layer",
        laplace_last,
        _grid(temperature=(1.0, 0.1, 0.01), probit=(0.0, 1.0), decay=(_DECAY,)),
        LAPLACE,
    ),
    "laplace_kron": _peer(
        "Laplace, KFAC",
        laplace_kron,
        _grid(temperature=(1.0, 1e-2, 1e-4), decay=(0.0, _DECAY)),
        LAPLACE,
    ),
    "sghmc": _peer(
        "SGHMC, cyclical",
        sghmc,
        _grid(temperature=(1.0, 0.1, 0.01), passes=(1.0, 3.0)),
    ),
}
"""The peers by name."""
