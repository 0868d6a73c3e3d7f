"""The table that shows what a set of priors means for a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from rich.console import Console
from rich.table import Table

from bayes_htr.priors.prior import Prior
from bayes_htr.spectra import Parameter, plan


@dataclass(frozen=True)
class ExplainedRow:
    """One matrix or vector, with its prior and how the prior is computed.

    Attributes:
        parameter: Name of the parameter, with `[q]`, `[k]`, `[v]` for stacked projections.
        shape: Shape of the parameter.
        matrix: Rows x columns of the matrix, or empty for a vector.
        pattern: The pattern that assigned the prior.
        prior: The prior as it prints, or `flat (why)`.
        density: `proper`, `improper`, `factor`, or empty.
        strength: The power of the law, and with `num_data` also the coefficient on the mean loss.
        algorithm: How the spectrum is computed.
        cost: Floating-point operations per evaluation.
    """

    parameter: str
    shape: str
    matrix: str
    pattern: str
    prior: str
    density: str
    strength: str
    algorithm: str
    cost: str


@dataclass(frozen=True)
class Explanation:
    """The rows of `Priors.explain`, which print as a table."""

    rows: tuple[ExplainedRow, ...]
    notes: tuple[str, ...] = ()

    def table(self, columns: Sequence[str] | None = None) -> Table:
        """The rows as a `rich` table.

        Args:
            columns: Names of the fields to show; by default all fields that are not empty.
        """
        names = [f.name for f in fields(ExplainedRow)] if columns is None else columns
        shown = [name for name in names if any(getattr(row, name) for row in self.rows)]
        table = Table()
        for name in shown:
            table.add_column(name, overflow="fold", no_wrap=name == "parameter")
        for row in self.rows:
            table.add_row(*(getattr(row, name).replace("[", r"\[") for name in shown))
        return table

    def __str__(self) -> str:
        console = Console(width=160, color_system=None)
        with console.capture() as capture:
            console.print(self.table())
            for note in self.notes:
                console.print(note, markup=False)
        return capture.get().rstrip()


def explain_row(
    parameter: Parameter,
    prior: Prior | None,
    note: str,
    pattern: str,
    strength: float,
    num_data: int | None,
) -> list[ExplainedRow]:
    """The rows of one parameter: one for each of its matrices, one for a vector."""
    shape = "x".join(map(str, parameter.tensor.shape))
    if prior is None:
        shown = f"flat ({note})" if note else "flat"
        return [ExplainedRow(parameter.name, shape, "", pattern, shown, "", "", "", "")]
    scaled = prior if strength == 1.0 else prior.scaled(strength)
    rows = []
    for matrix in parameter.matrices or (None,):
        sides = matrix.shape if matrix else (1, max(1, parameter.tensor.numel()))
        frozen = not parameter.tensor.requires_grad
        algorithm, flops = plan(prior.needs, sides)
        rows.append(
            ExplainedRow(
                parameter=matrix.name if matrix else parameter.name,
                shape=shape,
                matrix=f"{sides[0]}x{sides[1]}" if matrix else "",
                pattern=pattern,
                prior=repr(prior) + (f" ({note})" if note else ""),
                density=scaled.status,
                strength=_strengths(scaled, num_data),
                algorithm="" if frozen else algorithm,
                cost="" if frozen else f"{flops / 1e6:.3g} Mflop",
            )
        )
    return rows


def _strengths(prior: Prior, num_data: int | None) -> str:
    values = dict.fromkeys(term.strength for term in prior.terms)
    shown = [f"{s:g}" + (f" (mu={s / num_data:.3g})" if num_data else "") for s in values]
    return ", ".join(shown)
