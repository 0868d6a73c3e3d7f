from __future__ import annotations

import contextlib
import json
import math
import sys
from types import ModuleType, SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import bayes_htr as htr
from bayes_htr.analysis.recording import next_log_step

matplotlib.use("Agg")
DATA = (torch.randn(60, 4, generator=torch.Generator().manual_seed(1)), torch.arange(60) % 3)


def make_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def make_model(prior=None):
    return htr.BayesianClassifier(make_network(), htr.Priors({} if prior is None else prior))


def fit(history, epochs=4, method=None, prior=None, **more):
    method = method or htr.MAP(scheduler=None)
    model = make_model(prior)
    return htr.fit(
        model, DATA, method=method, epochs=epochs, batch_size=10, callbacks=[history], **more
    )


def test_log_steps():
    steps = [-1]
    while steps[-1] < 100:
        steps.append(next_log_step(steps[-1], 8))
    assert steps[1:] == [0, 1, 2, 3, 4, 6, 7, 10, 13, 18, 24, 32, 42, 56, 75, 100]


def test_fit_records_the_start_due_steps_and_the_end():
    history = htr.SpectrumHistory()
    posterior = fit(history)
    assert history.steps == [0, 1, 2, 3, 4, 6, 7, 10, 13, 18, 24]
    assert history.epochs == [step / 6 for step in history.steps]
    start = htr.spectrum(make_network()[0].weight)
    torch.testing.assert_close(history["0.weight"][0], start)
    torch.testing.assert_close(history["0.weight"][-1], posterior.spectra()["0.weight"][0])
    assert fit(htr.SpectrumHistory()).evaluate(DATA) == posterior.evaluate(DATA)
    plain = htr.fit(
        make_model(), DATA, method=htr.MAP(scheduler=None), epochs=4, batch_size=10
    ).network()
    for a, b in zip(plain.parameters(), posterior.network().parameters(), strict=True):
        assert a.equal(b)
    with pytest.raises(ValueError, match="holds another run"):
        fit(history)


def test_svi_shows_the_centre_and_trains_as_without():
    prior = htr.Entries(htr.Normal(0.0, 1.0))
    history = htr.SpectrumHistory("2.*")
    posterior = fit(history, method=htr.SVI(guide="meanfield"), prior=prior)
    assert list(history) == ["2.weight"]
    centre = htr.spectrum(posterior.network()[2].weight)
    torch.testing.assert_close(history["2.weight"][-1], centre)
    assert not history["2.weight"][3].equal(history["2.weight"][4])
    method = htr.SVI(guide="meanfield")
    plain = htr.fit(make_model(prior), DATA, method=method, epochs=4, batch_size=10)
    for a, b in zip(plain.network().parameters(), posterior.network().parameters(), strict=True):
        assert a.equal(b)


def test_a_resumed_run_goes_on(tmp_path):
    file, out = tmp_path / "history.safetensors", tmp_path / "run"
    first = htr.SpectrumHistory(path=file)
    fit(first, epochs=2, out=out)
    assert first.steps == [0, 1, 2, 3, 4, 6, 7, 10, 12]  # the end is not due otherwise
    first.record(make_network(), 15)  # beyond the checkpoint
    again = htr.SpectrumHistory.load(file)
    fit(again, epochs=4, out=out, resume=True)
    assert again.steps == [0, 1, 2, 3, 4, 6, 7, 10, 12, 13, 18, 24]
    whole = htr.SpectrumHistory()
    fit(whole)
    assert again["0.weight"][-1].equal(whole["0.weight"][-1])


def test_own_loop():
    net, history = make_network(), htr.SpectrumHistory()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(net(DATA[0]), DATA[1]).backward()
            optimizer.step()

    with history.watch(net, optimizer):
        train(5)
    train(3)  # outside
    assert history.steps == [0, 1, 2, 3, 4, 5]
    with history.watch(net, optimizer):
        train(3)
    assert history.steps == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    torch.testing.assert_close(history["2.weight"][-1], htr.spectrum(net[2].weight))
    with pytest.raises(ValueError, match="step=8 is not after the last record, 8"):
        history.record(net, 8)
    with pytest.raises(ValueError, match="another network"):
        history.record(nn.Linear(4, 6), 9)
    with pytest.raises(ValueError, match=r"there are 0.weight, 2.weight"):
        htr.SpectrumHistory("fc*").record(net, 0)
    with torch.no_grad():
        net[0].weight[0, 0] = torch.nan
    with pytest.warns(UserWarning, match=r"at step 9 the spectrum of 0\.weight is not finite"):
        history.record(net, 9)
    assert len(history["2.weight"]) == len(history.steps) == 10
    assert history["0.weight"][9].isnan().all() and history["2.weight"].isfinite().all()
    assert history.not_finite("0.weight") == [9] and history.not_finite("2.weight") == []


