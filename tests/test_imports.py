"""What is imported, and when: names of the package are loaded when they are asked for."""

import ast
import copy
import importlib
import json
import os
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bayes_htr as htr
from bayes_htr import cli
from bayes_htr.experiments import DATASETS, NETWORKS, PRIORS
from bayes_htr.inference.svi import NAMED_GUIDES

PACKAGE = Path(htr.__file__).parent
LAZY = ("bayes_htr", "bayes_htr.distributions", "bayes_htr.inference")
HEAVY = {
    "arviz",
    "matplotlib",
    "mlflow",
    "numpy",
    "pandas",
    "pyro",
    "rich.progress",
    "scipy",
    "sklearn",
    "tensorboard",
    "torch",
    "wandb",
}
COMMAND = """
from bayes_htr.cli import main
try:
    main({arguments})
except SystemExit:
    pass
"""


def loaded(code: str) -> set[str]:
    """The modules that a new process has loaded after running some code."""
    code += "\nimport json, sys; print(json.dumps(list(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_package_alone_loads_nothing_heavy():
    assert not loaded("import bayes_htr; dir(bayes_htr)") & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["fit", "--help"],
        ["analyze", "--help"],
        ["report", "--help"],
        ["fit", "--epochs", "many"],
        ["fit", "--net", "perceptron"],
        ["fit", "--resume"],
        ["train"],
        [],
    ],
    ids=" ".join,
)
def test_help_and_wrong_arguments_load_nothing_heavy(arguments):
    assert not loaded(COMMAND.format(arguments=arguments)) & HEAVY


@pytest.mark.long
def test_a_method_loads_what_it_needs_and_no_other_method():
    found = loaded("import bayes_htr as htr; assert htr.MAP(lr=0.1).lr == 0.1")
    assert {"torch", "bayes_htr.inference.map"} <= found
    assert not {"bayes_htr.inference.nuts", "bayes_htr.inference.svi", "matplotlib"} & found


@pytest.mark.long
@pytest.mark.parametrize("name", ["Priors", "spectrum", "Lomax", "Drift"])
def test_priors_and_spectra_load_neither_pyro_nor_scipy_s_statistics(name):
    assert not {"pyro", "scipy.stats"} & loaded(f"import bayes_htr as htr; htr.{name}")


@pytest.mark.long
def test_a_fit_loads_what_it_draws_and_computes_with_later():
    code = "import bayes_htr as htr; htr.fit, htr.MAP, htr.SVI, htr.Posterior, htr.analyze"
    optional = {"arviz", "matplotlib", "pandas", "scipy.optimize", "scipy.stats", "sklearn"}
    optional |= {"mlflow", "tensorboard", "wandb"}
    assert not optional & loaded(code)


def test_analyze_loads_neither_pyro_nor_the_trainers(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save({"fc.weight": torch.randn(40, 30)}, file)
    found = loaded(COMMAND.format(arguments=["analyze", str(file)]))
    assert "bayes_htr.analysis.analyze" in found
    trainers = {f"bayes_htr.inference.{name}" for name in ("map", "nuts", "svi")}
    assert not ({"pyro", "matplotlib", "pandas", "bayes_htr.posterior"} | trainers) & found


@pytest.mark.parametrize("package", LAZY)
def test_every_public_name_resolves_and_is_listed(package):
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None, name


@pytest.mark.parametrize("package", LAZY)
def test_names_are_those_that_type_checkers_see(package):
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {}
    for node in block.body:
        for name in node.names:
            seen[name.name] = node.module
    assert set(seen) == set(module.__all__)
    for name, source in seen.items():
        assert getattr(module, name) is getattr(importlib.import_module(source), name), name


@pytest.mark.parametrize("package", LAZY)
def test_no_module_stands_where_a_name_is_asked_for(package):
    module = importlib.import_module(package)
    modules = {found.name for found in pkgutil.iter_modules(module.__path__)}
    assert modules & set(module.__all__) <= {"distributions", "integrations"}


@pytest.mark.parametrize("package", LAZY)
def test_an_unknown_name_is_named(package):
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"'{package}' has no attribute 'Frechett'"):
        module.Frechett
    assert not hasattr(module, "__wrapped__")


def test_subpackages_are_there_without_an_import_of_their_own():
    code = "import bayes_htr as htr; assert htr.tails.fit_tail and htr.priors.Law"
    assert "bayes_htr.tails" in loaded(code)


@pytest.mark.long
def test_a_star_import_and_the_modules_themselves():
    code = "from bayes_htr import *; import bayes_htr.distributions as d, bayes_htr.fitting as f\n"
    loaded(code + "assert fit is f.fit and distributions is d and d.Frechet is not Frechet")


def test_values_are_pickled_and_copied():
    law = htr.Frechet(2.0, 1.0)
    assert pickle.loads(pickle.dumps(law)) == copy.deepcopy(law) == law
    for name in ("fit", "MAP", "Posterior", "analyze"):
        assert pickle.loads(pickle.dumps(getattr(htr, name))) is getattr(htr, name)


def test_choices_are_those_of_the_modules_that_know_them():
    assert cli.DATASETS == DATASETS
    assert cli.NETWORKS == NETWORKS
    assert tuple(PRIORS) == cli.PRIORS
    assert tuple(NAMED_GUIDES) == cli.GUIDES
