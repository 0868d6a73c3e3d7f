"""`with_prior` as an optimiser: groups, hooks, saved states, and what it refuses."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from functools import partial

import pytest
import torch
from torch.nn import functional as F

import bayes_htr as htr
from bayes_htr.engine.optimizer_kinds import needs_closure
from tests.engine.optimizer_cases import LARGEST, SPECTRAL, Adam, N, close, under, weights


def test_it_is_an_optimiser_with_the_groups_and_the_state_of_its_own(net):
    inner = Adam(net.parameters())
    optimizer = under(SPECTRAL)(inner, net)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.inner is inner
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    assert optimizer.defaults is inner.defaults
    assert not hasattr(optimizer, "train")
    assert "decoupled prior" in repr(optimizer)
    optimizer.param_groups[0]["lr"] = 0.5
    assert inner.param_groups[0]["lr"] == 0.5
    assert optimizer.prior_energy is None
    with torch.no_grad():
        energy = optimizer.energy()
    optimizer.step()
    close(optimizer.prior_energy, energy)


def test_hooks_of_optimisers_are_called(net):
    optimizer, called = under(SPECTRAL)(Adam(net.parameters()), net), []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: called.append(o))
    optimizer.register_step_post_hook(lambda o, args, kwargs: called.append(weights(net)))
    optimizer.register_state_dict_post_hook(lambda o, state: called.append("state"))
    optimizer.register_load_state_dict_post_hook(lambda o: called.append("load"))
    before = weights(net)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert called[0] is optimizer
    assert not torch.equal(called[1], before)
    assert torch.equal(called[1], weights(net))
    assert called[2:] == ["state", "load"]


HYPER = htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0, htr.Gamma(2.0, 1.0))))
DECAYING = LARGEST.scheduled(htr.ExpDecay(k=0.1, period=1, cutoff=0.01))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("priors", [SPECTRAL, LARGEST, HYPER, DECAYING])
@pytest.mark.parametrize("how", ["state", "pickle", "deepcopy"])
def test_a_resumed_run_is_the_same_bit_for_bit(net, data, tmp_path, decoupled, priors, how):
    net, data = net.float(), (data[0].float(), data[1])
    wrap = under(priors, decoupled=decoupled, refresh=htr.Drift(0.05))

    def run(net, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(net(data[0]), data[1]).backward()
            optimizer.step()

    def started():
        own = copy.deepcopy(net)
        optimizer = wrap(Adam(own.parameters(), lr=0.03), own)
        optimizer.epoch = 3
        return own, optimizer

    whole, optimizer = started()
    run(whole, optimizer, 37)
    refreshes = optimizer.energy.refreshes
    first, optimizer = started()
    run(first, optimizer, 18)
    if how == "state":
        torch.save({"net": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "x")
        saved = torch.load(tmp_path / "x", weights_only=True)
        second = copy.deepcopy(net)
        optimizer = wrap(Adam(second.parameters(), lr=0.5), second)
        second.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
    elif how == "pickle":
        second, optimizer = pickle.loads(pickle.dumps((first, optimizer)))
    else:
        second, optimizer = copy.deepcopy((first, optimizer))
    assert optimizer.epoch == 3
    assert optimizer.energy.net is second
    run(second, optimizer, 19)
    assert torch.equal(weights(whole), weights(second))
    assert refreshes == optimizer.energy.refreshes
    assert 1 < refreshes["0.weight"] < 37  # gradients of the cache were used


def test_the_state_of_an_optimiser_without_a_prior_is_loaded_with_a_warning(net, data):
    plain = Adam(net.parameters(), lr=0.5)
    F.cross_entropy(net(data[0]), data[1]).backward()
    plain.step()
    optimizer = under(SPECTRAL)(Adam(net.parameters()), net)
    with pytest.warns(UserWarning, match="saved with no prior"):
        optimizer.load_state_dict(plain.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.5
    other = under(LARGEST)(Adam(net.parameters()), net)
    with pytest.warns(UserWarning, match=r"saved with the prior .*Lomax.* loaded with .*Frechet"):
        other.load_state_dict(optimizer.state_dict())
    plain.load_state_dict(optimizer.state_dict())  # and the other way round


def test_a_state_that_cannot_be_read(net):
    optimizer = under(SPECTRAL)(Adam(net.parameters()), net)
    optimizer.step()
    state = optimizer.state_dict()
    state["prior"] = {"priors": repr(SPECTRAL), "energy": {"_extra_state": torch.zeros(3)}}
    with pytest.raises(htr.CheckpointError, match="delete its key 'prior'"):
        optimizer.load_state_dict(state)


# What cannot be wrapped


class Accelerated(torch.optim.SGD):
    __module__ = "accelerate.optimizer"


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda p: None, {}, r"NoneType is no torch\.optim\.Optimizer"),
        (Adam, {"num_data": 0}, r"num_data=0 must be a finite number greater than 0"),
        (Adam, {"num_data": math.nan}, r"num_data=nan"),
        (partial(Adam, maximize=True), {}, r"Adam\(maximize=True\) climbs"),
        (torch.optim.LBFGS, {"decoupled": True}, r"LBFGS takes several steps.*decoupled=False"),
        (torch.optim.LBFGS, {}, r"LBFGS compares losses.*refresh=htr\.Exact\(\)"),
        (partial(Accelerated, lr=0.1), {}, r"before the trainer gets the optimiser"),
        (lambda p: Adam(list(p)[1:]), {}, r"0\.weight has a prior.*optimiser Adam does not have"),
    ],
)
def test_what_cannot_be_wrapped(net, make, options, message):
    with pytest.raises(htr.PriorError, match=message):
        htr.with_prior(make(net.parameters()), SPECTRAL, net, **{"num_data": N, **options})


def test_a_second_prior(net):
    optimizer = under(SPECTRAL)(Adam(net.parameters()), net)
    with pytest.raises(htr.PriorError, match="has priors already"):
        under(LARGEST)(optimizer, net)


def test_no_learning_rate(net):
    optimizer = Adam(net.parameters())
    optimizer.param_groups[0]["lr"] = None  # as Adafactor with relative steps
    with pytest.raises(htr.PriorError, match=r"lr=None.*decoupled=False"):
        under(SPECTRAL)(optimizer, net)
    under(SPECTRAL, decoupled=False)(optimizer, net)


def test_reference_implementations_of_schedule_free(net):
    package = pytest.importorskip("schedulefree")
    with pytest.raises(htr.PriorError, match="take AdamWScheduleFree or"):
        under(SPECTRAL)(package.AdamWScheduleFreeReference(net.parameters(), lr=0.1), net)


@pytest.mark.parametrize("epoch", [-1, 0.5])
def test_an_epoch_that_is_none(net, epoch):
    optimizer = under(SPECTRAL)(Adam(net.parameters()), net)
    with pytest.raises(htr.PriorError, match="epoch="):
        optimizer.epoch = epoch


def test_a_matrix_that_is_not_finite(one_matrix):
    net = one_matrix(torch.full((3, 3), math.nan))
    optimizer = htr.with_prior(Adam(net.parameters()), SPECTRAL, net, num_data=N)
    with pytest.raises(htr.SpectrumError, match="weight"):
        optimizer.step()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (partial(torch.optim.Adam, fused=True), False),
        (torch.optim.SGD, False),
        (torch.optim.LBFGS, True),
    ],
)
def test_optimisers_that_need_a_closure(make, expected):
    assert needs_closure(make([torch.zeros(1, requires_grad=True)], lr=0.1)) is expected


def test_no_warning_of_scalers_of_others(net):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones((), requires_grad=True) * 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        under(SPECTRAL, decoupled=False)(Adam(net.parameters()), net).step()
