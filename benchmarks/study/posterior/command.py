"""`python -m benchmarks posterior`: its options."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from bayes_htr._terminal import positive
from benchmarks.common.running import Commands, add_command, run_benchmark
from benchmarks.study.posterior.methods import METHODS
from benchmarks.study.posterior.picture import draw_posterior
from benchmarks.study.posterior.protocol import OTHERS, PosteriorBenchmark, StudySettings
from benchmarks.study.posterior.tables import posterior_tables, study_settings


def add_posterior(kinds: Commands[argparse.ArgumentParser]) -> None:
    """Add `posterior`."""
    what = "scores of posteriors, ensembles and tuned MAP fits on test data"
    parser = add_command(kinds, "posterior", what)
    study = StudySettings()
    add = parser.add_argument
    add("--data", nargs="+", choices=OTHERS, default=list(OTHERS), help="the data sets")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="the methods")
    add("--data-dir", type=Path, metavar="DIR", help="folder of .npz files; without it: OpenML")
    add("--seeds", type=positive, default=study.seeds, help="seeds of each tuned method")
    add("--samples", type=positive, default=study.samples, help="draws for a prediction")
    add("--batch-size", type=positive, default=study.batch_size, help="examples per step")
    add("--train", type=positive, default=study.train, help="training images, at most")
    add("--validation", type=positive, default=study.validation, help="of them, to tune on")
    add("--ood", type=positive, default=study.ood, help="images of the other data set, at most")
    add("--epochs", type=positive, help="of every fit, instead of each method's own")
    parser.set_defaults(run=_posterior)


def _posterior(args: argparse.Namespace, console: Console) -> None:
    settings = StudySettings(
        seeds=args.seeds,
        samples=args.samples,
        batch_size=args.batch_size,
        train=args.train,
        validation=args.validation,
        ood=args.ood,
        epochs=args.epochs,
    )
    benchmark = PosteriorBenchmark(args.data, args.methods, settings, args.data_dir)
    title = "What the uncertainty of a posterior buys"
    run_benchmark(
        "posterior",
        title,
        benchmark,
        posterior_tables,
        draw_posterior,
        args,
        console,
        study_settings,
    )
