from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.utils.data as data_utils
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

import bayes_htr as htr

METRICS = ("epoch", "loss", "train_nll", "energy", "train_accuracy", "lr", "seconds")


def test_step_is_the_gradient_of_loss_and_energy(make_model, data, frechet):
    model = make_model(frechet.scaled(5.0), class_weights=[0.5, 1.0, 3.0])
    net, (x, y) = copy.deepcopy(model.net), data
    method = htr.MAP(lr=0.1, optimizer=torch.optim.SGD, scheduler=None)
    posterior = htr.fit(model, data, method=method, epochs=1, batch_size=50)
    lam = [torch.linalg.svdvals(net.get_parameter(n))[0] ** 2 for n in ("fc1.weight", "fc2.weight")]
    energy = 5.0 * sum(3.0 * z.log() + z**-2.0 for z in lam)
    nll = (F.cross_entropy(net(x), y, reduction="none") * torch.tensor([0.5, 1.0, 3.0])[y]).mean()
    (nll + energy / 50).backward()
    for name, p in net.named_parameters():
        expected = p.detach() - 0.1 * p.grad
        torch.testing.assert_close(posterior.network().get_parameter(name).detach(), expected)
    (row,) = posterior.history
    assert row["loss"] == pytest.approx((nll + energy / 50).item(), rel=1e-6)
    assert row["train_nll"] == pytest.approx(nll.item(), rel=1e-6)
    assert row["energy"] == pytest.approx(energy.item(), rel=1e-6)
    assert row["train_accuracy"] == pytest.approx((net(x).argmax(1) == y).double().mean().item())


def test_the_loss_does_not_depend_on_the_batch_size(make_model, data, frechet):
    """At a learning rate that moves nothing, the mean of the mini-batch losses is the full one."""
    model = make_model(frechet.scaled(50.0), class_weights=[0.5, 1.0, 3.0])
    still = htr.MAP(lr=1e-30)
    losses = [
        htr.fit(model, data, method=still, epochs=1, batch_size=size).history[0]["loss"]
        for size in (50, 25, 16, 3)
    ]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


@pytest.mark.parametrize("strength", [1.0, 3.0])
@pytest.mark.parametrize("shared", [False, True])
def test_joint_optimisation_finds_the_optimum(make_model, data, strength, shared):
    a, b = 2.0, 1.0
    latent = htr.Shared("t", htr.Gamma(a, b)) if shared else htr.Joint(htr.Gamma(a, b))
    prior = htr.ESD(htr.Lomax(tail_index=latent, scale=0.01))
    model = make_model(htr.Priors(prior).scaled(strength))
    model.net.requires_grad_(False)
    model.net.fc2.bias.requires_grad_(True)
    posterior = htr.fit(model, data, method=htr.MAP(), epochs=300, batch_size=50)
    S, K = [], []
    for layer in (model.net.fc1, model.net.fc2):
        lam = torch.linalg.svdvals(layer.weight.double()) ** 2
        S.append(torch.log1p(lam / 0.01).sum().item())
        K.append(len(lam))
    found = posterior.hyperparameters()
    if shared:
        S, K = [sum(S)], [sum(K)]
        assert set(found) == {"t"}
    # The mode in log t of Gamma(a + s K, b + s S).
    expected = [(a + strength * k) / (b + strength * s) for k, s in zip(K, S, strict=True)]
    assert list(found.values()) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("training", [True, False])
def test_user_objects_are_left_alone(make_model, data, validation, training):
    model = make_model(kind="batchnorm")
    model.net.train(training)
    loaders = [DataLoader(TensorDataset(*d), 16, shuffle=True) for d in (data, validation)]
    weights, state = copy.deepcopy(model.net.state_dict()), torch.get_rng_state()
    for train, val in ((data, validation), loaders):
        htr.fit(model, train, method=htr.MAP(), epochs=2, validation=val)
        assert torch.equal(torch.get_rng_state(), state)
    assert model.net.training is training
    assert all(p.grad is None for p in model.net.parameters())
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_global_random_state_does_not_matter(make_model, data, same_weights):
    model = make_model(kind="dropout")
    loader = DataLoader(TensorDataset(*data), 16, shuffle=True)  # draws from the global generator
    posteriors = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        posteriors.append(htr.fit(model, loader, method=htr.MAP(), epochs=2, seed=3))
    same_weights(*posteriors)


