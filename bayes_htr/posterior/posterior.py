"""`Posterior`: what `htr.fit` returns."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayes_htr.engine import bind
from bayes_htr.errors import CheckpointError, PriorError
from bayes_htr.inference.data import Batches, Data
from bayes_htr.inference.run_folder import CONFIG, SPECTRA, WEIGHTS, RunFolder
from bayes_htr.posterior.evaluation import scores
from bayes_htr.posterior.prediction import Prediction, mix
from bayes_htr.posterior.spectra import PosteriorSpectra
from bayes_htr.priors import Priors
from bayes_htr.spectra import matrices_of, spectrum
from bayes_htr.spectra.matrices import check_finite, unwrap

_HYPER = "hyperparameter:"
_BATCH = 1024


class Posterior:
    """The posterior over a classifier's weights: for MAP, a point mass at the mode.

    Args:
        net: The trained network.
        priors: The priors it was trained under.
        hyperparameters: Unconstrained coordinates of the hyperparameters by name.
        history: Metrics by epoch.
        config: What the run was, as plain data.
    """

    def __init__(
        self,
        net: nn.Module,
        priors: Priors,
        *,
        hyperparameters: dict[str, Tensor] | None = None,
        history: list[dict[str, float]] | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self._net = net.eval()
        self.priors = priors
        self._latents = dict(hyperparameters or {})
        self.history = list(history or [])
        self.config = dict(config or {})

    def __repr__(self) -> str:
        method = self.config.get("method", {}).get("name", "map").upper()
        return f"Posterior({type(self._net).__name__}, {method}, {self.priors!r})"

    def network(self) -> nn.Module:
        """A copy of the trained network, in evaluation mode: for MAP, the mode."""
        return copy.deepcopy(self._net)

    def hyperparameters(self) -> dict[str, float]:
        """The values of the hyperparameters that have hyperpriors, by name."""
        energy = bind(self.priors, self._net)
        return {
            name: float(latent.value(self._latents[name]))
            for name, latent in energy.latent_laws.items()
        }

    def unconstrained_hyperparameters(self) -> dict[str, Tensor]:
        """The hyperparameters in unconstrained coordinates, by name."""
        return {name: u.clone() for name, u in self._latents.items()}

    def predict(self, x: Any, samples: int = 32) -> Prediction:
        """The predictive distribution for inputs.

        Args:
            x: `(N, ...)` tensor or array.
            samples: Draws of the weights to average; a point mass needs one.

        Raises:
            DataError: Inputs that the network does not take, or that are not finite.
        """
        inputs = x if isinstance(x, Tensor) else np.asarray(x)
        labels = torch.zeros(len(inputs) if inputs.ndim else 0, dtype=torch.int64)
        batches = self._batches((inputs, labels), "x")
        batches.check_network(self._net)
        return self._predict(batches, samples)[0]

    def evaluate(self, data: Data, samples: int = 32) -> dict[str, float]:
        """Accuracy, NLL, calibration error and Brier score on labelled data.

        Args:
            data: A `DataLoader` or `(X, y)`.
            samples: As in `predict`.

        Returns:
            `accuracy`, `nll`, `ece`, `brier`; see `bayes_htr.posterior.evaluation.scores`.

        Raises:
            DataError: Data that do not fit the network, as in `bayes_htr.fit`.
        """
        batches = self._batches(data, "test")
        batches.check_network(self._net)
        prediction, labels = self._predict(batches, samples)
        if int(labels.max()) >= prediction.log_probs.shape[1]:
            batches.check_labels(prediction.log_probs.shape[1], labels)
        return scores(prediction, labels)

    def spectra(self, samples: int = 1) -> PosteriorSpectra:
        """Draws of the spectrum of every weight matrix.

        Args:
            samples: How many; a point mass has one.
        """
        draws = [network_spectra(net) for net in self._draws(samples)]
        return PosteriorSpectra({name: torch.stack([d[name] for d in draws]) for name in draws[0]})

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
        folder.write_metrics(self.history)
        folder.write_tensors(SPECTRA, dict(self.spectra()))
        weights = dict(unwrap(self._net).state_dict())
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
        return cls(copied, priors, hyperparameters=latents, history=folder.metrics(), config=config)

    def _saved_config(self) -> dict[str, Any]:
        return {**self.config, "priors": self.priors.to_dict()}

    def _draws(self, samples: int) -> Iterator[nn.Module]:
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples={samples!r} must be a whole number of at least 1")
        yield self._net

    def _batches(self, data: Data, name: str) -> Batches:
        first = next(self._net.parameters(), torch.zeros(()))
        dtype = first.dtype if first.dtype.is_floating_point else torch.float32
        return Batches(data, batch_size=_BATCH, device=first.device, dtype=dtype, name=name)

    def _predict(self, batches: Batches, samples: int) -> tuple[Prediction, Tensor]:
        draws: list[Tensor] = []
        labels: list[Tensor] = []
        with torch.no_grad():
            for net in self._draws(samples):
                labels, logits = [], []
                for x, y in batches:
                    logits.append(net(x).float().cpu())
                    labels.append(y.cpu())
                draws.append(torch.cat(logits).log_softmax(1))
        return mix(draws), torch.cat(labels)


def network_spectra(net: nn.Module) -> dict[str, Tensor]:
    """The spectrum of every matrix of a network by name, on the CPU: `(K,)` each."""
    with torch.no_grad():
        return {name: spectrum(W).cpu() for name, W in matrices_of(net).items()}
