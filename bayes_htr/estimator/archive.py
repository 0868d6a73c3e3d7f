"""The file of a fitted estimator: a zip archive of the posterior's run folder and of its own JSON.

Members are stored without compression, so that a small file cannot unpack into a large one, and
only members with known names are read. The digests of the run folder tell whether the posterior is
damaged.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bayes_htr._checks import number, whole_number
from bayes_htr._files import write_output
from bayes_htr.errors import CheckpointError, DataError, OutputError, PriorError
from bayes_htr.estimator.settings import ModuleSetting
from bayes_htr.fitting import load
from bayes_htr.inference import MAP, NUTS, SVI
from bayes_htr.inference.digests import DIGESTS
from bayes_htr.inference.run_folder import CONFIG, GUIDE, MEMBERS, METRICS, SPECTRA, WEIGHTS
from bayes_htr.posterior import Posterior, PosteriorMixture
from bayes_htr.priors import Prior, Priors

_FORMAT = 1
_DESCRIPTION = "estimator.json"
_POSTERIOR = (CONFIG, METRICS, WEIGHTS, GUIDE, SPECTRA, DIGESTS)
_IN_POSTERIOR = re.compile(
    rf"posterior/({MEMBERS}/[0-9]+/)?({'|'.join(map(re.escape, _POSTERIOR))})"
)
"""The names of the posterior's files in the archive; each member of a mixture has such files."""
_METHODS: dict[str, type] = {"MAP": MAP, "NUTS": NUTS, "SVI": SVI}
_PLAIN = (type(None), bool, int, float, str)
_LABELS = "biufU"
"""The kinds of NumPy's arrays of labels that a file can hold beside objects that are words."""


def described(estimator: Any) -> dict[str, Any]:
    """Return the description of a fitted estimator without its posterior, as plain data.

    Args:
        estimator: An `htr.HTRClassifier`.

    Raises:
        DataError: JSON cannot hold the labels.
    """
    parameters, lost = plain_parameters(estimator.get_params(deep=False))
    names = getattr(estimator, "feature_names_in_", None)
    posterior = estimator.posterior_
    first = posterior.members[0] if isinstance(posterior, PosteriorMixture) else posterior
    return {
        "parameters": parameters,
        "lost": lost,
        "classes": plain_labels(estimator.classes_),
        "mean": estimator.mean_.tolist(),
        "scale": estimator.scale_.tolist(),
        "clip": estimator.clip_,
        "features": estimator.n_features_in_,
        "feature_names": None if names is None else names.tolist(),
        "epochs": estimator.n_iter_,
        "seed": estimator.seed_,
        "double": any(p.dtype == torch.float64 for p in first.network().parameters()),
    }


def restore(estimator: Any, found: Mapping[str, Any], module: ModuleSetting) -> None:
    """Restore an estimator from its description, except for its posterior.

    Args:
        estimator: The estimator.
        found: The result of `described`.
        module: The network, or a callable that makes it.

    Raises:
        KeyError, TypeError, ValueError: The description is damaged, or there is no module
            where the estimator had one.
    """
    # Files of versions that did not clip have no such entry and no such parameter.
    estimator.set_params(**{"clip": None} | parameters_of_plain(found["parameters"]))
    if "module" in found["lost"] and module is None:
        raise ValueError("its network had been given by module=; give it to load, too")
    estimator.module = module
    estimator.classes_ = labels_of_plain(found["classes"])
    estimator.mean_ = np.asarray(found["mean"], dtype=np.float64)
    estimator.scale_ = np.asarray(found["scale"], dtype=np.float64)
    clip = found.get("clip")
    estimator.clip_ = None if clip is None else number(clip, "clip", above=0)
    estimator.n_features_in_ = whole_number(found["features"], "features")
    for constant in (estimator.mean_, estimator.scale_):
        if constant.ndim < 2 or constant.shape[1] not in (1, estimator.n_features_in_):
            raise ValueError(f"its scaling is of shape {constant.shape}")
    if found["feature_names"] is not None:
        estimator.feature_names_in_ = np.array(found["feature_names"], dtype=object)
    estimator.n_iter_ = whole_number(found["epochs"], "epochs")
    estimator.seed_ = whole_number(found["seed"], "seed")


