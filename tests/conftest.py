"""Every test starts from one global random state, so that it finds the same in any order."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch


@pytest.hookimpl(tryfirst=True)  # before the fixtures, those of modules and sessions too
def pytest_runtest_setup() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # small matrices gain nothing from more
