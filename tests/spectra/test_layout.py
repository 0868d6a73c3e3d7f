"""Which axes form matrices: layouts against explicit loops, as plain data, and their errors."""

from __future__ import annotations

import pickle

import pytest
import torch

import bayes_htr as htr
from bayes_htr.spectra.layout import as_layouts, of_slice, plain_layouts, read_layouts


def found(layout, tensor):
    return {m.name: m.view(tensor) for m in layout.matrices("w", tensor.shape)}


def test_experts():
    tensor = torch.randn(3, 5, 4)
    matrices = found(htr.MatrixLayout(batch=[0], rows=[1], columns=[2]), tensor)
    assert list(matrices) == ["w[0]", "w[1]", "w[2]"]
    assert all(torch.equal(matrices[f"w[{i}]"], tensor[i]) for i in range(3))
    assert found(htr.MatrixLayout(batch=0, rows=1), tensor).keys() == matrices.keys()


def test_parts_one_after_another_and_in_turns():
    tensor = torch.randn(2, 6, 4)
    plain = found(htr.MatrixLayout(batch=[0], rows=[1], parts=["gate", "up"]), tensor)
    turns = found(
        htr.MatrixLayout(batch=[0], rows=[1], parts=["gate", "up"], interleaved=True), tensor
    )
    assert list(plain) == list(turns) == ["w[0,gate]", "w[0,up]", "w[1,gate]", "w[1,up]"]
    assert torch.equal(plain["w[1,up]"], tensor[1, 3:])
    assert torch.equal(turns["w[1,up]"], tensor[1, 1::2])


def test_parts_of_different_sizes():
    tensor = torch.randn(8, 3)
    matrices = found(htr.MatrixLayout(parts="qkv", sizes=[4, 2, 2]), tensor)
    assert [tuple(W.shape) for W in matrices.values()] == [(4, 3), (2, 3), (2, 3)]
    assert torch.equal(matrices["w[k]"], tensor[4:6])


def test_columns_first_heads_and_negative_axes():
    tensor = torch.randn(5, 2, 3)  # (in, heads, width)
    heads = found(htr.MatrixLayout(batch=[-2], rows=[-1], columns=[0]), tensor)
    assert torch.equal(heads["w[1]"], tensor[:, 1].T)
    (whole,) = found(htr.MatrixLayout(rows=[1, 2], columns=[0]), tensor).values()
    assert torch.equal(whole, tensor.reshape(5, 6).T)
    several = found(htr.MatrixLayout(batch=[0, 1], rows=[2]), torch.randn(2, 3, 4, 5))
    assert list(several)[:4] == ["w[0,0]", "w[0,1]", "w[0,2]", "w[1,0]"]
    (kernel,) = found(htr.MatrixLayout(), torch.randn(2, 3, 4)).values()
    assert kernel.shape == (2, 12)


def test_every_entry_is_in_one_matrix_and_views_are_differentiable():
    for layout in (
        htr.MatrixLayout(batch=[1], rows=[2], columns=[0, 3], parts=["a", "b"]),
        htr.MatrixLayout(rows=[3], parts="ab", interleaved=True),
    ):
        tensor = torch.randn(2, 3, 4, 6, requires_grad=True)
        sum(W.sum() for W in found(layout, tensor).values()).backward()
        assert (tensor.grad == 1).all()
        assert all(
            pickle.loads(pickle.dumps(m.view)) == m.view for m in layout.matrices("w", tensor.shape)
        )


def test_a_slice_of_the_first_axis_is_enough_where_it_is_the_batch():
    tensor = torch.randn(3, 6, 4)
    for matrix in htr.MatrixLayout(batch=[0], rows=[2], parts="ab").matrices("w", tensor.shape):
        index, view = of_slice(matrix)
        assert torch.equal(view(tensor[index : index + 1]), matrix.view(tensor))
    for layout in (htr.MatrixLayout(batch=[1], rows=[0]), htr.MatrixLayout()):
        assert of_slice(layout.matrices("w", tensor.shape)[0]) is None


