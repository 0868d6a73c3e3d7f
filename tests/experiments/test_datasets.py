from __future__ import annotations

import dataclasses
import io
import sys
import zipfile
from http.client import IncompleteRead
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import sklearn.datasets
import torch

from bayes_htr.errors import DataError
from bayes_htr.experiments import DATASETS, Dataset, datasets, load_dataset

SHAPES = {"fashion_mnist": (28, 28), "kmnist": (28, 28), "cifar10": (32, 32, 3)}
FILES = {
    "fashion_mnist": ("fashion_mnist.npz",),
    "kmnist": ("kmnist.npz", "kmnist_10k.npz"),
    "cifar10": ("cifar10.npz", "cifar10_12k.npz"),
}
OTHERS = tuple(SHAPES)
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def arrays(name, n_train=30, n_test=10, seed=0):
    rng = np.random.default_rng(seed)

    def images(n):
        return rng.integers(0, 256, (n, *SHAPES[name]), dtype=np.uint8)

    def labels(n):
        return rng.integers(0, 10, n, dtype=np.uint8)

    return {
        "x_train": images(n_train),
        "y_train": labels(n_train),
        "x_test": images(n_test),
        "y_test": labels(n_test),
    }


def channels_first(images):
    return images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)


def standardised(images, train):
    """The naive way, in float64."""
    images, train = channels_first(images) / 255.0, channels_first(train) / 255.0
    axes = (0, 2, 3)
    return (images - train.mean(axes, keepdims=True)) / train.std(axes, keepdims=True)


def check_contract(data, name):
    assert isinstance(data, Dataset)
    assert data.name == name
    assert data.num_classes == len(data.classes) == 10
    assert data.input_shape == tuple(data.x_train.shape[1:]) == tuple(data.x_test.shape[1:])
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert x.dtype == torch.float32
        assert x.is_contiguous()
        assert y.dtype == torch.int64
        assert y.shape == (len(x),)
        assert 0 <= int(y.min()) <= int(y.max()) < 10
    axes = (0, 2, 3)
    torch.testing.assert_close(
        data.x_train.mean(axes), torch.zeros(data.input_shape[0]), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        data.x_train.std(axes, correction=0), torch.ones(data.input_shape[0]), atol=1e-4, rtol=0
    )


def test_names():
    assert DATASETS == ("digits", "fashion_mnist", "kmnist", "cifar10")


@pytest.mark.parametrize("name", ["mnist", "", "Digits", None])
def test_unknown_name(name):
    with pytest.raises(DataError, match="digits, fashion_mnist, kmnist, cifar10") as caught:
        load_dataset(name)
    assert repr(name) in str(caught.value)


# Digits


def test_digits():
    data = load_dataset("digits")
    check_contract(data, "digits")
    assert data.input_shape == (1, 8, 8)
    assert data.x_train.shape == (1437, 1, 8, 8)
    assert data.x_test.shape == (360, 1, 8, 8)
    assert data.classes == tuple("0123456789")


def test_digits_need_no_folder():
    torch.testing.assert_close(
        load_dataset("digits", "no such folder").x_test, load_dataset("digits").x_test
    )


def test_digits_are_stratified():
    data = load_dataset("digits", seed=5)
    train, test = data.y_train.bincount(), data.y_test.bincount()
    expected = 0.2 * (train + test)
    assert (test - expected).abs().max() <= 1


def test_digits_are_a_partition_standardised_by_training_statistics():
    data = load_dataset("digits", seed=3)
    images = torch.from_numpy(sklearn.datasets.load_digits().images).float() / 16
    x = torch.cat([data.x_train, data.x_test])[:, 0]
    # x is an affine map of the pixels: undo it with the two extremes, then compare as sets.
    pixels = (x - x.min()) / (x.max() - x.min())
    assert sorted(map(tuple, (pixels * 16).round().flatten(1).tolist())) == sorted(
        map(tuple, (images * 16).round().flatten(1).tolist())
    )
    train = pixels[: len(data.x_train)].double()
    test = pixels[len(data.x_train) :].double()
    expected = (test - train.mean()) / train.std(correction=0)
    torch.testing.assert_close(data.x_test[:, 0].double(), expected, atol=1e-5, rtol=1e-5)
    assert abs(float(data.x_test.mean())) > 1e-4  # the test images have a mean of their own


def test_digits_split_is_the_seeds():
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (load_dataset("digits", seed=seed) for seed in (1, 1, 2))
    for field in ("x_train", "y_train", "x_test", "y_test"):
        assert torch.equal(getattr(first, field), getattr(again, field))
    assert not torch.equal(first.y_test, other.y_test)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])


def test_dataset_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_dataset("digits").name = "other"


