"""Callbacks of Lightning and Transformers; also without the packages, by their documented hooks."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bayes_htr as htr
from tests.analysis.history_cases import DATA, make_network


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
