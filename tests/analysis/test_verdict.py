"""The words follow from the numbers."""

import copy
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr.analysis.bulk import fit_marchenko_pastur
from bayes_htr.analysis.esd import ESD
from bayes_htr.analysis.verdict import DOUBTFUL, UNTOLD, verdict
from bayes_htr.tails import Comparison, SpectrumTail, fit_tail

UNTESTED_FIT = htr.fit_powerlaw(1 + np.random.default_rng(0).pareto(2.0, 300))
FIT = replace(UNTESTED_FIT, p_value=0.5)
RANDOM = fit_marchenko_pastur(
    ESD(np.sort(np.asarray(htr.spectrum(torch.eye(40) + torch.zeros(40, 40)))) + 0.0, 40, 40)
)


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((2.5, 3.5), "heavy-tailed: alpha 3.0 (2.5 to 3.5)"),
        ((2.0, 6.0), "heavy-tailed: alpha 3.0 (2.0 to 6.0)"),
        ((1.4, 1.9), "very heavy-tailed: alpha 3.0 (1.4 to 1.9)"),
        ((6.1, 9.0), "light-tailed: alpha 3.0 (6.1 to 9.0)"),
        ((1.8, 3.5), "heavy- or very heavy-tailed: alpha 3.0 (1.8 to 3.5)"),
        ((4.8, 7.0), "heavy- or light-tailed: alpha 3.0 (4.8 to 7.0)"),
        ((1.8, 7.0), "too uncertain to tell: alpha 3.0 (1.8 to 7.0)"),
    ],
)
def test_where_the_interval_lies(interval, words):
    fit = replace(FIT, alpha=3.0, interval=interval)
    assert verdict(SpectrumTail(fit), None, []) == words
    searched = replace(FIT, alpha=3.0, interval=(0.0, 99.0), searched_interval=interval)
    assert verdict(SpectrumTail(searched), None, []) == words


def comparison(name, ratio, p):
    nested = None if name == "exponential" else p
    return Comparison(name, {}, ratio, 0.0, p, nested)


def test_the_power_law_is_rejected():
    assert (
        verdict(SpectrumTail(replace(FIT, p_value=0.02)), None, [])
        == "power law rejected (p = 0.02)"
    )
    better = [comparison("lognormal", -9.0, 0.001), comparison("exponential", -3.0, 0.01)]
    assert verdict(SpectrumTail(replace(FIT, p_value=0.02)), None, better) == (
        "power law rejected (p = 0.02): a lognormal fits better (p = 0.001)"
    )
    assert verdict(SpectrumTail(FIT), None, better[1:]) == (
        "power law doubtful: an exponential fits better (p = 0.01)"
    )
    favoured = [comparison("exponential", 9.0, 0.01), comparison("lognormal", -0.1, 0.6)]
    assert verdict(SpectrumTail(FIT), None, favoured).startswith("heavy-tailed")
    assert verdict(SpectrumTail(replace(FIT, p_value=0.2)), None, []).startswith("heavy-tailed")
    assert verdict(SpectrumTail(replace(FIT, p_value=0.1)), None, []).startswith(
        "power law rejected"
    )


def test_too_little_to_tell():
    values = 1 + np.random.default_rng(0).pareto(2.0, 19)
    assert verdict(fit_tail(values), None, []) == "too few eigenvalues to tell (19)"
    zeros = np.concatenate([values, np.zeros(300)])
    assert verdict(fit_tail(zeros), None, []) == (
        "too few eigenvalues that are not zero to tell (19)"
    )
    assert verdict(fit_tail(np.ones(30)), None, []) == "tied: the 30 largest are equal"
    short = SpectrumTail(FIT, "too few eigenvalues in the tail (6 of 300)")
    assert verdict(short, None, []) == short.problem


KINDS_OF = {
    "heavy": [(2.5, 3.5), (1.4, 1.9), (1.8, 3.5)],
    "light": [(6.1, 9.0), (4.8, 7.0)],
    "untold": [(1.8, 7.0)],
}


@pytest.mark.parametrize("key", KINDS_OF)
def test_kinds_follow_from_the_interval(key):
    for interval in KINDS_OF[key]:
        found = verdict(SpectrumTail(replace(FIT, alpha=3.0, interval=interval)), None, [])
        assert found.kind.key == key


def test_other_kinds_and_copies():
    rejected = verdict(SpectrumTail(replace(FIT, p_value=0.02)), None, [])
    doubtful = verdict(SpectrumTail(FIT), None, [comparison("exponential", -3.0, 0.01)])
    assert rejected.kind == doubtful.kind == DOUBTFUL
    assert verdict(fit_tail(np.ones(30)), None, []).kind == UNTOLD
    assert verdict(fit_tail(np.ones(9)), None, []).kind == UNTOLD
    for again in (copy.deepcopy(rejected), pickle.loads(pickle.dumps(rejected))):
        assert again == rejected and again.kind == rejected.kind
    assert json.loads(json.dumps(rejected)) == str(rejected)


