import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import bayes_htr as htr
from bayes_htr.tuning.held_out import hold_out
from bayes_htr.tuning.search import Listed, best_of
from bayes_htr.tuning.trials import (
    TrialSettings,
    start_of,
    try_strengths,
    with_strength,
)


def data(n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    return x, (x[:, :3] + 0.3 * torch.randn(n, 3, generator=generator)).argmax(1)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


TRAIN, VALIDATION = data(60), data(40, seed=2)
DECAY = htr.Priors(htr.penalties.weight_decay())
MODEL = htr.BayesianClassifier(network(), DECAY)


def settings(fit=htr.fit, priors=DECAY, seeds=(0,), criterion="brier", **options):
    model = htr.BayesianClassifier(network(), priors)
    options = {"method": htr.MAP(lr=0.1), "epochs": 3, "batch_size": 16} | options
    held_out = hold_out(model, TRAIN, VALIDATION)
    return TrialSettings(fit, model, held_out, options, seeds, criterion)


def test_a_part_is_held_out():
    train, (x, y), is_part = hold_out(MODEL, TRAIN, None, fraction=0.25, seed=3)
    assert is_part
    assert (len(train[1]), len(y)) == (45, 15)
    both = torch.cat([train[0], x])
    assert torch.equal(both.sort(0).values, TRAIN[0].sort(0).values)
    assert torch.equal(hold_out(MODEL, TRAIN, None, fraction=0.25, seed=3).validation[0], x)
    assert not torch.equal(hold_out(MODEL, TRAIN, None, fraction=0.25).validation[0], x)


def test_given_validation_data_are_taken_from_arrays_and_loaders():
    arrays = tuple(v.numpy() for v in VALIDATION)
    loader = DataLoader(TensorDataset(*VALIDATION), batch_size=7)
    found = []
    for given in (VALIDATION, arrays, loader):
        held_out = hold_out(MODEL, TRAIN, given)
        assert held_out.train is TRAIN
        assert not held_out.is_part
        given_settings = dataclasses.replace(settings(), held_out=held_out)
        assert given_settings.num_validation == 40
        found.append(given_settings.evaluate_network(network()))
    assert found[0] == found[1] == pytest.approx(found[2])


def test_what_cannot_be_held_out_is_named():
    loader = DataLoader(TensorDataset(*TRAIN))
    with pytest.raises(htr.DataError, match="out of train, a DataLoader; pass validation="):
        hold_out(MODEL, loader, None)
    with pytest.raises(htr.DataError, match="1 of 1 examples leaves none"):
        hold_out(MODEL, data(1), None)
    for fraction in (0, 1, -0.1, math.nan, "a"):
        with pytest.raises(ValueError, match="validation_fraction="):
            hold_out(MODEL, TRAIN, None, fraction=fraction)


def test_the_criterion_is_a_proper_score_of_the_likelihood():
    scores = settings().evaluate_network(network())
    for criterion in ("brier", "nll"):
        score = settings(criterion=criterion).score_in(scores)
        assert score.value == scores[criterion]
        assert score.error == scores.standard_errors[criterion]
    assert settings().by == "brier"
    with pytest.raises(ValueError, match=r"criterion='ece' must be one of brier, nll, crps"):
        settings(criterion="ece")
    with pytest.raises(ValueError, match=r"criterion='crps': predictions .* have brier, nll"):
        settings(criterion="crps").score_in(scores)


def test_a_network_is_scored_as_it_is_and_left_so():
    net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    net[2].eval()
    random = torch.get_rng_state()
    found = settings().evaluate_network(net)
    assert [m.training for m in net] == [True, True, False]
    assert torch.equal(torch.get_rng_state(), random)
    exact = htr.Posterior(copy.deepcopy(net), DECAY).evaluate(VALIDATION)
    assert found == exact


def test_a_trial_is_the_fit_of_that_strength():
    tried = try_strengths(settings(), Listed((0.5, 50.0)), 2)
    assert [t.strength for t in tried.trials] == [0.5, 50.0]
    for trial in tried.trials:
        model = htr.BayesianClassifier(network(), DECAY.scaled(trial.strength))
        posterior = htr.fit(model, TRAIN, method=htr.MAP(lr=0.1), epochs=3, batch_size=16)
        expected = posterior.evaluate(VALIDATION)
        assert trial.scores == pytest.approx(expected)
        assert trial.score.value == pytest.approx(expected["brier"])
        assert sorted(trial.curve) == [1, 2, 3]
        assert trial.epochs == 3
    best = best_of(tried.trials)
    assert best.score.value == min(t.score.value for t in tried.trials)
    assert tried.posterior.priors == DECAY.scaled(best.strength)


def test_trials_that_are_behind_are_pruned():
    search = Listed((1.0, 3000.0))
    pruned = try_strengths(settings(), search, 2).trials[1]
    assert pruned.outcome == "pruned"
    assert pruned.epochs == max(pruned.curve) < 3
    assert pruned.scores == {}
    kept = try_strengths(settings(), Listed((1.0, 3000.0), prune=False), 2).trials[1]
    assert kept.outcome == "finished"
    assert kept.curve[1] == pruned.curve[1]


def test_of_several_seeds_the_first_one_decides_whether_to_go_on():
    tried = try_strengths(settings(seeds=(4, 5)), Listed((1.0, 3000.0)), 2)
    good, bad = tried.trials
    assert len(good.by_seed) == 2
    assert good.score.value == pytest.approx(sum(good.by_seed) / 2)
    assert good.score.error == pytest.approx(abs(good.by_seed[0] - good.by_seed[1]) / 2)
    assert good.epochs == 6
    assert (bad.outcome, bad.by_seed) == ("pruned", ())
    assert tried.posterior.config["seed"] == 4


def test_trials_that_fail_are_kept_as_such():
    def fit(model, train, **options):
        if model.priors.strength > 2:
            raise htr.DivergenceError("the loss is nan")
        return htr.fit(model, train, **options)

    trials = try_strengths(settings(fit), Listed((1.0, 5.0)), 2).trials
    assert (trials[1].outcome, trials[1].message) == ("failed", "the loss is nan")
    assert trials[1].score.value == math.inf


def test_a_strength_at_which_a_prior_is_no_density_is_a_trial_that_failed():
    options = {
        "priors": htr.Priors(htr.ESD(htr.Lomax(2.5, 0.05))),
        "method": htr.SVI(),
        "epochs": 1,
    }
    tried = try_strengths(settings(**options), Listed((1.0, 0.3)), 2)
    assert [t.outcome for t in tried.trials] == ["finished", "failed"]
    assert "no finite integral at strength 0.3" in tried.trials[1].message
    with pytest.raises(htr.PriorError, match=r"no finite integral at strength 0\.3"):
        try_strengths(settings(**options), Listed((0.3, 1.0)), 2)


def test_other_errors_are_raised():
    def fit(model, train, **options):
        raise htr.DataError("no such thing")

    with pytest.raises(htr.DataError, match="no such thing"):
        try_strengths(settings(fit), Listed((1.0,)), 1)


def test_a_posterior_is_scored_by_its_draws():
    priors = htr.Priors(htr.ESD(htr.Lomax(2.0)))
    tried = try_strengths(
        settings(priors=priors, method=htr.SVI(guide="spectral")), Listed((1.0,)), 1
    )
    assert tried.posterior.evaluate(VALIDATION) == pytest.approx(dict(tried.trials[0].scores))


def test_a_strength_multiplies_the_priors_and_keeps_the_likelihood():
    model = htr.BayesianClassifier(network(), DECAY.scaled(2.0), label_smoothing=0.1)
    stronger = with_strength(model, 3.0)
    assert stronger.priors == DECAY.scaled(6.0)
    assert stronger.net is model.net
    assert stronger.likelihood.to_dict() == model.likelihood.to_dict()


def test_one_bar_for_all_trials(capsys):
    try_strengths(settings(), Listed((1.0, 3000.0)), 2, progress=True)
    shown = capsys.readouterr().err
    assert "trial 2 of 2" in shown
    assert "best brier" in shown
    assert "MAP" not in shown


def test_the_number_of_examples_is_told_where_a_loader_does_not_know_it():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(*TRAIN, strict=True))

    loader = DataLoader(Stream(), batch_size=16)
    options = {"method": htr.MAP(lr=0.1), "epochs": 1, "progress": False}
    tuning = htr.tune(
        htr.BayesianClassifier(network(), DECAY),
        loader,
        validation=VALIDATION,
        num_data=60,
        trials=2,
        **options,
    )
    assert tuning.num_data == 60
    assert tuning.posterior.config["num_data"] == 60
    model = htr.BayesianClassifier(network(), DECAY)
    options |= {"validation": VALIDATION, "num_data": 60, "strength": "auto"}
    assert htr.fit(model, loader, **options).config["num_data"] == 60


