"""Spectra of matrices by step of training, as numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bayes_htr.analysis.traces import QUANTITIES, Trace, trace

if TYPE_CHECKING:
    from bayes_htr.posterior import PosteriorSpectra


class SpectrumRecords(Mapping[str, Tensor]):
    """The numbers of `SpectrumHistory`, which adds how they are recorded, kept and drawn."""

    def __init__(self, matrices: str | Sequence[str] = "*", *, per_decade: float = 8) -> None:
        if isinstance(per_decade, bool) or not 0 < per_decade < float("inf"):
            raise ValueError(f"per_decade={per_decade!r} must be a positive number")
        self.matrices = (matrices,) if isinstance(matrices, str) else tuple(matrices)
        self.per_decade = per_decade
        self.steps: list[int] = []
        self.epochs: list[float | None] = []
        self._spectra: dict[str, list[Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        try:
            return torch.stack(self._spectra[name])
        except KeyError:
            raise KeyError(f"no matrix {name!r}; there are {', '.join(self) or 'none'}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._spectra)

    def __len__(self) -> int:
        return len(self._spectra)

    def __repr__(self) -> str:
        span = f", steps {self.steps[0]} to {self.steps[-1]}" if self.steps else ""
        return f"SpectrumHistory({len(self)} matrices, {len(self.steps)} records{span})"

    def at(self, step: int) -> PosteriorSpectra:
        """The spectra at the last record that is not after a step, as those of a point mass.

        Raises:
            ValueError: There is none.
        """
        row = sum(s <= step for s in self.steps) - 1
        if row < 0:
            first = f"; the first is {self.steps[0]}" if self.steps else ""
            raise ValueError(f"no record at or before step={step}{first}")
        from bayes_htr.posterior import PosteriorSpectra

        return PosteriorSpectra({name: lams[row][None] for name, lams in self._spectra.items()})

    def trace(self, name: str, quantity: str, *, level: float = 0.95) -> Trace:
        """A quantity of one matrix over the steps: see `traces.trace`.

        Args:
            name: The matrix.
            quantity: `lambda_max`, `alpha` or `stable_rank`.
            level: Of the credible interval of alpha.

        Raises:
            KeyError: No such matrix.
            ValueError: No such quantity, or `level` outside (0, 1).
        """
        return trace(self[name], quantity, self.steps, level=level)

    def rows(self) -> list[dict[str, float]]:
        """A row for each record: `step`, `epoch` where it is known, and `NAME:QUANTITY`.

        Alpha is left out where no exponent can be read. `pandas.DataFrame` takes them, and so does
        `bayes_htr.posterior.plots.plot_trace`.
        """
        rows: list[dict[str, float]] = [{"step": float(step)} for step in self.steps]
        for row, epoch in zip(rows, self.epochs, strict=True):
            if epoch is not None:
                row["epoch"] = epoch
        for name in self:
            for quantity in QUANTITIES:
                values = self.trace(name, quantity).values
                for row, value in zip(rows, values.tolist(), strict=True):
                    if value == value:
                        row[f"{name}:{quantity}"] = value
        return rows