def test_without_enough_replicates_nothing_is_decided():
    words = "heavy-tailed: alpha 3.0 (2.5 to 3.5)"
    fit = replace(UNTESTED_FIT, alpha=3.0, interval=(2.5, 3.5))
    untested = verdict(SpectrumTail(fit), None, [])
    assert untested == f"not tested; if it is a power law, {words}"
    open_ = verdict(SpectrumTail(replace(fit, p_value=22 / 201, bootstrap=100)), None, [])
    assert open_ == f"not decided by 200 replicates (p = 0.11); if it is a power law, {words}"
    assert untested.kind.key == open_.kind.key == "untested" and not open_.kind.filled
    for replicates in (100, 5000):
        for p, start in ((0.01, "power law rejected"), (0.3, "heavy-tailed")):
            found = verdict(SpectrumTail(replace(fit, p_value=p, bootstrap=replicates)), None, [])
            assert found.startswith(start)
    better = [comparison("exponential", -3.0, 0.01)]
    assert verdict(SpectrumTail(fit), None, better).kind == DOUBTFUL


@pytest.mark.parametrize(
    ("alpha", "words"),
    [
        (
            0.4,
            "no power law: it decays exponentially, with alpha 0.4 before the cut-off (p = 0.02)",
        ),
        (
            1.8,
            "power law doubtful: a power law with an exponential cut-off fits better (p = 0.02), "
            "with alpha 1.8 up to about 4",
        ),
    ],
)
def test_what_an_exponential_cut_off_means(alpha, words):
    parameters = {"alpha": alpha, "Lambda": 0.25}
    better = replace(comparison("truncated_power_law", -9.0, 0.02), parameters=parameters)
    found = verdict(SpectrumTail(FIT), None, [better])
    assert found == words and found.kind == DOUBTFUL
    rejected = verdict(SpectrumTail(replace(FIT, p_value=0.01)), None, [better])
    assert rejected == f"power law rejected (p = 0.01): {words.partition(': ')[2]}"


def spectra_of_all_sorts(count):
    random = np.random.default_rng(7)
    for i in range(count):
        n = int(random.integers(25, 200))
        yield f"pareto {i}", 1 + random.pareto(random.uniform(0.8, 6), n)
        yield f"lognormal {i}", random.lognormal(0, random.uniform(0.3, 2), n)
        yield f"gamma {i}", random.gamma(random.uniform(0.3, 5), 1, n)
        yield f"lomax {i}", random.pareto(random.uniform(0.8, 6), n)


def check_that_no_verdict_flips(count):
    states = {n: torch.diag(torch.from_numpy(v) ** 0.5) for n, v in spectra_of_all_sorts(count)}
    runs = [htr.analyze(states, mp_fit=False, bootstrap=b) for b in ("auto", 0, 30, 200, 1000)]
    decided = 0
    for rows in zip(*(run.rows for run in runs), strict=True):
        kinds = [row["verdict"].kind for row in rows]
        told = [kind.filled for kind in kinds if kind.key not in ("untested", "untold")]
        assert len(set(told)) <= 1, (rows[0]["name"], [row["verdict"] for row in rows])
        decided += kinds[0].key != "untested"
    assert decided > 0.9 * len(states)


def test_verdicts_do_not_flip_with_the_number_of_replicates():
    check_that_no_verdict_flips(6)


@pytest.mark.slow
def test_verdicts_of_many_spectra_do_not_flip():
    check_that_no_verdict_flips(40)


def row_of(W, **options):
    return htr.analyze({"w": torch.as_tensor(W)}, **options).rows[0]


def test_whole_matrices():
    random = np.random.default_rng(1)
    gaussian = random.standard_normal((400, 200))
    assert row_of(gaussian)["verdict"] == "like a random matrix (Marchenko-Pastur)"
    U, V = (np.linalg.qr(random.standard_normal((n, 200))).Q for n in (400, 200))
    heavy = U * np.sqrt(1 + random.pareto(1.8, 200)) @ V.T
    row = row_of(heavy, bootstrap=100)
    assert row["verdict"].startswith("heavy-"), row["verdict"]
    assert row["p_value"] > 0.1
    uniform = U * np.sqrt(random.uniform(1, 2, 200)) @ V.T
    assert "rejected" in row_of(uniform, bootstrap=100)["verdict"]
