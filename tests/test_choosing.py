import json
import sys

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.posterior.scores import Score
from bayes_htr.tuning.held_out import hold_out
from bayes_htr.tuning.search import Bracket, Trial


def data(n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    return x, (x[:, :3] + 0.3 * torch.randn(n, 3, generator=generator)).argmax(1)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


TRAIN, VALIDATION = data(60), data(40, seed=2)
DECAY = htr.penalties.weight_decay()
MODEL = htr.BayesianClassifier(network(), htr.Priors(DECAY))
QUICK = {"method": htr.MAP(lr=0.1), "epochs": 3, "batch_size": 16, "progress": False}


def tuned(model=None, **options):
    model = htr.BayesianClassifier(network(), htr.Priors(DECAY)) if model is None else model
    return htr.tune(model, TRAIN, **(QUICK | options))


def weights(posterior):
    return torch.cat([p.flatten() for p in posterior.network().parameters()])


def test_the_result_has_trials_strength_and_fit():
    result = tuned(validation=VALIDATION, trials=3)
    assert len(result.trials) == 3
    model = htr.BayesianClassifier(network(), htr.Priors(DECAY))
    start = htr.starting_strength(model.priors, model.net, num_data=60)
    assert result.start == result.trials[0].strength == start
    assert result.strength == Bracket(start).choose(result.trials)
    assert result.priors == htr.Priors(DECAY).scaled(result.strength)
    assert (result.num_data, result.num_validation) == (60, 40)
    again = htr.fit(model, TRAIN, validation=VALIDATION, strength=result.strength, **QUICK)
    assert torch.equal(weights(result.posterior), weights(again))
    assert result.posterior.priors == again.priors == result.priors


def test_without_validation_data_the_final_fit_is_on_all():
    result = tuned(trials=2, validation_fraction=0.25)
    assert (result.num_data, result.num_validation) == (45, 15)
    assert result.posterior.config["num_data"] == 60
    held_out = hold_out(MODEL, TRAIN, None, fraction=0.25)
    given = htr.tune(
        network(), held_out.train, validation=held_out.validation, prior=DECAY, trials=2, **QUICK
    )
    assert [t.score for t in given.trials] == [t.score for t in result.trials]


def test_the_same_arguments_give_the_same_result():
    random = torch.get_rng_state()
    first, second = tuned(trials=2, seed=3), tuned(trials=2, seed=3)
    assert torch.equal(torch.get_rng_state(), random)
    assert [t.score for t in first.trials] == [t.score for t in second.trials]
    assert torch.equal(weights(first.posterior), weights(second.posterior))
    other = tuned(trials=2, seed=4)
    assert other.trials[0].score != first.trials[0].score


def test_a_network_with_a_prior_or_priors():
    for prior in (DECAY, htr.Priors(DECAY), htr.Priors({"0.*": DECAY}).scaled(2.0)):
        result = tuned(network(), prior=prior, strengths=[3.0], refit=False)
        whole = prior if isinstance(prior, htr.Priors) else htr.Priors(prior)
        assert result.priors == whole.scaled(3.0)
        assert result.posterior is None


def test_strengths_and_start_are_tried_as_given():
    result = tuned(validation=VALIDATION, strengths=[3, 0.1], refit=False)
    assert [t.strength for t in result.trials] == [3.0, 0.1]
    result = tuned(validation=VALIDATION, start=0.7, trials=1, refit=False)
    assert [t.strength for t in result.trials] == [0.7]


def test_trials_are_kept_and_gone_on_with(tmp_path):
    out = tmp_path / "run"
    options = {"validation": VALIDATION, "trials": 3, "out": out}
    whole = tuned(**options)
    assert sorted(p.name for p in out.iterdir()) == ["fit", "tuning.json"]
    loaded = htr.load(out / "fit", network())
    assert torch.equal(weights(loaded), weights(whole.posterior))
    file = out / "tuning.json"
    content = json.loads(file.read_text())
    del content["trials"][1:]
    file.write_text(json.dumps(content))
    again = tuned(**options, resume=True)
    assert [t.score for t in again.trials] == [t.score for t in whole.trials]
    assert again.trials[0].seconds == whole.trials[0].seconds
    assert torch.equal(weights(again.posterior), weights(whole.posterior))
    more = tuned(**(options | {"trials": 4}), resume=True)
    assert more.trials[:3] == again.trials
    assert more.strength != again.strength
    assert torch.equal(weights(htr.load(out / "fit", network())), weights(more.posterior))
    with pytest.raises(htr.OutputError, match="not empty"):
        tuned(**options)
    with pytest.raises(htr.CheckpointError, match=r"holds trials with criterion='brier'"):
        tuned(**options, resume=True, criterion="nll")


def test_fit_chooses_a_strength_by_itself(tmp_path):
    model = htr.BayesianClassifier(network(), htr.Priors(DECAY))
    posterior = htr.fit(model, TRAIN, validation=VALIDATION, strength="auto", **QUICK)
    result = tuned(validation=VALIDATION)
    assert len(result.trials) <= 5
    assert posterior.priors == result.priors
    assert torch.equal(weights(posterior), weights(result.posterior))
    out = tmp_path / "run"
    options = QUICK | {"validation": VALIDATION, "strength": "auto", "out": out}
    written = htr.fit(model, TRAIN, **options)
    assert len(json.loads((out / "tuning.json").read_text())["trials"]) == len(result.trials)
    assert torch.equal(weights(written), weights(posterior))
    assert torch.equal(weights(htr.load(out, network())), weights(posterior))
    resumed = htr.fit(model, TRAIN, **options, resume=True)
    assert torch.equal(weights(resumed), weights(posterior))
    with pytest.raises(htr.OutputError, match="not empty"):
        htr.fit(model, TRAIN, **options)


def test_fit_multiplies_the_priors_by_a_strength():
    model = htr.BayesianClassifier(network(), htr.Priors(DECAY).scaled(2.0))
    assert htr.fit(model, TRAIN, strength=3.0, **QUICK).priors == htr.Priors(DECAY).scaled(6.0)
    for strength in (-1.0, float("nan"), "much"):
        with pytest.raises(ValueError, match=f"strength={strength!r} must be"):
            htr.fit(model, TRAIN, strength=strength, **QUICK)


BAD = {
    "trials": ({"trials": 0}, ValueError, "trials=0"),
    "seeds": ({"seeds": 1.5}, ValueError, "seeds=1.5"),
    "start": ({"start": -1.0}, ValueError, "start=-1.0"),
    "strengths": ({"strengths": [1.0, 0.0]}, ValueError, "strengths=0.0"),
    "no strengths": ({"strengths": []}, ValueError, r"strengths=\[\] must be"),
    "twice": ({"strengths": [1.0, 1]}, ValueError, "must be different"),
    "search": ({"search": "grid"}, ValueError, "search='grid' must be 'bracket'"),
    "criterion": ({"criterion": "ece"}, ValueError, "criterion='ece'"),
    "resume": ({"resume": True}, ValueError, "needs out="),
    "fraction": ({"validation_fraction": 2}, ValueError, "validation_fraction=2"),
    "second prior": ({"prior": DECAY}, ValueError, "has its priors already"),
    "model": ({"model": 3}, ValueError, "model=3 must be"),
    "no prior": ({"model": nn.Linear(6, 3)}, htr.PriorError, "prior=None must be"),
    "law": ({"model": nn.Linear(6, 3), "prior": htr.Lomax(2.0)}, htr.PriorError, "htr.ESD"),
}


@pytest.mark.parametrize(("options", "kind", "text"), BAD.values(), ids=BAD)
def test_bad_arguments_are_named(options, kind, text):
    with pytest.raises(kind, match=text):
        tuned(**options)


def example():
    return htr.Tuning(
        trials=(
            Trial(
                4.0, "finished", Score(0.2, 0.01), {"accuracy": 0.9, "nll": 0.4}, (0.2,), {}, 9, 1
            ),
            Trial(40.0, "pruned", Score(0.7, 0.01), epochs=3),
            Trial(12.0, "failed", Score(float("inf"), float("nan")), message="the loss is nan"),
        ),
        strength=5.0,
        priors=htr.Priors(DECAY).scaled(5.0),
        start=4.0,
        criterion="brier",
        num_data=1000,
        num_validation=100,
    )


def test_the_table_is_short_and_has_standard_errors():
    text = str(example())
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(lines[2].split()) == "4 0.004 0.2000 0.0100 0.4000 0.9000 9 1.0 best"
    assert " ".join(lines[3].split()) == "12 0.012 - - 0 0.0 failed"
    assert " ".join(lines[4].split()) == "40 0.04 0.7000 0.0100 3 0.0 pruned"
    assert "strength 12 failed: the loss is nan" in text
    assert "the smallest one tried" in text
    assert "chosen strength: 5" in lines
    assert repr(example()) == "Tuning(strength=5, best brier=0.2000 +- 0.0100, 3 trials)"
    assert "<table>" in example()._repr_html_()


def test_the_picture_shows_every_trial(tmp_path):
    pytest.importorskip("matplotlib")
    axes = example().plot(path=tmp_path / "tuning.png")
    labels = {text.get_text() for text in axes.get_legend().get_texts()}
    assert {"failed", "start", "chosen"} < labels
    assert len(labels) == 5
    assert axes.get_xscale() == "log"
    assert (tmp_path / "tuning.png").stat().st_size > 1000


def test_optuna_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r'pip install "bayes-htr\[tune\]"'):
        tuned(search="optuna")


def test_optuna_asks_and_is_told(tmp_path):
    optuna = pytest.importorskip("optuna")
    options = {"validation": VALIDATION, "search": "optuna", "trials": 6, "refit": False}
    result = tuned(**options)
    assert result.trials[0].strength == result.start
    assert len({t.strength for t in result.trials}) == 6
    assert [t.strength for t in tuned(**options).trials] == [t.strength for t in result.trials]
    whole = tuned(**options, out=tmp_path)
    file = tmp_path / "tuning.json"
    content = json.loads(file.read_text())
    del content["trials"][3:]
    file.write_text(json.dumps(content))
    again = tuned(**options, out=tmp_path, resume=True)
    assert [t.strength for t in again.trials] == [t.strength for t in whole.trials]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    tuned(**(options | {"search": study, "trials": 2}))
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE"]
    with pytest.raises(ValueError, match="keeps its trials in its storage"):
        tuned(**(options | {"search": study}), out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="the study maximises"):
        tuned(search=optuna.create_study(direction="maximize"))
    with pytest.raises(ValueError, match="search=3 must be"):
        tuned(search=3)
