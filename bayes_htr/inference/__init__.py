"""Inference methods, each a value with its settings: `MAP`, `SVI`, `NUTS`."""

from typing import TYPE_CHECKING

from bayes_htr._lazy import lazy

if TYPE_CHECKING:
    from bayes_htr.inference.callbacks import Callback, EpochEvent, StepCallback, StepEvent
    from bayes_htr.inference.data import Batches, Data
    from bayes_htr.inference.map import MAP
    from bayes_htr.inference.nuts import NUTS
    from bayes_htr.inference.problem import Fitted, Method, Problem, Run
    from bayes_htr.inference.run_folder import RunFolder
    from bayes_htr.inference.svi import SVI
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "data": "Batches Data",
            "map": "MAP",
            "nuts": "NUTS",
            "callbacks": "Callback EpochEvent StepCallback StepEvent",
            "problem": "Fitted Method Problem Run",
            "run_folder": "RunFolder",
            "svi": "SVI",
        },
    )

__all__ = [
    "MAP",
    "NUTS",
    "SVI",
    "Batches",
    "Callback",
    "Data",
    "EpochEvent",
    "Fitted",
    "Method",
    "Problem",
    "Run",
    "RunFolder",
    "StepCallback",
    "StepEvent",
]
