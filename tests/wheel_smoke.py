"""What `make wheel` runs in a fresh environment: the installed package works without its tree.

Run it by `python -I tests/wheel_smoke.py` from another folder, so that neither this repository nor
`PYTHONPATH` is on the path.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch

import bayes_htr as htr

INSTALLED = Path(sysconfig.get_paths()["purelib"]).resolve()


def check_package() -> None:
    """The package is the installed one, with its version, its types, and nothing beside it."""
    folder = Path(htr.__file__).resolve().parent
    assert folder.parent == INSTALLED, f"imported from {folder}, not from {INSTALLED}"
    assert importlib.metadata.version("bayes-htr") == htr.__version__
    assert (folder / "py.typed").is_file()
    for name in ("benchmarks", "tests", "examples"):
        assert importlib.util.find_spec(name) is None, f"the wheel installs {name}"
    for name in htr.__all__:
        assert getattr(htr, name) is not None, name


def check_fit(folder: Path) -> None:
    """A mode and a posterior are found, saved, loaded and scored."""
    torch.manual_seed(0)
    X, y = torch.randn(60, 8), torch.arange(60) % 3
    net = torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3))
    model = htr.BayesianClassifier(net, htr.Priors(htr.ESD(htr.Lomax(2.5, 0.05))))
    for method in (htr.MAP(), None):
        out = folder / f"run-{method is None}"
        logger = htr.CSVLogger(out.with_suffix(".csv"))
        posterior = htr.fit(
            model, (X, y), method=method, epochs=2, out=out, callbacks=[logger], progress=False
        )
        assert logger.path.stat().st_size > 0
        assert htr.load(out, net).evaluate((X, y)) == posterior.evaluate((X, y))
        print(posterior.spectra().summary())


def check_commands(folder: Path) -> None:
    """The script and the module run."""
    scripts = Path(sysconfig.get_paths()["scripts"])
    script = scripts / ("bayes-htr.exe" if sys.platform == "win32" else "bayes-htr")
    for command in ([str(script)], [sys.executable, "-I", "-m", "bayes_htr"]):
        for words in (["--version"], ["fit", "--help"], ["analyze", str(folder / "run-True")]):
            subprocess.run([*command, *words], check=True, cwd=folder)


def check_missing_extras() -> None:
    """Where an optional package is missing, the error says what to install."""
    if importlib.util.find_spec("arviz") is not None:
        return
    try:
        htr.PosteriorSpectra({"w": torch.rand(2, 5)}).to_arviz()
    except ImportError as error:
        assert "bayes-htr[arviz]" in str(error)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        check_package()
        check_fit(Path(made))
        check_commands(Path(made))
        check_missing_extras()
    print(f"bayes_htr {htr.__version__} works as installed, with torch {torch.__version__}")
