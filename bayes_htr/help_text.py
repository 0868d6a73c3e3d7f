"""What the help of all commands shares."""

from __future__ import annotations

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help with defaults, but for options that are left out by default."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        left_out = action.default is None or action.default is False
        return action.help if left_out else super()._get_help_string(action)