@pytest.mark.parametrize("name", DATASETS)
def test_without_scikit_learn(name, monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r'pip install "bayes-htr\[data\]"'):
        load_dataset(name)


# Files


@pytest.mark.parametrize(("name", "file"), [(n, f) for n in OTHERS for f in FILES[n]])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_file(name, file, save, tmp_path):
    raw = arrays(name)
    save(tmp_path / file, **raw)
    data = load_dataset(name, str(tmp_path))
    check_contract(data, name)
    assert data.input_shape == ((3, 32, 32) if name == "cifar10" else (1, 28, 28))
    for split in ("train", "test"):
        x, y = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        expected = standardised(raw[f"x_{split}"], raw["x_train"])
        np.testing.assert_allclose(x.numpy(), expected, atol=1e-5)
        np.testing.assert_array_equal(y.numpy(), raw[f"y_{split}"])


def test_channels_are_standardised_one_by_one(tmp_path):
    raw = arrays("cifar10")
    raw["x_train"][..., 1] //= 8
    raw["x_test"][..., 1] //= 8
    np.savez(tmp_path / "cifar10.npz", **raw)
    data = load_dataset("cifar10", tmp_path)
    check_contract(data, "cifar10")
    np.testing.assert_allclose(
        data.x_test.numpy(), standardised(raw["x_test"], raw["x_train"]), atol=1e-5
    )


def test_images_for_a_network_of_another_data_set(tmp_path):
    raw = {name: arrays(name) for name in ("kmnist", "fashion_mnist")}
    raw["kmnist"]["x_train"] //= 3
    for name, own in raw.items():
        np.savez(tmp_path / f"{name}.npz", **own)
    ours, other = (load_dataset(name, tmp_path) for name in raw)
    expected = standardised(raw["fashion_mnist"]["x_test"], raw["kmnist"]["x_train"])
    np.testing.assert_allclose(
        other.standardised_for(ours, other.x_test).numpy(), expected, atol=1e-4
    )


def test_statistics_do_not_depend_on_the_test_images(tmp_path):
    raw = arrays("fashion_mnist")
    np.savez(tmp_path / "fashion_mnist.npz", **raw)
    before = load_dataset("fashion_mnist", tmp_path)
    raw["x_test"] = np.full_like(raw["x_test"], 255)
    np.savez(tmp_path / "fashion_mnist.npz", **raw)
    after = load_dataset("fashion_mnist", tmp_path)
    assert torch.equal(before.x_train, after.x_train)
    expected = standardised(raw["x_test"], raw["x_train"])
    np.testing.assert_allclose(after.x_test.numpy(), expected, atol=1e-5)


def test_statistics_of_many_pixels_are_exact(tmp_path):
    rng = np.random.default_rng(0)
    raw = arrays("kmnist", n_train=4000)
    raw["x_train"] = (255 * rng.random((4000, 28, 28)) ** 8).astype(np.uint8)
    np.savez(tmp_path / "kmnist.npz", **raw)
    data = load_dataset("kmnist", tmp_path)
    expected = standardised(raw["x_train"], raw["x_train"])
    np.testing.assert_allclose(data.x_train.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["kmnist", "cifar10"])
def test_the_complete_file_comes_first(name, tmp_path):
    for n_train, file in zip((12, 24), FILES[name], strict=True):
        np.savez(tmp_path / file, **arrays(name, n_train=n_train))
    assert len(load_dataset(name, tmp_path).x_train) == 12


def test_labels_of_other_integer_types(tmp_path):
    raw = arrays("kmnist")
    np.savez(tmp_path / "kmnist.npz", **raw | {"y_train": raw["y_train"].astype(">i4")})
    data = load_dataset("kmnist", tmp_path)
    np.testing.assert_array_equal(data.y_train.numpy(), raw["y_train"])


@pytest.mark.parametrize("name", OTHERS)
def test_no_folder(name, tmp_path):
    with pytest.raises(DataError, match="does not exist") as caught:
        load_dataset(name, tmp_path / "absent")
    assert "absent" in str(caught.value)
    assert all(file in str(caught.value) for file in FILES[name])


def test_folder_is_a_file(tmp_path):
    path = tmp_path / "kmnist.npz"
    np.savez(path, **arrays("kmnist"))
    with pytest.raises(DataError, match="is not a folder"):
        load_dataset("kmnist", path)


