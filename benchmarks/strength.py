"""How good are `htr.starting_strength` and `strength="auto"`? `python -m benchmarks.strength`.

Without `--train` nothing is trained: the strengths that scored best on validation images in the
study of generalisation are compared with `htr.starting_strength`, and the search of `htr.tune` is
replayed on their scores. With `--train` the strength is
chosen by `htr.tune` in cells of the study, with its networks, splits and seeds, and the Brier score
of test images is compared with that of the study's tuned choice with the same seed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import torch

import bayes_htr as htr
from bayes_htr.experiments import build_network
from bayes_htr.posterior.scores import Score
from bayes_htr.tuning.search import Bracket, Journal, Trial, best_of, run_search
from benchmarks.study.cells import GENERALISATION as CELLS
from benchmarks.study.cells import image_shape, split, test_images
from benchmarks.study.method import Setting
from benchmarks.study.methods import GENERALISATION as METHODS

RESULTS = Path(__file__).parent / "results"
METHOD_NAMES = (
    *("weight_decay", "spectral_norm", "nuclear_norm", "lomax", "frechet"),
    *("svi_lomax", "svi_exponential", "svi_frechet"),
)
CELL_NAMES = ("mlp-kmnist", "mlp-fashion", "mlp-fashion-3k", "lenet5-kmnist", "lenet5-cifar10")
NUM_DATA = {
    "mlp-kmnist": 7000,
    "mlp-fashion": 9000,
    "mlp-fashion-3k": 2000,
    "lenet5-kmnist": 7000,
    "lenet5-cifar10": 9000,
    "mlp-fashion-60k": 55_000,
}
"""The number of training images, those for validation not counted."""
FACTOR = 3.0
"""How far a start may be from the best strength."""
ERROR = 0.05
"""The standard error of the Brier score of 1,000 images, as a share of the score."""
TOLERANCE = 0.003
"""A score is like the best one up to this, for Brier scores of 0.18 or less; else in proportion."""


class Studied(NamedTuple):
    """What the study found for a method in a cell.

    Attributes:
        by_seed: The Brier scores of validation images by strength, with two seeds.
        nll_by_seed: The NLLs of the same runs.
        test: The Brier score of test images of the tuned choice by seed.
    """

    by_seed: dict[float, list[float]]
    nll_by_seed: dict[float, list[float]]
    test: dict[int, float]

    @property
    def validation(self) -> dict[float, float]:
        """The Brier score of validation images by strength, averaged over seeds."""
        return {strength: fmean(scores) for strength, scores in self.by_seed.items()}

    @property
    def best(self) -> float:
        """The strength with the lowest score of validation images."""
        validation = self.validation
        return min(validation, key=validation.__getitem__)

    @property
    def like_the_best(self) -> tuple[float, float]:
        """The smallest and the largest strength whose score is like the best one."""
        validation = self.validation
        low = min(validation.values())
        bound = low + TOLERANCE * max(1.0, low / 0.18)
        near = [s for s, score in validation.items() if score <= bound]
        return min(near), max(near)

    def score(self, strength: float, seed: int) -> float:
        """Return the score with one seed at any strength, as `_interpolated` has it."""
        return _interpolated(self.by_seed, strength, seed, highest=2.0)  # no Brier score is above 2

    def nll(self, strength: float, seed: int) -> float:
        """Return the NLL with one seed at any strength, as `_interpolated` has it."""
        return _interpolated(self.nll_by_seed, strength, seed, highest=20.0)


def _interpolated(
    by_seed: dict[float, list[float]], strength: float, seed: int, *, highest: float
) -> float:
    """Return a score with one seed at any strength, interpolated in the logarithm of the strength.

    Beyond the strongest trial it is infinite, and below the weakest one constant.
    """
    tried = sorted(by_seed)
    if strength > 1.01 * tried[-1]:
        return math.inf
    scores = [min(by_seed[s][seed], highest) for s in tried]
    return float(np.interp(math.log(strength), np.log(tried), scores))


def study_lines() -> Iterable[dict[str, Any]]:
    """Return the lines of the study's results."""
    for name in ("generalisation", "generalisation-60k"):
        with (RESULTS / name / "generalisation.jsonl").open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def studied() -> dict[tuple[str, str], Studied]:
    """What the study found, by method and cell; of SVI the trials with the learning rate 0.003."""
    scores: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    nlls: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    tests: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for line in study_lines():
        run = line["settings"]
        if line["kind"] != "run" or run["method"] not in METHOD_NAMES:
            continue
        numbers, result, key = run["numbers"], line["result"], (run["method"], run["cell"])
        if run["tested"]:
            tests[key][run["seed"]] = result["test"]["brier"] if "test" in result else math.inf
        elif numbers.get("lr", 3e-3) == 3e-3:
            mu = numbers.get("mu")
            strength = numbers["strength"] if mu is None else mu * NUM_DATA[run["cell"]]
            found = result.get("validation", {})
            scores[key][strength].append(found.get("brier", math.inf))
            nlls[key][strength].append(found.get("nll", math.inf))
    return {key: Studied(dict(scores[key]), dict(nlls[key]), tests[key]) for key in scores}


