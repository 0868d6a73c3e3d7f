"""Mixtures: where members start, what they predict together, and how they are kept."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayes_htr as htr
from bayes_htr.inference.map_trainer import MAPTrainer
from bayes_htr.inference.svi_trainer import SVITrainer
from bayes_htr.members import member_seed, reinitialised

LOMAX = htr.Priors({"*.weight": htr.ESD(htr.Lomax(2.5, 0.05))})
METHODS = {"map": htr.MAP(), "svi": htr.SVI(lr=0.006, init_scale=0.3, noise="example")}


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 5, generator=generator)
    return x, x[:, :3].argmax(1)


def fit(data, method="map", **more):
    given = {"epochs": 2, "batch_size": 16, "seed": 3} | more
    model = htr.BayesianClassifier(network(), LOMAX)
    return htr.fit(model, data, method=METHODS.get(method, method), **given)


def states(mixture):
    """All that members have learnt."""
    found = []
    for member in mixture.members:
        found += member.network().state_dict().values()
        found += [] if member.guide is None else member.guide.state_dict().values()
    return found


def assert_same(one, other):
    for a, b in zip(states(one), states(other), strict=True):
        assert torch.equal(a, b)
    assert [m.history for m in one.members] and one.config == other.config


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_are_the_means_of_the_members(data, method):
    mixture = fit(data, method, members=3)
    each = [m.predict(data[0], 4, seed=7) for m in mixture.members]
    mean = torch.stack([p.probs for p in each]).double().mean(0)
    found = mixture.predict(data[0], 12, seed=7)
    torch.testing.assert_close(found.probs.double(), mean, atol=1e-6, rtol=1e-5)
    own = torch.stack([p.entropy - p.mutual_information for p in each]).mean(0)
    information = found.entropy - own
    torch.testing.assert_close(found.mutual_information, information, atol=2e-6, rtol=1e-3)
    nll = -mean[torch.arange(60), data[1]].log().mean()
    assert mixture.evaluate(data, samples=12, seed=7)["nll"] == pytest.approx(float(nll), rel=1e-5)
    assert not torch.equal(each[0].probs, each[1].probs)


@pytest.mark.parametrize("method", METHODS)
def test_two_equal_members_are_one(data, method):
    one = fit(data, method)
    two = htr.PosteriorMixture([one, one])
    a, b = one.predict(data[0], 8), two.predict(data[0], 16)
    torch.testing.assert_close(a.log_probs, b.log_probs, atol=1e-6, rtol=1e-5)
    for name, lam in one.spectra(6).items():
        pooled = two.spectra(12)
        assert torch.equal(pooled[name], torch.cat([lam, lam]))
    count = len(lam)
    assert pooled.members.tolist() == [0] * count + [1] * count
    assert pooled.lambda_max("0.weight").mean() == one.spectra(6).lambda_max("0.weight").mean()


def test_a_mixture_of_normal_predictions_has_the_moments_of_a_mixture(data):
    """With flat priors and a known noise, each member is a normal at its network's output."""
    x = data[0]
    nets = [nn.Sequential(nn.Linear(5, 1)) for _ in range(2)]
    likelihood = htr.Normal(scale=0.5)
    model = htr.BayesianModel(nets[0], htr.Priors({}), likelihood=likelihood)
    y = x.sum(1)
    mixture = htr.fit(model, (x, y), method=htr.MAP(), epochs=0, members=nets)
    outputs = torch.stack([net(x).squeeze(1) for net in nets]).detach()
    found = mixture.predict(x)
    torch.testing.assert_close(found.mean, outputs.mean(0))
    variance = outputs.var(0, correction=0) + 0.25
    torch.testing.assert_close(found.std, variance.sqrt())
    normal = torch.distributions.Normal(outputs, 0.5).log_prob(y)
    torch.testing.assert_close(found.log_prob(y), normal.logsumexp(0) - math.log(2))


def test_each_member_is_a_fit_of_its_own(data):
    mixture = fit(data, members=3)
    for number, member in enumerate(mixture.members):
        seed = member_seed(3, number)
        net = network() if number == 0 else reinitialised(network(), seed)
        model = htr.BayesianClassifier(net, LOMAX)
        alone = htr.fit(model, data, method=htr.MAP(), epochs=2, batch_size=16, seed=seed)
        assert_same(htr.PosteriorMixture([member]), htr.PosteriorMixture([alone]))
    assert [row["epoch"] for row in mixture.history] == [1, 2]
    losses = [m.history[1]["loss"] for m in mixture.members]
    assert mixture.history[1]["loss"] == pytest.approx(sum(losses) / 3)


def test_neighbouring_seeds_share_no_member():
    seeds = [member_seed(seed, number) for seed in range(20) for number in range(10)]
    assert len(set(seeds)) == 200
    assert [member_seed(seed, 0) for seed in range(20)] == list(range(20))


