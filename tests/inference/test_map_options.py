"""MAP with accumulated gradients, in half precision, and with a schedule that follows the steps."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

import bayes_htr as htr

torch.set_num_threads(1)

LATENT = htr.Priors(htr.ESD(htr.Lomax(2.0, scale=htr.Gamma(2.0, 2.0)))).scaled(2.0)
MOMENTUM = partial(SGD, momentum=0.9)


def difference(a, b):
    pairs = zip(a.network().parameters(), b.network().parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


@pytest.mark.parametrize("optimizer", [MOMENTUM, Adam], ids=["sgd", "adam"])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_accumulation_of_four_equals_none(make_model, data, optimizer, clip):
    """Of 50 examples the last update has two, in one batch; the prior counts once."""
    given = {"lr": 0.05, "optimizer": optimizer, "clip": clip}
    model = make_model(LATENT)
    fits = [
        htr.fit(model, data, method=htr.MAP(accumulate=n, **given), epochs=3, batch_size=size)
        for n, size in ((1, 16), (4, 4))
    ]
    assert difference(*fits) < 1e-5
    one, four = (posterior.hyperparameters() for posterior in fits)
    assert four == pytest.approx(one, rel=1e-5)
    for plain, accumulated in zip(*(posterior.history for posterior in fits), strict=True):
        for key in ("loss", "train_nll", "energy", "train_accuracy"):
            assert accumulated[key] == pytest.approx(plain[key], rel=1e-5)
    few = htr.fit(model, data, method=htr.MAP(**given), epochs=3, batch_size=4)
    assert difference(few, fits[0]) > 1e-3


def test_accumulation_counts_updates_and_batches(make_model, data):
    steps = []

    class Steps(htr.SpectrumHistory):
        def is_due(self, step):
            return True

        def on_step(self, event):
            steps.append((event.step, event.epoch))

    method = htr.MAP(accumulate=4)
    htr.fit(make_model(), data, method=method, epochs=2, batch_size=4, callbacks=[Steps()])
    assert steps[-1] == (8, 2.0)  # 13 batches make 4 updates of an epoch


@pytest.mark.parametrize("resume", [False, True])
def test_a_cosine_over_steps(make_model, data, tmp_path, resume):
    """PyTorch's own, with four updates an epoch and eight in all."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = SGD([parameter], lr=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    rates = []
    for step in range(8):
        if step % 4 == 0:
            rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    method = htr.MAP(lr=0.2, scheduler_interval="step")
    given = {"method": method, "batch_size": 16, "out": tmp_path / "run"}
    if resume:
        htr.fit(make_model(), data, epochs=1, **given)
    posterior = htr.fit(make_model(), data, epochs=2, resume=resume, **given)
    found = [row["lr"] for row in posterior.history]
    assert found[-1] == pytest.approx(rates[-1])
    assert posterior.config["method"]["scheduler_interval"] == "step"


@pytest.mark.parametrize(
    "method", [htr.MAP, partial(htr.SVI, guide="meanfield")], ids=["map", "svi"]
)
def test_any_schedule_over_steps(make_model, data, method):
    given = {"lr": 0.1, "scheduler": partial(ExponentialLR, gamma=0.5)}
    model = make_model(htr.Priors({"*": htr.Entries(htr.Normal(0.0, 1.0))}))
    for interval, factor in (("epoch", 0.5), ("step", 0.5**4)):
        own = method(scheduler_interval=interval, **given)
        posterior = htr.fit(model, data, method=own, epochs=2, batch_size=16)
        assert posterior.history[1]["lr"] == pytest.approx(0.1 * factor)


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_half_precision(make_model, data, validation, amp):
    """Near full precision, with weights in theirs, and the prior at its full weight."""
    seen = []
    model = make_model(LATENT)
    model.net.fc2.register_forward_hook(lambda module, x, output: seen.append(output.dtype))
    given = {"epochs": 3, "batch_size": 16, "validation": validation}
    full = htr.fit(model, data, method=htr.MAP(lr=0.05), **given)
    assert set(seen) == {torch.float32}
    seen.clear()
    half = htr.fit(model, data, method=htr.MAP(lr=0.05, amp=amp), **given)
    assert set(seen) == {torch.float32, getattr(torch, amp)}  # validation is in full precision
    assert 0 < difference(full, half) < 0.02
    assert {p.dtype for p in half.network().parameters()} == {torch.float32}
    assert half.history[-1]["loss"] == pytest.approx(full.history[-1]["loss"], rel=0.02)
    assert half.hyperparameters() == pytest.approx(full.hyperparameters(), rel=0.02)


def test_float16_scales_the_prior_as_the_loss(make_model, data):
    """Without a likelihood's gradient, what is left is the prior's: that of a run without amp."""
    stuck = torch.zeros_like(data[0]), data[1]
    priors = htr.Priors({"fc1.weight": htr.Entries(htr.Normal(0.0, 0.1))})
    given = {"epochs": 2, "batch_size": 50}
    model = make_model(priors)
    for name, parameter in model.net.named_parameters():
        parameter.requires_grad_(name == "fc1.weight")
    for clip in (None, 0.1):
        plain = htr.fit(model, stuck, method=htr.MAP(clip=clip), **given)
        half = htr.fit(model, stuck, method=htr.MAP(clip=clip, amp="float16"), **given)
        assert difference(plain, half) < 1e-6
        assert (
            float((plain.network().fc1.weight - model.net.fc1.weight).detach().abs().max()) > 1e-3
        )


@pytest.mark.parametrize("options", [{"amp": "float16"}, {"accumulate": 3}], ids=["amp", "three"])
def test_resumed_runs_are_the_same(make_model, data, tmp_path, same_weights, options):
    """The scale of the loss is in the checkpoint."""
    given = {"method": htr.MAP(scheduler=None, **options), "batch_size": 8}
    whole = htr.fit(make_model(LATENT), data, epochs=3, **given)
    out = tmp_path / "run"
    htr.fit(make_model(LATENT), data, epochs=1, out=out, **given)
    resumed = htr.fit(make_model(LATENT), data, epochs=3, out=out, resume=True, **given)
    same_weights(whole, resumed)
    with pytest.raises(htr.CheckpointError, match=r"method\.(amp|accumulate)"):
        given["method"] = htr.MAP(scheduler=None)
        htr.fit(make_model(LATENT), data, epochs=4, out=out, resume=True, **given)


def test_settings_of_before_are_described_as_before():
    assert set(htr.MAP().describe()) == {
        *("name", "lr", "optimizer", "scheduler", "patience", "clip", "refresh")
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate=0 must be a whole number of at least 1"),
        ({"amp": "float32"}, "amp='float32' must be 'bfloat16' or 'float16', or None"),
        ({"scheduler_interval": "batch"}, "scheduler_interval='batch' must be 'epoch' or 'step'"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        htr.MAP(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": ReduceLROnPlateau, "scheduler_interval": "step"}, "ReduceLROnPlateau looks"),
        ({"optimizer": torch.optim.LBFGS, "amp": "float16"}, "a GradScaler takes no closure"),
    ],
)
def test_settings_that_do_not_go_together(make_model, data, untouched, options, message):
    with pytest.raises(ValueError, match=message):
        htr.fit(make_model(), data, method=htr.MAP(**options), epochs=1, out=untouched)