# Runs that diverge


def diverged(path=None, start=1.0):
    """A network whose weights grow tenfold per step until they leave their type."""
    history, net = htr.SpectrumHistory(path=path), make_network()
    net[0].weight.data *= start
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    with history.watch(net, optimizer):
        for _ in range(60):
            net[0].weight.grad = -9 * net[0].weight.detach()
            optimizer.step()
    return history


@pytest.mark.filterwarnings("ignore:at step")
def test_a_run_that_diverges_keeps_its_record(tmp_path):
    file = tmp_path / "history.safetensors"
    history = diverged(file)
    lam = history["0.weight"][:, 0]
    finite = lam.isfinite()
    assert history.steps[-1] == 60 and not finite[-1]
    assert float(lam[finite][-1]) > 1e60, "squares have more room than float32"
    growth = lam[1:3] / lam[:2]
    assert growth.tolist() == pytest.approx([100.0, 100.0], rel=1e-5)
    lost = [step for step, kept in zip(history.steps, finite.tolist(), strict=True) if not kept]
    assert history.not_finite("0.weight") == lost
    again = htr.SpectrumHistory.load(file)
    torch.testing.assert_close(
        again["0.weight"], history["0.weight"], equal_nan=True, rtol=0, atol=0
    )
    assert again["2.weight"].dtype == torch.float32, "which has room for this matrix"
    assert again.not_finite("0.weight") == lost
    again.record(make_network(), 70)
    alpha = again.trace("0.weight", "alpha").values
    assert len(alpha) == len(again.steps)
    assert "0.weight:lambda_max" not in again.rows()[-2]
    assert not again.rows()[-1]["0.weight:lambda_max"] > 1e9


@pytest.mark.filterwarnings("ignore:at step")
def test_pictures_of_a_run_that_diverges(tmp_path):
    history = diverged()
    history.plot("0.weight", panels=4)
    history.plot_traces()
    history.animate(tmp_path / "a.gif", ["0.weight"], frames_per_second=50)
    everything = htr.SpectrumHistory()
    net = make_network()
    net[0].weight.data *= torch.nan
    everything.record(net, 0)
    everything.plot("0.weight")
    with pytest.raises(htr.SpectrumError, match="some eigenvalues are not finite"):
        everything.at(0).alpha("0.weight")
    plt.close("all")


def test_fit_with_a_large_learning_rate_keeps_its_record(tmp_path):
    file = tmp_path / "history.safetensors"
    history = htr.SpectrumHistory(path=file)
    with contextlib.suppress(htr.DivergenceError):
        fit(history, method=htr.MAP(lr=1e25, scheduler=None), epochs=3)
    assert float(history["2.weight"][-1, 0]) > 1e40
    assert htr.SpectrumHistory.load(file).steps == history.steps != []


def test_tiny_weights_keep_their_eigenvalues():
    history, net = htr.SpectrumHistory(), make_network()
    expected = htr.spectrum(net[0].weight.detach().double() * 1e-30)
    net[0].weight.data *= 1e-30
    history.record(net, 0)
    torch.testing.assert_close(history["0.weight"][0], expected, rtol=1e-5, atol=0)
    net[0].weight.data.zero_()
    history.record(net, 1)
    assert history["0.weight"][1].eq(0).all() and history.not_finite("0.weight") == []


def test_weights_that_recover_are_warned_of_twice():
    history, net = htr.SpectrumHistory(), make_network()
    for step, value in enumerate([1.0, torch.inf, torch.inf, 1.0, -torch.inf]):
        net[0].weight.data[0, 0] = value
        if step in (1, 4):
            with pytest.warns(UserWarning, match=f"at step {step} "):
                history.record(net, step)
        else:
            history.record(net, step)
    assert history.not_finite("0.weight") == [1, 2, 4]


