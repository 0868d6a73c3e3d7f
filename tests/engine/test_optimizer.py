"""Steps of `with_prior` against hand-written ones."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayes_htr as htr
from tests.engine.optimizer_cases import LARGEST, SPECTRAL, Adam, N, close, trained, under, weights


def matrices(net):
    return [p for p in net.parameters() if p.ndim == 2]


def by_hand(priors, decoupled, make, net, data, steps=20):
    """The same by definition: no cache, and each gradient by autograd."""
    net = copy.deepcopy(net)
    energy = htr.bind(priors, net, refresh=htr.Exact())
    optimizer = make(net.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(data[0]), data[1])
        if decoupled:
            loss.backward()
            gradients = torch.autograd.grad(energy() / N, matrices(net))
            optimizer.step()
            lr = optimizer.param_groups[0]["lr"]
            with torch.no_grad():
                for p, gradient in zip(matrices(net), gradients, strict=True):
                    p -= lr * gradient
        else:
            (loss + energy() / N).backward()
            optimizer.step()
    return weights(net)


# What a step is


@pytest.mark.parametrize("priors", [SPECTRAL, LARGEST])
@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize(
    "make", [Adam, partial(torch.optim.SGD, lr=0.05, momentum=0.9), torch.optim.NAdam]
)
def test_a_step_is_the_one_by_hand(net, data, priors, decoupled, make):
    found = trained(net, data, under(priors, decoupled=decoupled), make)
    close(found, by_hand(priors, decoupled, make, net, data))
    other = trained(net, data, under(priors, decoupled=not decoupled), make)
    assert (found - other).abs().max() > 1e-3


def normal_decay(sigma=0.4, strength=5.0):
    """A normal prior on all entries, and the decay that it is."""
    priors = htr.Priors({"*": htr.Entries(htr.Normal(0.0, sigma))}).scaled(strength)
    return priors, strength / (sigma**2 * N)


def schedule_free(name, **options):
    return lambda parameters, weight_decay=0.0: getattr(pytest.importorskip("schedulefree"), name)(
        parameters, weight_decay=weight_decay, **options
    )


def rates_by_group(parameters, weight_decay=0.0):
    """AdamW with a learning rate of each layer."""
    parameters = list(parameters)
    groups = [{"params": parameters[:2], "lr": 0.02}, {"params": parameters[2:], "lr": 0.003}]
    return torch.optim.AdamW(groups, weight_decay=weight_decay)


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.AdamW, lr=0.01),
        partial(torch.optim.AdamW, lr=torch.tensor(0.01, dtype=torch.float64), foreach=False),
        rates_by_group,
        partial(torch.optim.NAdam, lr=0.01, decoupled_weight_decay=True),
        schedule_free("AdamWScheduleFree", lr=0.02, warmup_steps=5),
        schedule_free("AdamWScheduleFree", lr=0.02, betas=(0.95, 0.99), foreach=False, r=1.0),
        schedule_free("SGDScheduleFree", lr=0.5),
        schedule_free("RAdamScheduleFree", lr=0.05),
    ],
)
def test_a_normal_prior_is_decoupled_weight_decay(net, data, make):
    priors, decay = normal_decay()
    found = trained(net, data, under(priors, decoupled=True), partial(make, weight_decay=0.0))
    plain = lambda optimizer, net: optimizer  # noqa: E731
    close(found, trained(net, data, plain, partial(make, weight_decay=decay)))
    assert (found - trained(net, data, plain, partial(make, weight_decay=0.0))).abs().max() > 1e-3


def test_a_normal_prior_is_the_decay_of_muon(net, data):
    net = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in ((6, 8), (8, 3)))).double()
    priors, decay = normal_decay()
    make = partial(torch.optim.Muon, lr=0.02)
    found = trained(net, data, under(priors, decoupled=True), partial(make, weight_decay=0.0))
    expected = trained(net, data, lambda o, net: o, partial(make, weight_decay=decay))
    close(found, expected, rtol=1e-6)  # Muon orthogonalises in bfloat16


def test_schedule_free_weights_for_evaluation_have_the_decay_too(net, data):
    """The average `x`, which `eval()` puts in place, is that of the same decay."""
    priors, decay = normal_decay()
    results = []
    for weight_decay in (0.0, decay):
        own = copy.deepcopy(net)
        optimizer = schedule_free("AdamWScheduleFree", lr=0.02)(own.parameters(), weight_decay)
        if not weight_decay:
            optimizer = under(priors, decoupled=True)(optimizer, own)
        optimizer.train()
        for _ in range(10):
            optimizer.zero_grad()
            F.cross_entropy(own(data[0]), data[1]).backward()
            optimizer.step()
        optimizer.eval()
        results.append(weights(own))
    close(*results)


@pytest.mark.parametrize("priors", [SPECTRAL, LARGEST, normal_decay()[0]])
def test_without_momentum_sgd_has_one_form(net, data, priors):
    make = partial(torch.optim.SGD, lr=0.05)
    coupled, decoupled = (trained(net, data, under(priors, decoupled=d), make) for d in (0, 1))
    close(coupled, decoupled)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (partial(torch.optim.SGD, momentum=0.9), False),
        (torch.optim.LBFGS, False),
        (torch.optim.AdamW, True),
        (torch.optim.RMSprop, True),
    ],
)
def test_the_form_by_default(net, make, expected):
    assert under(SPECTRAL)(make(net.parameters()), net).decoupled is expected


def test_lbfgs_minimises_the_loss_of_both(net, data):
    make = partial(torch.optim.LBFGS, lr=0.5, max_iter=5, line_search_fn="strong_wolfe")
    results = []
    for wrapped in (True, False):
        own = copy.deepcopy(net)
        energy = htr.bind(SPECTRAL, own, refresh=htr.Exact())
        optimizer = make(own.parameters())
        if wrapped:
            optimizer = under(SPECTRAL)(optimizer, own)

        def closure(own=own, optimizer=optimizer, energy=energy, wrapped=wrapped):
            optimizer.zero_grad()
            loss = F.cross_entropy(own(data[0]), data[1])
            loss = loss if wrapped else loss + energy() / N
            loss.backward()
            return loss.detach()

        losses = [float(optimizer.step(closure)) for _ in range(4)]
        results.append(torch.cat([weights(own), torch.tensor(losses).double()]))
    close(*results, rtol=1e-7)


@pytest.mark.parametrize("decoupled", [True, False])
def test_a_closure_is_evaluated_once_and_its_loss_is_returned(net, data, decoupled):
    own, losses = copy.deepcopy(net), []
    optimizer = under(SPECTRAL, decoupled=decoupled)(Adam(own.parameters()), own)

    def closure():
        optimizer.zero_grad()
        losses.append(F.cross_entropy(own(data[0]), data[1]))
        losses[-1].backward()
        return losses[-1]

    for step in range(20):
        assert optimizer.step(closure) is losses[step]
    close(weights(own), trained(net, data, under(SPECTRAL, decoupled=decoupled)))


# What loops do before a step


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("refresh", [htr.Exact(), htr.Drift(0.1)])
def test_four_accumulated_batches_are_one(net, data, decoupled, refresh):
    wrap = under(LARGEST, decoupled=decoupled, refresh=refresh)
    close(trained(net, data, wrap, parts=4), trained(net, data, wrap, parts=1), rtol=1e-7)


@pytest.mark.parametrize("decoupled", [True, False])
def test_the_gradient_of_the_loss_alone_is_clipped(net, data, decoupled):
    clip = lambda optimizer, net: nn.utils.clip_grad_norm_(net.parameters(), 0.1)  # noqa: E731
    found = trained(net, data, under(SPECTRAL, decoupled=decoupled), after_backward=clip)
    own = copy.deepcopy(net)
    energy, optimizer = htr.bind(SPECTRAL, own, refresh=htr.Exact()), Adam(own.parameters())
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(own(data[0]), data[1]).backward()
        clip(optimizer, own)
        gradients = torch.autograd.grad(energy() / N, matrices(own))
        for p, gradient in zip(matrices(own), gradients, strict=True):
            if not decoupled:
                p.grad += gradient
        optimizer.step()
        with torch.no_grad():
            for p, gradient in zip(matrices(own), gradients, strict=True):
                p -= 0.01 * gradient * decoupled
    close(found, weights(own))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("unscale", [True, False])
def test_a_scaler_changes_nothing_and_skips_the_prior_with_the_step(
    net, data, decoupled, fused, unscale
):
    net, data = net.float(), (data[0].float(), data[1])
    make = partial(Adam, fused=fused)
    own = copy.deepcopy(net)
    optimizer = under(SPECTRAL, decoupled=decoupled)(make(own.parameters()), own)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(21):
        optimizer.zero_grad()
        before = weights(own)
        scaler.scale(F.cross_entropy(own(data[0]), data[1])).backward()
        if step == 7:
            own[0].weight.grad[0, 0] = math.inf
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(before, weights(own)) is (step == 7)
    expected = trained(net, data, under(SPECTRAL, decoupled=decoupled), make)
    torch.testing.assert_close(weights(own), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "schedule",
    [
        partial(torch.optim.lr_scheduler.StepLR, step_size=3, gamma=0.3),
        partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.05, total_steps=30),
    ],
)
def test_schedules_of_the_learning_rate_reach_the_prior(net, data, schedule):
    priors, decay = normal_decay()
    results = []
    for weight_decay in (0.0, decay):
        own = copy.deepcopy(net)
        optimizer = torch.optim.AdamW(own.parameters(), lr=0.02, weight_decay=weight_decay)
        if not weight_decay:
            optimizer = under(priors)(optimizer, own)
        scheduler = schedule(optimizer)
        for _ in range(20):
            optimizer.zero_grad()
            F.cross_entropy(own(data[0]), data[1]).backward()
            optimizer.step()
            scheduler.step()
        results.append(weights(own))
    close(*results)


# Parameters of all kinds


class Kinds(nn.Module):
    """Parameters whose matrices are views of them, copies of them, or have sparse gradients."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.up = nn.ConvTranspose2d(4, 2, 2)
        self.table = nn.Embedding(7, 2)
        self.tied = nn.Linear(2, 7, bias=False)
        self.tied.weight = self.table.weight
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, x):
        x = self.up(self.conv(x)).mean((2, 3))
        y = self.tied(x)
        z = self.attention(*[y[:, None, :4]] * 3)[0]
        return y, z


