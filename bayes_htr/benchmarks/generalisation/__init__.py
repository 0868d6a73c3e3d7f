"""`bayes-htr bench generalisation`: does a heavy-tailed prior make a network generalise better?

`docs/generalisation.md` states the protocol and shows what came out.
"""

from bayes_htr.benchmarks.generalisation.command import add_generalisation, add_report

__all__ = ["add_generalisation", "add_report"]
