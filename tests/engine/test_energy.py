"""What `bind` makes of a network: what it touches, copies, keeps, and how it differentiates."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayes_htr as htr
from tests.reference.penalties import PENALTIES

TOP = htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))
SPECTRUM = htr.ESD(htr.Lomax(2.5))
LATENT = htr.MaxEigenvalue(htr.Frechet(htr.Gamma(2.0, 1.0)))


class Norms(nn.Module):
    """Batch norm, an embedding, tied and frozen parameters, a large layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 5)
        self.norm = nn.BatchNorm1d(5)
        self.large = nn.Linear(5, 120)
        self.square = nn.Linear(120, 90)
        self.frozen = nn.Linear(90, 5).requires_grad_(False)
        self.head = nn.Linear(5, 9)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.frozen(self.square(self.large(self.norm(self.embed(x))))))


@pytest.fixture
def net():
    return Norms()


def step(net, energy, lr=0.05):
    net.zero_grad()
    energy.zero_grad()
    energy().backward()
    with torch.no_grad():
        for p in [*net.parameters(), *energy.parameters()]:
            if p.grad is not None:
                p -= lr * p.grad


def test_every_matrix_that_learns_is_scored_once(net):
    energy = htr.bind(htr.Priors(SPECTRUM), net)
    terms = energy.terms()
    assert set(terms) == {"embed.weight", "large.weight", "square.weight"}
    torch.testing.assert_close(sum(terms.values()), energy())
    energy().backward()
    assert net.frozen.weight.grad is None
    assert all(p.grad is None for p in net.norm.parameters())
    assert net.head.weight.grad is net.embed.weight.grad


@pytest.mark.parametrize("name", ["embed.weight", "head.weight", "head.*"])
def test_a_tied_parameter_answers_to_any_name(name, net):
    own = htr.bind(htr.Priors({name: SPECTRUM}), net)
    assert own().item() == htr.bind(htr.Priors(SPECTRUM), net).terms()["embed.weight"].item()


def test_the_network_is_left_as_it_is(net):
    state = copy.deepcopy(net.state_dict())
    parameters = list(net.parameters())
    modules = list(net.modules())
    energy = htr.bind(htr.Priors(LATENT), net)
    energy().backward()
    assert list(map(id, net.parameters())) == list(map(id, parameters))
    assert list(map(id, net.modules())) == list(map(id, modules))
    assert net.state_dict().keys() == state.keys()
    torch.testing.assert_close(dict(net.state_dict()), dict(state), rtol=0, atol=0)
    assert len(list(energy.parameters())) == len(energy.latents()) == 4
    assert not {id(p) for p in energy.parameters()} & {id(p) for p in net.parameters()}
    assert all(u.ndim == 0 for u in energy.parameters())
    assert energy.net is net


def test_no_prior_no_effect(net):
    for priors in (htr.Priors({}), htr.Priors({"frozen.weight": TOP})):
        energy = htr.bind(priors, net)
        assert energy().item() == 0
        assert energy().ndim == 0
        (net(torch.tensor([1, 2])).sum() + energy()).backward()


