import json
import math

import pytest

import bayes_htr as htr
from benchmarks import strength
from benchmarks.strength import Studied


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """The lines that count, so that the results are parsed once per test."""
    lines = list(strength.study_lines())
    monkeypatch.setattr(strength, "study_lines", lambda: lines)


def test_the_starts_are_as_close_as_the_page_says():
    shown = []
    close, like, count = strength.show_starts(shown.append)
    assert (close, like, count) == (30, 38, 43)
    page = (strength.RESULTS.parents[1] / "docs" / "strength.md").read_text(encoding="utf-8")
    assert f"| the best strength of the grid | {close} | {count} |" in page
    assert f"| the nearest strength that scores like the best | {like} | {count} |" in page
    assert any("`lomax` | `lenet5-cifar10` | 15 | 27 |" in line for line in shown)


def test_what_scores_like_the_best():
    found = Studied({1.0: [0.1825], 3.0: [0.18], 10.0: [0.18, 0.185], 30.0: [0.1851]}, {}, {})
    assert found.best == 3.0
    assert found.like_the_best == (1.0, 10.0)
    assert Studied({1.0: [0.362], 3.0: [0.36], 10.0: [0.369]}, {}, {}).like_the_best == (1.0, 3.0)
    assert Studied({1.0: [math.inf], 3.0: [0.2]}, {}, {}).best == 3.0


def test_scores_between_trials_are_interpolated():
    found = Studied({1.0: [0.2, 0.4], 100.0: [0.4, math.inf]}, {1.0: [0.5], 100.0: [1.5]}, {})
    assert found.score(10.0, 0) == pytest.approx(0.3)
    assert found.score(0.1, 1) == 0.4
    assert found.score(100.0, 1) == 2.0
    assert found.score(200.0, 0) == math.inf
    assert found.nll(10.0, 0) == pytest.approx(1.0)


def test_a_replay_of_the_search(monkeypatch):
    """A bowl that both seeds agree on: the search ends near its lowest point."""
    strengths = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
    bowl = {s: [0.2 + 0.05 * math.log10(s / 3.0) ** 2] * 2 for s in strengths}
    monkeypatch.setattr(
        strength, "studied", lambda: {("lomax", "mlp-fashion"): Studied(bowl, bowl, {})}
    )
    monkeypatch.setattr(strength, "start_in", lambda method, cell: 0.3)
    means = strength.show_replay(lambda line: None)
    assert means["all trials"] == 0
    assert means["start"] == pytest.approx(0.25)
    assert means["search"] < 0.01


def test_choices_are_compared_with_the_study_seed_by_seed():
    study = strength.studied()["frechet", "mlp-kmnist"]
    rows = [
        {
            "method": "frechet",
            "cell": "mlp-kmnist",
            "seed": seed,
            "start": 130.0,
            "strength": 41.1,
            "test": {"brier": study.test[seed] + 0.002 + 0.001 * seed},
        }
        for seed in (0, 1)
    ]
    shown = []
    strength.show_choices(json.loads(json.dumps(rows)), shown.append)
    assert "| 41.1, 41.1 | 210 |" in shown[-1]
    assert "| +0.0025 |" in shown[-1]


def test_a_choice_has_trials_and_test_scores(monkeypatch):
    given = {}

    def tune(net, train, **options):
        given.update(options, num_data=len(train[1]))
        model = htr.BayesianClassifier(net, options["prior"])
        few = tuple(part[:64] for part in train)
        posterior = htr.fit(model, few, method=htr.MAP(), epochs=1, progress=False)
        return htr.Tuning((), 2.0, options["prior"], 1.0, "brier", 64, 8, posterior)

    monkeypatch.setattr(htr, "tune", tune)
    digits = strength.CELLS["mlp-digits"]
    monkeypatch.setitem(strength.CELLS, "mlp-kmnist", digits)
    row = strength.choose("frechet", "mlp-kmnist", 0, None)
    assert given["prior"] == htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)))
    assert (given["epochs"], given["seed"]) == (10, 0)
    assert (row["strength"], row["trials"]) == (2.0, [])
    assert 0 < row["test"]["brier"] < 2