def test_metrics(make_model, data, validation, frechet):
    model = make_model(frechet, "batchnorm")
    posterior = htr.fit(model, data, method=htr.MAP(lr=0.04), epochs=5, validation=validation)
    assert [row["epoch"] for row in posterior.history] == [1, 2, 3, 4, 5]
    for row in posterior.history:
        assert set(row) == {*METRICS, "val_nll", "val_accuracy"}
        assert all(type(v) is float and math.isfinite(v) for v in row.values())
        assert row["loss"] == pytest.approx(row["train_nll"] + row["energy"] / 50)
    rates = [0.02 * (1 + math.cos(math.pi * e / 5)) for e in range(5)]
    assert [row["lr"] for row in posterior.history] == pytest.approx(rates)
    scores = posterior.evaluate(validation)
    assert posterior.history[-1]["val_nll"] == pytest.approx(scores["nll"], rel=1e-5)
    assert posterior.history[-1]["val_accuracy"] == pytest.approx(scores["accuracy"])


def test_it_learns(make_model, data, validation, frechet):
    posterior = htr.fit(make_model(frechet), data, method=htr.MAP(lr=0.1), epochs=40, batch_size=16)
    assert posterior.evaluate(validation)["accuracy"] > 0.6


def test_decay_follows_the_epochs(make_model, data):
    prior = htr.Priors(htr.Entries(htr.Normal(0.0, 1.0))).scheduled(htr.PowerDecay(1.0, period=2))
    posterior = htr.fit(make_model(prior), data, method=htr.MAP(lr=1e-30), epochs=8)
    energies = np.array([row["energy"] for row in posterior.history])
    factors = [1, 1, 1, 1, 1 / 2, 1 / 2, 1 / 3, 1 / 3]
    assert energies / energies[0] == pytest.approx(factors, rel=1e-6)


@pytest.mark.parametrize("with_validation", [True, False])
def test_plateau_watches_validation_or_loss(model, data, validation, with_validation):
    scheduler = partial(ReduceLROnPlateau, factor=0.5, patience=0)
    history = htr.fit(
        model,
        data,
        method=htr.MAP(lr=2.0, scheduler=scheduler),
        epochs=10,
        batch_size=16,
        validation=validation if with_validation else None,
    ).history
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    plateau, rates = scheduler(optimizer), []
    for row in history:
        rates.append(optimizer.param_groups[0]["lr"])
        plateau.step(row["val_nll" if with_validation else "loss"])
    assert [row["lr"] for row in history] == rates
    assert rates[-1] < 2.0


def test_patience_stops_and_restores_the_best(make_model, data, validation, same_weights):
    seen = []
    posterior = htr.fit(
        make_model(kind="batchnorm"),
        data,
        method=htr.MAP(lr=2.0, scheduler=None, patience=3),
        epochs=60,
        validation=validation,
        callbacks=[lambda event: seen.append(copy.deepcopy(event.network).eval())],
    )
    nll = [row["val_nll"] for row in posterior.history]
    best = int(np.argmin(nll))
    assert len(nll) == best + 4 < 60
    same_weights(posterior, seen[best])
    assert posterior.evaluate(validation)["nll"] == pytest.approx(nll[best], rel=1e-5)


def test_patience_keeps_the_best_where_epochs_run_out(make_model, data, validation, same_weights):
    seen = []
    posterior = htr.fit(
        make_model(),
        data,
        method=htr.MAP(lr=2.0, scheduler=None, patience=50),
        epochs=8,
        validation=validation,
        callbacks=[lambda event: seen.append(copy.deepcopy(event.network))],
    )
    best = int(np.argmin([row["val_nll"] for row in posterior.history]))
    assert best < 7  # else this shows nothing
    same_weights(posterior, seen[best])


