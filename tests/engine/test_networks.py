"""Networks that an energy cannot be bound to, names of tensors, and changes after `htr.bind`."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.func import functional_call
from torch.nn import functional as F

import bayes_htr as htr

PRIORS = htr.Priors(htr.ESD(htr.Lomax(2.5)))
NAMES = ["0.weight", "2.weight"]
SOFT = htr.ESD(htr.Lomax(2.0, 1.0))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def copies(net):
    return {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters()}


@pytest.mark.parametrize("bad", [[nn.Linear(3, 2)], {}, nn.Linear, "net", None], ids=str)
def test_what_is_no_network(bad):
    for call in (PRIORS.explain, lambda b: htr.bind(PRIORS, b)):
        with pytest.raises(htr.SpectrumError, match=r"must be a torch.nn.Module, not a \w+"):
            call(bad)
    with pytest.raises(htr.SpectrumError, match=r"must be a torch.nn.Module"):
        htr.BayesianClassifier(bad, PRIORS)


def test_arguments_exchanged(net):
    with pytest.raises(htr.PriorError, match="is no Priors"):
        htr.bind(net, PRIORS)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("make", [torch.jit.script, lambda n: torch.jit.trace(n, torch.ones(1, 6))])
def test_torchscript(net, make):
    script = make(net)
    with pytest.raises(htr.PriorError, match=r"the network is a module of TorchScript"):
        htr.bind(PRIORS, script)
    with pytest.raises(htr.PriorError, match=r"0 is a module of TorchScript"):
        htr.bind(PRIORS, nn.Sequential(script))
    assert htr.bind(PRIORS, nn.Sequential(net, torch.jit.script(nn.ReLU())))().isfinite()


def test_weights_that_are_not_loaded(net):
    energy = htr.bind(PRIORS, net.to("meta"))
    for call in (energy, energy.backward, lambda: energy.at({})):
        with pytest.raises(htr.SpectrumError, match=r"0.weight is on the meta device"):
            call()


def test_checkpoint_wrappers_are_no_part_of_a_name(net):
    expected = htr.bind(PRIORS, net)().item()
    net[0] = checkpoint_wrapper(net[0])
    energy = htr.bind(htr.Priors(dict.fromkeys(NAMES, PRIORS.everywhere)), net)
    assert energy().item() == expected
    assert list(energy.terms()) == NAMES
    assert energy.at(dict(net.named_parameters())).item() == pytest.approx(expected)


class Words(nn.Module):
    """An embedding whose gradients may be sparse."""

    def __init__(self, *, sparse):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(12, 4, sparse=sparse)


@pytest.mark.parametrize("how", ["in the loss", "in place", "without a loss"])
def test_sparse_gradients_stay_sparse(how):
    weights = []
    for sparse, make in ((True, torch.optim.SparseAdam), (False, torch.optim.Adam)):
        words = Words(sparse=sparse)
        energy = htr.bind(PRIORS, words, refresh=htr.Exact())
        optimizer = make(words.parameters(), lr=0.05)
        for _ in range(4):
            optimizer.zero_grad()
            loss = words.embed(torch.tensor([1, 2, 2])).square().sum()
            if how == "in the loss":
                (loss + 0.1 * energy()).backward()
            else:
                loss.backward() if how == "in place" else None
                energy.backward(0.1)
            optimizer.step()
        assert words.embed.weight.grad.is_sparse == sparse
        weights.append(words.embed.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=2e-5)


def test_a_sparse_gradient_of_a_function_stays_sparse():
    words = Words(sparse=False)
    F.embedding(torch.tensor([1, 2]), words.embed.weight, sparse=True).sum().backward()
    before = words.embed.weight.grad.to_dense()
    energy = htr.bind(PRIORS, words)
    energy.backward()
    assert words.embed.weight.grad.is_sparse
    (own,) = torch.autograd.grad(energy.at({}), words.embed.weight)
    torch.testing.assert_close(words.embed.weight.grad.to_dense(), before + own.to_dense())


def test_the_functional_form_has_the_gradient_of_the_given_tensors(net):
    energy, given = htr.bind(PRIORS, net, refresh=htr.Exact()), copies(net)
    with torch.no_grad():
        for tensor in given.values():
            tensor *= 1.5
    x, y = torch.randn(9, 6), torch.arange(9) % 3
    loss = F.cross_entropy(functional_call(net, given, (x,)), y) + energy.at(given) / 9
    loss.backward()
    assert all(p.grad is None for p in net.parameters())
    with torch.no_grad():
        for p, tensor in zip(net.parameters(), given.values(), strict=True):
            p.copy_(tensor)
    (F.cross_entropy(net(x), y) + energy() / 9).backward()
    for p, tensor in zip(net.parameters(), given.values(), strict=True):
        torch.testing.assert_close(tensor.grad, p.grad)
    assert energy.refreshes == dict.fromkeys(NAMES, 1)  # caches have no part in it


def test_the_functional_form_of_a_frozen_network(net):
    expected = htr.bind(PRIORS, net)().item()
    given = copies(net)
    energy = htr.bind(PRIORS, net.requires_grad_(False))
    assert energy.at(given).item() == pytest.approx(expected)
    assert energy.at({}).item() == 0
    with torch.no_grad():
        assert energy.at(given).item() == pytest.approx(expected)


def test_the_functional_form_takes_hyperparameters_buffers_and_wrapped_names():
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    energy = htr.bind(htr.Priors(htr.MaxEigenvalue(htr.Frechet(htr.Gamma(2.0, 1.0)))), net)
    given = {f"module.{n}": t for n, t in net.state_dict().items()}
    hyper = {n: (u.detach() + 0.3).requires_grad_() for n, u in energy.latents().items()}
    value = energy.at(given | hyper)
    value.backward()
    assert all(u.grad is not None for u in hyper.values())
    with torch.no_grad():
        for n, u in energy.latents().items():
            u.copy_(hyper[n])
    assert energy.at({}).item() == pytest.approx(value.item())


def test_the_functional_form_knows_tied_parameters_by_all_their_names():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    energy, W = htr.bind(PRIORS, net), torch.randn(4, 4)
    assert energy.at({"1.weight": W}).item() == energy.at({"0.weight": W}).item()
    with pytest.raises(ValueError, match=r"0\.weight and 1.weight are one tied parameter"):
        energy.at({"0.weight": W, "1.weight": W.clone()})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fc.weight": torch.ones(5, 6)}, "no parameter 'fc.weight'; it has 0.weight, 0.bias"),
        ({"0.weight": torch.ones(6, 5)}, r"0.weight has shape \(5, 6\), not \(6, 5\)"),
    ],
)
def test_the_functional_form_refuses_other_names_and_shapes(net, given, message):
    with pytest.raises(ValueError, match=message):
        htr.bind(PRIORS, net).at(given)


TRANSFORMS = {
    "grad": lambda f, w: torch.func.grad(f)(w),
    "vmap": lambda f, w: torch.vmap(f)(w[None]),
    "jvp": lambda f, w: torch.func.jvp(f, (w,), (w,)),
    "hessian": lambda f, w: torch.func.hessian(f)(w),
    "jacrev": lambda f, w: torch.func.jacrev(f)(w),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_functions_are_refused(net, name):
    energy = htr.bind(PRIORS, net)
    for f in (
        lambda w: energy.at({"0.weight": w}),
        lambda w: w.sum() + energy(),
        lambda w: w.sum() + energy.backward(),
        lambda w: w.sum() + sum(energy.terms().values()),
    ):
        with pytest.raises(RuntimeError, match=r"energy.at\(parameters\) outside of the transform"):
            TRANSFORMS[name](f, torch.randn(5, 6))


def test_forward_mode_is_refused(net):
    energy, w = htr.bind(PRIORS, net), torch.randn(5, 6)
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(RuntimeError, match="nor by forward-mode differentiation"),
    ):
        energy.at({"0.weight": torch.autograd.forward_ad.make_dual(w, w)})


def test_a_parameter_that_comes_with_a_prior_is_an_error():
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    everywhere, named = (htr.bind(htr.Priors(p), net) for p in (SOFT, {"0.weight": SOFT}))
    everywhere()
    net.append(nn.ReLU())
    everywhere()
    net.append(nn.Linear(3, 2))
    for use in (everywhere, everywhere.backward, everywhere.terms):
        with pytest.raises(htr.PriorError, match=r"^3\.weight came to the network .* bind"):
            use()
    named()
    net[0] = nn.utils.parametrizations.weight_norm(net[0])
    with pytest.raises(htr.PriorError, match=r"0\.weight' any more; bind"):
        named()


def test_a_parameter_of_a_module_in_the_place_of_another_is_noticed_soon():
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU())
    energy = htr.bind(htr.Priors(SOFT), net)
    energy()
    net[1] = nn.Linear(4, 3)
    with pytest.raises(htr.PriorError, match=r"^1\.weight came to the network"):
        for _ in range(16):
            energy()
    copied = copy.deepcopy(htr.bind(htr.Priors(SOFT), net))
    copied()
    copied.net.append(nn.Linear(3, 3))
    with pytest.raises(htr.PriorError, match=r"^2\.weight came to the network"):
        copied()


def test_what_is_frozen_after_bind_is_a_constant_until_it_is_trainable_again():
    layer = nn.Linear(12, 9)
    net = nn.Sequential(layer, nn.Linear(9, 3))
    energy = htr.bind(htr.Priors(SOFT), net, refresh=htr.Exact())
    both = energy().item()
    layer.weight.requires_grad_(False)
    assert set(energy.terms()) == {"1.weight"}
    energy().backward()
    assert layer.weight.grad is None
    layer.weight.requires_grad_(True)
    assert energy().item() == pytest.approx(both)
    for p in net.parameters():
        p.requires_grad_(False)
    assert energy().item() == 0 and not energy().requires_grad


def test_a_parametrization_that_is_removed_leaves_the_weight_scored():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)))
    energy = htr.bind(htr.Priors(SOFT), net, refresh=htr.Exact())
    before = energy().item()
    nn.utils.parametrize.remove_parametrizations(net[0], "weight")
    assert energy().item() == pytest.approx(before)
    energy().backward()
    assert net[0].weight.grad.norm() > 0