def start_in(method: str, cell: str) -> float:
    """Return `htr.starting_strength` of a method in a cell."""
    described = CELLS[cell]
    shape = (3, 32, 32) if described.data == "cifar10" else (1, 28, 28)
    net = build_network(described.network, shape, 10)
    setting = Setting(net, NUM_DATA[cell], described.bases()[0], {})
    priors = METHODS[method].priors({"strength": 1.0}, setting)
    is_svi = method.startswith("svi")
    return htr.starting_strength(priors, net, num_data=NUM_DATA[cell], posterior=is_svi)


def show_starts(show: Callable[[str], None] = print) -> tuple[int, int, int]:
    """Show the start, the best strength and the range of those like it, for each method and cell.

    Returns:
        How often the start is within a factor of three of the best strength, how often of one
        that scores like the best, and the number of methods and cells.
    """
    close = like = count = 0
    show("| method | cell | start | best | like it | factor to the best | to one like it |")
    show("|---|---|---:|---:|---:|---:|---:|")
    for (method, cell), found in sorted(studied().items()):
        start, (low, high) = start_in(method, cell), found.like_the_best
        to_best = max(start / found.best, found.best / start)
        to_like = max(1.0, low / start, start / high)
        close, like, count = close + (to_best <= FACTOR), like + (to_like <= FACTOR), count + 1
        show(
            f"| `{method}` | `{cell}` | {start:.3g} | {found.best:.3g} | {low:.3g} to {high:.3g} | "
            f"{to_best:.1f} | {to_like:.1f} |"
        )
    show(f"\nWithin a factor of three of the best: {close} of {count}; of one like it: {like}.")
    return close, like, count


def show_replay(show: Callable[[str], None] = print) -> dict[str, float]:
    """Replay the search of `htr.tune` on the scores of one seed, and score it with the other seed.

    Returns:
        By how much, as a share, the score of a choice lies above the lowest one, on average over
        methods, cells and seeds: for the choice of the search, for its best trial, for the lowest
        score of all trials, and for the start without a trial, where it is among the strengths that
        were tried.
    """
    excess = defaultdict(list)
    for (method, cell), found in sorted(studied().items()):
        start = start_in(method, cell)
        for seed, other in ((0, 1), (1, 0)):

            def attempt(strength: float, gives_up: object, seed: int = seed) -> Trial:
                score, nll = found.score(strength, seed), found.nll(strength, seed)  # noqa: B023
                both = {"brier": score, "nll": nll}
                return Trial(strength, "finished", Score(score, ERROR * score), both)

            search = Bracket(start)
            trials = run_search(search, attempt, Journal(None, {}), 5)
            lowest = min(found.score(s, other) for s in found.by_seed)
            choices = {
                "search": search.choose(trials),
                "best trial of the search": best_of(trials).strength,
                "all trials": min(found.by_seed, key=lambda s: found.by_seed[s][seed]),
                "start": start,
            }
            for name, strength in choices.items():
                excess[name].append(found.score(strength, other) / lowest - 1)
    means = {name: fmean(v for v in values if v < math.inf) for name, values in excess.items()}
    for name, mean in means.items():
        show(f"{name}: {100 * mean:.1f} % above the lowest score, on average")
    return means


