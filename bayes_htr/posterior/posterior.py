"""`Posterior`: what `htr.fit` returns."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import biject_to
from torch.utils.data import DataLoader

from bayes_htr.engine import bind
from bayes_htr.errors import CheckpointError, PriorError
from bayes_htr.inference.data import Batches, Data
from bayes_htr.inference.guides import GUIDES, Guide
from bayes_htr.inference.run_folder import CONFIG, GUIDE, SPECTRA, WEIGHTS, RunFolder
from bayes_htr.inference.settings import check_whole
from bayes_htr.models import BayesianClassifier, Likelihood
from bayes_htr.posterior.checks import SpectrumCheck
from bayes_htr.posterior.drawn import check_fits, place
from bayes_htr.posterior.evaluation import ood_scores, scores
from bayes_htr.posterior.laws import StatedLaws, hyperparameters_of
from bayes_htr.posterior.prediction import Prediction, joined, mix
from bayes_htr.posterior.spectra import PosteriorSpectra
from bayes_htr.priors import Prior, Priors
from bayes_htr.spectra import matrices_of, spectrum
from bayes_htr.spectra.matrices import check_finite, unwrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HYPER = "hyperparameter:"
_BATCH = 1024
_HELD = 2**28
"""Bytes of inputs that are held while draws of the network pass over them."""


class Posterior:
    """The posterior over a classifier's weights.

    For MAP a point mass at the mode, else what a guide draws.

    Args:
        net: The trained network; with a guide it gives what the guide does not draw.
        priors: The priors it was trained under.
        guide: The distribution over weights and hyperparameters; `None` for a point mass.
        hyperparameters: Of a point mass, unconstrained coordinates of the hyperparameters by name.
        history: Metrics by epoch.
        config: What the run was, as plain data.

    Raises:
        ValueError: A guide whose draws do not fit the network and its priors.
    """

    def __init__(
        self,
        net: nn.Module,
        priors: Priors,
        *,
        guide: Guide | None = None,
        hyperparameters: dict[str, Tensor] | None = None,
        history: list[dict[str, float]] | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self._net = net.eval()
        self.priors = priors
        self._guide = guide
        self._latents = dict(hyperparameters or {})
        self.history = list(history or [])
        self.config = dict(config or {})
        if guide is not None:
            check_fits(guide.centre(), net, priors)

    def __repr__(self) -> str:
        method = self.config.get("method", {}).get("name", "map").upper()
        return f"Posterior({type(self._net).__name__}, {method}, {self.priors!r})"

    @property
    def guide(self) -> Guide | None:
        """The distribution over weights and hyperparameters; `None` for a point mass."""
        return self._guide

    def network(self) -> nn.Module:
        """A copy of the network in evaluation mode: at the mode, or at the guide's centre."""
        net = copy.deepcopy(self._net)
        if self._guide is not None:
            place(net, self._guide.centre())
        return net

    def hyperparameters(self) -> dict[str, float]:
        """The hyperparameters that have hyperpriors, by name: at the mode, or posterior means.

        With a guide, its centre. A tail index that MAP integrates out is none of them.
        """
        if self._guide is not None:
            rest = place(copy.deepcopy(self._net), self._guide.centre())
            return {name: float(value) for name, value in rest.items()}
        energy = bind(self.priors, self._net)
        return {
            name: float(latent.value(self._latents[name]))
            for name, latent in energy.hyperpriors.items()
        }

    def hyperparameter_draws(self, samples: int = 100, *, seed: int = 0) -> dict[str, Tensor]:
        """Draws of the hyperparameters by name, `(samples,)` each; a point mass has one."""
        return _stacked([hyper for _, hyper in self._draws(samples, seed)])

    def unconstrained_hyperparameters(self) -> dict[str, Tensor]:
        """The hyperparameters in unconstrained coordinates, by name: what a fit starts from."""
        if self._guide is None:
            return {name: u.clone() for name, u in self._latents.items()}
        laws = hyperparameters_of(self.priors, self._net)
        return {
            name: biject_to(laws[name].law.distribution().support).inv(torch.tensor(value))
            for name, value in self.hyperparameters().items()
        }

    def predict(self, x: Any, samples: int = 32, *, seed: int = 0) -> Prediction:
        """The predictive distribution for inputs.

        Args:
            x: `(N, ...)` tensor or array.
            samples: Draws of the weights to average; a point mass needs one.
            seed: Of the draws.

        Raises:
            DataError: Inputs that the network does not take, or that are not finite.
            ValueError: `samples` or `seed` out of range.
        """
        batches = self._unlabelled(x, "x")
        batches.check_network(self._net)
        return self._predict(batches, samples, seed)[0]

    def evaluate(
        self,
        data: Data,
        samples: int = 32,
        *,
        ood: Any = None,
        seed: int = 0,
    ) -> dict[str, float]:
        """Accuracy, NLL, calibration error and Brier score on labelled data.

        Args:
            data: A `DataLoader` or `(X, y)`.
            samples: As in `predict`.
            ood: Examples outside the distribution: inputs `X`, `(X, y)`, or a `DataLoader`; labels
                are not looked at.
            seed: Of the draws.

        Returns:
            `accuracy`, `nll`, `ece`, `brier` (`bayes_htr.posterior.evaluation.scores`); with
            `ood`, also `ood_auroc_entropy`, `ood_auroc_mutual_information` and
            `ood_auroc_confidence`: how well each tells the two data sets apart (`ood_scores`).

        Raises:
            DataError: Data that do not fit the network, as in `bayes_htr.fit`.
            ValueError: `samples` or `seed` out of range.
        """
        batches = self._batches(data, "test")
        batches.check_network(self._net)
        prediction, labels = self._predict(batches, samples, seed)
        if int(labels.max()) >= prediction.log_probs.shape[1]:
            batches.check_labels(prediction.log_probs.shape[1], labels)
        found = scores(prediction, labels)
        if ood is None:
            return found
        others = self._unlabelled(ood, "ood")
        others.check_network(self._net)
        return found | ood_scores(prediction, self._predict(others, samples, seed)[0])

    def spectra(self, samples: int = 100, *, seed: int = 0) -> PosteriorSpectra:
        """Draws of the spectrum of every weight matrix, with those of the hyperparameters.

        Args:
            samples: How many; a point mass has one.
            seed: Of the draws.

        Raises:
            ValueError: `samples` or `seed` out of range.
        """
        found, hyper = [], []
        for spectra, values in self._spectrum_draws(samples, seed):
            found.append(spectra)
            hyper.append(values)
        laws = StatedLaws.of(self.priors, self._net)
        return PosteriorSpectra(_stacked(found), laws=laws, hyperparameters=_stacked(hyper))

    def check(
        self,
        name: str,
        prior: Prior | None = None,
        *,
        samples: int = 100,
        level: float = 0.95,
        seed: int = 0,
    ) -> SpectrumCheck:
        """Does a matrix's spectrum look like a draw from a law? See `SpectrumCheck`.

        Args:
            name: The matrix.
            prior: The law, as `ESD(Lomax(2.0))`; by default the one that the matrix's own prior
                states, whatever its strength.
            samples: Draws of the spectrum; a point mass has one.
            level: Of the band.
            seed: Of the draws.

        Raises:
            PriorError: A prior that states no law for the spectrum.
            KeyError: No such matrix.
        """
        return self.spectra(samples, seed=seed).check(name, prior, level=level, seed=seed)

    def plot_trace(
        self,
        quantities: str | Sequence[str],
        ax: Axes | None = None,
        *,
        path: str | PathLike[str] | None = None,
    ) -> Axes:
        """Quantities of the history over epochs, such as `"val_nll"`: `plots.plot_trace`.

        Spectra are not among them: a `SpectrumHistory` among the callbacks of `fit` records those,
        and has `plot_trace` of its own.
        """
        from bayes_htr.posterior.plots import plot_trace

        return plot_trace(self.history, quantities, ax, path=path)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the posterior into a new folder: configuration, weights, metrics and spectra.

        Raises:
            OutputError: The folder cannot be written, or already holds something.
        """
        folder = RunFolder(path)
        folder.start(self._saved_config(), resume=False)
        self.write(folder)

    def write(self, folder: RunFolder) -> None:
        """Write the result into a run folder; the weights come last, and mark it as finished."""
        if self._guide is not None:
            folder.write_config(self._saved_config())
            folder.write_tensors(GUIDE, self._guide.state_dict())
        folder.write_metrics(self.history)
        folder.write_tensors(SPECTRA, dict(self.spectra()))
        weights = dict(unwrap(self.network()).state_dict())
        weights |= {_HYPER + name: u for name, u in self._latents.items()}
        folder.write_tensors(WEIGHTS, weights)

    @classmethod
    def load(cls, path: str | PathLike[str], net: nn.Module) -> Posterior:
        """Read a posterior from its folder; see `bayes_htr.load`."""
        folder = RunFolder(path)
        config = folder.config()
        tensors = folder.tensors(WEIGHTS)
        latents = {k.removeprefix(_HYPER): v for k, v in tensors.items() if k.startswith(_HYPER)}
        weights = {k: v for k, v in tensors.items() if not k.startswith(_HYPER)}
        copied = copy.deepcopy(net)
        try:
            unwrap(copied).load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"{folder.path / WEIGHTS} does not fit the network {type(net).__name__}: {error}"
            ) from error
        for name, parameter in copied.named_parameters():
            check_finite(parameter.detach(), name)
        try:
            priors = Priors.from_dict(config.pop("priors", None))
        except PriorError as error:
            raise CheckpointError(f"{folder.path / CONFIG} holds no priors: {error}") from error
        config.pop("format")
        described = config.pop("guide", None)
        guide = None
        if described is not None:
            guide = _rebuilt(folder, described, copied, priors, config)
        history = folder.metrics()
        return cls(
            copied, priors, guide=guide, hyperparameters=latents, history=history, config=config
        )

    def _saved_config(self) -> dict[str, Any]:
        config = {**self.config, "priors": self.priors.to_dict()}
        if self._guide is not None:
            config["guide"] = {"kind": self._guide.kind, "settings": self._guide.settings()}
        return config

    def _draws(self, samples: int, seed: int) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        """The network at each draw, and the hyperparameters; the next draw changes the network."""
        samples, seed = check_whole("samples", samples, 1), check_whole("seed", seed, 0)
        if self._guide is None:
            values = self.hyperparameters() if self._latents else {}
            yield self._net, {k: torch.tensor(v, dtype=torch.float64) for k, v in values.items()}
            return
        net = copy.deepcopy(self._net)
        for draw in self._guide.draws(samples, seed):
            yield net, place(net, draw)

    def _spectrum_draws(
        self, samples: int, seed: int
    ) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """The spectra of each of `_draws`, and the hyperparameters.

        A guide that knows eigenvalues in closed form gives them; the other matrices are points.
        """
        samples, seed = check_whole("samples", samples, 1), check_whole("seed", seed, 0)
        draws = None if self._guide is None else self._guide.spectrum_draws(samples, seed)
        if draws is None:
            for net, values in self._draws(samples, seed):
                yield network_spectra(net), values
            return
        points = network_spectra(self.network())
        for draw in draws:
            drawn = {
                name: draw.pop(name).to(like) if name in draw else like
                for name, like in points.items()
            }
            yield drawn, draw

    def _batches(self, data: Data, name: str, kind: type[Batches] = Batches) -> Batches:
        first = next(self._net.parameters(), torch.zeros(()))
        dtype = first.dtype if first.dtype.is_floating_point else torch.float32
        return kind(data, batch_size=_BATCH, device=first.device, dtype=dtype, name=name)

    def _unlabelled(self, x: Any, name: str) -> Batches:
        """Batches of inputs alone, or of data whose labels are not looked at."""
        if isinstance(x, DataLoader):
            return self._batches(x, name, _AnyLabels)
        inputs = x[0] if isinstance(x, tuple) and len(x) == 2 else x
        inputs = inputs if isinstance(inputs, Tensor) else np.asarray(inputs)
        labels = torch.zeros(len(inputs) if inputs.ndim else 0, dtype=torch.int64)
        return self._batches((inputs, labels), name)

    def _predict(self, batches: Batches, samples: int, seed: int) -> tuple[Prediction, Tensor]:
        """The prediction and the labels, in the order of one pass over the data."""
        parts: list[Prediction] = []
        labels: list[Tensor] = []
        with torch.no_grad():
            for chunk in _chunks(batches, 0 if self._guide is None else _HELD):
                labels += [y.cpu() for _, y in chunk]
                draws = self._draws(samples, seed)  # the same for every chunk
                parts.append(mix(_log_probs(net, chunk) for net, _ in draws))
        return joined(parts), torch.cat(labels)


class _AnyLabels(Batches):
    """Batches whose labels may be those of other classes."""

    def check_labels(self, classes: int, batch: Tensor | None = None) -> None:
        """Nothing to check."""


def network_spectra(net: nn.Module) -> dict[str, Tensor]:
    """The spectrum of every matrix of a network by name, on the CPU: `(K,)` each."""
    with torch.no_grad():
        return {name: spectrum(W).cpu() for name, W in matrices_of(net).items()}


def _rebuilt(
    folder: RunFolder, described: Any, net: nn.Module, priors: Priors, config: Any
) -> Guide:
    """The guide that a run folder holds."""
    state = folder.tensors(GUIDE)
    try:
        kind, settings = described["kind"], described["settings"]
        likelihood = Likelihood.from_dict(config)
        model = BayesianClassifier(net, priors, **likelihood.to_dict())
        guide = GUIDES[kind].rebuilt(model, settings, state)
        check_fits(guide.centre(), net, priors)
        first = next(net.parameters(), torch.zeros(()))
        return guide.to(first.device)
    except Exception as error:  # whatever foreign settings and tensors make it stumble over
        raise CheckpointError(
            f"{folder.path / GUIDE} and the guide in {CONFIG} do not fit the network "
            f"{type(net).__name__}: {error!r}"
        ) from error


def _chunks(batches: Batches, size: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Batches, together until their inputs have `size` bytes.

    All draws pass over a chunk before the next: a loader that shuffles gives each pass
    another order.
    """
    held: list[tuple[Tensor, Tensor]] = []
    count = 0
    for x, y in batches:
        held.append((x, y))
        count += x.nbytes
        if count >= size:
            yield held
            held, count = [], 0
    if held:
        yield held


def _log_probs(net: nn.Module, chunk: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([net(x).float().cpu() for x, _ in chunk]).log_softmax(1)


def _stacked(draws: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([d[name].cpu() for d in draws]) for name in draws[0]}
