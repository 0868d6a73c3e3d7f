"""`HTRClassifier`: Bayesian training of a network as an estimator of scikit-learn.

It is `htr.fit` with the conventions of scikit-learn: settings in the constructor, tables and labels
of any kind in, `predict` and `predict_proba` out. What is fitted is in `posterior_`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from bayes_htr._checks import number, whole_number
from bayes_htr._torch import isolated_randomness
from bayes_htr.errors import DataError
from bayes_htr.estimator.archive import described, read_archive, restore, write_archive
from bayes_htr.estimator.settings import (
    BATCH,
    TABLE,
    Array,
    ModuleSetting,
    PriorSetting,
    build_module,
    chosen_method,
    chosen_priors,
    chosen_training,
    clipped,
    codes_of,
    divided,
    mean_and_scale,
)
from bayes_htr.estimator.table_strength import FEWEST, chosen_factor
from bayes_htr.fitting import fit
from bayes_htr.inference import Method
from bayes_htr.members import member_seed
from bayes_htr.models import BayesianClassifier, BayesianModel
from bayes_htr.posterior import Posterior, PosteriorSpectra, Prediction
from bayes_htr.posterior.scores import scores
from bayes_htr.tuning.trials import with_strength

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data
except ImportError:

    class ClassifierMixin:  # type: ignore[no-redef]
        """A stand-in for the class of scikit-learn, if scikit-learn is not installed."""

    class BaseEstimator:  # type: ignore[no-redef]
        """A stand-in for the class of scikit-learn, whose error says what to install."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            """Raise `ImportError`."""
            raise ImportError(
                f'{cls.__name__} needs scikit-learn 1.6 or newer: pip install "bayes-htr[sklearn]"'
            )


class HTRClassifier(ClassifierMixin, BaseEstimator):
    """A neural network whose weight spectra have priors, as a classifier of scikit-learn.

    By default it is a network with one hidden layer of 256 units, whose posterior under a Lomax
    prior is found by SVI with the spectral guide; the probabilities are averages over draws of the
    weights. `docs/tables.md` tells how the defaults were chosen, and on which data.

    There is no `sample_weight`, since the likelihood has weights of classes but not of examples,
    and no `partial_fit`, since the posterior given a part of the data is not that given all: with
    `warm_start=True`, `fit` starts from the weights of the fit before.

    Args:
        prior: The prior of every weight matrix: a name that `bayes-htr fit --prior` takes, such as
            `"lomax"`, `"exponential"`, `"frechet"` or `"none"`; a file of priors that ends in
            `.toml`; a prior, such as `htr.ESD(htr.Lomax(2.0))`; or `htr.Priors`. `"table"`, the
            default, is `htr.ESD(htr.Lomax(2.5, 5.0))` for a posterior of the network of `hidden`,
            and `"lomax"` for a mode and for `module`.
        strength: The power of the prior's density. By default, for `"svi"` under `"table"`, it is
            2, or 8 if that predicts a held-out fifth of the examples better; this comparison takes
            two more fits, and is made for 200 or more examples. For other names it is that of
            `bayes-htr fit`, and for priors given as values it is 1, Bayes' rule. `"auto"` chooses
            it by at most five more fits, scored on examples that they leave out.
        method: `"svi"` or `"nuts"` for a posterior, `"map"` for its mode, or a method with
            settings, such as `htr.SVI(guide="lowrank")`.
        hidden: The numbers of units of hidden layers with ReLU; empty for a linear model.
        module: The network in place of that of `hidden`: a module that takes `(N, ...)` inputs to
            `(N, C)` logits, or a callable that makes one, as `module(n_features, n_classes)`. It
            may take inputs of more than two dimensions, such as images.
        epochs: The number of epochs. By default, for `"svi"` of the network of `hidden`, it is 30,
            or the nearest number that makes 400 to 1,000 updates; otherwise it is the number that
            makes 1,000 updates. It is always between 10 and 500.
        batch_size: The number of examples per update; 32 by default.
        lr: The learning rate. By default, for `"svi"` of the network of `hidden`, it is 0.02 for up
            to 400 updates and inversely proportional to the number of updates beyond, with
            `init_scale=0.5`; otherwise it is that of the method.
        standardise: Whether inputs are shifted and scaled by the mean and standard deviation of
            the training inputs: of each column in a table, of each channel (the second dimension)
            in other inputs.
        clip: The bound of standardised columns of a table: `x` becomes
            `x / sqrt(1 + (x / clip)^2)`, so that no rare value decides alone. `None` clips none.
        class_weight: Positive powers of the likelihood of the classes, as a mapping from labels;
            or `"balanced"`, for powers that are inverse to the frequencies of the classes.
        label_smoothing: The share of each label that is spread over all classes, in [0, 1).
        early_stopping: Whether training ends when the negative log likelihood of validation data
            improves no more; the best epoch is then kept.
        validation_fraction: The share of each class that `early_stopping` holds out.
        patience: The number of epochs without improvement after which `early_stopping` ends.
        members: The number of networks that start from weights of their own and are averaged.
        samples: The number of draws of the weights in a prediction.
        warm_start: Whether `fit` starts from the weights of the fit before, and keeps its scaling.
        random_state: The seed of initial weights, validation split, batches and draws: a whole
            number, a `numpy.random.RandomState`, or `None` for another one at each fit.
        device: Where to train and predict, such as `"cuda"` or `"auto"`. On the CPU the default
            network has the precision of its inputs, elsewhere single precision.
        verbose: Whether to show a progress bar.

    Attributes:
        posterior_: The posterior, `htr.Posterior`. Its inputs are standardised by `mean_` and
            `scale_`, and then clipped by `clip_`.
        classes_: The labels in the order of the columns of `predict_proba`: `(C,)`.
        n_features_in_: The number of columns (or channels) of the inputs.
        feature_names_in_: The names of the inputs, if the inputs had any.
        mean_: The numbers that were subtracted from the inputs, broadcast over examples.
        scale_: The numbers by which the inputs were then divided.
        clip_: The bound by which they were then clipped; `None` if they were not.
        n_iter_: The number of epochs that were done.
        seed_: The seed that was used.

    Example:
        >>> clf = htr.HTRClassifier(random_state=0).fit(X, y)
        >>> clf.predict_proba(X_new), clf.spectra_.summary()
    """

    posterior_: Posterior
    classes_: Array
    mean_: Array
    scale_: Array
    clip_: float | None

    def __init__(
        self,
        prior: PriorSetting = TABLE,
        strength: float | Literal["auto"] | None = None,
        *,
        method: str | Method = "svi",
        hidden: Sequence[int] = (256,),
        module: ModuleSetting = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        standardise: bool = True,
        clip: float | None = 3.0,
        class_weight: Mapping[Any, float] | str | None = None,
        label_smoothing: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        members: int = 1,
        samples: int = 32,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "cpu",
        verbose: bool = False,
    ) -> None:
        self.prior = prior
        self.strength = strength
        self.method = method
        self.hidden = hidden
        self.module = module
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.standardise = standardise
        self.clip = clip
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.members = members
        self.samples = samples
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any, **refused: Any) -> HTRClassifier:
        """Find the posterior of the weights given examples.

        Args:
            X: Inputs, `(N, D)`: an array or a table of pandas. With `module=` also `(N, ...)`.
            y: Labels `(N,)`: numbers, words or booleans.
            refused: Other arguments that scikit-learn or its users may pass; each raises an error.

        Returns:
            The estimator itself.

        Raises:
            ValueError: Inputs or labels are missing, not finite, or of the wrong shape or kind, or
                there is a single class (`DataError`); or a setting is out of range.
            PriorError: The prior is unknown, or does not suit the network or the method.
            DivergenceError: The loss became NaN or infinite.
            TypeError: `sample_weight` or another argument is given that `fit` does not take.
        """
        self._refuse(refused)
        before = self.__dict__.get("posterior_") if self.warm_start else None
        inputs, codes = self._training_data(X, y, again=before is not None)
        seed = self._draw_seed()
        double = inputs.dtype == np.float64 and str(self.device).startswith("cpu")
        net = self._network(seed, double=double)
        patience = self.patience if self.early_stopping else None
        own_network = self.module is not None
        method = chosen_method(self.method, net, self.lr, patience, own_network=own_network)
        given = BATCH if self.batch_size is None else self.batch_size
        batch_size = whole_number(given, "batch_size", at_least=1)
        weights, validation = None, None
        if self.class_weight is not None:
            labels = self.classes_[codes]
            weights = compute_class_weight(self.class_weight, classes=self.classes_, y=labels)
        if getattr(method, "patience", None) is not None:
            (inputs, codes), validation = divided(inputs, codes, self.validation_fraction, seed)
        num_data, is_table = len(codes), self.method == "svi" and not own_network
        method, epochs = chosen_training(
            method, self.epochs, self.lr, num_data, batch_size, is_table=is_table
        )
        priors = chosen_priors(
            self.prior, self.strength, num_data=num_data, method=method, own_network=own_network
        )
        model: BayesianModel = BayesianClassifier(
            net, priors, class_weights=weights, label_smoothing=self.label_smoothing
        )
        settings: dict[str, Any] = {"method": method, "epochs": epochs, "seed": seed}
        settings |= {"batch_size": batch_size, "device": self.device}
        is_default = is_table and self.prior == TABLE and self.strength is None
        if is_default and num_data >= FEWEST:
            if before is None or not hasattr(self, "_factor"):  # a warm start keeps its strength
                self._factor = chosen_factor(model, (inputs, codes), validation, **settings)
            model = with_strength(model, self._factor)
        self.posterior_ = fit(
            model,
            (inputs, codes),
            **settings,
            validation=validation,
            init=before,
            members=self._members(net, seed, double=double, again=before is not None),
            progress=bool(self.verbose),
            strength="auto" if self.strength == "auto" else None,
        )
        self.seed_ = seed
        self.n_iter_ = max(1, len(self.posterior_.history))
        return self

    def _members(
        self, net: nn.Module, seed: int, *, double: bool, again: bool
    ) -> int | list[nn.Module] | None:
        """Return what `htr.fit` takes as `members`.

        Args:
            net: The network of the first member.
            seed: The seed of the first member.
            double: Whether networks are of double precision.
            again: Whether each member starts from one of the fit before.
        """
        count = whole_number(self.members, "members", at_least=1)
        if count == 1 or again:
            return None if count == 1 else count
        seeds = [member_seed(seed, number) for number in range(1, count)]
        return [net, *(self._network(each, double=double) for each in seeds)]

    def _refuse(self, arguments: Mapping[str, Any]) -> None:
        """Raise `TypeError` for arguments of `fit` that it does not take."""
        given = [name for name, value in arguments.items() if value is not None]
        if "sample_weight" in given:
            raise TypeError(
                f"{type(self).__name__} does not take sample_weight: the likelihood has weights of "
                "classes, not of examples; use class_weight=, or repeat the examples"
            )
        if given:
            raise TypeError(f"fit takes X and y, not {', '.join(given)}")

    def _training_data(self, X: Any, y: Any, *, again: bool) -> tuple[Array, Array]:
        """Return checked inputs, standardised, and labels as numbers from 0; note what they are.

        Args:
            X: The inputs.
            y: The labels.
            again: Whether they must be like those of the fit before.
        """
        X, y = validate_data(self, X, y, reset=not again, **self._input_checks())
        check_classification_targets(y)
        if again:
            return self._standardised(X), codes_of(y, self.classes_, len(X))
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise DataError(
                f"y has only one class, {classes.tolist()[0]!r}; a classifier needs examples of "
                "two classes or more"
            )
        self.classes_ = classes
        self.mean_, self.scale_ = np.zeros((1,) * X.ndim), np.ones((1,) * X.ndim)
        self.clip_ = None
        if self.standardise:
            self.mean_, self.scale_ = mean_and_scale(X)
            if self.clip is not None and X.ndim == 2:
                self.clip_ = number(self.clip, "clip", above=0)
        return self._standardised(X), codes

    def _input_checks(self) -> dict[str, Any]:
        """Return what scikit-learn is to check: only a module takes whole numbers, or images."""
        keeps_integers = self.module is not None and not self.standardise
        return {
            "dtype": "numeric" if keeps_integers else (np.float64, np.float32),
            "allow_nd": self.module is not None,
        }

    def _standardised(self, X: Array) -> Array:
        if not self.standardise:
            return X
        scaled = (X - self.mean_) / self.scale_
        clip = getattr(self, "clip_", None)  # pickles of versions that did not clip have none
        return (scaled if clip is None else clipped(scaled, clip)).astype(X.dtype)

    def _draw_seed(self) -> int:
        if isinstance(self.random_state, np.random.RandomState | None):
            return int(check_random_state(self.random_state).randint(2**31))
        return whole_number(self.random_state, "random_state", below=2**63)

    def _network(self, seed: int, *, double: bool) -> nn.Module:
        """Return a network with initial weights, of double precision or of single."""
        dtype = torch.float64 if double else torch.float32
        features, classes = self.n_features_in_, len(self.classes_)
        with isolated_randomness():
            torch.default_generator.manual_seed(seed)
            return build_module(self.module, self.hidden, features, classes, dtype=dtype)

    def prediction(self, X: Any) -> Prediction:
        """Return the predictive distribution (`htr.Prediction`) with uncertainty about the weights.

        Args:
            X: Inputs, as in `fit`.

        Raises:
            ValueError: The inputs are not like those of `fit`, or `fit` was not called before
                (`NotFittedError`).
        """
        check_is_fitted(self, "posterior_")
        X = validate_data(self, X, reset=False, **self._input_checks())
        samples = whole_number(self.samples, "samples", at_least=1)
        return self.posterior_.predict(self._standardised(X), samples, seed=self.seed_)

    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities of the classes, `(N, C)`, in the order of `classes_`.

        Raises:
            ValueError: The same errors as in `prediction`.
        """
        return self.prediction(X).log_probs.double().softmax(1).numpy()

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of `predict_proba`, `(N, C)`.

        Raises:
            ValueError: The same errors as in `prediction`.
        """
        return self.prediction(X).log_probs.double().log_softmax(1).numpy()

    def predict(self, X: Any) -> Array:
        """Return the most probable labels, `(N,)`.

        Raises:
            ValueError: The same errors as in `prediction`.
        """
        codes = self.prediction(X).labels.numpy()
        return self.classes_[codes]

    def evaluate(self, X: Any, y: Any) -> dict[str, float]:
        """Return the accuracy, negative log likelihood, calibration error and Brier score.

        Args:
            X: Inputs, as in `fit`.
            y: The labels of the examples, `(N,)`, all among `classes_`.

        Raises:
            ValueError: The same errors as in `prediction`; or `fit` has not seen a label
                (`DataError`).
        """
        prediction = self.prediction(X)
        codes = codes_of(y, self.classes_, len(prediction.labels))
        return scores(prediction, torch.from_numpy(codes))

    @property
    def spectra_(self) -> PosteriorSpectra:
        """Draws of the spectra of the weight matrices: `posterior_.spectra()`.

        Raises:
            NotFittedError: `fit` was not called before.
        """
        check_is_fitted(self, "posterior_")
        return self.posterior_.spectra(seed=self.seed_)

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write the fitted estimator into one file: posterior, classes, scaling and settings.

        The file is a zip archive of JSON and safetensors. Reading it runs no code.

        Args:
            path: The file.
            overwrite: Whether to replace a file that is there.

        Raises:
            NotFittedError: `fit` was not called before.
            DataError: JSON cannot hold the labels.
            OutputError: The file is there already, or cannot be written.
        """
        check_is_fitted(self, "posterior_")
        write_archive(path, described(self), self.posterior_, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | PathLike[str], *, module: ModuleSetting = None) -> HTRClassifier:
        """Read an estimator that `save` has written.

        Settings that no file can hold, such as an optimiser of one's own, have their defaults, and
        a warning names them.

        Args:
            path: The file.
            module: The network, or a callable that makes it, if the estimator had `module=`.

        Raises:
            CheckpointError: The file is missing, damaged or foreign, or does not fit the network.
        """

        def build(found: dict[str, Any]) -> nn.Module:
            restore(estimator, found, module)
            return estimator._network(found["seed"], double=found["double"])

        estimator = cls()
        found, estimator.posterior_ = read_archive(path, build)
        if lost := [name for name in found["lost"] if name != "module"]:
            warnings.warn(
                f"{path} does not hold {', '.join(lost)}, which matter to the next fit only: they "
                "have their defaults",
                stacklevel=2,
            )
        return estimator