@pytest.mark.parametrize(
    "prior", [htr.ESD(htr.Lomax(2.0, 1.0)), htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))]
)
def test_all_kinds_of_parameters_move(prior):
    torch.manual_seed(0)
    net = Kinds().double()
    energy = htr.bind(htr.Priors(prior), net, refresh=htr.Exact())
    expected = {n: p.detach().clone() for n, p in net.named_parameters()}
    energy().backward()
    for name, p in net.named_parameters():
        if p.grad is not None:
            expected[name] -= 0.1 / N * p.grad.clone()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    optimizer = htr.with_prior(optimizer, htr.Priors(prior), net, num_data=N, refresh=htr.Exact())
    optimizer.zero_grad()
    optimizer.step()
    for name, p in net.named_parameters():
        close(p.detach(), expected[name])
    assert sum("weight" in name for name in expected) == 5


@pytest.mark.parametrize("decoupled", [True, False])
def test_weights_that_a_network_computes(net, data, decoupled):
    """The step is one of the parameters that they are computed from."""
    nn.utils.parametrizations.weight_norm(net[0])
    own = copy.deepcopy(net)
    energy = htr.bind(SPECTRAL, own, refresh=htr.Exact())
    parameters = list(own.parameters())
    gradients = torch.autograd.grad(energy() / N, parameters, allow_unused=True)
    moved = sum(g is not None for g in gradients)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    under(SPECTRAL, decoupled=decoupled)(optimizer, net).step()
    for p, before, gradient in zip(net.parameters(), parameters, gradients, strict=True):
        close(p.detach(), before.detach() - 0.1 * (0 if gradient is None else gradient))
    assert moved == 3  # magnitudes and directions of one layer, and the weight of the other