def test_traces_and_rows():
    history = htr.SpectrumHistory()
    net = nn.Linear(60, 40, bias=False)
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        net.weight.data = torch.eye(40, 60) * torch.rand(60, generator=generator) ** -0.3
        history.record(net, step, epoch=step / 6)
    lam = history["weight"].double()
    found = history.trace("weight", "alpha", level=0.9)
    fits = [htr.fit_powerlaw(row, level=0.9) for row in lam]
    np.testing.assert_allclose(found.values, [f.alpha for f in fits], rtol=1e-9)
    np.testing.assert_allclose(found.interval, [f.interval for f in fits], rtol=1e-9)
    one = history.at(5).alpha("weight", 0.9)
    assert found.interval[5] == pytest.approx([one.low, one.high])
    rows = history.rows()
    assert rows[1]["weight:lambda_max"] == pytest.approx(float(lam[1, 0]))
    assert rows[1]["epoch"] == 1 / 6
    flat = htr.SpectrumHistory()
    flat.record(nn.Linear(1, 3), 0)
    assert math.isnan(flat.trace("weight", "alpha").values[0])
    assert "weight:alpha" not in flat.rows()[0]
    with pytest.raises(ValueError, match="quantity='rank'"):
        history.trace("weight", "rank")


def test_files(tmp_path):
    history = htr.SpectrumHistory(per_decade=3)
    fit(history)
    file = tmp_path / "new" / "history.safetensors"
    history.save(file)
    again = htr.SpectrumHistory.load(file)
    assert (again.steps, again.epochs, again.per_decade) == (history.steps, history.epochs, 3)
    assert all(again[name].equal(history[name]) for name in history)
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(htr.CheckpointError, match="no spectrum history"):
        htr.SpectrumHistory.load(file)
    with pytest.raises(htr.CheckpointError, match="no spectrum history"):
        htr.SpectrumHistory.load(tmp_path / "none")


LAM = torch.tensor([[3.0, 1.0], [4.0, 1.0]])


def history_file(path, lam=LAM, **changed):
    about = {"format": "bayes_htr spectrum history 2", "steps": [0, 5], "epochs": [0.0, None]}
    about |= {"matrices": ["*"], "per_decade": 8, "names": ["w"], **changed}
    save_file({"w": lam}, path, metadata={"about": json.dumps(about)})
    return path


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"format": "another"}, "format is 'another'"),
        ({"steps": [5, 5]}, "do not ascend"),
        ({"steps": [-1, 5]}, "do not ascend"),
        ({"steps": [0, 5, 6], "epochs": [0.0] * 3}, "w has shape"),
        ({"epochs": [0.0]}, "1 epochs for 2 steps"),
        ({"per_decade": -1}, "per_decade"),
        ({"names": ["v"]}, "v"),
        ({"names": 3}, "int"),
        ({"lam": LAM.int()}, "w has shape"),
        ({"lam": -LAM}, "negative"),
        ({"lam": torch.tensor([[float("nan"), -1.0]] * 2)}, "negative"),
    ],
)
def test_foreign_histories(tmp_path, changed, words):
    assert htr.SpectrumHistory.load(history_file(tmp_path / "good"))["w"].equal(LAM)
    with pytest.raises(htr.CheckpointError, match=words):
        htr.SpectrumHistory.load(history_file(tmp_path / "bad", **changed))


@pytest.mark.parametrize("text", ["[1]", "{", '{"format": 2}', "[" * 100_000, None])
def test_foreign_headers(tmp_path, text):
    save_file({"w": LAM}, tmp_path / "bad", metadata=text and {"about": text})
    with pytest.raises(htr.CheckpointError, match="no spectrum history"):
        htr.SpectrumHistory.load(tmp_path / "bad")


def test_pictures(tmp_path):
    history = htr.SpectrumHistory()
    fit(history)
    figure = history.plot("0.weight", panels=3, path=tmp_path / "a.png")
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["step 0 (epoch 0)", "step 6 (epoch 1)", "step 24 (epoch 4)"]
    figure = history.plot_traces(path=tmp_path / "b.png")
    line = figure.axes[0].lines[1]
    np.testing.assert_allclose(line.get_ydata(), history["2.weight"][:, 0])
    ax = history.plot_trace("alpha", "0.weight", against="epoch")
    np.testing.assert_allclose(ax.lines[0].get_xdata(), history.epochs)
    history.animate(tmp_path / "c.gif")
    with Image.open(tmp_path / "c.gif") as gif:
        durations = 0
        for frame in range(gif.n_frames):
            gif.seek(frame)
            durations += gif.info["duration"]
    assert durations == (len(history.steps) + 10) * 200  # the last is held
    plt.close("all")
    with pytest.raises(ValueError, match="nothing is recorded"):
        htr.SpectrumHistory().plot_trace("alpha")