def write_archive(
    path: str | PathLike[str],
    description: Mapping[str, Any],
    posterior: Posterior,
    *,
    overwrite: bool,
) -> None:
    """Write a description and a posterior into one file, completely or not at all.

    Args:
        path: The file.
        description: Plain data.
        posterior: The posterior.
        overwrite: Whether to replace a file that is there.

    Raises:
        OutputError: The file is there already, or cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise OutputError(f"{target} is a folder; name a file")
    if target.exists() and not overwrite:
        raise OutputError(f"{target} is there already; name another file, or take overwrite=True")
    text = json.dumps({"format": _FORMAT, **description}, indent=1)
    with TemporaryDirectory() as folder:
        run = Path(folder, "posterior")
        posterior.save(run)

        def write(aside: Path) -> None:
            with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(_DESCRIPTION, text)
                for file in sorted(run.rglob("*")):
                    if file.name in _POSTERIOR:
                        archive.write(file, f"posterior/{file.relative_to(run).as_posix()}")

        write_output(target, write)


def read_archive(
    path: str | PathLike[str], build: Callable[[dict[str, Any]], nn.Module]
) -> tuple[dict[str, Any], Posterior]:
    """Read what `write_archive` has written.

    Args:
        path: The file.
        build: The function that makes the network of the posterior, given the description. If it
            raises a `KeyError`, `TypeError` or `ValueError`, the description is damaged.

    Returns:
        The description, and the posterior.

    Raises:
        CheckpointError: The file is missing, damaged or foreign, or its posterior does not fit
            the network.
    """
    with TemporaryDirectory() as folder:
        run = Path(folder)
        try:
            with zipfile.ZipFile(path) as archive:
                description = json.loads(_member(archive, _DESCRIPTION))
                for name in filter(_IN_POSTERIOR.fullmatch, set(archive.namelist())):
                    file = run / name.removeprefix("posterior/")
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(_member(archive, name))
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} does not exist") from error
        except (OSError, zipfile.BadZipFile, KeyError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{path} is not the file of an estimator, or is damaged: {error}"
            ) from error
        if not isinstance(description, dict) or description.get("format") != _FORMAT:
            raise CheckpointError(f"{path} is not the file of an estimator of this version")
        try:
            net = build(description)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be used: {error}") from error
        try:
            return description, load(run, net)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(run), str(path))) from error


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the content of a member.

    Raises:
        KeyError: The archive has no entry of this name.
        ValueError: The entry is compressed.
        BadZipFile: The member is damaged.
    """
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, which no file of an estimator is")
    return archive.read(name)


def plain_parameters(parameters: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the constructor's parameters as plain data, and the names of those that have none.

    Args:
        parameters: The parameters by name: plain values, sequences of them, priors, or methods.
    """
    plain: dict[str, Any] = {}
    lost: list[str] = []
    for name, value in parameters.items():
        try:
            plain[name] = _to_plain(value)
        except TypeError:
            lost.append(name)
    return plain, lost


def _to_plain(value: Any) -> Any:
    """Return a parameter as plain data.

    Raises:
        TypeError: There is no such form.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, PathLike):
        return str(value)
    if isinstance(value, list | tuple | np.ndarray):
        return [_to_plain(v) for v in value]
    if isinstance(value, Prior | Priors):
        return {"prior": value.to_dict()}
    if isinstance(value, Mapping):
        return {"items": [[_to_plain(k), _to_plain(v)] for k, v in value.items()]}
    if type(value) in _METHODS.values():
        given = {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != _default(field)
        }
        if all(isinstance(v, _PLAIN) for v in given.values()):
            return {"method": type(value).__name__, "settings": given}
    raise TypeError(f"{value!r} has no plain form")


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def parameters_of_plain(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inverse of `plain_parameters`; sequences become tuples.

    Raises:
        KeyError, TypeError, ValueError: The data are not what `plain_parameters` has returned.
    """
    return {name: _from_plain(value) for name, value in plain.items()}


def _from_plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_plain(v) for v in value)
    if not isinstance(value, dict):
        return value
    if "prior" in value:
        data = value["prior"]
        try:
            return Priors.from_dict(data)
        except PriorError:
            return Prior.from_dict(data)
    if "items" in value:
        return {_from_plain(k): _from_plain(v) for k, v in value["items"]}
    return _METHODS[value["method"]](**value["settings"])


def plain_labels(labels: npt.NDArray[Any]) -> dict[str, Any]:
    """Return labels, `(C,)`, as plain data.

    Raises:
        DataError: The labels are neither numbers nor booleans nor words.
    """
    words = labels.dtype.kind == "O" and all(isinstance(v, str) for v in labels.tolist())
    if not (words or labels.dtype.kind in _LABELS):
        raise DataError(
            f"classes_={labels!r} cannot be written: labels must be numbers, booleans or words"
        )
    return {"dtype": "O" if words else labels.dtype.str, "values": labels.tolist()}


def labels_of_plain(plain: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return the inverse of `plain_labels`.

    Raises:
        KeyError, TypeError, ValueError: The data are not what `plain_labels` has returned.
    """
    dtype = np.dtype(plain["dtype"])
    if dtype.kind != "O" and dtype.kind not in _LABELS:
        raise ValueError(f"labels of the kind {plain['dtype']!r}")
    labels = np.array(plain["values"], dtype=dtype)
    if labels.ndim != 1:
        raise ValueError("labels that are no list")
    return labels