X, _ = TRAIN
FORMS = {
    "tensor": X,
    "tuple": (X[:, :2], X[:, 2:]),
    "dictionary": {"left": X[:, :2], "right": X[:, 2:]},
}
LABELS = {
    "yes or no": (htr.Bernoulli(), (X[:, 0] > 0).float(), "brier"),
    "several": (htr.Bernoulli(), (X[:, :3] > 0).float(), "brier"),
    "targets": (htr.Normal(scale=0.5), X[:, 0], "nll"),
    "learnt noise": (htr.Normal(scale=htr.HalfCauchy(1.0)), X[:, :2], "nll"),
    "counts": (lambda o: torch.distributions.Poisson(o[:, 0].exp()), X[:, 0].abs().round(), "nll"),
    "soft": (htr.Categorical(), X[:, :3].softmax(1), "brier"),
}


class Joined(nn.Module):
    """A network of one input or two."""

    def __init__(self, outputs):
        super().__init__()
        self.last = nn.Linear(6, outputs)

    def forward(self, left, right=None):
        return self.last(left if right is None else torch.cat([left, right], 1))


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("x", FORMS.values(), ids=FORMS)
def test_any_likelihood_and_form_of_inputs(x, labels):
    likelihood, y, criterion = labels
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Joined(1 if y.ndim == 1 else y.shape[1])
    model = htr.BayesianModel(net, DECAY, likelihood=likelihood)
    options = {"method": htr.MAP(lr=0.02), "epochs": 3, "batch_size": 16, "progress": False}
    tuning = htr.tune(model, (x, y), trials=2, validation_fraction=0.25, **options)
    assert tuning.criterion == criterion
    assert (tuning.num_data, tuning.num_validation) == (45, 15)
    assert tuning.best.score.value == tuning.best.scores[criterion]
    assert tuning.best.score.error > 0
    assert criterion in str(tuning)
    held_out = hold_out(model, (x, y), (x, y))
    given = TrialSettings(htr.fit, model, held_out, options, samples=4)
    assert given.evaluate(tuning.posterior) == tuning.posterior.evaluate((x, y), samples=4)
    chosen = htr.fit(model, (x, y), strength="auto", seed=0, **options)
    assert chosen.priors.strength > 0


