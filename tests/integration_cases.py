"""The same training by hand and by other people's trainers; as a script, in two processes.

Every trainer takes the same steps: AdamW with a constant learning rate, 4 steps of 12 examples in
each epoch, in the order of the data. What it does is recorded below it: the losses that the model
computes, and the gradients that AdamW sees.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

import bayes_htr as htr

N, BATCH, LR, EPOCHS = 48, 12, 0.02, 3
CLIP = 0.3
PRIORS = htr.Priors(htr.ESD(htr.Lomax(2.0, 1.0)) & htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)))
PRIORS = PRIORS.scaled(3.0).scheduled(htr.ExpDecay(k=0.5, period=1, cutoff=0.01))
TORCHRUN_PARTS = 2
"""Of what is accumulated to a step, in each of two processes."""


class Model(nn.Module):
    """A network that computes its own loss, as models of Transformers do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        self.losses = []

    def forward(self, x, labels):
        logits = self.net(x)
        loss = F.cross_entropy(logits, labels)
        self.losses.append(loss.detach())
        return {"loss": loss, "logits": logits}


def dataset():
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(N, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (N,), generator=generator)
    return [{"x": x, "labels": label} for x, label in zip(X, y, strict=True)]


def batches(size):
    return torch.utils.data.DataLoader(dataset(), batch_size=size)


@contextmanager
def recorded(model):
    """What happens in the block: `losses`, `gradients` of every step, and the `weights` after it.

    The losses of parts are averaged over a step.
    """
    found = {"gradients": []}

    def after_step(optimizer, args, kwargs):
        if type(optimizer) is torch.optim.AdamW:
            found["gradients"].append(torch.cat([p.grad.flatten() for p in model.parameters()]))

    handle = register_optimizer_step_post_hook(after_step)
    model.losses.clear()
    yield found
    handle.remove()
    found["gradients"] = torch.stack(found["gradients"])
    found["losses"] = torch.stack(model.losses).view(len(found["gradients"]), -1).mean(1)
    found["weights"] = torch.cat([p.detach().flatten() for p in model.parameters()])


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0)


def by_hand(model, *, decoupled, clip=None):
    """The definition: whole batches, one process, no wrapper."""
    optimizer, energy = adamw(model.parameters()), htr.bind(PRIORS, model)
    weights = [p for p in model.parameters() if p.ndim == 2]
    for epoch in range(EPOCHS):
        for batch in batches(BATCH):
            optimizer.zero_grad()
            model(**batch)["loss"].backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            gradients = torch.autograd.grad(energy(epoch) / N, weights)
            for p, gradient in zip(weights, gradients, strict=True):
                if not decoupled:
                    p.grad += gradient
            optimizer.step()
            with torch.no_grad():
                for p, gradient in zip(weights, gradients, strict=True):
                    p -= LR * gradient * decoupled


def own_loop(model, out, *, decoupled, clip=None, parts=1, processes=1, resume=None):
    """`htr.with_prior` in a loop with accumulation."""
    optimizer = htr.with_prior(
        adamw(model.parameters()), PRIORS, model, num_data=N, decoupled=decoupled
    )
    first = 0
    if resume is not None:
        state = torch.load(resume, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]
    for epoch in range(first, EPOCHS):
        optimizer.epoch = epoch
        for i, batch in enumerate(batches(BATCH // parts)):
            (model(**batch)["loss"] / parts).backward()
            if (i + 1) % parts == 0:
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        out.mkdir(parents=True, exist_ok=True)
        torch.save({**state, "epoch": epoch + 1}, out / f"{epoch + 1}.pt")
    return out / "2.pt"


def accelerate(model, out, *, decoupled, clip=None, parts=1, processes=1, resume=None):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=parts)
    prior = htr.with_prior(
        adamw(model.parameters()), PRIORS, model, num_data=N, decoupled=decoupled
    )
    prepared, optimizer, loader = accelerator.prepare(
        model, prior, batches(BATCH // parts // processes)
    )
    first = 0
    if resume is not None:
        accelerator.load_state(resume)
        first = 2
    for epoch in range(first, EPOCHS):
        prior.epoch = epoch
        for batch in loader:
            with accelerator.accumulate(prepared):
                accelerator.backward(prepared(**batch)["loss"])
                if accelerator.sync_gradients and clip is not None:
                    accelerator.clip_grad_norm_(prepared.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
        accelerator.save_state(str(out / str(epoch + 1)))
    return str(out / "2")


def transformers(model, out, *, decoupled, clip=None, parts=1, processes=1, resume=None):
    from transformers import Trainer, TrainingArguments

    class PriorTrainer(htr.integrations.TransformersPriorMixin, Trainer):
        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=BATCH // parts // processes,
        gradient_accumulation_steps=parts,
        num_train_epochs=EPOCHS,
        learning_rate=LR,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        max_grad_norm=clip or 0.0,
        save_strategy="steps",
        save_steps=6,  # within an epoch
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = PriorTrainer(
        model, arguments, train_dataset=dataset(), priors=PRIORS, num_data=N, decoupled=decoupled
    )
    trainer.train(resume_from_checkpoint=resume)
    assert "prior_energy" in trainer.state.log_history[0]
    return str(out / "checkpoint-6")


def lightning(model, out, *, decoupled, clip=None, parts=1, processes=1, resume=None):
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch):
            return self.model(**batch)["loss"]

        def configure_optimizers(self):
            return adamw(self.parameters())

    prior = htr.integrations.lightning_prior(PRIORS, num_data=N, decoupled=decoupled)
    checkpoint = pl.callbacks.ModelCheckpoint(
        out, "{step}", save_top_k=-1, every_n_train_steps=N // BATCH
    )
    loader = batches(BATCH // parts // processes)
    if processes > 1:  # otherwise Lightning shuffles
        sampler = torch.utils.data.DistributedSampler(
            dataset(), processes, int(os.environ["RANK"]), shuffle=False
        )
        loader = torch.utils.data.DataLoader(dataset(), loader.batch_size, sampler=sampler)
    trainer = pl.Trainer(
        use_distributed_sampler=False,
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        accumulate_grad_batches=parts,
        gradient_clip_val=clip,
        callbacks=[prior, checkpoint],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), loader, ckpt_path=resume)
    assert trainer.callback_metrics["prior_energy"] > 0
    return str(out / f"step={2 * N // BATCH}.ckpt")


TRAINERS = {
    "own loop": own_loop,
    "accelerate": accelerate,
    "transformers": transformers,
    "lightning": lightning,
}


def main(out):
    """Train in two processes by every trainer that is installed."""
    rank = int(os.environ["RANK"])
    for name, train in TRAINERS.items():
        for decoupled in (True, False) if name != "own loop" else ():
            model, folder = Model(), out / f"{name} {decoupled}"
            with recorded(model) as found:
                try:
                    train(model, folder, decoupled=decoupled, parts=TORCHRUN_PARTS, processes=2)
                except ImportError:
                    break
            torch.save(found, out / f"{name} {decoupled}-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