def test_pictures_of_zeros_and_of_any_name(tmp_path):
    net = nn.Module()
    net.register_parameter("$x_{$", nn.Parameter(torch.zeros(9, 9)))
    history = htr.SpectrumHistory()
    history.record(net, 0)
    history.record(net, 1)
    figure = history.plot("$x_{$", path=tmp_path / "a.png")
    assert figure.get_suptitle() == r"\$x_{\$"
    history.plot_traces(path=tmp_path / "b.png")
    history.animate(tmp_path / "c.gif")
    assert (tmp_path / "c.gif").stat().st_size > 1000
    plt.close("all")


def test_lightning():
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = make_network()

        def training_step(self, batch):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    history, module = htr.SpectrumHistory(), Module()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*DATA), batch_size=10)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=4, accelerator="cpu", callbacks=[history.lightning()], **options
    )
    trainer.fit(module, loader)
    assert history.steps == [0, 1, 2, 3, 4, 6, 7, 10, 13, 18, 24]
    assert history.epochs == pytest.approx([step / 6 for step in history.steps])
    torch.testing.assert_close(history["net.0.weight"][-1], htr.spectrum(module.net[0].weight))


def test_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_network()

        def forward(self, x, labels):
            logits = self.net(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    data = [{"x": x, "labels": y} for x, y in zip(*DATA, strict=True)]
    history, net = htr.SpectrumHistory(), Net()
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=10,
        num_train_epochs=4,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=net, args=args, train_dataset=data, callbacks=[history.transformers()]
    )
    trainer.train()
    assert history.steps == [0, 1, 2, 3, 4, 6, 7, 10, 13, 18, 24]
    assert history.epochs == pytest.approx([step / 6 for step in history.steps])
    torch.testing.assert_close(history["net.0.weight"][-1], htr.spectrum(net.net[0].weight))


# The same without the packages: their documented hooks in their documented order


def steps_of_training(net, epochs=4, batch_size=10):
    """Epoch, batch, batches, and updates done, after each update."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    batches = list(zip(*(part.split(batch_size) for part in DATA), strict=True))
    for epoch in range(epochs):
        for i, (x, y) in enumerate(batches):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            yield epoch, i, len(batches), epoch * len(batches) + i + 1


@pytest.mark.parametrize("main", [True, False])
def test_hooks_of_lightning(monkeypatch, main):
    package = ModuleType("lightning.pytorch")
    package.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "lightning", ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", package)
    history, net = htr.SpectrumHistory(), make_network()
    callback = history.lightning()
    assert isinstance(callback, package.Callback)
    trainer = SimpleNamespace(is_global_zero=main, global_step=0, current_epoch=0)
    callback.on_train_start(trainer, net)
    for epoch, i, count, done in steps_of_training(net):
        trainer.current_epoch, trainer.num_training_batches = epoch, count
        trainer.global_step = done
        callback.on_train_batch_end(trainer, net, None, None, i)
    callback.on_train_end(trainer, net)
    assert history.steps == ([0, 1, 2, 3, 4, 6, 7, 10, 13, 18, 24] if main else [])
    if main:
        assert history.epochs == pytest.approx([step / 6 for step in history.steps])
        torch.testing.assert_close(history["0.weight"][-1], htr.spectrum(net[0].weight))


@pytest.mark.parametrize("main", [True, False])
def test_hooks_of_transformers(monkeypatch, main):
    package = ModuleType("transformers")
    package.TrainerCallback = type("TrainerCallback", (), {})
    monkeypatch.setitem(sys.modules, "transformers", package)
    history, net = htr.SpectrumHistory(), make_network()
    callback = history.transformers()
    assert isinstance(callback, package.TrainerCallback)
    state = SimpleNamespace(is_world_process_zero=main, global_step=0, epoch=0.0)
    callback.on_train_begin(None, state, None, model=net)
    for _, _, count, done in steps_of_training(net):
        state.global_step, state.epoch = done, done / count
        callback.on_step_end(None, state, None, model=net)
    callback.on_train_end(None, state, None, model=net)
    assert history.steps == ([0, 1, 2, 3, 4, 6, 7, 10, 13, 18, 24] if main else [])
    if main:
        torch.testing.assert_close(history["0.weight"][-1], htr.spectrum(net[0].weight))