@pytest.mark.parametrize("wrap", ["compile", "parallel", "both", "inner"])
def test_wrapped_networks_have_the_names_of_the_plain_one(wrap):
    plain = nn.Sequential(nn.Linear(6, 5), nn.Sequential(nn.Linear(5, 4)))
    expected = htr.bind(htr.Priors({"1.0.weight": TOP}), plain)()
    net = plain
    if wrap == "inner":
        net[1] = torch.compile(net[1])
    if wrap in ("compile", "both"):
        net = torch.compile(net)
    if wrap in ("parallel", "both"):
        net = nn.DataParallel(net)
    for pattern in ("1.0.weight", "module.1.0.weight", "_orig_mod.1.0.weight"):
        energy = htr.bind(htr.Priors({pattern: TOP}), net)
        assert set(energy.terms()) == {"1.0.weight"}
        assert energy().item() == expected.item()
    assert set(htr.bind(htr.Priors(TOP), net).terms()) == {"0.weight", "1.0.weight"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", sorted(set(PENALTIES) - {"weighted_alpha"}))
def test_half_precision_is_decomposed_in_single(dtype, name, one_matrix):
    net = one_matrix((torch.randn(6, 50) / 3).to(dtype))
    energy = htr.bind(htr.Priors(getattr(htr.penalties, name)()), net)()
    exact = net.weight.detach().double().requires_grad_()
    reference = PENALTIES[name](exact)
    assert energy.dtype == torch.float32
    assert energy.item() == pytest.approx(reference.item(), rel=1e-4)
    energy.backward()
    (expected,) = torch.autograd.grad(reference, exact)
    assert net.weight.grad.dtype == dtype
    error = (net.weight.grad.double() - expected).norm() / expected.norm()
    assert error < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("prior", [TOP, SPECTRUM, LATENT, htr.penalties.powerlaw()], ids=repr)
def test_autocast_changes_nothing(prior, net):
    plain, mixed = (htr.bind(htr.Priors(prior), net) for _ in range(2))
    plain().backward()
    expected = [p.grad for p in (net.large.weight, *plain.parameters())]
    net.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        energy = mixed()
    assert energy.dtype == torch.float32
    assert energy.item() == plain_value(prior, net)
    energy.backward()
    torch.testing.assert_close(
        [p.grad for p in (net.large.weight, *mixed.parameters())], expected, rtol=0, atol=0
    )


def plain_value(prior, net):
    return htr.bind(htr.Priors(prior), net)().item()


def test_copied_together_they_belong_together(net):
    energy = htr.bind(htr.Priors(LATENT), net)
    before = energy().item()
    other_net, other = copy.deepcopy((net, energy))
    assert other.net is other_net
    step(other_net, other)
    assert other().item() != pytest.approx(before)
    assert energy().item() == pytest.approx(before)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copied_alone_it_brings_a_copy_of_its_network(copier, net):
    energy = htr.bind(htr.Priors(LATENT).scaled(3.0), net)
    energy()
    other = copier(energy)
    assert other.net is not net
    assert other.priors == energy.priors
    assert other().item() == energy().item()
    step(other.net, other)
    step(net, energy)
    assert other().item() == energy().item()


def test_a_saved_state_goes_on_with_the_same_bits(net):
    priors = htr.Priors(LATENT & SPECTRUM.scaled(0.1))
    priors = htr.Priors({"square.weight": LATENT, "*": priors.everywhere})
    energy = htr.bind(priors, net)
    for _ in range(3):
        step(net, energy)
    file = io.BytesIO()
    torch.save((net.state_dict(), energy.state_dict()), file)
    file.seek(0)
    state, energy_state = torch.load(file)
    fresh_net = Norms()
    fresh_net.load_state_dict(state)
    fresh = htr.bind(priors, fresh_net)
    fresh.load_state_dict(energy_state)
    for _ in range(3):
        assert fresh().item() == energy().item()
        step(net, energy)
        step(fresh_net, fresh)
    for a, b in zip(
        [*net.parameters(), *energy.parameters()],
        [*fresh_net.parameters(), *fresh.parameters()],
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("prior", [TOP, LATENT, htr.penalties.weight_decay()], ids=repr)
def test_it_differentiates_once(prior, one_matrix):
    net = one_matrix(torch.randn(4, 5))
    energy = htr.bind(htr.Priors(prior), net)
    # Alone, and beside a loss that has second derivatives.
    for loss in (energy(), energy() + net.weight.square().sum()):
        (gradient,) = torch.autograd.grad(loss, net.weight, create_graph=True)
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            torch.autograd.grad(gradient.sum(), net.weight)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode, net):
    energy = htr.bind(htr.Priors(LATENT), net)
    with mode():
        value = energy()
    assert not value.requires_grad
    torch.testing.assert_close(value, energy().detach())
    with mode():
        energy()
    energy.load_state_dict(copy.deepcopy(energy.state_dict()))
    energy().backward()


def test_its_gradient_adds_to_that_of_the_loss(net):
    x, y = torch.arange(9), torch.arange(9)
    energy = htr.bind(htr.Priors(SPECTRUM), net)
    weight = net.square.weight
    (of_loss,) = torch.autograd.grad(F.cross_entropy(net(x), y), weight)
    (of_energy,) = torch.autograd.grad(energy(), weight)
    (F.cross_entropy(net(x), y) + energy() / 40).backward()
    torch.testing.assert_close(weight.grad, of_loss + of_energy / 40)


def test_it_follows_weights_that_are_replaced(one_matrix):
    net = one_matrix(torch.eye(3))
    energy = htr.bind(htr.Priors(htr.penalties.spectral_norm()), net)
    assert energy().item() == 0.5
    net.weight = nn.Parameter(2 * torch.eye(3, dtype=torch.float64))
    assert energy().item() == 2.0
    assert energy().dtype == torch.float64


def test_the_iteration_never_decomposes_a_large_matrix(monkeypatch):
    net = nn.Linear(784, 512)
    energy = htr.bind(htr.Priors(TOP), net, refresh=htr.Exact())
    exact = torch.linalg.svdvals(net.weight.detach().double())[0].item() ** 2
    sizes = []

    def recording(original):
        return lambda A, *args, **kwargs: (
            sizes.append(min(A.shape)),
            original(A, *args, **kwargs),
        )[1]

    for name in ("svd", "svdvals", "eigh", "eigvalsh", "qr"):
        monkeypatch.setattr(torch.linalg, name, recording(getattr(torch.linalg, name)))
    for _ in range(3):
        value = energy()
        assert value.item() == pytest.approx(3 * math.log(exact) + exact**-2, rel=1e-5)
        step(net, energy, lr=1e-3)
        exact = torch.svd(net.weight.detach().double()).S[0].item() ** 2
    assert sizes
    assert max(sizes) <= 124


def test_warm_starts_track_the_exact_energy_through_training():
    net = nn.Linear(120, 90)
    energy = htr.bind(htr.Priors(htr.penalties.frechet()), net, refresh=htr.Exact())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    for _ in range(25):
        value = energy()
        exact = PENALTIES["frechet"](net.weight.detach().double())
        assert value.item() == pytest.approx(exact.item(), rel=1e-5)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def test_entries_of_vectors_and_empty_parameters():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    net.register_parameter("empty", nn.Parameter(torch.zeros(0, 3).double()))
    energy = htr.bind(htr.Priors({"*": htr.penalties.weight_decay()}), net)
    expected = sum(p.square().sum().item() for p in net.parameters()) / 2
    assert energy().item() == pytest.approx(expected, rel=1e-12)
    energy().backward()
    torch.testing.assert_close(net[0].bias.grad, net[0].bias.detach())


def test_stacked_projections_are_three_matrices():
    net = nn.MultiheadAttention(6, 2)
    with torch.no_grad():
        net.in_proj_weight[6:12] = 0
    with pytest.raises(htr.SpectrumError, match=r"in_proj_weight\[k\]"):
        htr.bind(htr.Priors(TOP), net)()
    with pytest.raises(htr.SpectrumError, match=r"weight\[q\].*Hill|weight\[k\].*Hill"):
        htr.bind(htr.Priors(htr.penalties.frechet(0.9)), nn.MultiheadAttention(1, 1))()


@pytest.mark.parametrize(
    ("priors", "refresh", "said"),
    [(TOP, None, "htr.Priors"), (htr.Priors(TOP), 3, "refresh=3"), ({}, None, "htr.Priors")],
)
def test_wrong_arguments(priors, refresh, said, net):
    with pytest.raises(htr.PriorError, match=said):
        htr.bind(priors, net, refresh=refresh)


def test_it_prints_what_it_is(net):
    assert repr(TOP) in repr(htr.bind(htr.Priors(TOP), net))
    assert "Exact()" in repr(htr.bind(htr.Priors(TOP), net, refresh=htr.Exact()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("priors", htr.Priors(TOP)),
        ("refresh", htr.Exact()),
        ("net", nn.Linear(2, 2)),
        ("hyperpriors", {}),
        ("refreshes", {}),
        ("device", torch.device("cpu")),
    ],
)
def test_what_cannot_be_set(net, name, value):
    energy = htr.bind(htr.Priors(LATENT), net)
    before = energy().item()
    with pytest.raises(AttributeError, match=f"{name} of an energy cannot be set; bind anew"):
        setattr(energy, name, value)
    energy.hyperpriors.clear()  # a copy
    energy.invalidate()
    assert energy().item() == before
    assert not list(energy.children())[1:]


def test_hyperparameters_that_are_set_are_honoured(net):
    energy = htr.bind(htr.Priors(LATENT), net)
    before = energy().item()
    with torch.no_grad():
        for u in energy.latents().values():
            u += 0.7
    assert energy().item() != before
    torch.testing.assert_close(energy().detach(), energy.at({}).detach())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_hyperparameters_have_the_precision_of_the_weights(dtype, expected):
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3)).to(dtype)
    energy = htr.bind(htr.Priors(LATENT), net)
    assert {u.dtype for u in energy.latents().values()} == {expected}
    shared = htr.MaxEigenvalue(htr.Frechet(htr.Shared("t", htr.Gamma(2.0, 1.0))))
    net[1].double()
    (u,) = htr.bind(htr.Priors(shared), net).latents().values()
    assert u.dtype == torch.float64


def test_float32_hyperparameters_of_earlier_runs_are_read():
    energy = htr.bind(htr.Priors(LATENT), nn.Linear(4, 3).double())
    state = energy.state_dict()
    earlier = {n: t.float() if t.is_floating_point() else t for n, t in state.items()}
    energy.load_state_dict(earlier)
    assert {u.dtype for u in energy.latents().values()} == {torch.float64}