@pytest.mark.parametrize("decoupled", [True, False])
def test_sparse_gradients(decoupled):
    torch.manual_seed(0)
    net = nn.Embedding(7, 3, sparse=True)
    before = net.weight.detach().clone()
    priors = htr.Priors({"*": htr.Entries(htr.Normal(0.0, 1.0))})
    optimizer = torch.optim.SparseAdam(net.parameters(), lr=0.1)
    optimizer = htr.with_prior(optimizer, priors, net, num_data=2, decoupled=decoupled)
    net(torch.tensor([1, 1])).sum().backward()
    optimizer.step()
    expected = 0.95 * before if decoupled else before - 0.1 * before.sign()
    torch.testing.assert_close(net.weight[3:], expected[3:], rtol=1e-4, atol=1e-5)


def test_half_precision_weights_move_in_their_own_precision(net):
    net = net.to(torch.bfloat16)
    before = net[0].weight.detach().clone()
    priors, decay = normal_decay()
    under(priors)(torch.optim.AdamW(net.parameters(), lr=0.1), net).step()
    expected = before.double() * (1 - 0.1 * decay)
    torch.testing.assert_close(net[0].weight.double(), expected, rtol=2**-7, atol=1e-3)


def test_hyperparameters_are_trained_beside_the_weights(net, data):
    prior = htr.MaxEigenvalue(htr.Frechet(2.0, htr.Gamma(2.0, 1.0)))
    for decoupled in (True, False):
        own = copy.deepcopy(net)
        wrap = under(htr.Priors(prior), decoupled=decoupled)
        optimizer = wrap(torch.optim.SGD(own.parameters(), lr=0.05), own)
        energy = htr.bind(htr.Priors(prior), own, refresh=htr.Exact())
        hyper = torch.optim.Adam(energy.parameters(), lr=0.05)
        for _ in range(5):
            optimizer.zero_grad()
            hyper.zero_grad()
            F.cross_entropy(own(data[0]), data[1]).backward()
            for u in energy.parameters():
                (u.grad,) = torch.autograd.grad(energy() / N, u)
            optimizer.step()
            hyper.step()
        for name, value in energy.hyperparameters().items():
            close(optimizer.energy.hyperparameters()[name], value)


