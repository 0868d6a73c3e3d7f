"""`Priors`: the assignment of priors to the parameters of a network by patterns on their names.

Patterns are those of `fnmatch`, and the first pattern that matches a parameter wins. A parameter
without a matching pattern has a flat prior. `Priors.resolve` applies the patterns to a network, and
`Priors.explain` prints the result.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from bayes_htr._checks import shown
from bayes_htr.errors import PriorError
from bayes_htr.priors.assignment import Assignment, check_shared, everywhere
from bayes_htr.priors.explain import Explanation, explained
from bayes_htr.priors.law import Law
from bayes_htr.priors.parameter_prior import Densities, ParameterPrior
from bayes_htr.priors.prior import Prior
from bayes_htr.priors.schedules import Schedule
from bayes_htr.priors.values import Value, number
from bayes_htr.spectra import weights_of
from bayes_htr.spectra.layout import Layouts, LayoutsLike, as_layouts, plain_layouts, unmatched

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


_KEYS = ("priors", "everywhere", "strength", "threshold", "schedules", "matrices")
_FLAT = {"type": "Flat"}
"""A flat prior in files, which have no `None`."""

_EXAMPLES = {
    "lomax": "ESD(Lomax(2.5, 0.05))",
    "frechet": "MaxEigenvalue(Frechet(2.0, 1.0))",
    "exponential": "ESD(Exponential(1.0))",
    "powerlaw": "ESD(Powerlaw(2.5, 0.1))",
    "gamma": "ESD(Gamma(2.0, 1.0))",
    "lognormal": "ESD(LogNormal(0.0, 1.0))",
    "normal": "Entries(Normal(0.0, 1.0))",
    "weightdecay": "Entries(Normal(0.0, 1.0))",
}


@dataclass(frozen=True, repr=False, init=False)
class Priors(Value):
    """Priors on the parameters of a network.

    Args:
        priors: Either one prior for the weight matrices of all layers, or an ordered mapping from
            patterns on parameter names (as in `fnmatch`) to priors, where the first match wins. An
            empty mapping is a flat prior on everything: plain training. One prior for all leaves
            out what is not the weight of a layer, such as class tokens, embeddings of positions
            and tables of biases; `explain` names each with the reason, and patterns can select it.
            `None` in place of a prior is a flat prior, which keeps what its pattern matches from
            later patterns. A pattern that ends in brackets, as `"*.in_proj_weight[q]"`, finds one
            matrix of several.
        strength: The power to which all priors are raised, as in `scaled`.
        schedules: The schedules that multiply the strength from epoch to epoch, as in `scheduled`.
        threshold: The smallest sum of penalties at which the priors act, as in `above`.
        matrices: Which axes of a parameter form its matrices, by patterns on names: a
            `MatrixLayout`, or the same as plain data, or `None` for no matrix. Where nothing is
            declared, the layer decides.

    Raises:
        PriorError: A value is not a prior, or a key is not a pattern.

    Example:
        >>> priors = Priors({"fc*.weight": MaxEigenvalue(Frechet(2.0, 1.0))}).scaled(80.0)
    """

    priors: tuple[tuple[str, Prior | None], ...]
    everywhere: Prior | None
    strength: float
    schedules: tuple[Schedule, ...]
    threshold: float | None
    matrices: Layouts

    def __init__(
        self,
        priors: Prior | Mapping[str, Prior | None],
        *,
        strength: float = 1.0,
        schedules: tuple[Schedule, ...] = (),
        threshold: float | None = None,
        matrices: LayoutsLike | Layouts | None = None,
    ) -> None:
        patterns: tuple[tuple[str, Prior | None], ...] = ()
        everywhere = None
        if isinstance(priors, Prior):
            everywhere = priors
        elif isinstance(priors, Mapping):
            patterns = tuple(priors.items())
        else:
            raise PriorError(
                f"Priors takes a prior or a mapping of patterns to priors, not {shown(priors)}"
                f"{_hint(priors)}"
            )
        for pattern, prior in patterns:
            if not isinstance(pattern, str) or not pattern:
                raise PriorError(f"the pattern {pattern!r} must be a word, such as 'fc*.weight'")
            if prior is not None and not isinstance(prior, Prior):
                raise PriorError(
                    f"{pattern!r}: {shown(prior)} is no prior{_hint(prior)}; None is a flat prior"
                )
        for schedule in schedules:
            if not isinstance(schedule, Schedule):
                raise PriorError(f"schedule={schedule!r} must be a PowerDecay or ExpDecay")
        set_ = object.__setattr__
        set_(self, "priors", patterns)
        set_(self, "everywhere", everywhere)
        set_(self, "strength", number(strength, "strength", at_least=0))
        set_(self, "schedules", tuple(schedules))
        set_(self, "threshold", None if threshold is None else number(threshold, "threshold"))
        try:
            set_(self, "matrices", as_layouts(matrices))
        except ValueError as error:
            raise PriorError(str(error)) from error

    def _with(self, **changes: Any) -> Priors:
        fields = ("strength", "schedules", "threshold", "matrices")
        kept = {f: getattr(self, f) for f in fields}
        base = dict(self.priors) if self.everywhere is None else self.everywhere
        return Priors(base, **(kept | changes))

    def scaled(self, strength: float) -> Priors:
        """Return all priors to the power `strength`; repeated calls multiply.

        `strength=1` is Bayes' rule. A penalty coefficient `mu` on the mean loss corresponds to the
        strength `mu * num_data`.
        """
        return self._with(strength=self.strength * number(strength, "strength", at_least=0))

    def scheduled(self, schedule: Schedule) -> Priors:
        """Return the priors with all strengths times `schedule(epoch)`; repeated calls multiply."""
        return self._with(schedules=(*self.schedules, schedule))

    @property
    def is_scheduled(self) -> bool:
        """Whether the strength of any prior changes from epoch to epoch."""
        stated = [prior for prior in (*dict(self.priors).values(), self.everywhere) if prior]
        return bool(self.schedules) or any(t.schedules for prior in stated for t in prior.terms)

    def above(self, threshold: float) -> Priors:
        """Return the priors whose penalties act only if their sum is at least `threshold`."""
        threshold = number(threshold, "threshold")
        return self._with(
            threshold=threshold if self.threshold is None else max(threshold, self.threshold)
        )

    def __repr__(self) -> str:
        text = f"Priors({dict(self.priors) if self.everywhere is None else self.everywhere!r}"
        text += f", matrices={dict(self.matrices)!r})" if self.matrices else ")"
        if self.strength != 1.0:
            text += f".scaled({self.strength})"
        text += "".join(f".scheduled({s!r})" for s in self.schedules)
        if self.threshold is not None:
            text += f".above({self.threshold})"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return the priors as nested dicts, lists, numbers and strings, for JSON and TOML."""
        out: dict[str, Any] = {"type": "Priors"}
        if self.strength != 1.0:
            out["strength"] = self.strength
        if self.threshold is not None:
            out["threshold"] = self.threshold
        if self.schedules:
            out["schedules"] = [s.to_dict() for s in self.schedules]
        if self.matrices:
            out["matrices"] = plain_layouts(self.matrices)
        if self.everywhere is not None:
            out["everywhere"] = self.everywhere.to_dict()
        else:
            out["priors"] = {
                pattern: dict(_FLAT) if prior is None else prior.to_dict()
                for pattern, prior in self.priors
            }
        return out

    @classmethod
    def from_dict(cls, data: Any) -> Priors:
        """Return the priors from which `to_dict` made this dictionary; `type` may be left out.

        Raises:
            PriorError: A key is missing, unknown or repeated, or a value is not valid.
        """
        if not isinstance(data, Mapping):
            raise PriorError(f"expected a table of priors, got {shown(data)}")
        given = dict(data)
        if (kind := given.pop("type", "Priors")) != "Priors":
            raise PriorError(f"type={kind!r} must be 'Priors'")
        if ("priors" in given) == ("everywhere" in given):
            raise PriorError(
                "give either a table 'priors' of patterns, or one prior 'everywhere'; got "
                f"{', '.join(given) or 'nothing'}"
            )
        if unknown := set(given) - set(_KEYS):
            raise PriorError(f"unknown {', '.join(sorted(unknown))}; known are {', '.join(_KEYS)}")
        priors: Prior | dict[str, Prior | None]
        if "everywhere" in given:
            priors = Prior.from_dict(given["everywhere"])
        elif isinstance(given["priors"], Mapping):
            priors = {
                pattern: None if prior == _FLAT else Prior.from_dict(prior)
                for pattern, prior in given["priors"].items()
            }
        else:
            raise PriorError(f"'priors' must be a table of patterns, not {given['priors']!r}")
        schedules = given.get("schedules", [])
        if not isinstance(schedules, list | tuple):
            raise PriorError(f"'schedules' must be a list, not {schedules!r}")
        return cls(
            priors,
            strength=given.get("strength", 1.0),
            threshold=given.get("threshold"),
            schedules=tuple(Schedule.from_dict(s) for s in schedules),
            matrices=given.get("matrices"),
        )

    @classmethod
    def from_toml(cls, path: str | PathLike[str]) -> Priors:
        """Read priors from a TOML file, in the form of `to_dict`.

        Raises:
            PriorError: The file cannot be read, is not TOML, or holds no valid priors; the message
                names the file and, for a syntax error, the line.
        """
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
            return cls.from_dict(data)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, PriorError) as error:
            raise PriorError(f"{path}: {error}") from error

    def resolve(self, net: nn.Module, *, spread: bool = False) -> list[ParameterPrior]:
        """Return the prior of each parameter of a network, in the order of its parameters.

        Args:
            net: The network.
            spread: Whether parameters may be `DTensor`s, of which this process has only a part.

        Raises:
            PriorError: A pattern matches no parameter, or only parameters that earlier patterns
                have taken, or only vectors although its prior is spectral; there is one prior for
                every weight matrix, but no weight matrix; or a shared name has two laws.
            SpectrumError: `net` is not a network, weights are spread over processes or have no
                shape yet, or a declared layout does not fit its parameter.
        """
        parameters = weights_of(net, self.matrices, spread=spread)
        for pattern in unmatched(self.matrices, [p.aliases for p in parameters]):
            raise PriorError(
                f"matrices: the pattern {pattern!r} matches no parameter; there are "
                f"{', '.join(p.name for p in parameters)}"
            )
        overall: dict[str, Any] = {"strength": self.strength, "schedules": self.schedules}
        if self.everywhere is not None:
            resolved = everywhere(self.everywhere, parameters, overall)
        else:
            assignment = Assignment(self.priors, overall)
            resolved = [assignment.of(parameter) for parameter in parameters]
            assignment.check_used(parameters)
        check_shared(resolved)
        return resolved

    def densities(
        self, net: nn.Module, epoch: int | None = None, *, adapters: bool = False
    ) -> Densities:
        """Return the priors of a network's parameters as densities.

        Args:
            net: The network.
            epoch: Counted from 0; needed where a prior is scheduled.
            adapters: Whether priors on the products of adapters are accepted; otherwise they are an
                error.

        Raises:
            PriorError: The same errors as in `resolve`; or a prior is not a density, or there is a
                threshold on the sum of all penalties.
        """
        resolved = self.resolve(net)
        if self.threshold is not None:
            names = ", ".join(p.name for p in resolved if p.prior is not None)
            raise PriorError(
                f"{names}: {self!r} acts only above a threshold and is no density; leave out "
                ".above(...), as in Priors(ESD(Lomax(2.0))), or use htr.MAP"
            )
        return Densities.at(resolved, epoch, adapters=adapters)

    def explain(
        self, net: nn.Module, *, num_data: int | None = None, at_weights: bool = True
    ) -> Explanation:
        """Return a table with a row for each parameter.

        The row has the prior, whether it is proper, the algorithm and its cost.

        Energies and gradients at the present weights reveal a law whose scale does not fit the
        weights: the norm of a gradient compared with that of its matrix says how soon training
        moves the matrix.

        Args:
            net: The network.
            num_data: If given, the strength is also shown as the coefficient `mu = s / num_data` on
                the mean loss.
            at_weights: Whether to evaluate each matrix, for its energy and gradient.

        Returns:
            The table to print; `.rows` contains the same as values.

        Raises:
            PriorError: The same errors as in `resolve`.
        """
        rows = []
        unscored: list[str] = []
        for parameter in self.resolve(net):
            rows += explained(parameter, num_data, unscored if at_weights else None)
        tail = [*unscored, *(f"schedule {s!r}" for s in self.schedules)]
        if self.threshold is not None:
            tail.append(f"acts while the sum of penalties is at least {self.threshold}")
        return Explanation(tuple(rows), tuple(tail))


def _hint(given: Any) -> str:
    """Say what to write in place of a law or a name where a prior is meant."""
    if isinstance(given, Law):
        return f" but a law; wrap it in ESD(...), as in ESD({given!r}), or in another statistic"
    if isinstance(given, str):
        example = _EXAMPLES.get(given.lower().replace("_", ""), _EXAMPLES["lomax"])
        return (
            "; only bayes-htr fit --prior takes names. Write a law with its arguments in a "
            f"statistic, as in {example}"
        )
    return ", such as ESD(Lomax(2.5, 0.05))"