def test_members_have_orders_of_their_own(data):
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(TensorDataset(*data), 16, shuffle=True, generator=generator)
    nets = [network(), network(), network()]
    model = htr.BayesianClassifier(nets[0], htr.Priors({}))
    mixture = htr.fit(model, loader, method=htr.MAP(), epochs=1, members=nets)
    weights = [m.network()[0].weight for m in mixture.members]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    again = htr.fit(model, loader, method=htr.MAP(), epochs=1, members=nets)
    assert torch.equal(again.members[2].network()[0].weight, weights[2])


def test_layers_are_initialised_anew():
    net = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.MultiheadAttention(4, 2))
    net[0].weight.requires_grad_(False)
    before = {name: p.clone() for name, p in net.named_parameters()}
    state = torch.get_rng_state()
    new = reinitialised(net, 5)
    assert torch.equal(torch.get_rng_state(), state)
    after = dict(new.named_parameters())
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert torch.equal(net[2].in_proj_weight, before["2.in_proj_weight"])
    for name in ("0.bias", "2.in_proj_weight", "2.out_proj.weight"):
        bias_is_zero = name == "2.out_proj.bias"
        assert bias_is_zero or not torch.equal(after[name], before[name])
    again = dict(reinitialised(net, 5).named_parameters())
    assert all(torch.equal(again[name], value) for name, value in after.items())


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


class Idle(nn.Linear):
    def reset_parameters(self):
        nn.init.ones_(self.weight)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (Scaled(), "1 .Scaled. has the parameters scale and no reset_parameters"),
        (Idle(5, 4), "leaves 1.weight as it was"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), "ParametrizationList"),
    ],
)
def test_what_cannot_be_initialised_anew_is_refused(layer, match):
    with pytest.raises(ValueError, match=match) as caught:
        reinitialised(nn.Sequential(nn.Linear(5, 5), layer), 1)
    assert "members=[make_network(seed)" in str(caught.value)


def test_a_mixture_starts_from_the_members_of_another(data):
    modes = fit(data, members=2)
    started = fit(data, "svi", init=modes, members=2, epochs=0)
    for mode, member in zip(modes.members, started.members, strict=True):
        torch.testing.assert_close(member.network()[0].weight, mode.network()[0].weight)
    with pytest.raises(ValueError, match="init has 2 members, and members=3"):
        fit(data, "svi", init=modes, members=3)
    with pytest.raises(ValueError, match="for a mixture; give members="):
        fit(data, "svi", init=modes)
    with pytest.raises(ValueError, match="init has 1 members, and members=2"):
        fit(data, "svi", init=modes.members[0], members=2)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"members": 0}, "members must be at least 1|members=0"),
        ({"members": "three"}, "members='three' must be a whole number"),
        ({"members": []}, r"members=\[\] must be a whole number"),
        ({"members": [nn.Linear(5, 3)]}, "network 0 has other parameters"),
        ({"members": 2, "processes": 0}, "processes"),
        ({"processes": 2}, "give members= too"),
        ({"members": 2, "method": htr.NUTS(), "epochs": 0}, "chains= of htr.NUTS"),
        ({"members": 2, "callbacks": [htr.SpectrumHistory()]}, "follows the steps of one run"),
        ({"members": 2, "processes": 2, "callbacks": [print]}, "called in this process"),
    ],
)
def test_bad_settings_are_refused(data, settings, match):
    with pytest.raises(ValueError, match=match):
        fit(data, **settings)


