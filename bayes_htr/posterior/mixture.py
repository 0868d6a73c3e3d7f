"""`PosteriorMixture`: several posteriors of one model, whose predictions are averaged.

Members that are modes make a deep ensemble (Lakshminarayanan et al. 2017, arXiv:1612.01474), and
members that are posteriors a mixture of them (Wilson & Izmailov 2020, arXiv:2002.08791). Each
member has the same weight.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from bayes_htr._checks import whole_number
from bayes_htr._files import replace_folder
from bayes_htr.errors import CheckpointError
from bayes_htr.inference.guides import Guide
from bayes_htr.inference.run_folder import CONFIG, MEMBERS, SPECTRA, RunFolder
from bayes_htr.models import Likelihood
from bayes_htr.models.likelihood_forms import to_config
from bayes_htr.posterior.posterior import Posterior
from bayes_htr.posterior.spectra import PosteriorSpectra
from bayes_htr.priors.law import Law
from bayes_htr.spectra import parameters_of


class PosteriorMixture(Posterior):
    """A mixture of posteriors of one model with equal weights, as `htr.fit(..., members=3)` finds.

    Wherever a number of draws is asked for, each member gives the same number of them: the number
    divided by that of the members, rounded up. A member that is a point mass gives one.

    Args:
        members: Posteriors under the same priors and likelihood, of networks with the same
            parameters; all of them modes, or none.
        config: A description of the run as plain data; by default that of the first member.

    Attributes:
        members: The members, each a `Posterior`.
        history: The metrics of each epoch, averaged over the members that have reached this epoch.

    Raises:
        ValueError: There are no members, or they do not fit together.
    """

    def __init__(
        self, members: Sequence[Posterior], *, config: Mapping[str, Any] | None = None
    ) -> None:
        self.members = tuple(members)
        _check_members(self.members)
        first = self.members[0]
        super().__init__(
            first._net,
            first.priors,
            likelihood=first.likelihood,
            history=_mean_history([member.history for member in self.members]),
            config=dict(first.config if config is None else config),
        )
        self.config[MEMBERS] = len(self.members)

    def __repr__(self) -> str:
        return f"PosteriorMixture({len(self.members)} members, the first {self.members[0]!r})"

    @property
    def guide(self) -> Guide | None:
        """Always `None`: a mixture has no guide of its own, but its members may have one."""
        return None

    def to(self, device: str | torch.device) -> PosteriorMixture:
        """Move the members to a device, in place, and return this mixture."""
        for member in self.members:
            member.to(device)
        return self

    def network(self) -> NoReturn:
        """Raise `ValueError`: there is no network at the centre of a mixture."""
        raise ValueError(
            "a mixture has no single network, since an average of the members' weights means "
            "nothing; take posterior.members[0].network(), or predict with all of them"
        )

    def hyperparameters(self) -> dict[str, float]:
        """Return the hyperparameters that have hyperpriors, by name, averaged over the members."""
        each = [member.hyperparameters() for member in self.members]
        return {name: statistics.fmean(values[name] for values in each) for name in each[0]}

    def hyperparameter_draws(self, samples: int = 100, *, seed: int = 0) -> dict[str, Tensor]:
        """Draw the hyperparameters by name, those of one member after those of another.

        Raises:
            ValueError: `samples` or `seed` is out of range.
        """
        count = self._each(samples)
        each = [member.hyperparameter_draws(count, seed=seed) for member in self.members]
        return {name: torch.cat([draws[name] for draws in each]) for name in each[0]}

    def unconstrained_hyperparameters(self) -> NoReturn:
        """Raise `ValueError`: a fit with `members` starts from each of the members."""
        raise ValueError(
            f"a mixture starts a fit of as many members; pass members={len(self.members)}"
        )

    def spectra(self, samples: int = 100, *, seed: int = 0) -> PosteriorSpectra:
        """Draw the spectrum of every weight matrix from all members together.

        `members` of the result says which member a draw comes from.

        Raises:
            ValueError: `samples` or `seed` is out of range.
        """
        count = self._each(samples)
        return PosteriorSpectra.pooled([m.spectra(count, seed=seed) for m in self.members])

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write the mixture into a new folder, completely or not at all.

        Each member has a run folder of its own in `members`, from which it can also be loaded.

        Args:
            path: The folder.
            overwrite: Whether a run that the folder holds is replaced, once the new one is written.

        Raises:
            OutputError: The folder cannot be written, or already contains something; with
                `overwrite`, something other than one run.
        """
        folder = RunFolder(path)
        if overwrite:
            folder.check_replaceable()
        else:
            folder.check_unused()
        replace_folder(folder.path, self._write_all)

    def _write_all(self, path: Path) -> None:
        for number, member in enumerate(self.members):
            member.save(member_folder(path, number))
        folder = RunFolder(path)
        folder.start(self._saved_config(), resume=False)
        try:
            self.write(folder)
        finally:
            folder.release()

    def write(self, folder: RunFolder) -> None:
        """Write what the members have in common; their spectra come last and mark the end.

        The members' own folders have to be there.

        Raises:
            OutputError: The folder cannot be written. The error has this mixture as `posterior`.
        """
        folder.write_result(self.history, {SPECTRA: dict(self.spectra())}, posterior=self)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        net: nn.Module,
        *,
        likelihood: Likelihood | Law | Callable[[Tensor], Any] | None = None,
    ) -> PosteriorMixture:
        """Read a mixture from its folder; see `bayes_htr.load`.

        Raises:
            CheckpointError: The folder has no finished mixture, or a file is truncated or foreign.
        """
        folder = RunFolder(path)
        config = folder.config()
        count = config.get(MEMBERS)
        if type(count) is not int or count < 1:
            raise CheckpointError(
                f"{folder.path / CONFIG} holds no mixture: its number of members is {count!r}"
            )
        folder.tensors(SPECTRA)  # without which the last member has not ended
        members = [
            Posterior.load(member_folder(folder.path, number), net, likelihood=likelihood)
            for number in range(count)
        ]
        for name in ("format", "priors"):
            config.pop(name, None)
        try:
            return cls(members, config=config)
        except ValueError as error:
            raise CheckpointError(f"{folder.path}: {error}") from error

    def _draws(self, samples: int, seed: int) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        count = self._each(samples)
        for member in self.members:
            yield from member._draws(count, seed)

    def _each(self, samples: int) -> int:
        """Return the number of draws of each member."""
        return -(-whole_number(samples, "samples", at_least=1) // len(self.members))


def member_folder(path: Path, number: int) -> Path:
    """Return the run folder of a member of the mixture in a folder."""
    return path / MEMBERS / str(number)


def read_posterior(
    path: str | PathLike[str],
    net: nn.Module,
    likelihood: Likelihood | Law | Callable[[Tensor], Any] | None = None,
) -> Posterior:
    """Read a posterior or a mixture of posteriors from its folder; see `bayes_htr.load`."""
    is_mixture = MEMBERS in RunFolder(path).config()
    kind = PosteriorMixture if is_mixture else Posterior
    return kind.load(path, net, likelihood=likelihood)


def _check_members(members: Sequence[Posterior]) -> None:
    """Raise `ValueError` unless posteriors can be members of one mixture."""
    for number, member in enumerate(members):
        if not isinstance(member, Posterior) or isinstance(member, PosteriorMixture):
            raise ValueError(f"member {number} is {member!r}; members must be single posteriors")
    if not members:
        raise ValueError("a mixture needs at least one member, and got none")
    first = members[0]
    shapes = {p.name: p.tensor.shape for p in parameters_of(first._net)}
    for number, member in enumerate(members[1:], start=1):
        if member.priors != first.priors:
            raise ValueError(
                f"the priors of member {number} are {member.priors!r}, and those of member 0 "
                f"{first.priors!r}; the members of a mixture are of one model"
            )
        if to_config(member.likelihood) != to_config(first.likelihood):
            raise ValueError(
                f"the likelihood of member {number} is {member.likelihood!r}, and that of member 0 "
                f"{first.likelihood!r}; the members of a mixture are of one model"
            )
        if shapes != {p.name: p.tensor.shape for p in parameters_of(member._net)}:
            raise ValueError(
                f"the network of member {number} has other parameters than that of member 0; the "
                "members of a mixture are of one model"
            )
        if (member.guide is None) != (first.guide is None):
            raise ValueError(
                f"member {number} and member 0 are not both modes, nor both posteriors: a mode "
                "gives one draw, and the members of a mixture have equal weights"
            )


def _mean_history(histories: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """Return the metrics of each epoch, averaged over the histories that have the epoch.

    Metrics that one of these histories lacks at the epoch are left out.
    """
    rows: list[dict[str, float]] = []
    for epoch in range(max(map(len, histories))):
        there = [history[epoch] for history in histories if epoch < len(history)]
        names = [n for n in there[0] if all(n in row for row in there)]
        rows.append({n: statistics.fmean(row[n] for row in there) for n in names})
    return rows
