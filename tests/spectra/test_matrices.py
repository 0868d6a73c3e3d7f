"""Which matrices a module holds, against explicit loops."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.analysis.weights import module_source
from bayes_htr.spectra import as_matrix, parameters_of
from bayes_htr.spectra.matrices import check_finite
from tests.reference import modules


@pytest.mark.parametrize("kind", modules.MAKERS)
def test_every_kind_of_layer(kind):
    net = modules.layer(kind)
    found, expected = htr.matrices_of(net), modules.matrices(net)
    declared = [m for p in parameters_of(net) for m in p.matrices]
    assert list(found) == [m.name for m in declared]
    for matrix, W, reference in zip(declared, found.values(), expected, strict=True):
        torch.testing.assert_close(W, reference, rtol=0, atol=0)
        assert matrix.shape == tuple(W.shape)
        assert matrix.rank == min(W.shape)
    # The views are differentiable, and each entry is in one matrix.
    sum(W.sum() for W in found.values()).backward()
    assert all((p.grad == 1).all() for p in net.parameters() if p.ndim > 1)


def test_the_transposed_convolution_is_that_of_its_outputs():
    net = modules.layer("grouped transposed")
    (W,) = htr.matrices_of(net).values()
    x = torch.randn(1, 4, 1, 1, dtype=torch.float64)  # one pixel: out = W x, group by group
    y = net(x)[0] - net.bias[:, None, None]
    rows = W.reshape(2, 3, 2, 6)  # groups, outputs, inputs of the group, kernel
    expected = torch.einsum("goik,gi->gok", rows, x.reshape(2, 2)).reshape(6, 2, 3)
    torch.testing.assert_close(y, expected)


def test_names_and_ties():
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(3, 5))
    net[2].weight = net[0].weight
    found = parameters_of(net)
    assert [p.name for p in found] == ["0.weight", "1.weight", "1.bias", "2.bias"]
    assert found[0].aliases == ("0.weight", "2.weight")
    assert [len(p.matrices) for p in found] == [1, 1, 0, 0]
    assert all(p.tensor is net.get_parameter(p.path) for p in found)


def test_attention_with_other_key_sizes_has_its_own_matrices():
    net = nn.MultiheadAttention(8, 2, kdim=5, vdim=6)
    shapes = {name: tuple(W.shape) for name, W in htr.matrices_of(net).items()}
    assert shapes == {
        "q_proj_weight": (8, 8),
        "k_proj_weight": (8, 5),
        "v_proj_weight": (8, 6),
        "out_proj.weight": (8, 8),
    }


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_wrappers_are_looked_through(wrap):
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))
    assert list(htr.matrices_of(wrap(net))) == ["0.weight", "1.weight"]
    net[1] = wrap(net[1]) if wrap is torch.compile else net[1]
    assert list(htr.matrices_of(wrap(net))) == ["0.weight", "1.weight"]
    for parameter in parameters_of(wrap(net)):
        assert net.get_parameter(parameter.path) is parameter.tensor


def test_one_row_empty_and_scalar_parameters():
    net = nn.Module()
    for name, shape in {"row": (1, 6), "column": (6, 1), "empty": (0, 6), "scalar": ()}.items():
        net.register_parameter(name, nn.Parameter(torch.ones(shape)))
    shapes = {name: tuple(W.shape) for name, W in htr.matrices_of(net).items()}
    assert shapes == {"row": (1, 6), "column": (6, 1)}
    assert len(parameters_of(net)) == 4


def test_a_lazy_parameter_is_named():
    net = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(htr.SpectrumError, match=r"0\.weight.*no shape"):
        htr.matrices_of(net)
    net(torch.zeros(2, 4))
    assert list(htr.matrices_of(net)) == ["0.weight"]


@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (3, 0)])
def test_what_is_no_matrix(shape):
    with pytest.raises(htr.SpectrumError, match="no spectrum"):
        as_matrix(torch.zeros(shape))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_older_normalisations_compute_weights_from_parameters():
    net = nn.Sequential(
        nn.utils.weight_norm(nn.Linear(6, 5)), nn.utils.spectral_norm(nn.Linear(5, 4))
    )
    raw = {p.name for p in parameters_of(net) if p.raw}
    assert raw == {"0.weight_g", "0.weight_v", "1.weight_orig"}
    assert {p.raw for p in parameters_of(net)} == {"", "0.weight", "1.weight"}
    assert set(htr.matrices_of(net)) == {"0.weight", "1.weight"}


class Layers(nn.Module):
    """Layers that are read by their class."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2)
        self.transposed = nn.ConvTranspose2d(16, 24, 3, groups=2)
        self.norm = nn.LayerNorm([9, 9])
        self.out = nn.Linear(16, 12)

    def forward(self, x):
        return self.out(self.attention(x, x, x)[0])


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("how", ["script", "trace", "file"])
def test_modules_of_torchscript_are_read_as_what_they_were_made_from(how, tmp_path):
    net = Layers()
    if how == "trace":
        compiled = torch.jit.trace(net, torch.randn(3, 2, 16))
    else:
        compiled = torch.jit.script(net)
    if how == "file":
        compiled.save(tmp_path / "net.pt")
        compiled = torch.jit.load(tmp_path / "net.pt")
    expected, found = htr.matrices_of(net), htr.matrices_of(compiled)
    assert expected.keys() == found.keys()
    for name, W in expected.items():
        assert torch.equal(found[name], W)
    assert str(htr.analyze(compiled)) == str(htr.analyze(net))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_traced_transposed_convolution_without_bias_does_not_tell_its_groups():
    net = torch.jit.trace(nn.ConvTranspose1d(2, 4, 3, groups=2, bias=False), torch.ones(1, 2, 5))
    with pytest.raises(htr.SpectrumError, match="weight is of a traced transposed convolution"):
        htr.matrices_of(net)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_what_torchscript_computes_a_weight_from_is_no_matrix():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(12, 12)), nn.Linear(12, 12))
    compiled = torch.jit.script(net)
    assert list(htr.matrices_of(compiled)) == ["1.weight"]
    assert "0.parametrizations.weight.original1" in module_source(compiled).skipped


def test_other_values_are_no_network():
    with pytest.raises(
        htr.SpectrumError, match=r"Module, not a list of Linear, ReLU; .*ModuleList"
    ):
        htr.matrices_of([nn.Linear(3, 2), nn.ReLU()])


def test_parameters_that_deepspeed_has_partitioned_are_refused():
    net = nn.Linear(3, 2)
    net.weight.ds_id = 0
    with pytest.raises(htr.SpectrumError, match="weight is partitioned by DeepSpeed"):
        htr.matrices_of(net)


def test_weights_on_the_meta_device_are_named():
    with pytest.raises(htr.SpectrumError, match="the weight is on the meta device"):
        check_finite(torch.ones(2, 2, device="meta"), "the weight")
