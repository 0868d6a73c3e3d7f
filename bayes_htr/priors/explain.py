"""The table that shows what a set of priors means for a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from rich.table import Table
from torch import Tensor

from bayes_htr._printing import Printable, add_row, compact_table, narrowest
from bayes_htr.errors import SpectrumError
from bayes_htr.priors.evaluation import evaluate
from bayes_htr.priors.matrix_prior import MatrixPrior
from bayes_htr.priors.parameter_prior import ParameterPrior
from bayes_htr.spectra import MatrixView, plan, working

_WRAPPED = ("shape", "pattern", "prior", "algorithm", "energy")
"""Columns whose cells may be broken between words."""

_EXPENDABLE = ("cost", "algorithm", "norm", "gradient", "shape", "pattern", "energy")
"""The columns that a narrow terminal leaves out, in this order."""


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
        algorithm: The algorithm that computes the spectrum.
        cost: Floating-point operations per evaluation.
        energy: The energy of the matrix at the present weights, times its strength in epoch 0 and
            with hyperparameters at their start; `cannot be scored` if a law cannot score the
            matrix, in which case the notes give the reason.
        gradient: The Frobenius norm of the gradient of this energy.
        norm: The Frobenius norm of the matrix itself.
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
    energy: str = ""
    gradient: str = ""
    norm: str = ""


@dataclass(frozen=True)
class Explanation(Printable):
    """The rows of `Priors.explain`, which print as a table."""

    rows: tuple[ExplainedRow, ...]
    notes: tuple[str, ...] = ()

    def table(self, columns: Sequence[str] | None = None) -> Table:
        """Return the rows as a `rich` table.

        Args:
            columns: Names of the fields to show; by default all fields that are not empty.
        """
        names = self._shown() if columns is None else columns
        shown = [name for name in names if any(getattr(row, name) for row in self.rows)]
        table = compact_table(*shown)
        wrapped = [i for i, name in enumerate(shown) if name in _WRAPPED]
        for row in self.rows:
            add_row(table, [getattr(row, name) for name in shown], wrapped=wrapped)
        return table

    def parts(self, width: int) -> Sequence[Table | str]:
        """Return a table with as many columns as the width has room for, and the notes below it."""
        shown, left_out = self._shown(), []
        table = self.table(shown)
        for name in _EXPENDABLE:
            if narrowest(table) <= width:
                break
            if name in shown:
                shown.remove(name)
                left_out.append(name)
                table = self.table(shown)
        more = [f"not shown here, but in .rows: {', '.join(left_out)}"] if left_out else []
        return [table, *more, *self.notes]

    def _shown(self) -> list[str]:
        names = [f.name for f in fields(ExplainedRow)]
        return [name for name in names if any(getattr(row, name) for row in self.rows)]


def explained(
    parameter: ParameterPrior, num_data: int | None = None, notes: list[str] | None = None
) -> list[ExplainedRow]:
    """Return the rows of one parameter: one for each of its matrices, or one for a vector.

    Args:
        parameter: The parameter with its prior.
        num_data: If given, strengths are also shown as coefficients on the mean loss.
        notes: If given, rows have energies and gradients at the present weights, and the reasons
            why laws cannot score matrices are appended to this list.
    """
    tensor, note = parameter.parameter.tensor, parameter.note
    shape = "x".join(map(str, tensor.shape))
    if parameter.prior is None:
        shown = f"flat ({note})" if note else "flat"
        return [ExplainedRow(parameter.name, shape, "", parameter.pattern, shown, "", "", "", "")]
    priors = {matrix.name: matrix for matrix in parameter.matrices}
    rows = []
    for name in [m.name for m in parameter.parameter.matrices] or list(priors):
        if name not in priors:
            why = f"flat ({parameter.flat[name]})"
            rows.append(ExplainedRow(name, shape, "", "", why, "", "", "", ""))
            continue
        matrix = priors[name]
        m, n = matrix.shape
        algorithm, flops = plan(matrix.stated.needs, (m, max(1, n)))
        is_frozen = not tensor.requires_grad
        row = ExplainedRow(
            parameter=name,
            shape=shape,
            matrix="" if matrix.is_vector else f"{m}x{n}",
            pattern=matrix.pattern,
            prior=repr(matrix.stated) + (f" ({note})" if note else ""),
            density=matrix.status,
            strength=_strengths(matrix, num_data),
            algorithm="" if is_frozen else algorithm,
            cost="" if is_frozen else f"{flops / 1e6:.3g} Mflop",
        )
        if notes is not None and not is_frozen and not tensor.is_meta and m * n:
            row = replace(row, **_at_weights(matrix, tensor, notes))
        rows.append(row)
    return rows


def _at_weights(matrix: MatrixPrior, tensor: Tensor, notes: list[str]) -> dict[str, str]:
    """Return as texts the energy of a matrix, the norm of its gradient and its own norm."""
    W = working(matrix.view(tensor.detach()))
    norm = f"{torch.linalg.vector_norm(W).item():.3g}"
    strengths = matrix.strengths(0)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            view = MatrixView(W, matrix.name, matrix.needs(strengths), rank=matrix.factors)
            starts = {name: h.start() for name, h in matrix.optimised.items()}
            evaluation = evaluate(matrix, view, strengths, starts)
    except SpectrumError as error:
        notes.append(str(error))
        return {"energy": "cannot be scored", "norm": norm}
    rest, left, right = evaluation.gradient
    slope = torch.zeros_like(W) if rest is None else rest
    if left is not None and right is not None:
        slope = slope + torch.outer(left, right)
    gradient = f"{torch.linalg.vector_norm(slope).item():.3g}"
    return {"energy": f"{evaluation.value.item():.4g}", "gradient": gradient, "norm": norm}


def _strengths(matrix: MatrixPrior, num_data: int | None) -> str:
    strengths = dict.fromkeys(term.strength for term in matrix.terms)
    shown = [f"{s:g}" + (f" (mu={s / num_data:.3g})" if num_data else "") for s in strengths]
    return ", ".join(shown)
