"""What a prior costs in training: `bayes-htr bench overhead`, `growth` and `gpu`.

`docs/benchmarks.md` says how to run them and what each column means.
"""

from __future__ import annotations

from bayes_htr.benchmarks.command import add_bench

__all__ = ["add_bench"]
