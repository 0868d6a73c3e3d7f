"""Which parameters are weights of layers, which one prior for all takes, and why others are not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.spectra.layers import reason_against_name

A = htr.ESD(htr.Lomax(2.0))
B = htr.Entries(htr.Normal(0.0, 0.1))
TOP = htr.MaxEigenvalue(htr.Frechet(2.0))


def assigned(priors, net):
    return {a.parameter.name: a.prior for a in priors.resolve(net) if a.prior is not None}


def explained(priors, net):
    return {row.parameter: row for row in priors.explain(net).rows}


class Conv1D(nn.Module):
    """As that of transformers: a linear layer that stores `(in, out)`."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 12))
        self.bias = nn.Parameter(torch.zeros(12))


class LayerNorm2d(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 1, 1))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(2, 6, 4))
        self.gate_up_proj_bias = nn.Parameter(torch.zeros(2, 6))


class Transformer(nn.Module):
    """Weights of layers beside what has two dimensions and is none."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(1e-6 * torch.randn(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, 4))
        self.positional_embedding = nn.Parameter(torch.randn(5, 4))
        self.mask_token = nn.Parameter(torch.zeros(1, 4))
        self.relative_position_bias_table = nn.Parameter(torch.randn(9, 2))
        self.relative_attention_bias = nn.Embedding(8, 2)
        self.wpe = nn.Embedding(5, 4)
        self.wte = nn.Embedding(9, 4)
        self.patch_embed = nn.Conv2d(3, 4, 2)
        self.linear_pos = nn.Linear(4, 4)
        self.c_attn = Conv1D()
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.lstm = nn.LSTM(4, 4, proj_size=2)
        self.cell = nn.GRUCell(4, 4)
        self.experts = Experts()
        self.norm = LayerNorm2d()
        self.latents = nn.Parameter(torch.randn(6, 4))
        self.head = nn.Linear(4, 9)


def test_one_prior_for_all_takes_weights_of_layers_alone():
    torch.manual_seed(0)
    net = Transformer()
    assert set(assigned(htr.Priors(TOP), net)) == {
        "wte.weight",
        "patch_embed.weight",
        "linear_pos.weight",
        "c_attn.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
        "lstm.weight_hr_l0",
        "cell.weight_ih",
        "cell.weight_hh",
        "experts.gate_up_proj",
        "head.weight",
    }
    energy = htr.bind(htr.Priors(TOP), net)
    energy().backward()
    assert energy().item() < 1e4
    norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    assert torch.isfinite(norm)
    assert net.cls_token.grad is None


def test_explain_says_why_a_parameter_is_left_out():
    rows = explained(htr.Priors(TOP), Transformer())
    for name, why in {
        "cls_token": "not the weight of a layer",
        "latents": "not the weight of a layer",
        "pos_embed": "an embedding of positions",
        "positional_embedding": "an embedding of positions",
        "wpe.weight": "an embedding of positions",
        "mask_token": "a mask",
        "relative_position_bias_table": "a table of biases",
        "relative_attention_bias.weight": "a table of biases",
        "experts.gate_up_proj_bias": "a bias",
        "attention.bias_k": "a bias",
        "norm.weight": "a gain or bias of a normalisation",
    }.items():
        assert rows[name].prior.startswith("flat (left out: ")
        assert why in rows[name].prior


def test_what_is_left_out_is_reached_by_name():
    net = Transformer()
    priors = htr.Priors({"cls_token": B, "latents": A, "pos*": TOP})
    names = {"cls_token", "latents", "pos_embed", "positional_embedding"}
    assert set(assigned(priors, net)) == names
    assert "norm.weight" in assigned(htr.Priors({"*": A}), net)


def test_a_network_without_layers_is_told_what_is_left_out():
    net = nn.Module()
    net.factor = nn.Parameter(torch.ones(3, 4))
    with pytest.raises(htr.PriorError, match=r"no layer has.*name that in a pattern.*factor \(not"):
        htr.Priors(A).resolve(net)
    assert set(assigned(htr.Priors({"*": A}), net)) == {"factor"}


def test_a_tied_weight_is_that_of_a_layer_under_any_name():
    net = nn.Module()
    net.table = nn.Parameter(torch.randn(9, 4))
    net.head = nn.Linear(4, 9)
    net.head.weight = net.table
    assert set(assigned(htr.Priors(A), net)) == {"table"}


@pytest.mark.parametrize(
    "name",
    [
        "fc.weight",
        "scale.weight",
        "mask_head.weight",
        "w",
        "gate_up_proj",
        "lstm.weight_ih_l0",
        "attention.in_proj_weight",
        "upscale",
        "rescaled",
        "biased",
        "unmasked",
        "pen",
        "queue.weight",
        "x" * 100_000,
    ],
)
def test_names_of_weights(name):
    assert reason_against_name(name) is None
