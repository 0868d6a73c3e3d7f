"""The assignment of priors to the parameters of a network by patterns on names.

A pattern matches one of a parameter's names, or one of its matrices by the part in brackets, as in
`*.in_proj_weight[q]`. The first pattern that matches a matrix wins. A weight that the network
computes is matched by its own name, such as `fc.weight` under `weight_norm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bayes_htr.errors import PriorError
from bayes_htr.priors.law import Law
from bayes_htr.priors.matrix_prior import MatrixPrior
from bayes_htr.priors.parameter_prior import ParameterPrior
from bayes_htr.priors.prior import Prior
from bayes_htr.spectra import Matrix, Parameter
from bayes_htr.spectra.matrices import as_row
from bayes_htr.spectra.names import matches_name, matches_part, split_part

Patterns = Sequence[tuple[str, Prior | None]]


@dataclass
class Assignment:
    """The assignment of patterns to the parameters of one network.

    Args:
        patterns: The patterns with their priors, in order; `None` is a flat prior.
        overall: The strength and the schedules of all priors.

    Attributes:
        used: The number of matrices and vectors whose prior comes from each pattern.
    """

    patterns: Patterns
    overall: Mapping[str, Any]
    used: dict[str, int] = field(default_factory=dict)

    def of(self, parameter: Parameter) -> ParameterPrior:
        """Return the prior of a parameter.

        Raises:
            PriorError: A spectral prior is given to a parameter that holds no matrix.
        """
        if not parameter.matrices:
            return self._of_vector(parameter)
        priors: list[MatrixPrior] = []
        flat: dict[str, str] = {}
        for matrix in parameter.matrices:
            pattern, prior, note = self._first(parameter, matrix)
            if prior is None:
                flat[matrix.name] = note
            else:
                priors.append(self.matrix(prior, matrix, pattern))
        if not priors:
            pattern, _, note = self._first(parameter, parameter.matrices[0])
            return ParameterPrior(parameter, pattern=pattern, note=note)
        first = priors[0]
        note = frozen_note(parameter)
        return ParameterPrior(parameter, first.stated, first.pattern, note, tuple(priors), flat)

    def matrix(self, prior: Prior, matrix: Matrix, pattern: str) -> MatrixPrior:
        """Return a prior on a matrix."""
        return MatrixPrior.of(
            prior,
            matrix.name,
            matrix.shape,
            view=matrix.view,
            factors=matrix.factors,
            pattern=pattern,
            **self.overall,
        )

    def _first(self, parameter: Parameter, matrix: Matrix) -> tuple[str, Prior | None, str]:
        """Return the first pattern that matches a matrix, its prior, and a reason.

        The reason is that of a flat prior, and empty for any other.
        """
        for pattern, prior in self.patterns:
            whole = matches_name(pattern, parameter.aliases)
            if not whole and not matches_part(pattern, parameter.aliases, matrix.part):
                continue
            if prior is not None and not prior.spectral and _matches_parts(pattern, parameter):
                continue  # it is on the parameters from which the weight is computed
            self.used[pattern] = self.used.get(pattern, 0) + 1
            return pattern, prior, "" if prior is not None else f"{pattern!r} says so"
        return "", None, "no pattern matches"

    def _of_vector(self, parameter: Parameter) -> ParameterPrior:
        shape = tuple(parameter.tensor.shape)
        note = ""
        for pattern, prior in self.patterns:
            if not matches_name(pattern, parameter.aliases):
                continue
            if prior is not None and prior.spectral:
                if not set(pattern) & set("*?["):
                    raise PriorError(
                        f"{pattern!r} is a vector of shape {shape}, and {prior!r} needs a matrix; "
                        "vectors take Entries"
                        if not parameter.raw
                        else f"{pattern!r} is not a weight but what {parameter.raw} is computed "
                        "from, by a parametrization, a normalisation, pruning or an adapter; its "
                        f"spectrum is not the network's. Name {parameter.raw!r}, or give it Entries"
                    )
                what = f"{parameter.raw} is computed from it" if parameter.raw else "a vector"
                note = f"{what}, {pattern!r} needs a matrix"
                continue
            self.used[pattern] = self.used.get(pattern, 0) + 1
            if prior is None:
                return ParameterPrior(parameter, pattern=pattern, note=f"{pattern!r} says so")
            matrix = MatrixPrior.of(
                prior,
                parameter.name,
                (1, parameter.tensor.numel()),
                view=as_row,
                is_vector=True,
                pattern=pattern,
                **self.overall,
            )
            return ParameterPrior(parameter, prior, pattern, frozen_note(parameter), (matrix,))
        return ParameterPrior(parameter, note=note or "no pattern matches")

    def check_used(self, parameters: Sequence[Parameter]) -> None:
        """Raise for a pattern that does nothing.

        Raises:
            PriorError: A pattern matches no parameter, only vectors although its prior is spectral,
                or only what earlier patterns have taken.
        """
        for pattern, prior in self.patterns:
            if self.used.get(pattern):
                continue
            matched = [p for p in parameters if _matches(pattern, p)]
            names = ", ".join(p.name for p in matched)
            if not matched:
                raise PriorError(_no_match(pattern, parameters))
            if prior and prior.spectral and not any(p.matrices for p in matched):
                raise PriorError(
                    f"the pattern {pattern!r} matches vectors only ({names}), and {prior!r} "
                    "needs a matrix; vectors take Entries"
                )
            raise PriorError(
                f"the pattern {pattern!r} does nothing: earlier patterns take all that it matches "
                f"({names}); move it up"
            )


def everywhere(
    prior: Prior, parameters: Sequence[Parameter], overall: Mapping[str, Any]
) -> list[ParameterPrior]:
    """Assign one prior to the weights of all layers.

    Raises:
        PriorError: No layer has a weight matrix.
    """
    pattern = "(every weight matrix)"
    assignment = Assignment((), overall)
    resolved = []
    for p in parameters:
        if p.matrices and not p.reason:
            matrices = tuple(assignment.matrix(prior, m, pattern) for m in p.matrices)
            resolved.append(ParameterPrior(p, prior, pattern, frozen_note(p), matrices))
            continue
        note = f"left out: {p.reason}" if p.matrices else "a vector"
        note = f"{p.raw} is computed from it" if p.raw else note
        resolved.append(ParameterPrior(p, note=note))
    if any(p.prior for p in resolved):
        return resolved
    left_out = [f"{p.name} ({p.reason})" for p in parameters if p.reason]
    if left_out:
        raise PriorError(
            f"no layer has a weight matrix for {prior!r}; to give it to what is left out, name "
            f"that in a pattern, as in Priors({{'*': ...}}): {', '.join(left_out)}"
        )
    names = ", ".join(p.name for p in parameters) or "none"
    raise PriorError(f"there is no weight matrix for {prior!r}; the parameters are {names}")


def frozen_note(parameter: Parameter) -> str:
    """Return the note on a parameter in tables.

    It says that the prior of a frozen parameter is a constant, and is empty for others.
    """
    return "" if parameter.tensor.requires_grad else "frozen: a constant"


def check_shared(resolved: Sequence[ParameterPrior]) -> None:
    """Raise if one shared name stands for two hyperpriors."""
    laws: dict[str, Law] = {}
    for parameter in resolved:
        for matrix in parameter.matrices:
            for term in matrix.terms:
                for hyperparameter in term.hyperparameters.values():
                    name, law = hyperparameter.name, hyperparameter.law
                    if (first := laws.setdefault(name, law)) != law:
                        raise PriorError(
                            f"Shared({name!r}, ...) stands for two laws, {first!r} and {law!r}; "
                            "use two names"
                        )


def _matches(pattern: str, parameter: Parameter) -> bool:
    return matches_name(pattern, parameter.aliases) or any(
        matches_part(pattern, parameter.aliases, m.part) for m in parameter.matrices
    )


def _matches_parts(pattern: str, parameter: Parameter) -> bool:
    """Return whether a pattern matches a parameter from which a weight is computed."""
    computed = parameter.computed
    return computed is not None and any(matches_name(pattern, [p]) for p in computed.part_paths)


def _no_match(pattern: str, parameters: Sequence[Parameter]) -> str:
    stem, part = split_part(pattern)
    of_stem = [p for p in parameters if part and matches_name(stem, p.aliases)]
    if of_stem:
        parts = ", ".join(m.name for p in of_stem for m in p.matrices)
        return f"the pattern {pattern!r} matches no part; there are {parts or 'none'}"
    return (
        f"the pattern {pattern!r} matches no parameter; there are "
        f"{', '.join(p.name for p in parameters)}"
    )