def test_callbacks_see_every_epoch_and_may_stop(model, data):
    events, others = [], []
    posterior = htr.fit(
        model,
        data,
        method=htr.MAP(),
        epochs=9,
        callbacks=[lambda e: events.append(e) or e.epoch == 4, others.append],
    )
    assert [e.epoch for e in events] == [e.epoch for e in others] == [1, 2, 3, 4]
    assert [e.metrics for e in events] == posterior.history
    assert isinstance(events[0].network, nn.Module)
    assert events[0].network is not model.net


def test_only_true_stops(model, data):
    posterior = htr.fit(model, data, method=htr.MAP(), epochs=3, callbacks=[lambda e: e.metrics])
    assert len(posterior.history) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: (x.double().numpy(), y.numpy()),
        lambda x, y: (x.numpy().astype(">f8"), y.numpy().astype(np.uint16)),
        lambda x, y: (x.flip(0).numpy()[::-1], y.flip(0).numpy()[::-1].astype(np.uint8)),
        lambda x, y: (x.tolist(), y.tolist()),
        lambda x, y: [x.double(), y.to(torch.int32)],
    ],
    ids=["float64", "foreign byte order", "backwards", "lists", "list of tensors"],
)
def test_inputs_are_cast_to_the_network(network, data, dtype, make, same_weights, recwarn):
    net = network().to(dtype)
    model = htr.BayesianClassifier(net, htr.Priors({}))
    expected = htr.fit(model, data, method=htr.MAP(), epochs=1)
    posterior = htr.fit(model, make(*data), method=htr.MAP(), epochs=1)
    same_weights(posterior, expected)
    assert posterior.network().fc1.weight.dtype == dtype
    assert not recwarn.list


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu"), "auto"])
def test_devices(model, data, device):
    posterior = htr.fit(model, data, method=htr.MAP(), epochs=1, device=device)
    accelerated = device == "auto" and torch.accelerator.is_available()
    assert posterior.network().fc1.weight.is_cpu is not accelerated
    assert posterior.predict(data[0]).probs.is_cpu


def test_init_continues_from_a_posterior(make_model, data, same_weights):
    model = make_model(htr.Priors(htr.ESD(htr.Lomax(tail_index=htr.Joint(htr.Gamma(2.0, 1.0))))))
    first = htr.fit(model, data, method=htr.MAP(), epochs=3)
    unchanged = htr.fit(model, data, method=htr.MAP(), epochs=0, init=first)
    same_weights(unchanged, first)
    assert unchanged.hyperparameters() == first.hyperparameters()
    again = htr.fit(model, data, method=htr.MAP(), epochs=1, init=first)
    assert again.history[0]["loss"] < first.history[0]["loss"]
    same_weights(unchanged, first)


def test_init_of_another_network_raises(model, data):
    other = htr.Posterior(nn.Linear(6, 3), htr.Priors({}))
    with pytest.raises(ValueError, match="init is the posterior of another network"):
        htr.fit(model, data, method=htr.MAP(), epochs=1, init=other)


def test_no_epochs_is_the_start(model, data, same_weights, tmp_path):
    posterior = htr.fit(model, data, method=htr.MAP(), epochs=0, out=tmp_path / "run")
    same_weights(posterior, model.net)
    assert posterior.history == htr.load(tmp_path / "run", model.net).history == []


@pytest.mark.parametrize("progress", [True, False, None])
def test_progress_without_a_terminal(model, data, validation, capsys, progress):
    htr.fit(model, data, method=htr.MAP(), epochs=2, validation=validation, progress=progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("acc" in err) is (progress is True)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda d: DataLoader(d, 16, drop_last=True), 50),
        (lambda d: DataLoader(d, 16, sampler=range(20)), 20),
        (
            lambda d: DataLoader(
                d, batch_sampler=torch.utils.data.BatchSampler(range(20), 8, drop_last=False)
            ),
            20,
        ),
        (lambda d: DataLoader(d, 16, sampler=data_utils.WeightedRandomSampler([1.0] * 50, 20)), 50),
        (lambda d: DataLoader(d, 16, sampler=data_utils.RandomSampler(d, num_samples=20)), 50),
        (lambda d: DataLoader(d, 16, sampler=data_utils.SubsetRandomSampler(range(20))), 20),
    ],
    ids=["drop_last", "sampler", "batch_sampler", "weighted", "fewer", "subset"],
)
def test_num_data_of_loaders(make_model, data, frechet, make, count):
    loader = make(TensorDataset(*data))
    posterior = htr.fit(make_model(frechet), loader, method=htr.MAP(), epochs=1)
    assert posterior.config["num_data"] == count


