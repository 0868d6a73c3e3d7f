"""How a run that is resumed is recognised: by its configuration, setting by setting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayes_htr.errors import CheckpointError

_MAY_DIFFER = {"format", "epochs", "version", "device", "guide", "threads", "shard"}
"""Settings that a resumed run need not share."""

_OLD_DEFAULTS = {"label_smoothing": 0.0}
"""Settings of runs whose configuration was written before it named these settings."""


def require_same_run(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Require two configurations to be those of the same run.

    Args:
        path: The run folder, for the error.
        before: The configuration in the folder.
        now: The configuration of the run that is to go on there.

    Raises:
        CheckpointError: A setting differs; the message names it with both of its values.
    """
    old = _leaves(_OLD_DEFAULTS | dict(before))
    new = _leaves(json.loads(json.dumps(dict(now))))
    for key in sorted(old.keys() | new.keys()):
        if key.partition(".")[0] not in _MAY_DIFFER and old.get(key) != new.get(key):
            raise CheckpointError(
                f"{path} holds another run: its {key} is {old.get(key)!r}, and this one's "
                f"{new.get(key)!r}; resume with the same settings, or name another folder"
            )


def _leaves(data: Any, path: str = "") -> dict[str, Any]:
    """Flatten nested dicts into one, whose keys are the paths to the leaves."""
    if not isinstance(data, dict) or not data:
        return {path: data}
    leaves: dict[str, Any] = {}
    if path == "priors.priors":  # the order of patterns counts, since the first match wins
        leaves["priors.priors"] = list(data)
    for key, value in data.items():
        leaves |= _leaves(value, f"{path}.{key}" if path else key)
    return leaves
