"""The matrices as which a weight is analysed, and the weights of modules."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from bayes_htr.analysis import open_source
from bayes_htr.spectra import matrices_of
from tests.analysis.cases import Net, flat


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def test_slices_of_convolutions(net):
    weights = {w.name: w for w in open_source(net).weights}
    slices = weights["conv.weight"].matrices("slices")
    assert len(slices) == weights["conv.weight"].positions == 9
    torch.testing.assert_close(slices[5], net.conv.weight.detach()[:, :, 1, 2])
    assert weights["conv.weight"].factor("slices") == 0.5
    assert weights["conv.weight"].factor("flatten") == 1.0
    assert weights["embed.weight"].factor("slices") == 1.0
    up = weights["up.weight"]
    assert up.shape == (8, 3, 2, 2) and up.sides("slices") == (8, 3) and up.count("slices") == 12
    assert up.sides("flatten") == (8, 12) and up.count("flatten") == 8


# Modules


def test_a_module_is_seen_as_matrices_of_sees_it(net):
    source = open_source(net)
    expected = matrices_of(net)
    found = flat(source)
    assert list(found) == list(expected)
    for name, W in expected.items():
        torch.testing.assert_close(found[name], W.detach(), rtol=0, atol=0)
    kinds = {w.name: w.kind for w in source.weights}
    assert kinds["embed.weight"] == "embedding"
    assert kinds["up.weight"] == "conv_transpose2d"
    assert kinds["attention.in_proj_weight[q]"] == "attention"
    assert "head.weight" not in kinds, "tied"


def test_wrappers_are_looked_through(net):
    names = [w.name for w in open_source(net).weights]
    assert [w.name for w in open_source(nn.DataParallel(net)).weights] == names


def test_computed_weights_count_and_raw_ones_do_not():
    net = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(20, 10)),
        prune.random_unstructured(nn.Linear(10, 12), "weight", amount=0.5),
        parametrizations.spectral_norm(nn.Linear(12, 9)),
    )
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = flat(open_source(net))
    assert set(found) == {"0.weight", "1.weight", "2.weight"}
    assert float((found["1.weight"] == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    torch.testing.assert_close(found["0.weight"], net[0].weight.detach())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), "looked at alone"
    assert net[2].parametrizations.weight[0].training


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_older_normalisations_are_seen_through():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.utils.weight_norm(nn.Linear(20, 10)), nn.utils.spectral_norm(nn.Linear(10, 12))
    )
    net(torch.ones(1, 20))
    with torch.no_grad():  # since when the attributes are out of date
        net[0].weight_g.mul_(3)
        net[1].weight_orig.mul_(3)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = flat(open_source(net))
    assert set(found) == {"0.weight", "1.weight"}
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), "looked at alone"
    net.eval()(torch.ones(1, 20))
    for i in range(2):
        torch.testing.assert_close(found[f"{i}.weight"], net[i].weight.detach())
