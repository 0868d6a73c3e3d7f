"""Data of one's own: tables, arrays and folders of images, and what is wrong with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr.experiments.own_data import is_own_data, load_inputs, load_own

HEADER = "length,width,kind"


def write_table(path, n=40, target=("a", "b"), header=HEADER):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n, 2)) * (1.0, 50.0) + (3.0, 100.0)
    rows = [f"{a!r},{b!r},{target[i % len(target)]}" for i, (a, b) in enumerate(x.tolist())]
    path.write_text("\n".join([header, *rows]) + "\n")
    return x


def write_images(folder, size=(6, 5), mode="RGB", classes=("cat", "dog"), n=5):
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(1)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
            image.fromarray(pixels).convert(mode).save(folder / name / f"{i}.png")
    return folder


def test_a_table_is_split_by_class_and_standardised_by_column(tmp_path):
    x = write_table(tmp_path / "t.csv")
    data = load_own(tmp_path / "t.csv", "kind", seed=3)
    assert data.classes == ("a", "b")
    assert (data.x_train.shape, data.x_test.shape) == ((32, 2, 1, 1), (8, 2, 1, 1))
    assert data.y_test.bincount().tolist() == [4, 4]
    assert data.x_train.mean(0).abs().max() < 1e-5
    assert (data.x_train.std(0, correction=0) - 1).abs().max() < 1e-5
    both = torch.cat([data.x_train, data.x_test]) * data.deviation + data.mean
    assert np.allclose(np.sort(both[:, 0, 0, 0].numpy()), np.sort(x[:, 0]), atol=1e-5)
    assert json.loads(json.dumps(data.preparation)) == data.preparation
    other = load_own(tmp_path / "t.csv", "kind", seed=4)
    assert not other.x_test.equal(data.x_test)
    assert load_own(tmp_path / "t.csv", "kind", seed=3).x_test.equal(data.x_test)


def test_new_inputs_are_prepared_as_the_training_data(tmp_path):
    x = write_table(tmp_path / "t.csv")
    data = load_own(tmp_path / "t.csv", "kind")
    (tmp_path / "new.csv").write_text(f"width,more,length\n{x[0, 1]},word,{x[0, 0]}\n")
    found = load_inputs(tmp_path / "new.csv", data.preparation)
    expected = (torch.tensor(x[:1]).float()[:, :, None, None] - data.mean) / data.deviation
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (tmp_path / "other.csv").write_text("width\n1\n")
    with pytest.raises(htr.DataError, match=r"lacks length of the training table"):
        load_inputs(tmp_path / "other.csv", data.preparation)
    np.savez(tmp_path / "x.npz", X=np.zeros((2, 3)))
    with pytest.raises(htr.DataError, match=r"shape \(3, 1, 1\).*trained on \(2, 1, 1\)"):
        load_inputs(tmp_path / "x.npz", data.preparation)


def test_whole_numbers_are_labels_and_a_constant_column_is_zero(tmp_path):
    (tmp_path / "t.csv").write_text(
        "x,one,y\n" + "".join(f"{i},1,{10 * (i % 2)}\n" for i in range(20))
    )
    data = load_own(tmp_path / "t.csv", "y")
    assert data.classes == ("0", "10")
    assert not data.x_train[:, 1].any()


def test_a_column_of_words_is_an_input_for_each_word(tmp_path):
    rows = [f"{i},{('red', 'blue', 'green')[i % 3]},{'ab'[i % 2]}" for i in range(30)]
    (tmp_path / "t.csv").write_text("\n".join(["size,colour,kind", *rows]))
    data = load_own(tmp_path / "t.csv", "kind")
    assert data.x_train.shape == (24, 4, 1, 1)
    assert data.preparation["categories"] == {"colour": ["blue", "green", "red"]}
    preparation = json.loads(json.dumps(data.preparation))
    (tmp_path / "new.csv").write_text("colour,size\nred,4\n blue ,5\n")
    found = load_inputs(tmp_path / "new.csv", preparation) * data.deviation + data.mean
    expected = [[4.0, 0, 0, 1], [5, 1, 0, 0]]
    torch.testing.assert_close(found[:, :, 0, 0], torch.tensor(expected), atol=1e-5, rtol=0)
    (tmp_path / "new.csv").write_text("colour,size\nred,4\npink,5\n")
    with pytest.raises(
        htr.DataError,
        match="row 3 has 'pink' in 'colour', and the training table had blue, green, red",
    ):
        load_inputs(tmp_path / "new.csv", preparation)
    (tmp_path / "new.csv").write_text("colour,size\nred,much\n")
    with pytest.raises(htr.DataError, match="row 2 has 'much' in 'size', a column of numbers"):
        load_inputs(tmp_path / "new.csv", preparation)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((4,), (4, 1, 1)), ((6, 5), (1, 6, 5)), ((6, 5, 3), (3, 6, 5)), ((3, 6, 5), (3, 6, 5))],
)
def test_arrays_have_their_channels_first(tmp_path, shape, expected):
    X = np.random.default_rng(0).normal(size=(20, *shape))
    np.savez(tmp_path / "d.npz", X=X, y=np.arange(20) % 2)
    data = load_own(tmp_path / "d.npz")
    assert data.x_train.shape == (16, *expected)
    if shape == (6, 5, 3):
        values = load_inputs(tmp_path / "d.npz", data.preparation) * data.deviation + data.mean
        torch.testing.assert_close(values, torch.tensor(X).permute(0, 3, 1, 2).float())


def test_arrays_that_are_split_stay_so(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(9, 3)), np.array(["x", "y", "z"] * 3)
    np.savez(tmp_path / "d.npz", x_train=X[:6], y_train=y[:6], x_test=X[6:], y_test=y[6:])
    data = load_own(tmp_path / "d.npz")
    assert (len(data.y_train), data.y_test.tolist()) == (6, [0, 1, 2])


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_a_folder_of_images(tmp_path, mode, channels):
    folder = write_images(tmp_path / "pets", mode=mode)
    data = load_own(folder)
    assert data.classes == ("cat", "dog")
    assert data.x_train.shape == (8, channels, 6, 5)
    assert load_inputs(folder / "dog", data.preparation).shape == (5, channels, 6, 5)


def test_images_of_two_sizes_are_named(tmp_path):
    write_images(tmp_path / "pets", classes=("cat",))
    write_images(tmp_path / "pets", classes=("dog",), size=(7, 5))
    with pytest.raises(htr.DataError, match=r"0\.png has the shape \(3, 7, 5\)"):
        load_own(tmp_path / "pets")


def test_a_damaged_image_is_named(tmp_path):
    folder = write_images(tmp_path / "pets")
    (folder / "cat" / "0.png").write_bytes(b"\x89PNG")
    with pytest.raises(htr.DataError, match=r"0\.png cannot be read as an image"):
        load_own(folder)


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("a,b\n1,2\n", None, "name the column with the labels by --target: a, b"),
        ("a,b\n1,2\n", "c", "no column 'c'; there are a, b"),
        ("a,b\n", "b", "no rows"),
        ("a,a\n1,2\n", "a", "two columns have one name"),
        ("a,b\n1,2,3\n", "b", "row 2 has 3 cells"),
        ("b\n1\n", "b", "no column besides 'b'"),
        ("a,b\n1,x\nword,y\n", "b", "row 3 has 'word' in 'a', which has numbers elsewhere"),
        ("a,b\n1,x\n,y\n", "b", "row 3 has nothing in 'a'; fill in what is missing"),
        ("a,b\n1,x\n2,\n", "b", "row 3 has no label in 'b'"),
        ("a,b\n1,0.5\n2,1\n", "b", r"b has 0\.5 for example 0; labels are words or whole"),
        ("a,b\n1,x\n2,y\n3,y\n", "b", "the class x has a single example"),
        ("a,b\n1,x\n2,x\n", "b", "single class x"),
        ("a,b\nnan,x\n2,x\n3,y\n4,y\n", "b", "row 2 has 'nan' in 'a', a column of numbers"),
        (
            "a,b\n" + "".join(f"name {i},{i % 2}\n" for i in range(101)),
            "b",
            "'a' has 101 different words, such as 'name 0', and at most 100",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path, text, target, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(htr.DataError, match=message):
        load_own(tmp_path / "t.csv", target)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((4, 2))}, "has the arrays X; it must have X and y"),
        ({"X": np.zeros((4, 2)), "y": np.zeros(3)}, "4 inputs and 3 labels"),
        ({"X": np.zeros(4), "y": np.zeros(4)}, r"X has shape \(4,\)"),
        ({"X": np.array(["a"] * 4), "y": np.zeros(4)}, "give numbers"),
        ({"X": np.zeros((4, 2)), "y": np.zeros((4, 1))}, r"y has shape \(4, 1\)"),
        ({"X": np.zeros((0, 2)), "y": np.zeros(0)}, "no examples"),
    ],
)
def test_what_is_wrong_with_arrays_is_named(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(htr.DataError, match=message):
        load_own(tmp_path / "d.npz")


def test_other_files(tmp_path):
    with pytest.raises(htr.DataError, match="cannot be read as a table"):
        load_own(tmp_path / "missing.csv", "y")
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(htr.DataError, match=r"d\.npz cannot be read"):
        load_own(tmp_path / "d.npz")
    with pytest.raises(htr.DataError, match="only tables have columns"):
        load_own(tmp_path / "d.npz", "y")
    with pytest.raises(htr.DataError, match="0 folders"):
        load_own(tmp_path)
    assert not is_own_data("digits")
    assert is_own_data(str(tmp_path))
    assert is_own_data("a.CSV")
