"""`bayes-htr bench guides | posterior`: options of the benchmarks of posteriors."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from bayes_htr.benchmarks.compared import METHODS
from bayes_htr.benchmarks.guide_runs import TIMED
from bayes_htr.benchmarks.guides import GuideBenchmark, GuideSettings, guide_tables
from bayes_htr.benchmarks.guides_picture import draw_guides
from bayes_htr.benchmarks.posterior import OTHERS, PosteriorBenchmark, StudySettings
from bayes_htr.benchmarks.posterior_picture import draw_posterior
from bayes_htr.benchmarks.posterior_tables import posterior_tables, study_settings
from bayes_htr.benchmarks.running import Commands, add_command, run_benchmark
from bayes_htr.help_text import positive


def add_guides(kinds: Commands[argparse.ArgumentParser]) -> None:
    """Add `bench guides`."""
    what = "time and memory of a step of SVI with each guide, against plain training and Pyro"
    parser = add_command(kinds, "guides", what)
    guides = GuideSettings()
    add = parser.add_argument
    add("--runs", nargs="+", choices=TIMED, default=list(TIMED), help="what is timed")
    add("--rounds", type=positive, default=guides.rounds, help="turns that each run has")
    add("--steps", type=positive, default=guides.steps, help="steps of a run in its turn")
    add("--warmup", type=positive, default=guides.warmup, help="steps before the clock runs")
    add("--memory-steps", type=positive, default=guides.memory_steps, help="to measure memory")
    add("--examples", type=positive, default=guides.examples, help="random images")
    add("--batch-size", type=positive, default=guides.batch_size, help="examples per step")
    add("--seed", type=int, default=guides.seed, help="of networks and images")
    parser.set_defaults(run=_guides)


def add_posterior(kinds: Commands[argparse.ArgumentParser]) -> None:
    """Add `bench posterior`."""
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


def _guides(args: argparse.Namespace, console: Console) -> None:
    settings = GuideSettings(
        rounds=args.rounds,
        steps=args.steps,
        warmup=args.warmup,
        memory_steps=args.memory_steps,
        examples=args.examples,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    benchmark = GuideBenchmark(args.runs, settings)
    title = "What a guide costs"
    run_benchmark("guides", title, benchmark, guide_tables, draw_guides, args, console)


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
