from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch

import bayes_htr as htr


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
        match="fc1.weight has rank 0 of 6",
        method=htr.MAP(lr=1e-3, optimizer=zero, scheduler=None, refresh=htr.Exact()),
    )
    assert (epoch, step) == (0, 1)
    check_checkpoint(model, path, 0)
