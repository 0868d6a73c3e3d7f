"""Names from strangers' files, made harmless for HTML and for JSON inside a script element."""

from __future__ import annotations

import html
import json
import math
from typing import Any

from bayes_htr._terminal import visible


def escaped(text: str) -> str:
    """For HTML text, and for attributes in either kind of quotes."""
    return html.escape(visible(text), quote=True)


def inline_json(data: Any) -> str:
    """JSON that no HTML parser takes for markup; what is not a finite number is `null`."""
    text = json.dumps(_plain(data), allow_nan=False, separators=(",", ":"))
    for character in "<>&":  # all others of note are escaped as not ASCII
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(data: Any) -> Any:
    if isinstance(data, str):
        return visible(data)
    if isinstance(data, float):
        return float(data) if math.isfinite(data) else None
    if isinstance(data, dict):
        return {visible(str(key)): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    return data