@pytest.mark.parametrize(
    "setting",
    [
        {"lr": 0.0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"lr": "fast"},
        {"optimizer": "adam"},
        {"scheduler": "linear"},
        {"patience": 0},
        {"patience": 1.5},
        {"clip": 0.0},
        {"clip": float("nan")},
        {"refresh": 4},
    ],
    ids=str,
)
def test_settings_out_of_range(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        htr.MAP(**setting)


def test_settings_are_the_same_in_every_process():
    """A resumed run is recognised by them: no addresses."""
    rates = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda e: 0.9**e)

    class Schedule:
        def __call__(self, optimizer):
            return CosineAnnealingLR(optimizer, 3)

    for scheduler in (rates, Schedule()):
        assert " at 0x" not in str(htr.MAP(scheduler=scheduler).describe())
    first, second = (htr.MAP(optimizer=partial(torch.optim.SGD, momentum=m)) for m in (0.1, 0.2))
    assert first.describe() != second.describe()


def test_layers_put_into_evaluation_mode_stay_there(data):
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3))
    net[0].eval()
    before = {name: b.clone() for name, b in net[0].named_buffers()}
    fitted = htr.fit(
        htr.BayesianClassifier(net, htr.Priors({})), data, method=htr.MAP(), epochs=1
    ).network()
    for name, b in fitted[0].named_buffers():
        torch.testing.assert_close(b, before[name], rtol=0, atol=0)


def test_an_optimiser_without_a_closure(make_model, data, frechet):
    class Plain(torch.optim.SGD):
        def step(self):
            return super().step()

    runs = [
        htr.fit(
            make_model(frechet), data, method=htr.MAP(optimizer=kind, lr=0.1), epochs=2
        ).network()
        for kind in (torch.optim.SGD, Plain)
    ]
    for a, b in zip(*(net.parameters() for net in runs), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("law", [htr.Powerlaw(2.0, 0.3), htr.TruncatedPowerlaw(2.0, 0.3, 50.0)])
def test_a_power_law_that_has_reached_its_lower_end_goes_on(make_model, data, law):
    """The energy is constant there: what the prior asks for is reached, not an error."""
    priors = htr.Priors({"fc2.weight": htr.MaxEigenvalue(law)}).scaled(5.0)
    posterior = htr.fit(
        make_model(priors), data, method=htr.MAP(lr=0.02, scheduler=None), epochs=15
    )
    energies = [row["energy"] for row in posterior.history]
    assert energies[-1] < energies[0]
    assert min(energies) == pytest.approx(5.0 * 2.0 * math.log(0.3), rel=0.2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": htr.MAP}, "MAP()"),
        ({"method": "map"}, "MAP()"),
        ({"init": torch.nn.Linear(2, 2)}, "Posterior"),
        ({"callbacks": [3]}, "callables"),
        ({"callbacks": print}, "callables"),
        ({"metadata": {"data": object()}}, "plain data"),
        ({"seed": 2**70}, "seed"),
    ],
)
def test_settings_of_another_kind_are_named(make_model, data, frechet, tmp_path, setting, message):
    settings = {"method": htr.MAP(), "epochs": 1, "out": tmp_path / "run"} | setting
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        htr.fit(make_model(frechet), data, **settings)
    assert not (tmp_path / "run").exists()


def test_numpy_integers_are_whole_numbers(make_model, data, frechet):
    import numpy as np

    posterior = htr.fit(
        make_model(frechet),
        data,
        method=htr.MAP(lr=np.float32(0.1)),
        epochs=np.int64(2),
        batch_size=np.int64(16),
    )
    assert len(posterior.history) == 2