def test_layouts_are_plain_data():
    declared = {
        "a": htr.MatrixLayout(batch=[0], rows=[1], columns=[2]),
        "b": {"parts": ["gate", "up"], "interleaved": True},
        "c": None,
        "d": htr.MatrixLayout(parts="qkv", sizes=[4, 2, 2]),
    }
    layouts = as_layouts(declared)
    plain = plain_layouts(layouts)
    assert plain == {
        "a": {"batch": [0], "rows": [1], "columns": [2]},
        "b": {"parts": ["gate", "up"], "interleaved": True},
        "c": "none",
        "d": {"parts": ["q", "k", "v"], "sizes": [4, 2, 2]},
    }
    assert as_layouts(plain) == layouts
    assert len({hash(layout) for _, layout in layouts}) == 4
    assert eval(repr(layouts[0][1]), vars(htr)) == layouts[0][1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rows": [0, 0]}, "each axis once"),
        ({"rows": [1], "batch": [1]}, "each axis once"),
        ({"rows": []}, "at least one for the rows"),
        ({"rows": ["a"]}, "whole numbers"),
        ({"rows": [True]}, "whole numbers"),
        ({"columns": 1.5}, "whole numbers"),
        ({"parts": ["a", "a"]}, "twice"),
        ({"parts": ["a b"]}, "must be words"),
        ({"parts": {"a": 1}}, "must be words"),
        ({"parts": [1, 2]}, "must be words"),
        ({"sizes": [1, 2]}, "one for each of the parts"),
        ({"parts": "ab", "sizes": [1]}, "one for each of the parts"),
        ({"parts": "ab", "sizes": [0, 3]}, "positive"),
        ({"interleaved": True}, "goes with parts"),
        ({"axes": [1]}, "a layout has no axes; it takes rows"),
    ],
)
def test_a_layout_that_is_none_is_an_error(given, said):
    with pytest.raises(ValueError, match=said):
        as_layouts({"w": given})
    with pytest.raises(htr.PriorError, match=said):
        htr.Priors({}, matrices={"w": given})


@pytest.mark.parametrize("given", ["w", ["w"], {1: None}, {"": None}, {"w": 3}])
def test_what_is_no_mapping_to_layouts_is_an_error(given):
    with pytest.raises(ValueError, match="matrices"):
        as_layouts(given)


@pytest.mark.parametrize(
    ("layout", "shape", "said"),
    [
        (htr.MatrixLayout(rows=[2]), (4, 3), r"w has shape \(4, 3\), and the layout names"),
        (htr.MatrixLayout(rows=[0], columns=[1]), (4, 3, 2), "each axis has to be in one"),
        (htr.MatrixLayout(rows=[0, 1]), (4, 3), "one in the columns"),
        (htr.MatrixLayout(rows=[0, -1]), (4, 3), "one in the columns"),
        (htr.MatrixLayout(rows=[0, -2]), (4, 3), "each axis has to be in one"),
        (htr.MatrixLayout(parts="abc"), (4, 3), "4 rows, which do not split"),
        (htr.MatrixLayout(parts="ab", sizes=[1, 2]), (4, 3), r"parts \['a', 'b'\] of \[1, 2\]"),
    ],
)
def test_a_layout_that_does_not_fit_names_the_tensor(layout, shape, said):
    with pytest.raises(htr.SpectrumError, match=said):
        layout.matrices("w", shape)
    with pytest.raises(htr.SpectrumError, match=said):
        htr.analyze({"w": torch.randn(shape)}, matrices={"w": layout})


def test_layouts_of_a_file(tmp_path):
    path = tmp_path / "layouts.toml"
    path.write_text('[matrices]\n"*.mask" = "none"\n[matrices."*.qkv"]\nparts = "qkv"\n')
    assert read_layouts(path) == (("*.mask", None), ("*.qkv", htr.MatrixLayout(parts="qkv")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[priors]\n", "no table"),
        ("matrices = 3\n", "no table"),
        ('[matrices."*"]\nrow = [0]\n', "a layout has no row"),
        ("[matrices\n", "line 1"),
    ],
)
def test_files_of_layouts_that_are_wrong(tmp_path, text, message):
    path = tmp_path / "layouts.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_layouts(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match=r"absent\.toml"):
        read_layouts(tmp_path / "absent.toml")
