"""Weights are put together from the tensors of a state dict, or left out by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import bayes_htr as htr
from bayes_htr.analysis import open_source
from tests.reference.adapters import Adapted, Loralib


def flat(source):
    return {w.name: w.matrices("flatten")[0].detach() for w in source.weights}


def heavy(rows, columns, alpha=1.5):
    """A matrix with a heavy tail."""
    generator = torch.Generator().manual_seed(0)
    U, _ = torch.linalg.qr(torch.randn(rows, rows, generator=generator))
    V, _ = torch.linalg.qr(torch.randn(columns, columns, generator=generator))
    K = min(rows, columns)
    sigma = (torch.arange(1, K + 1) / K) ** (-1 / (2 * (alpha - 1)))
    return (U[:, :K] * sigma) @ V[:, :K].mT


class Symmetric(nn.Module):
    def forward(self, W):
        return W.triu() + W.triu(1).mT


def scaled_weight_norm(layer, **options):
    layer = parametrizations.weight_norm(layer, **options)
    with torch.no_grad():
        gains = layer.parametrizations.weight.original0
        gains.mul_(torch.linspace(0.1, 3.0, gains.numel()).reshape(gains.shape))
    return layer


def old_norm(layer, norm, steps=3):
    layer = norm(layer)
    with torch.no_grad():
        for _ in range(steps):
            layer(
                torch.ones(
                    1, *(s for s in layer.weight.shape[1:2]), *(4,) * (layer.weight.ndim - 2)
                )
            )
    return layer


COMPUTED = {
    "weight_norm": lambda: scaled_weight_norm(nn.Linear(20, 12)),
    "weight_norm of columns": lambda: scaled_weight_norm(nn.Linear(20, 12), dim=1),
    "weight_norm of a kernel": lambda: scaled_weight_norm(nn.Conv1d(9, 12, 4), dim=2),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(20, 12)),
    "spectral_norm of a convolution": lambda: parametrizations.spectral_norm(nn.Conv2d(9, 12, 3)),
    "unstructured pruning": lambda: prune.random_unstructured(nn.Linear(20, 12), "weight", 0.4),
    "structured pruning": lambda: prune.ln_structured(
        nn.Linear(20, 12), "weight", 0.25, n=2, dim=0
    ),
    "old weight_norm": lambda: old_norm(nn.Linear(20, 12), nn.utils.weight_norm),
    "old spectral_norm": lambda: old_norm(nn.Linear(20, 12), nn.utils.spectral_norm),
    "adapter of peft": lambda: Adapted(20, 12),
    "adapter of loralib": lambda: Loralib(20, 12),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("kind", COMPUTED)
def test_the_state_dict_of_a_module_has_the_weights_of_the_module(kind, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 20), COMPUTED[kind]())
    if "weight_norm" not in kind and "spectral" not in kind and "adapter" not in kind:
        net[1].weight_orig.data.mul_(3)
    expected = flat(open_source(net.eval()))
    save_file(
        {k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "net.safetensors"
    )
    torch.save(net.state_dict(), tmp_path / "net.pt")
    for source in (net.state_dict(), tmp_path / "net.safetensors", tmp_path / "net.pt"):
        found = flat(open_source(source))
        assert found.keys() == expected.keys()
        scale = 0.5 if "adapter" in kind else 1.0  # the scale of an adapter is not stored
        for name, W in expected.items():
            factor = scale if "lora" in name else 1.0
            torch.testing.assert_close(found[name], factor * W, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        lambda layer: parametrize.register_parametrization(layer, "weight", Symmetric()),
        parametrizations.orthogonal,
    ],
)
def test_a_parametrization_that_a_state_dict_does_not_know_is_left_out(kind):
    net = kind(nn.Linear(12, 12))
    assert set(flat(open_source(net))) == {"weight"}
    source = open_source({**net.state_dict(), "other.weight": torch.randn(9, 9)})
    assert [w.name for w in source.weights] == ["other.weight"]
    assert "give the module" in source.skipped["weight"]


def test_pruning_and_weight_norm_have_the_verdict_of_their_module():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(150, 150, bias=False), nn.Linear(150, 150, bias=False))
    with torch.no_grad():
        for layer in net:
            layer.weight.copy_(heavy(150, 150))
    parametrizations.weight_norm(net[0])
    with torch.no_grad():
        net[0].parametrizations.weight.original1.div_(torch.rand(150, 1) ** 3)
    prune.ln_structured(net[1], "weight", 0.5, n=2, dim=0)
    expected = {row["name"]: row["alpha"] for row in htr.analyze(net).rows}
    found = {row["name"]: row["alpha"] for row in htr.analyze(net.state_dict()).rows}
    assert found == pytest.approx(expected, rel=1e-3)


# Quantised weights


def quantised(W, scale, dtype=torch.float8_e4m3fn):
    """`W` divided by a scale that broadcasts, in a short type; and what that stands for."""
    short = (W / scale).round() if dtype == torch.int8 else W / scale
    short = short.to(dtype)
    return short, short.float() * scale


ROWS = torch.logspace(-3, 3, 256)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("fc.weight_scale", (256, 1)),
        ("fc.weight_scale", (256,)),
        ("fc.weight_scale", (1, 128)),
        ("fc.weight_scale", ()),
        ("fc.weight_scale_inv", (1,)),
        ("fc.weight_scale_inv", (2, 1)),
        ("fc.weight_scale", (256, 4)),
        ("fc.scale_weight", ()),
        ("fc.weight.scale", (256, 1)),
    ],
)
def test_scales_of_quantised_weights_are_applied(name, shape, dtype, tmp_path):
    W = heavy(256, 128)
    scale = torch.rand(shape) + 0.5
    full = scale.reshape(*shape, *(1,) * (2 - len(shape)))
    full = full.expand(full.shape) if full.numel() == 1 else full
    blocks = [side // count for side, count in zip(W.shape, full.shape, strict=True)]
    for axis, block in enumerate(blocks):
        full = full.repeat_interleave(block, dim=axis)
    unit = W.abs().max() / 100
    short, expected = quantised(W / unit, full, dtype)
    state = {"fc.weight": short, name: scale}
    save_file(state, tmp_path / "net.safetensors")
    for source in (state, tmp_path / "net.safetensors"):
        found = open_source(source)
        assert list(flat(found)) == ["fc.weight"]
        torch.testing.assert_close(flat(found)["fc.weight"], expected)


def test_alpha_of_a_quantised_weight_is_that_of_the_weight():
    W = heavy(256, 256) * ROWS[:, None]
    scale = W.abs().amax(1, keepdim=True) / 400
    short, _ = quantised(W, scale)
    (row,) = htr.analyze({"fc.weight": short, "fc.weight_scale": scale}).rows
    (true,) = htr.analyze({"fc.weight": W}).rows
    assert row["alpha"] == pytest.approx(true["alpha"], rel=0.05)


def test_blocks_need_not_divide_the_sides():
    W = torch.randn(576, 200)
    scale = torch.rand(5, 2) + 0.5  # blocks of 128
    full = scale.repeat_interleave(128, 0)[:576].repeat_interleave(128, 1)[:, :200]
    short, expected = quantised(W, full)
    found = flat(open_source({"w.weight": short, "w.weight_scale_inv": scale}))
    torch.testing.assert_close(found["w.weight"], expected)


def test_other_layouts_of_quantised_weights():
    W = torch.randn(24, 16)
    rows = W.abs().amax(1)
    int8 = (127 * W / rows[:, None]).round().to(torch.int8)
    zero = torch.full((24, 1), 3, dtype=torch.int8)
    step = (rows / 127)[:, None]
    experts = torch.randn(3, 16, 24)
    per_expert = torch.rand(3, 1, 1) + 0.5
    found = flat(
        open_source(
            {
                "a.weight": int8,
                "a.SCB": rows,
                "b.weight": (int8 // 2 + 3).to(torch.int8),
                "b.weight_scale": step,
                "b.weight_zero_point": zero,
                "c.weight._data": int8.clone(),
                "c.weight._scale": step,
                "experts.down_proj": (experts / per_expert).to(torch.float8_e4m3fn),
                "experts.down_proj_scale": per_expert,
            }
        )
    )
    names = ["a.weight", "b.weight", "c.weight", *(f"experts.down_proj[{i}]" for i in range(3))]
    assert list(found) == names
    torch.testing.assert_close(found["a.weight"], W, atol=0.02, rtol=0)
    torch.testing.assert_close(found["b.weight"], (int8 // 2).float() * step)
    torch.testing.assert_close(found["c.weight"], W, atol=0.02, rtol=0)
    torch.testing.assert_close(found["experts.down_proj[1]"], experts[1], atol=0.2, rtol=0.1)


@pytest.mark.parametrize(
    "state",
    [
        {"weight": torch.ones(24, 16).to(torch.float8_e4m3fn), "weight_scale": torch.ones(7, 3)},
        {"weight": torch.ones(24, 16, dtype=torch.uint8), "weight_scale": torch.ones(24, 2)},
        {"weight": torch.ones(24, 16).bfloat16(), "weight_scale": torch.ones(24, 1)},
        {
            "weight": torch.ones(24, 16).to(torch.float8_e4m3fn),
            "weight_scale": torch.ones(24, 1, dtype=torch.uint8),
        },
    ],
    ids=["no blocks", "packed", "not quantised", "scale of exponents"],
)
def test_a_scale_that_is_not_understood_leaves_out_weight_and_scale(state):
    source = open_source({f"fc.{k}": v for k, v in state.items()} | {"w": torch.randn(9, 9)})
    assert [w.name for w in source.weights] == ["w"]
    assert "fc.weight_scale" in source.skipped["fc.weight"]
    assert "not known" in source.skipped["fc.weight"]


def test_packed_weights_and_what_belongs_to_them_are_left_out():
    ints = torch.ones(32, 16, dtype=torch.int32)
    state = {
        "gptq.qweight": ints,
        "gptq.qzeros": ints + 1,
        "gptq.scales": torch.randn(9, 32).half(),
        "hqq.W_q": ints.to(torch.uint8),
        "hqq.scale": torch.randn(32, 16),
        "hqq.zero": torch.randn(32, 16),
        "bnb.weight": ints.to(torch.uint8),
        "bnb.weight.absmax": torch.randn(9, 9),
        "mx.gate_up_proj_blocks": torch.ones(4, 32, 2, 16, dtype=torch.uint8),
        "mx.gate_up_proj_scales": torch.ones(4, 32, 2, dtype=torch.uint8),
        "fp4.weight": ints.to(torch.uint8),
        "fp4.weight_scale": torch.ones(32, 9).to(torch.float8_e4m3fn),
        "fp4.weight_scale_2": torch.tensor(1.0),
    }
    source = open_source({**state, "fc.weight": torch.randn(9, 9)})
    assert list(flat(source)) == ["fc.weight"]
    assert set(source.skipped) == {name for name, t in state.items() if t.ndim > 1}


def test_factors_without_the_others_are_left_out():
    W = torch.randn(12, 12)
    names = ["a.weight_g", "b.weight_orig", "c.lora_A.default.weight", "d.hada_w1_a"]
    state = {name: W + i for i, name in enumerate(names)}
    source = open_source({**state, "scale.weight": W - 1, "mask.weight": W - 2})
    assert list(flat(source)) == ["scale.weight", "mask.weight"]
    assert all("missing or not understood" in source.skipped[name] for name in names)


def test_names_that_only_look_like_factors_are_weights():
    names = ["weight_q", "weight_k", "weight_v"]
    state = {f"a.{name}": torch.randn(12, 12) for name in names}
    assert list(flat(open_source(state))) == list(state)
    both = {"a.weight_g": torch.randn(12, 12), "a.weight_v": torch.randn(12, 12)}
    assert "a.weight" not in flat(open_source(both)), "gains have one axis"


def test_a_weight_that_is_stored_beside_its_factors_counts_once():
    layer = scaled_weight_norm(nn.Linear(20, 12))
    state = {**layer.state_dict(), "weight": layer.weight.detach()}
    source = open_source(state)
    assert [w.name for w in source.weights] == ["weight"]


# Buffers, copies, arrays


def test_buffers_of_a_state_dict_are_left_out_with_the_reason():
    tensor = torch.randn(16, 12)
    names = [
        "conv.weight_mask",
        "attn.bias",
        "attn.masked_bias",
        "causal_mask",
        "attn_mask",
        "bn.running_cov_mean",
        "running_mean",
        "qlinear.scales",
        "input_scale",
        "layer_scale",
        "rotary_emb.cos_cached",
        "freqs",
        "pos.pe",
        "queue",
        "mel_basis",
        "relative_position_bias_table",
        "experts.gate_up_proj_bias",
        "vq.embed_avg",
    ]
    state = {name: tensor + i for i, name in enumerate(names)}
    names.remove("bn.running_cov_mean")
    source = open_source({**state, "fc.weight": torch.randn(12, 12)})
    assert set(names) <= set(source.skipped)
    assert "fc.weight" in flat(source)
    assert source.skipped["attn_mask"] == "a mask is no weight matrix"
    named = open_source({**state, "fc.weight": tensor}, (("layer_scale", htr.MatrixLayout()),))
    assert "layer_scale" in flat(named), "what is declared counts"


def test_a_module_leaves_out_by_name_what_its_state_dict_does():
    net = nn.Module()
    net.relative_position_bias_table = nn.Parameter(torch.randn(16, 12))
    net.register_buffer("attn_mask", torch.randn(16, 12))
    net.fc = nn.Linear(12, 12)
    for source in (open_source(net), open_source(net.state_dict())):
        assert [w.name for w in source.weights] == ["fc.weight"]
        assert "bias" in source.skipped["relative_position_bias_table"]


@pytest.mark.parametrize("kind", ["state dict", "file"])
def test_tied_weights_that_were_saved_as_copies_count_once(tmp_path, kind):
    W, layer = torch.randn(30, 12), torch.randn(12, 12)
    state = {
        "embed.weight": W,
        "layers.0.fc.weight": layer,
        "layers.1.fc.weight": layer.clone(),  # a network that copies its layers at the start
        "layers.0.out.weight": torch.zeros(12, 12),
        "layers.0.up.weight": torch.zeros(12, 12),
        "head.weight": W.clone(),
    }
    save_file(state, tmp_path / "net.safetensors")
    source = open_source(state if kind == "state dict" else tmp_path / "net.safetensors")
    copies = [{"embed.weight", "head.weight"} & set(flat(source))]
    assert len(copies[0]) == 1
    assert len(source.weights) == 5
    (why,) = source.skipped.values()
    assert "equal to" in why


def test_arrays_of_numpy_count_beside_tensors():
    generator = np.random.default_rng(0)
    W = generator.normal(size=(20, 12))
    masked = np.ma.masked_array(W, mask=W > 2)
    source = open_source(
        {
            "a": torch.randn(9, 9),
            "b": W,
            "c": W[::-1].astype(">f4"),
            "masked": masked,
            "unmasked": np.ma.masked_array(W + 1),
            "integers": np.ones((9, 9), int),
            "words": np.full((9, 9), "x"),
        }
    )
    found = flat(source)
    assert list(found) == ["a", "b", "c", "unmasked"]
    np.testing.assert_array_equal(found["b"].numpy(), W)
    np.testing.assert_array_equal(found["c"].numpy(), W[::-1].astype("f4"))
    assert source.skipped["masked"] == f"{int((W > 2).sum())} of its 240 entries are masked"
    assert set(source.skipped) == {"masked", "integers", "words"}
    assert len(htr.analyze({"b": W}).rows) == 1


def test_recurrent_weights_are_recurrent():
    net = nn.LSTM(12, 10, bidirectional=True, proj_size=9)
    for source in (open_source(net), open_source(net.state_dict())):
        assert {w.kind for w in source.weights} == {"recurrent"}
        assert len(source.weights) == 6
    gates = {"*weight_[ih]h*": htr.MatrixLayout(parts="ifgo")}
    names = [r["name"] for r in htr.analyze(net, matrices=gates).rows]
    assert names == [r["name"] for r in htr.analyze(net.state_dict(), matrices=gates).rows]
    assert "weight_ih_l0[f]" in names


def test_the_scale_of_an_adapter_is_applied_where_it_is_stored():
    A, B = torch.randn(4, 20), torch.randn(12, 4)
    kohya = {"x.lora_down.weight": A, "x.lora_up.weight": B, "x.alpha": torch.tensor(2.0)}
    torch.testing.assert_close(flat(open_source(kohya))["x.lora_BA"], 0.5 * B @ A)
    conv = {"x.lora_A.weight": torch.randn(4, 9, 3, 3), "x.lora_B.weight": torch.randn(12, 4, 1, 1)}
    (weight,) = open_source(conv).weights
    assert weight.shape == (12, 9, 3, 3)
    expected = torch.einsum(
        "or,rikl->oikl", conv["x.lora_B.weight"][..., 0, 0], conv["x.lora_A.weight"]
    )
    torch.testing.assert_close(weight.load(), expected)
    words = {"e.lora_embedding_A": torch.randn(4, 30), "e.lora_embedding_B": torch.randn(12, 4)}
    assert list(flat(open_source(words))) == ["e.lora_BA"]
