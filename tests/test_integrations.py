"""Other people's trainers against training by hand, and spectra that are recorded in them.

The recorders are also tested without the packages, by the documented hooks in their order.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bayes_htr as htr
from tests.analysis.history_cases import DATA, make_network
from tests.integration_cases import CLIP, PRIORS, TRAINERS, Model, N, batches, by_hand, recorded
from tests.processes import difference, found_by

INTEGRATION_CASES = Path(__file__).with_name("integration_cases.py")

# Training under priors


@pytest.fixture(params=TRAINERS)
def train(request):
    if request.param != "own loop":
        pytest.importorskip(request.param)
    return TRAINERS[request.param]


@pytest.fixture(scope="module")
def expected():
    """What training by hand does, by its settings."""
    found = {}
    for decoupled in (True, False):
        for clip in (None, CLIP):
            model = Model()
            with recorded(model) as found[decoupled, clip]:
                by_hand(model, decoupled=decoupled, clip=clip)
    return found


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize(("parts", "clip"), [(1, None), (4, None), (4, CLIP)])
def test_a_trainer_does_what_is_done_by_hand(train, expected, tmp_path, decoupled, parts, clip):
    model = Model()
    with recorded(model) as found:
        train(model, tmp_path, decoupled=decoupled, parts=parts, clip=clip)
    assert len(found["losses"]) == 12
    assert difference(found, expected[decoupled, clip]) < 1e-10
    assert difference(found, expected[not decoupled, clip]) > 1e-3


@pytest.mark.long
def test_two_processes_do_what_one_does_by_hand(expected, tmp_path):
    pytest.importorskip("accelerate")
    found_in = found_by(INTEGRATION_CASES, tmp_path, timeout=900)
    names = [file.stem.removesuffix("-0") for file in tmp_path.glob("*-0.pt")]
    assert len(names) >= 2
    for name in names:
        found, other = found_in(name)
        assert torch.equal(found["weights"], other["weights"])
        found["losses"] = (found["losses"] + other["losses"]) / 2
        assert difference(found, expected[name.endswith("True"), None]) < 1e-10, name


@pytest.mark.parametrize("decoupled", [True, False])
def test_a_resumed_training_is_the_same_bit_for_bit(train, tmp_path, decoupled):
    whole, resumed = Model(), Model()
    checkpoint = train(whole, tmp_path / "whole", decoupled=decoupled)
    train(resumed, tmp_path / "resumed", decoupled=decoupled, resume=checkpoint)
    assert 0 < len(resumed.losses) < len(whole.losses)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_module_of_lightning_with_two_optimisers():
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.model = Model()

        def training_step(self, batch):
            return None

        def configure_optimizers(self):
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[htr.integrations.lightning_prior(PRIORS, num_data=N)],
        **options,
    )
    with pytest.raises(htr.PriorError, match=r"Module has 2 optimisers.*configure_optimizers"):
        trainer.fit(Module(), batches(12))


def test_an_optimiser_that_accelerate_has_prepared():
    accelerate = pytest.importorskip("accelerate")
    model = Model()
    optimizer = accelerate.Accelerator(cpu=True).prepare(torch.optim.AdamW(model.parameters()))
    with pytest.raises(htr.PriorError, match="before the trainer gets the optimiser"):
        htr.with_prior(optimizer, PRIORS, model, num_data=N)


# Recorders


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
