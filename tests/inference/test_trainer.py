"""A training run: what is left alone, schedules, early stopping, callbacks, and divergence."""

from __future__ import annotations

import copy
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

import bayes_htr as htr

LOMAX = htr.Priors(htr.ESD(htr.Lomax(2.0)))


def fitted(net, priors, data, method, **more):
    return htr.fit(htr.BayesianClassifier(net, priors), data, method=method, **more)


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


@pytest.mark.parametrize("progress", [True, False, None])
def test_progress_without_a_terminal(model, data, validation, capsys, progress):
    htr.fit(model, data, method=htr.MAP(), epochs=2, validation=validation, progress=progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("acc" in err) is (progress is True)


def test_layers_put_into_evaluation_mode_stay_there(data):
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3))
    net[0].eval()
    before = {name: b.clone() for name, b in net[0].named_buffers()}
    fitted = htr.fit(
        htr.BayesianClassifier(net, htr.Priors({})), data, method=htr.MAP(), epochs=1
    ).network()
    for name, b in fitted[0].named_buffers():
        torch.testing.assert_close(b, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("answer", [True, np.bool_(True), torch.tensor(True)], ids=repr)
def test_a_callback_ends_training_by_any_true(network, answer):
    data = torch.randn(32, 6), torch.arange(32) % 3
    for said, epochs in ((answer, 1), (None, 3), (1, 3), ("yes", 3), (np.bool_(False), 3)):
        posterior = fitted(
            network(), LOMAX, data, htr.MAP(), epochs=3, callbacks=[lambda event, say=said: say]
        )
        assert len(posterior.history) == epochs


def test_fit_within_no_grad_trains(network):
    data = torch.randn(32, 6), torch.arange(32) % 3
    expected = fitted(network(), LOMAX, data, htr.MAP(), epochs=1).history[0]["loss"]
    with torch.no_grad():
        assert fitted(network(), LOMAX, data, htr.MAP(), epochs=1).history[0]["loss"] == expected
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        htr.bind(LOMAX, network()).backward()


# Divergence


def diverge(model, data, out, *, match, **more):
    """The checkpoint that the error names, after it was checked."""
    given = {"method": htr.MAP(lr=1e6, scheduler=None), "epochs": 20, "batch_size": 16} | more
    with pytest.raises(htr.DivergenceError, match=match) as caught:
        htr.fit(model, data, out=out, **given)
    message = str(caught.value)
    assert "Lower the learning rate" in message
    step, epoch = (int(n) for n in re.search(r"step (\d+) \(epoch (\d+)\)", message).groups())
    assert step // math.ceil(50 / given["batch_size"]) == epoch
    path = re.search(r"last good checkpoint is (\S+)\. ", message)
    return (None, epoch, step) if path is None else (Path(path.group(1)), epoch, step)


def check_checkpoint(model, path, epoch):
    state = torch.load(path, weights_only=True)
    assert state["epoch"] == epoch
    net = htr.BayesianClassifier(model.net, htr.Priors({})).net
    net.load_state_dict(state["net"])
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())
    with pytest.raises(htr.CheckpointError, match="has not finished; resume it"):
        htr.load(path.parent, model.net)


@pytest.mark.parametrize("lr", [1e6, 1e30])
@pytest.mark.parametrize("patience", [None, 3])
def test_learning_rate(make_model, data, validation, tmp_path, lr, patience):
    model = make_model(htr.Priors(htr.Entries(htr.Normal(0.0, 1.0))))  # (1 - lr / N)^t explodes
    path, epoch, _ = diverge(
        model,
        data,
        tmp_path / "run",
        match=r"(?s)training diverged at step \d+.*fc[12]",
        method=htr.MAP(lr=lr, scheduler=None, patience=patience),
        validation=validation,
    )
    check_checkpoint(model, path, epoch)
    assert path == tmp_path / "run" / "checkpoint.pt"


def test_without_a_folder(make_model, data):
    model = make_model(htr.Priors(htr.Entries(htr.Normal(0.0, 1.0))))
    assert diverge(model, data, None, match="no run folder was given")[0] is None


def test_the_step_is_the_one_whose_loss_is_not_finite(make_model, data):
    """The second update of all makes weights nan; the third loss sees it."""
    calls = []

    class Breaks(torch.optim.SGD):
        def step(self, closure):
            loss = super().step(closure)
            calls.append(1)
            if len(calls) == 2:
                with torch.no_grad():
                    self.param_groups[0]["params"][2].fill_(float("nan"))
            return loss

    _, epoch, step = diverge(
        make_model(),
        data,
        None,
        match="the loss is nan; the first parameter that is not finite is fc",
        method=htr.MAP(optimizer=Breaks, scheduler=None),
    )
    assert (epoch, step) == (0, 2)


@pytest.mark.parametrize("with_validation", [True, False])
def test_the_last_update_of_an_epoch(model, data, validation, tmp_path, with_validation):
    """No loss sees it any more, yet it must reach neither checkpoint nor posterior."""
    steps = []

    class Breaks(torch.optim.SGD):
        def step(self, closure):
            loss = super().step(closure)
            steps.append(1)
            if len(steps) == 8:
                with torch.no_grad():
                    self.param_groups[0]["params"][3][1] = float("inf")
            return loss

    path, epoch, step = diverge(
        model,
        data,
        tmp_path / "run",
        match="a weight is not finite after it; .* is fc2.bias",
        method=htr.MAP(optimizer=Breaks, scheduler=None),
        epochs=2,
        validation=validation if with_validation else None,
    )
    assert (epoch, step) == (1, 7)
    check_checkpoint(model, path, 1)


def test_a_layer_whose_output_is_not_finite(make_model, data):
    """Finite weights whose product is not."""

    class Breaks(torch.optim.SGD):
        def step(self, closure):
            loss = super().step(closure)
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.fill_(1e30)
            return loss

    diverge(
        make_model(),
        data,
        None,
        match="first layer whose output is not finite is fc2",
        method=htr.MAP(optimizer=Breaks, scheduler=None),
    )


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, partial(torch.optim.LBFGS, max_iter=3)])
def test_a_spectrum_that_cannot_be_scored(make_model, data, tmp_path, optimizer):
    """A step that takes the weights to zero."""

    def zero(parameters, lr):
        opt = optimizer(parameters, lr=lr)
        opt.register_step_post_hook(lambda *_: parameters[0].data.zero_())
        return opt

    model = make_model(htr.Priors({"fc1.weight": htr.ESD(htr.ImproperPowerlaw(2.0))}))
    path, epoch, step = diverge(
        model,
        data,
        tmp_path / "run",
        match="fc1.weight is zero",
        method=htr.MAP(lr=1e-3, optimizer=zero, scheduler=None, refresh=htr.Exact()),
    )
    assert (epoch, step) == (0, 1)
    check_checkpoint(model, path, 0)
