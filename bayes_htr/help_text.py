"""Help and number types that the options of all commands share."""

from __future__ import annotations

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help with defaults, except for options that are left out by default."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        left_out = action.default is None or action.default is False
        return action.help if left_out else super()._get_help_string(action)


def positive(text: str) -> int:
    """The value of an option: a whole number of at least 1."""
    return _at_least(text, 1)


def count(text: str) -> int:
    """The value of an option: a whole number of at least 0."""
    return _at_least(text, 0)


def _at_least(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least} on")
    return value
