"""Weights are in the order of the network."""

import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune

import bayes_htr as htr
from bayes_htr.analysis import open_source
from bayes_htr.analysis.sources import natural


def names(source):
    return [weight.name for weight in open_source(source).weights]


def layers(count=12):
    return nn.Sequential(*(nn.Linear(9, 9) for _ in range(count)))


def test_natural_order():
    ordered = ["a.w", "a2.w", "a10.w", "h.0.a", "h.0.b", "h.1.a", "h.2.a", "h.10.a", "h.x", "h10.w"]
    shuffled = random.Random(0).sample(ordered, len(ordered))
    assert sorted(shuffled, key=natural) == ordered
    assert natural("p_weight[q]") == natural("p_weight[v]")
    assert natural("²") == natural("²")


def test_modules_and_their_state_dicts_and_files_have_one_order(tmp_path):
    net = layers()
    expected = [f"{i}.weight" for i in range(12)]
    save_file(net.state_dict(), tmp_path / "a.safetensors")
    torch.save(net.state_dict(), tmp_path / "a.pt")
    for source in (net, net.state_dict(), tmp_path / "a.safetensors", tmp_path / "a.pt"):
        assert names(source) == expected
    rows = htr.analyze(tmp_path / "a.safetensors", compare=False, bootstrap=0).rows
    assert [row["name"] for row in rows] == expected
    assert [row["layer_id"] for row in rows] == list(range(12))


def test_parts_of_one_tensor_keep_their_order(tmp_path):
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(18, 2, 12), 11)
    save_file(net.state_dict(), tmp_path / "a.safetensors")
    found = names(tmp_path / "a.safetensors")
    order = [name for name in names(net) if "in_proj" in name]
    assert [name for name in found if "in_proj" in name] == order
    assert order[0].endswith("[q]") and order[3].startswith("layers.1.") and len(order) == 33


def test_sharded_files_have_the_order_of_the_whole(tmp_path):
    state = layers().state_dict()
    for shard in range(3):
        part = {k: v for i, (k, v) in enumerate(state.items()) if i % 3 == shard}
        save_file(part, tmp_path / f"{shard}.safetensors")
    assert names(tmp_path) == [f"{i}.weight" for i in range(12)]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_computed_weights_have_the_place_of_their_layers():
    net = layers(6)
    parametrizations.weight_norm(net[1])
    parametrizations.spectral_norm(net[3])
    prune.random_unstructured(net[4], "weight", amount=0.3)
    nn.utils.weight_norm(net[0])
    assert names(net) == [f"{i}.weight" for i in range(6)]
    inside = nn.ModuleDict(
        {"head": parametrizations.orthogonal(nn.Linear(9, 9)), "body": layers(2)}
    )
    assert names(inside) == ["head.weight", "body.0.weight", "body.1.weight"]
    assert names(nn.DataParallel(net)) == [f"{i}.weight" for i in range(6)]