@pytest.mark.parametrize("name", OTHERS)
def test_no_file(name, tmp_path):
    with pytest.raises(DataError, match="OpenML") as caught:
        load_dataset(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert all(file in str(caught.value) for file in FILES[name])


def test_missing_arrays(tmp_path):
    raw = arrays("kmnist")
    np.savez(tmp_path / "kmnist.npz", images=raw["x_train"], y_train=raw["y_train"])
    with pytest.raises(DataError, match="lacks the arrays x_train, x_test, y_test") as caught:
        load_dataset("kmnist", tmp_path)
    assert "it holds images, y_train" in str(caught.value)


MALFORMED = {
    "pixels as floats": ("x_train", lambda a: a / 255, "x_train has dtype float64.*uint8"),
    "flat images": ("x_test", lambda a: a.reshape(len(a), -1), r"\(10, 784\), expected \(N, 28, 2"),
    "a channel axis": ("x_test", lambda a: a[..., None], r"\(10, 28, 28, 1\), expected \(N, 28"),
    "one image": ("x_test", lambda a: a[0], r"shape \(28, 28\)"),
    "a scalar": ("x_test", lambda a: a[0, 0, 0], r"shape \(\)"),
    "no images": ("x_train", lambda a: a[:0], "x_train holds no images"),
    "fewer images": ("x_train", lambda a: a[:-1], "x_train has 29 images but y_train has 30"),
    "fewer labels": ("y_test", lambda a: a[:-1], "x_test has 10 images but y_test has 9"),
    "labels as floats": ("y_train", lambda a: a.astype(float), "y_train has dtype float64"),
    "labels in a column": ("y_test", lambda a: a[:, None], r"y_test has shape \(10, 1\)"),
    "label too large": ("y_test", lambda a: np.r_[a[1:], 10], "label 10 at index 9.*from 0 to 9"),
    "label negative": ("y_train", lambda a: np.r_[-1, a[1:].astype(int)], "label -1 at index 0"),
    "constant images": ("x_train", lambda a: 0 * a, "channel 0 .* variance 0.0"),
    "objects": ("y_test", lambda a: a.astype(object), "Object arrays cannot be loaded"),
}


@pytest.mark.parametrize(("array", "change", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_arrays(array, change, message, tmp_path):
    raw = arrays("kmnist")
    raw[array] = change(raw[array])
    np.savez(tmp_path / "kmnist.npz", **raw)
    with pytest.raises(DataError, match=message):
        load_dataset("kmnist", tmp_path)


def test_cifar10_channels_first_in_the_file(tmp_path):
    raw = arrays("cifar10")
    raw["x_train"] = np.moveaxis(raw["x_train"], 3, 1)
    np.savez(tmp_path / "cifar10.npz", **raw)
    with pytest.raises(DataError, match=r"\(30, 3, 32, 32\), expected \(N, 32, 32, 3\)"):
        load_dataset("cifar10", tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_truncated_file(keep, tmp_path):
    path = tmp_path / "kmnist.npz"
    np.savez_compressed(path, **arrays("kmnist"))
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(DataError, match=r"kmnist\.npz cannot be read.*truncated or damaged"):
        load_dataset("kmnist", tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_file(save, tmp_path):
    path = tmp_path / "kmnist.npz"
    save(path, **arrays("kmnist"))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        middle = archive.infolist()[0].header_offset + 1000
    content[middle : middle + 50] = bytes(255 - byte for byte in content[middle : middle + 50])
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset("kmnist", tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999, 28, 28)}",  # memory
        "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 28, 28",  # a bracket is open
        "{'descr': '|u1', 'fortran_order': False}",
        "[" * 5000,
        "{'descr': '|u1', 'fortran_order': False, 'shape': ('a',)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3,)}",
    ],
)
def test_broken_header(header, tmp_path):
    path = tmp_path / "kmnist.npz"
    whole = io.BytesIO()
    np.savez(whole, **arrays("kmnist"))
    text = header.encode() + b"\n"
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w") as broken:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "x_train.npy":
                size = len(text).to_bytes(2, "little")
                content = b"\x93NUMPY\x01\x00" + size + text + bytes(100)
            broken.writestr(name, content)
    with pytest.raises(DataError, match=r"kmnist\.npz cannot be read .*damaged"):
        load_dataset("kmnist", tmp_path)


def test_file_of_another_format(tmp_path):
    path = tmp_path / "kmnist.npz"
    path.write_text("x_train, y_train\n")
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset("kmnist", tmp_path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=r"single array.*savez"):
        load_dataset("kmnist", tmp_path)


def present_files():
    return [n for n in OTHERS if any((SHARED / file).is_file() for file in FILES[n])]


@pytest.mark.parametrize("name", present_files())
def test_real_files(name):
    data = load_dataset(name, SHARED)
    check_contract(data, name)
    assert len(data.y_train.unique()) == 10
    assert data.x_test.mean().abs() < 0.1
    assert (data.x_test.std() - 1).abs() < 0.1


# OpenML


SMALL = {"train_size": 20, "test_size": 6}


@pytest.fixture
def openml(monkeypatch):
    """Small official splits, and a fetch that returns (or raises) whatever the test put there."""
    fake = SimpleNamespace(calls=[], result=None)

    def fetch_openml(**options):
        fake.calls.append(options)
        if isinstance(fake.result, Exception):
            raise fake.result
        return fake.result

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch_openml)
    for name, source in datasets._SOURCES.items():
        monkeypatch.setitem(datasets._SOURCES, name, dataclasses.replace(source, **SMALL))
    return fake


def table(name):
    """What OpenML holds: rows of planes, as floats, with the labels as strings."""
    raw = arrays(name, SMALL["train_size"], SMALL["test_size"])
    rows = channels_first(np.concatenate([raw["x_train"], raw["x_test"]]))
    labels = np.concatenate([raw["y_train"], raw["y_test"]])
    data = rows.reshape(len(rows), -1).astype(np.float64)
    return raw, SimpleNamespace(data=data, target=labels.astype(str).astype(object))


def test_openml_sources():
    sources = datasets._SOURCES
    assert {n: s.openml_id for n, s in sources.items()} == {
        "fashion_mnist": 40996,
        "kmnist": 41982,
        "cifar10": 40927,
    }
    assert [s.train_size for s in sources.values()] == [60_000, 60_000, 50_000]
    assert [s.test_size for s in sources.values()] == [10_000] * 3


@pytest.mark.parametrize("name", OTHERS)
def test_openml_gives_what_the_file_gives(name, openml, tmp_path):
    raw, openml.result = table(name)
    data = load_dataset(name)
    check_contract(data, name)
    assert openml.calls[0]["data_id"] == datasets._SOURCES[name].openml_id
    assert openml.calls[0]["as_frame"] is False
    np.savez(tmp_path / FILES[name][0], **raw)
    file = load_dataset(name, tmp_path)
    for field in ("x_train", "y_train", "x_test", "y_test"):
        assert torch.equal(getattr(data, field), getattr(file, field))
    assert data.classes == file.classes


def test_openml_planes_are_red_green_blue(openml):
    _, bunch = table("cifar10")
    bunch.data[:] = 100
    bunch.data[0, [0, 1024, 2048]] = 200, 150, 50  # first pixel of each plane
    openml.result = bunch
    x = load_dataset("cifar10").x_train[0]
    background = x[:, 5, 5]
    assert ((x - background[:, None, None]) != 0).sum() == 3
    assert (x[:, 0, 0] > background).tolist() == [True, True, False]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_openml_types(dtype, openml):
    _, bunch = table("kmnist")
    openml.result = SimpleNamespace(data=bunch.data.astype(dtype), target=bunch.target.astype(int))
    check_contract(load_dataset("kmnist"), "kmnist")


def test_openml_parser_without_pandas(openml, monkeypatch):
    _, openml.result = table("kmnist")
    monkeypatch.setattr(datasets, "find_spec", lambda module: None)
    load_dataset("kmnist")
    assert openml.calls[0]["parser"] == "liac-arff"


@pytest.mark.parametrize(
    "failure",
    [
        URLError("name resolution failed"),
        ConnectionResetError("reset by peer"),
        TimeoutError("timed out"),
        IncompleteRead(b"partial"),
        ValueError("md5 checksum does not match"),
    ],
    ids=lambda failure: type(failure).__name__,
)
@pytest.mark.parametrize("name", OTHERS)
def test_openml_failure(name, failure, openml):
    openml.result = failure
    with pytest.raises(DataError, match="--data-dir") as caught:
        load_dataset(name)
    assert str(failure) in str(caught.value)
    assert all(file in str(caught.value) for file in FILES[name])
    assert caught.value.__cause__ is failure


FOREIGN = {
    "fewer rows": (lambda b: vars(b).update(data=b.data[:-1]), r"shape \(25, 784\)"),
    "fewer labels": (lambda b: vars(b).update(target=b.target[:-1]), "25 labels"),
    "other columns": (lambda b: vars(b).update(data=b.data[:, :-1]), r"shape \(26, 783\)"),
    "fractions": (lambda b: vars(b).update(data=b.data / 255), "not integers from 0 to 255"),
    "missing value": (lambda b: b.data.__setitem__((3, 4), np.nan), "not integers from 0 to 255"),
    "large value": (lambda b: b.data.__setitem__((3, 4), 256), "not integers from 0 to 255"),
    "names": (lambda b: b.target.__setitem__(2, "ki"), "labels that are not integers.*'ki'"),
    "label": (lambda b: b.target.__setitem__(2, "11"), "label 11 at index 2"),
}


@pytest.mark.parametrize(("change", "message"), FOREIGN.values(), ids=FOREIGN)
def test_openml_foreign_table(change, message, openml):
    _, openml.result = table("kmnist")
    change(openml.result)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("kmnist")
    assert "41982" in str(caught.value)