def choose(method: str, cell: str, seed: int, data_dir: Path | None) -> dict[str, Any]:
    """Let `htr.tune` choose, and score the test images."""
    lines = (line for line in study_lines() if line["kind"] == "base")
    base = next(line["base"] for line in lines if line["settings"]["cell"] == cell)
    described, data = CELLS[cell], split(CELLS[cell], data_dir, seed, "cpu")
    shape, classes = image_shape(described, data_dir)
    net = build_network(described.network, shape, classes, seed=seed)
    inference: htr.MAP | htr.SVI = htr.MAP(
        lr=base["lr"], scheduler="cosine" if base["schedule"] == "cosine" else None
    )
    if method.startswith("svi"):
        inference = htr.SVI(guide="spectral", noise="example", lr=3e-3, init_scale=0.3)
    setting = Setting(net, len(data.train[1]), described.bases()[0], {})
    tuning = htr.tune(
        net,
        data.train,
        prior=METHODS[method].priors({"strength": 1.0}, setting),
        validation=data.validation,
        method=inference,
        epochs=base["epochs"],
        seed=seed,
        progress=False,
    )
    assert tuning.posterior is not None
    return {
        "method": method,
        "cell": cell,
        "seed": seed,
        "start": tuning.start,
        "strength": tuning.strength,
        "trials": [trial.to_dict() for trial in tuning.trials],
        "test": tuning.posterior.evaluate(test_images(described, data_dir)),
    }


def train(args: argparse.Namespace) -> None:
    """Choose strengths where that has not been done yet, and show the comparison."""
    rows = []
    if args.out.exists():
        rows = [json.loads(line) for line in args.out.read_text(encoding="utf-8").splitlines()]
    done = {(row["method"], row["cell"], row["seed"]) for row in rows}
    for seed in range(args.seeds):
        for method in args.methods:
            for cell in args.cells:
                if (method, cell, seed) not in done:
                    rows.append(choose(method, cell, seed, args.data_dir))
                    with args.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    show_choices(rows)


def show_choices(rows: list[dict[str, Any]], show: Callable[[str], None] = print) -> None:
    """Show the chosen strengths, and test scores minus those of the study's choice."""
    found = studied()
    by_place = defaultdict(list)
    for row in rows:
        by_place[row["method"], row["cell"]].append(row)
    show("| method | cell | start | chosen | study's | Brier, auto | minus the study's | s.e. |")
    show("|---|---|---:|---|---:|---:|---:|---:|")
    for (method, cell), own in by_place.items():
        study = found[method, cell]
        differences = [row["test"]["brier"] - study.test[row["seed"]] for row in own]
        # With few seeds of our own the spread is that of the study's ten.
        spread = stdev(study.test.values()) / math.sqrt(len(own))
        show(
            f"| `{method}` | `{cell}` | {own[0]['start']:.3g} | "
            f"{', '.join(format(row['strength'], '.3g') for row in own)} | {study.best:.3g} | "
            f"{fmean(row['test']['brier'] for row in own):.4f} | {fmean(differences):+.4f} | "
            f"{spread:.4f} |"
        )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--train", action="store_true", help="let htr.tune choose in the cells")
    parser.add_argument("--methods", nargs="+", default=["frechet"], choices=METHOD_NAMES)
    parser.add_argument("--cells", nargs="+", default=CELL_NAMES, choices=NUM_DATA)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("strength.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.train:
        train(args)
    else:
        show_starts()
        show_replay()


if __name__ == "__main__":
    main()