def test_posteriors_that_do_not_fit_together_are_no_mixture(data):
    mode, posterior = fit(data), fit(data, "svi", epochs=1)
    for members, match in (
        ([], "at least one member"),
        ([mode, posterior], "not both modes"),
        ([mode, htr.PosteriorMixture([mode])], "member 1 is PosteriorMixture"),
        ([mode, htr.Posterior(network(), htr.Priors({}))], "the priors of member 1"),
        ([mode, htr.Posterior(nn.Linear(5, 3), LOMAX)], "member 1 has other parameters"),
        (
            [mode, htr.Posterior(network(), LOMAX, likelihood=htr.Normal(scale=1.0))],
            "the likelihood of member 1",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            htr.PosteriorMixture(members)


def test_a_mixture_has_no_single_network(data):
    mixture = fit(data, members=2)
    with pytest.raises(ValueError, match=r"take posterior.members\[0\].network"):
        mixture.network()
    assert mixture.guide is None
    assert repr(mixture).startswith("PosteriorMixture(2 members, the first Posterior(Sequential")


def test_hyperparameters_are_those_of_all_members(data):
    prior = htr.ESD(htr.Lomax(tail_index=htr.Joint(htr.Gamma(9.0, 3.0))))
    model = htr.BayesianClassifier(network(), htr.Priors({"0.weight": prior}))
    mixture = htr.fit(model, data, method=htr.MAP(), epochs=1, members=2)
    (name,) = mixture.hyperparameters()
    each = [m.hyperparameters()[name] for m in mixture.members]
    assert mixture.hyperparameters()[name] == pytest.approx(sum(each) / 2)
    assert mixture.hyperparameter_draws(10)[name].tolist() == pytest.approx(each)
    assert mixture.spectra().hyperparameters[name].tolist() == pytest.approx(each)


# Files


@pytest.mark.parametrize("method", METHODS)
def test_a_mixture_is_saved_and_loaded_as_one(data, tmp_path, method):
    mixture = fit(data, method, members=2, out=tmp_path / "fitted", metadata={"data": "own"})
    mixture.save(tmp_path / "saved")
    mixture.save(tmp_path / "saved", overwrite=True)
    for name in ("fitted", "saved"):
        loaded = htr.load(tmp_path / name, network())
        assert_same(loaded, mixture)
        assert loaded.history == mixture.history
        assert loaded.config["metadata"] == {"data": "own"}
    alone = htr.load(tmp_path / "fitted" / "members" / "1", network())
    assert torch.equal(alone.network()[0].weight, mixture.members[1].network()[0].weight)
    with pytest.raises(htr.OutputError, match="not empty"):
        mixture.save(tmp_path / "saved")
    fit(data).save(tmp_path / "saved", overwrite=True)
    assert not isinstance(htr.load(tmp_path / "saved", network()), htr.PosteriorMixture)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_save_that_fails_leaves_nothing(data, tmp_path, monkeypatch):
    mixture = fit(data, members=2)

    def fails(*args, **more):
        raise OSError("no room")

    monkeypatch.setattr(mixture.members[1], "save", fails)
    with pytest.raises(htr.OutputError, match="no room"):
        mixture.save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_damaged_mixtures_are_refused(data, tmp_path):
    fit(data, members=2, out=tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    text = config.read_text()
    (tmp_path / "run" / "digests.json").unlink()
    config.write_text(json.dumps(json.loads(text) | {"members": -1}))
    with pytest.raises(htr.CheckpointError, match="its number of members is -1"):
        htr.load(tmp_path / "run", network())
    config.write_text(json.dumps(json.loads(text) | {"members": 3}))
    with pytest.raises(htr.CheckpointError, match="members/2 holds no run"):
        htr.load(tmp_path / "run", network())
    config.write_text(text)
    (tmp_path / "run" / "spectra.safetensors").unlink()
    with pytest.raises(htr.CheckpointError, match="has not finished"):
        htr.load(tmp_path / "run", network())


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("method", "trainer"), [("map", MAPTrainer), ("svi", SVITrainer)])
@pytest.mark.parametrize("epochs_before", [1, 2, 3])
def test_a_killed_fit_goes_on_member_by_member(
    data, tmp_path, monkeypatch, method, trainer, epochs_before
):
    """Of two members with two epochs each; a member that has ended is not trained again."""
    whole = fit(data, method, members=2, out=tmp_path / "whole")
    done = []
    train_epoch = trainer.train_epoch

    def counted(self, bar):
        if len(done) == epochs_before:
            raise Killed
        done.append(self.problem.seed)
        return train_epoch(self, bar)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "train_epoch", counted)
        with pytest.raises(Killed):
            fit(data, method, members=2, out=tmp_path / "run")
    with pytest.raises(htr.CheckpointError):
        htr.load(tmp_path / "run", network())
    epochs_before = 99
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "train_epoch", counted)
        resumed = fit(data, method, members=2, out=tmp_path / "run", resume=True)
    assert len(done) == 4
    assert_same(resumed, whole)
    assert_same(htr.load(tmp_path / "run", network()), whole)
    with pytest.raises(htr.CheckpointError, match="its members is 2, and this one's 3"):
        fit(data, method, members=3, out=tmp_path / "run", resume=True)
    with pytest.raises(htr.OutputError, match="not empty"):
        fit(data, method, members=2, out=tmp_path / "run")


def test_nothing_is_left_of_a_fit_that_could_not_begin(data, tmp_path):
    with pytest.raises(htr.DataError):
        fit((data[0], data[1] + 7), members=2, out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"metadata=.* must be plain data"):
        fit(data, members=2, out=tmp_path / "run", metadata={"net": object()})
    assert len(fit(data, members=2, out=tmp_path / "run").members) == 2


# Several processes


@pytest.mark.long
def test_members_in_processes_of_their_own_are_the_same(data, tmp_path):
    one = fit(data, members=2, out=tmp_path / "one")
    two = fit(data, members=2, processes=2, out=tmp_path / "two")
    assert_same(one, two)
    assert_same(htr.load(tmp_path / "two", network()), one)


def test_what_no_other_process_can_have_is_named(data):
    class Local(nn.Linear):
        pass

    model = htr.BayesianClassifier(Local(5, 3), htr.Priors({}))
    with pytest.raises(ValueError, match=r"cannot be sent to other processes .*Local"):
        htr.fit(model, data, method=htr.MAP(), epochs=1, members=2, processes=2)
