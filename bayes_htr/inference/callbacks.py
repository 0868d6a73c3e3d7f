"""Callbacks of a run, which are called after every epoch and at chosen steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from bayes_htr.spectra import matrices_of, singular_values
from bayes_htr.spectra.layout import Layouts


@dataclass(frozen=True)
class EpochEvent:
    """The argument of a callback after every epoch.

    Attributes:
        epoch: The number of epochs done, from 1.
        metrics: The epoch's metrics, as the run folder has them; `docs/loggers.md` lists their
            names.
        network: The network as it is now; callbacks must not change it.
        layouts: The axes of its parameters that form matrices, as the priors declare them.
    """

    epoch: int
    metrics: dict[str, float]
    network: nn.Module
    layouts: Layouts = ()
    _spectra: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def spectrum(self, name: str) -> Tensor:
        """Return the eigenvalues of a weight matrix, which all callbacks of the epoch share.

        Args:
            name: The name of the matrix, as in `bayes_htr.matrices_of`.

        Returns:
            `(K,)` in float64 on the CPU, descending.

        Raises:
            KeyError: The network has no such matrix.
            SpectrumError: The matrix has entries that are not finite.
        """
        if name not in self._spectra:
            matrices = matrices_of(self.network, self.layouts)
            if name not in matrices:
                raise KeyError(f"no matrix {name!r}; there are {', '.join(matrices) or 'none'}")
            sigma = singular_values(matrices[name].detach(), name)
            self._spectra[name] = sigma.cpu().double().square()
        return self._spectra[name]


Callback = Callable[[EpochEvent], Any]
"""A callable that is called after every epoch; if it returns `True`, training ends."""


@dataclass(frozen=True)
class StepEvent:
    """The argument of the methods of a `StepCallback`.

    Attributes:
        step: The number of updates done, from 0.
        epoch: The number of epochs done, with a fraction; `None` if it is not known.
        network: The network as it is now, under SVI at the guide's centre; callbacks must not
            change it.
        layouts: The axes of its parameters that form matrices, as the priors declare them.
    """

    step: int
    epoch: float | None
    network: nn.Module
    layouts: Layouts = ()


class StepCallback(ABC):
    """A callback that also sees the start, chosen steps, and the end of a run.

    A step that is not due costs one call of `is_due`.
    """

    def __call__(self, event: EpochEvent) -> Any:
        """Do nothing after an epoch; a subclass may do more."""
        return None

    @abstractmethod
    def is_due(self, step: int) -> bool:
        """Return whether `on_step` is to be called after this many updates."""

    @abstractmethod
    def on_start(self, event: StepEvent) -> None:
        """Act before the first update; in a resumed run `event.step` counts earlier updates."""

    @abstractmethod
    def on_step(self, event: StepEvent) -> None:
        """Act after an update that is due."""

    @abstractmethod
    def on_end(self, event: StepEvent) -> None:
        """Act once after the last update, before early stopping restores the best weights."""

    def close(self, error: BaseException | None) -> None:  # noqa: B027  (most hold nothing)
        """Release what the callback holds: the last call of a run, also of one that failed.

        Args:
            error: The error that ended the run; `None` if it ended well.
        """
