"""`Posterior`, which `htr.fit` returns: predictions, spectra, and how it is saved."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bayes_htr._checks import whole_number
from bayes_htr._files import replace_folder
from bayes_htr.inference.data import Batches
from bayes_htr.inference.guides import Guide, PointMass
from bayes_htr.inference.run_folder import GUIDE, SPECTRA, WEIGHTS, RunFolder
from bayes_htr.models import Likelihood
from bayes_htr.models.inputs import call
from bayes_htr.models.likelihood_forms import as_likelihood
from bayes_htr.posterior.checks import SpectrumCheck
from bayes_htr.posterior.laws import DeclaredPriors, hyperparameters_of
from bayes_htr.posterior.mixture_prediction import MixturePrediction
from bayes_htr.posterior.prediction import Draw, Prediction, batches_for, predict_batches
from bayes_htr.posterior.scores import Scores, detection, measured
from bayes_htr.posterior.spectra import PosteriorSpectra, network_spectra
from bayes_htr.posterior.stored import read_run, stored_weights
from bayes_htr.posterior.training_plots import plot_trace
from bayes_htr.priors import Hyperparameter, Prior, Priors
from bayes_htr.priors.law import Law
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.matrices import set_parameters

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Posterior:
    """The posterior over the weights of a network.

    It is a network with a guide, which is a distribution over weights and hyperparameters. MAP
    leaves a point mass at the network itself.

    Args:
        net: The trained network; parameters that the guide does not draw keep its values.
        priors: The priors that it was trained under.
        likelihood: The likelihood that it was trained under, in any form that `BayesianModel`
            takes; `Categorical()` by default.
        guide: The distribution over weights and hyperparameters; `None` for a point mass.
        hyperparameters: The hyperparameters by name in unconstrained coordinates, 0-d each.
        history: The metrics of each epoch.
        config: A description of the run as plain data.

    Attributes:
        priors: The priors that the network was trained under.
        likelihood: The likelihood.
        history: The metrics of each epoch.
        config: A description of the run as plain data.

    Raises:
        ValueError: The draws of the guide do not fit the network and its priors.
    """

    def __init__(
        self,
        net: nn.Module,
        priors: Priors,
        *,
        likelihood: Likelihood | Law | Callable[[Tensor], Any] | None = None,
        guide: Guide | None = None,
        hyperparameters: dict[str, Tensor] | None = None,
        history: list[dict[str, float]] | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self._net = net.eval()
        self.priors = priors
        self.likelihood = as_likelihood(likelihood)
        self.history = list(history or [])
        self.config = dict(config or {})
        self._coordinates = dict(hyperparameters or {})
        if guide is None:
            latents = self._hyperpriors() if self._coordinates else {}
            guide = PointMass(self._coordinates, latents)
        else:
            guide.check_network(net, self._hyperpriors())
        self._guide = guide

    def __repr__(self) -> str:
        method = self.config.get("method", {}).get("name", "map").upper()
        return f"Posterior({type(self._net).__name__}, {method}, {self.priors!r})"

    @property
    def guide(self) -> Guide | None:
        """The distribution over weights and hyperparameters; `None` for a point mass."""
        return None if isinstance(self._guide, PointMass) else self._guide

    def to(self, device: str | torch.device) -> Posterior:
        """Move the network and the guide to a device, in place, and return this posterior."""
        self._net.to(device)
        self._guide.to(device)
        return self

    def network(self) -> nn.Module:
        """Return a copy of the network in evaluation mode, with weights at the guide's centre.

        For a point mass these are the weights at the mode.
        """
        net = copy.deepcopy(self._net)
        set_parameters(parameters_of(net), self._guide.centre())
        return net

    def hyperparameters(self) -> dict[str, float]:
        """Return the hyperparameters that have hyperpriors, by name, at the centre of the guide.

        For a point mass they are at the mode. A tail index that MAP integrates out is not included.
        """
        centre = self._without_weights(self._guide.centre())
        return {name: float(value) for name, value in centre.items()}

    def hyperparameter_draws(self, samples: int = 100, *, seed: int = 0) -> dict[str, Tensor]:
        """Draw the hyperparameters by name, `(samples,)` each; a point mass has only one draw.

        Raises:
            ValueError: `samples` or `seed` is out of range.
        """
        samples, seed = whole_number(samples, "samples", at_least=1), whole_number(seed, "seed")
        return _stacked([self._without_weights(d) for d in self._guide.draws(samples, seed)])

    def unconstrained_hyperparameters(self) -> dict[str, Tensor]:
        """Return the hyperparameters in unconstrained coordinates, by name.

        A fit can start from them.
        """
        return self._guide.coordinates(self._hyperpriors())

    def _hyperpriors(self) -> dict[str, Hyperparameter]:
        """Return all hyperparameters with hyperpriors by name, those of the likelihood included."""
        return hyperparameters_of(self.priors, self._net) | self.likelihood.hyperparameters

    def predict(self, x: Any, samples: int = 32, *, seed: int = 0) -> Any:
        """Return the predictive distribution of inputs.

        Args:
            x: Inputs `(N, ...)`, a tensor or an array; a dictionary of these for a network that is
                called as `net(**x)`; `(X, y)`, where `X` may be a tuple for one that is called as
                `net(*X)`; or a `DataLoader` of batches of any of these. Labels are ignored.
            samples: The number of draws of the weights; a point mass has only one.
            seed: The seed of the draws.

        Returns:
            A `Prediction` of classes and of yes-or-no labels, and a `MixturePrediction` of targets
            that are no classes.

        Raises:
            DataError: The network does not accept the inputs, or some are not finite.
            ValueError: `samples` or `seed` is out of range.
        """
        batches = batches_for(self._net, x, "x", self.likelihood, labelled=False)
        batches.check_network(self._net)
        return self._predict(batches, samples, seed)[0]

    def evaluate(
        self,
        data: Any,
        y: Any = None,
        samples: int = 32,
        *,
        ood: Any = None,
        seed: int = 0,
    ) -> Scores:
        """Return those proper scores on labelled data that suit the likelihood.

        Class weights and label smoothing play no part in them.

        Args:
            data: A `DataLoader` or `(X, y)`, or whatever `htr.fit` takes; or the inputs `X` alone,
                with the labels as `y`.
            y: The labels of `X`. A whole number here is `samples`, which was once the second
                argument.
            samples: The number of draws of the weights; a point mass has only one.
            ood: Examples from outside the distribution of the data: inputs `X`, `(X, y)`, or a
                `DataLoader`. Their labels are ignored.
            seed: The seed of the draws.

        Returns:
            For classes and yes-or-no labels `accuracy`, `nll`, `ece` and `brier`; for real-valued
            targets `rmse`, `nll`, `crps`, and `coverage:0.5`, `coverage:0.9` and `coverage:0.95`
            (see `bayes_htr.posterior.scores`). If examples have several labels, every label counts
            equally. With `ood`, also the area under the ROC curve of each measure of uncertainty,
            which says how well the measure tells the two data sets apart: for classes
            `ood_auroc_entropy`, `ood_auroc_mutual_information` and `ood_auroc_confidence`, for
            targets `ood_auroc_std` and `ood_auroc_epistemic`.
            The dictionary prints as a table, and has `standard_errors` of the scores.

        Raises:
            DataError: The data do not fit the network, as in `bayes_htr.fit`.
            ValueError: `samples` or `seed` is out of range.
        """
        if isinstance(y, int):
            y, samples = None, y
        given = data if y is None else (data, y)
        batches = batches_for(self._net, given, "test", self.likelihood)
        batches.check_network(self._net)
        prediction, labels = self._predict(batches, samples, seed)
        found = measured(prediction, labels, self.likelihood)
        if ood is None:
            return Scores.of(found, len(labels))
        others = batches_for(self._net, ood, "ood", self.likelihood, labelled=False)
        others.check_network(self._net)
        outside = self._predict(others, samples, seed)[0]
        return Scores.of(found | detection(prediction, outside), len(labels))

    def spectra(self, samples: int = 100, *, seed: int = 0) -> PosteriorSpectra:
        """Draw the spectrum of every weight matrix, with the hyperparameters of each draw.

        A guide that knows eigenvalues in closed form gives them without decompositions; otherwise
        the weights of each draw are decomposed.

        Args:
            samples: The number of draws; a point mass has only one.
            seed: The seed of the draws.

        Raises:
            ValueError: `samples` or `seed` is out of range.
        """
        samples, seed = whole_number(samples, "samples", at_least=1), whole_number(seed, "seed")
        spectra: list[dict[str, Tensor]] = []
        hyperparameters: list[dict[str, Tensor]] = []
        draws = self._guide.spectrum_draws(samples, seed)
        if draws is None:
            for net, values in self._draws(samples, seed):
                spectra.append(network_spectra(net, self.priors.matrices))
                hyperparameters.append(values)
        else:
            points = network_spectra(self.network(), self.priors.matrices)
            for draw in draws:
                spectra.append({n: draw.pop(n, lam).to(lam) for n, lam in points.items()})
                hyperparameters.append(draw)
        return PosteriorSpectra(
            _stacked(spectra),
            laws=DeclaredPriors.of(self.priors, self._net),
            hyperparameters=_stacked(hyperparameters),
        )

    def check(
        self,
        name: str,
        prior: Prior | None = None,
        *,
        samples: int = 100,
        level: float = 0.95,
        seed: int = 0,
    ) -> SpectrumCheck:
        """Check whether the spectrum of a matrix looks like a draw from a law: `SpectrumCheck`.

        Args:
            name: The matrix.
            prior: The law, such as `ESD(Lomax(2.0))`. The default is the law that the prior of the
                matrix states, whatever its strength.
            samples: The number of draws of the spectrum; a point mass has only one.
            level: The probability of the band.
            seed: The seed of the draws.

        Raises:
            PriorError: The prior states no law for the spectrum.
            KeyError: There is no such matrix.
        """
        return self.spectra(samples, seed=seed).check(name, prior, level=level, seed=seed)

    def plot_trace(
        self,
        quantities: str | Sequence[str],
        ax: Axes | None = None,
        *,
        path: str | PathLike[str] | None = None,
    ) -> Axes:
        """Plot metrics of the history over epochs, such as `"val_nll"`.

        The history contains no spectra. To record them, pass a `SpectrumHistory` to `fit` among the
        callbacks; it has a `plot_trace` of its own.
        """
        return plot_trace(self.history, quantities, ax, path=path)

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write the posterior into a new folder: configuration, weights, metrics and spectra.

        Args:
            path: The folder.
            overwrite: Whether a run that the folder holds is replaced, once the new one is written.

        Raises:
            OutputError: The folder cannot be written, or already contains something; with
                `overwrite`, something other than one run.
        """
        folder = RunFolder(path)
        if overwrite and folder.path.exists():
            folder.check_replaceable()
            replace_folder(folder.path, self.save)
            return
        try:
            folder.start(
                self._saved_config(),
                resume=False,
                remedy="pass overwrite=True to replace a run there, or name another folder",
            )
            try:
                self.write(folder)
            except BaseException:
                folder.remove()
                raise
        finally:
            folder.release()

    def write(self, folder: RunFolder) -> None:
        """Write the result into a run folder; the weights come last and mark it as finished.

        Raises:
            OutputError: The folder cannot be written. The error has this posterior as `posterior`.
        """
        weights = stored_weights(self.network(), self._coordinates)
        guide = {} if self.guide is None else {GUIDE: self.guide.state_dict()}
        folder.write_result(
            self.history,
            {**guide, SPECTRA: dict(self.spectra()), WEIGHTS: weights},
            config=None if self.guide is None else self._saved_config(),
            posterior=self,
        )

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        net: nn.Module,
        *,
        likelihood: Likelihood | Law | Callable[[Tensor], Any] | None = None,
    ) -> Posterior:
        """Read a posterior from its folder; see `bayes_htr.load`."""
        return cls(**read_run(path, net, likelihood)._asdict())

    def _saved_config(self) -> dict[str, Any]:
        config = {**self.config, "priors": self.priors.to_dict()}
        if self.guide is not None:
            config["guide"] = {"kind": self.guide.kind, "settings": self.guide.settings()}
        return config

    def _without_weights(self, draw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = {p.name for p in parameters_of(self._net)}
        return {name: value for name, value in draw.items() if name not in weights}

    def _draws(self, samples: int, seed: int) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        """Yield the network at each draw, and the hyperparameters.

        The next draw changes the network.
        """
        net = self._net
        for draw in self._guide.draws(samples, seed):
            hyperparameters = self._without_weights(draw)
            if net is self._net and len(hyperparameters) < len(draw):
                net = copy.deepcopy(net)  # the draw has weights, which would overwrite our own
            set_parameters(parameters_of(net), draw)
            yield net, hyperparameters

    def _predict(
        self, batches: Batches, samples: int, seed: int
    ) -> tuple[Prediction | MixturePrediction, Tensor]:
        """Return the prediction and the labels, in the order of one pass through the data."""
        samples, seed = whole_number(samples, "samples", at_least=1), whole_number(seed, "seed")

        own = self.likelihood.hyperparameters

        def networks() -> Iterator[Draw]:
            for net, values in self._draws(samples, seed):
                yield Draw(partial(call, net), {name: values[name] for name in own})

        return predict_batches(networks, batches, self.likelihood)


def _stacked(draws: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([draw[name].cpu() for draw in draws]) for name in draws[0]}
