"""Inference methods, each a value with its settings: `MAP`, `SVI`, `NUTS`."""

from bayes_htr.inference.callbacks import Callback, EpochEvent, StepCallback, StepEvent
from bayes_htr.inference.data import Batches, Data
from bayes_htr.inference.defaults import EPOCHS, default_method
from bayes_htr.inference.map import MAP
from bayes_htr.inference.nuts import NUTS
from bayes_htr.inference.problem import Fitted, Method, Problem
from bayes_htr.inference.run_folder import RunFolder
from bayes_htr.inference.svi import SVI

__all__ = [
    "EPOCHS",
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
    "RunFolder",
    "StepCallback",
    "StepEvent",
    "default_method",
]