def test_a_schedule_of_the_prior_follows_the_epoch(net):
    priors = htr.Priors({"*": htr.Entries(htr.Normal(0.0, 1.0))})
    priors = priors.scheduled(htr.PowerDecay(k=1.0, period=1, cutoff=0.01))
    optimizer = under(priors)(torch.optim.AdamW(net.parameters(), lr=0.1), net)
    with pytest.raises(htr.PriorError, match="epoch"):
        optimizer.step()
    for epoch, factor in ((0, 1.0), (2, 0.5), (1000, 0.0)):
        before = weights(net)
        optimizer.epoch = epoch
        optimizer.step()
        close(weights(net), before * (1 - 0.1 * factor / N))


def test_frozen_parameters_stay_and_need_not_be_in_the_optimiser(net, data):
    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone()
    make = lambda parameters: Adam([p for p in parameters if p.requires_grad])  # noqa: E731
    moved = trained(net, data, under(SPECTRAL), make)
    assert torch.equal(moved[:48], before.flatten())


def test_parameters_that_are_added_later(net):
    net[0].requires_grad_(False)
    optimizer = under(SPECTRAL)(Adam(net[2].parameters()), net)
    optimizer.step()
    net[0].requires_grad_(True)
    with pytest.raises(htr.PriorError, match=r"0\.weight has a prior and is trained"):
        optimizer.step()
    optimizer.add_param_group({"params": net[0].parameters(), "lr": 0.5})
    before = net[0].weight.detach().clone()
    optimizer.step()
    assert (net[0].weight - before).abs().max() > 1e-3