def test_a_dictionary_with_labels_is_divided_too():
    x = {"left": X[:, :2], "right": X[:, 2:], "labels": TRAIN[1]}
    held_out = hold_out(htr.BayesianClassifier(Joined(3), DECAY), x, None, fraction=0.25)
    assert held_out.train[0].keys() == held_out.validation[0].keys() == {"left", "right"}
    assert held_out.train[0]["left"].shape == (45, 2)


def test_the_crps_chooses_among_targets():
    model = htr.BayesianModel(Joined(1), DECAY, likelihood=htr.Normal(scale=0.5))
    options = {"method": htr.MAP(lr=0.02), "epochs": 3, "progress": False, "refit": False}
    tuning = htr.tune(model, (X, X[:, 0]), trials=2, criterion="crps", **options)
    assert tuning.best.score.value == tuning.best.scores["crps"]
    with pytest.raises(ValueError, match="criterion='brier': predictions under likelihood=Normal"):
        htr.tune(model, (X, X[:, 0]), trials=2, criterion="brier", **options)


def test_a_search_for_a_posterior_starts_where_there_is_one():
    """`Lomax(2.5)` has no finite integral to a small power."""
    priors = htr.Priors(htr.ESD(htr.Lomax(2.5, 0.05)))
    svi = settings(priors=priors, method=htr.SVI(guide="spectral"), epochs=1)
    assert svi.reason_against(1.0) is None
    assert "no finite integral" in str(svi.reason_against(0.2))
    assert settings(priors=priors).reason_against(0.2) is None
    few = dataclasses.replace(svi, held_out=hold_out(MODEL, data(1), VALIDATION))
    assert htr.starting_strength(priors, network(), num_data=1, posterior=True) < 0.3
    assert few.reason_against(start_of(few)) is None
    assert start_of(few) < 2
