"""A small transformer, pre-trained for a few minutes, and four ways to train adapters in it.

Every method trains factors of rank 4 on query, key and value and the last layer, for the same
number of epochs, batches of 32 and a cosine schedule. The posterior over spectra begins at a mode:
half of its epochs are those of the mode. Each method has four trials of what it is sensitive to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset

import bayes_htr as htr
from bayes_htr.posterior.prediction import Prediction
from bayes_htr.posterior.scores import scores
from benchmarks.common.ivon_training import trained_by_ivon
from benchmarks.lora.texts import LENGTH, UNKNOWN, WORDS, Encoded, Texts, taken

WIDTH, LAYERS, HEADS, RANK = 64, 2, 4, 4
BATCH = 32
RATES, IVON_RATES = (1e-3, 3e-3), (0.03, 0.1)
"""Learning rates among which validation examples choose: those of Adam, and those of IVON."""
PRETRAINING_BATCH, PRETRAINING_LR, PRETRAINING_DECAY = 128, 2e-3, 0.01
HIDDEN = 0.15
"""The share of the words that are hidden in pre-training, others each time."""
DRAWS = 8
"""How many draws of the weights are averaged in predictions."""

Numbers = Mapping[str, float]
"""The numbers of a trial, by name."""
Predict = Callable[[Encoded], dict[str, float]]
"""The scores of trained adapters on labelled examples."""


class _Hidden(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """Examples of which some words are hidden, so that no single word is relied on."""

    def __init__(self, examples: Encoded) -> None:
        self.examples = examples

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.examples[1])

    def __getitem__(self, number: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return one example; the mark of its start is never hidden."""
        x, y = self.examples
        mask = x["attention_mask"][number]
        hidden = (torch.rand(len(mask)) < HIDDEN) & (mask > 0)
        hidden[0] = False
        words = torch.where(hidden, UNKNOWN, x["input_ids"][number])
        return {"input_ids": words, "attention_mask": mask}, y[number]


def pretrained(texts: Texts, folder: Path, epochs: int) -> nn.Module:
    """Return a classifier that has learnt the long reviews; its run is kept in a folder."""
    try:
        from transformers import BertConfig, BertForSequenceClassification
        from transformers.utils.logging import set_verbosity_error
    except ImportError as error:
        raise ImportError(
            'this benchmark needs transformers and peft: pip install "bayes-htr[integrations]"'
        ) from error
    set_verbosity_error()
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=LENGTH,
    )
    torch.manual_seed(0)
    model = htr.BayesianClassifier(BertForSequenceClassification(config), htr.Priors({}))
    steps = epochs * -(-len(texts.pretraining[1]) // PRETRAINING_BATCH)
    warm_up = partial(OneCycleLR, max_lr=PRETRAINING_LR, total_steps=steps)
    method = htr.MAP(
        lr=PRETRAINING_LR,
        optimizer=partial(torch.optim.AdamW, weight_decay=PRETRAINING_DECAY),
        scheduler=warm_up,
        scheduler_interval="step",
    )
    return htr.fit(
        model,
        DataLoader(_Hidden(texts.pretraining), PRETRAINING_BATCH, shuffle=True),
        method=method,
        epochs=epochs,
        out=folder / f"pretrained-{texts.source}-{epochs}",
        resume=True,
    ).network()


def adapted(net: nn.Module, seed: int) -> nn.Module:
    """Return a copy with untrained adapters, of which `B` is zero."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=["query", "key", "value"],
        modules_to_save=["classifier"],
    )
    adapters: nn.Module = get_peft_model(copy.deepcopy(net), config)
    return adapters


@dataclass(frozen=True)
class Method:
    """A way to train adapters.

    Attributes:
        trials: The numbers among which validation examples choose.
        train: From the adapters, the training examples, the numbers of a trial, epochs and a seed
            to the scores of what was trained.
    """

    trials: tuple[Numbers, ...]
    train: Callable[[nn.Module, Encoded, Numbers, int, int], Predict]


def _priors(strength: float) -> htr.Priors:
    return htr.Priors({"*.lora_BA.default": htr.ESD(htr.Lomax(2.5, 0.05))}).scaled(strength)


def _of(posterior: htr.Posterior) -> Predict:
    return lambda examples: dict(posterior.evaluate(examples, samples=DRAWS))


def _mode(
    model: htr.BayesianModel,
    train: Encoded,
    numbers: Numbers,
    epochs: int,
    seed: int,
    decay: float = 0.0,
) -> htr.Posterior:
    optimizer = partial(torch.optim.AdamW, weight_decay=decay)
    method = htr.MAP(lr=numbers["lr"], optimizer=optimizer)
    return htr.fit(model, train, method=method, epochs=epochs, batch_size=BATCH, seed=seed)


def _adamw(net: nn.Module, train: Encoded, numbers: Numbers, epochs: int, seed: int) -> Predict:
    model = htr.BayesianClassifier(net, htr.Priors({}))
    return _of(_mode(model, train, numbers, epochs, seed, numbers["decay"]))


def _map(net: nn.Module, train: Encoded, numbers: Numbers, epochs: int, seed: int) -> Predict:
    model = htr.BayesianClassifier(net, _priors(numbers["strength"]))
    return _of(_mode(model, train, numbers, epochs, seed))


def _svi(net: nn.Module, train: Encoded, numbers: Numbers, epochs: int, seed: int) -> Predict:
    model, half = htr.BayesianClassifier(net, _priors(numbers["strength"])), epochs // 2
    mode = _mode(model, train, numbers, epochs - half, seed)
    how: dict[str, Any] = {"epochs": half, "batch_size": BATCH, "seed": seed, "init": mode}
    return _of(htr.fit(model, train, method=htr.SVI(lr=numbers["lr"]), **how))


def _ivon(net: nn.Module, train: Encoded, numbers: Numbers, epochs: int, seed: int) -> Predict:
    """IVON as for adapters by Cong et al. (2024), arXiv:2411.04421; `weight` divides its noise."""
    torch.manual_seed(seed)
    size = len(train[1])

    def loss(rows: Tensor) -> Tensor:
        x, y = taken(train, rows)
        return F.cross_entropy(net(**x).logits, y)

    draws = trained_by_ivon(
        net,
        loss,
        size,
        epochs=epochs,
        batch_size=BATCH,
        lr=numbers["lr"],
        ess=size * numbers["weight"],
        hess_init=1.0,
    )

    @torch.no_grad()
    def predict(examples: Encoded) -> dict[str, float]:
        x, y = examples
        log_probs = [drawn(**x).logits.log_softmax(1) for drawn in draws(DRAWS)]
        mean = torch.stack(log_probs).double().logsumexp(0) - torch.tensor(float(DRAWS)).log()
        return scores(Prediction(mean, torch.zeros(len(y))), y)

    return predict


def _trials(name: str, values: tuple[float, float], rates: tuple[float, float]) -> Any:
    """Two learning rates with two values of another number."""
    return tuple({"lr": lr, name: value} for lr in rates for value in values)


METHODS: dict[str, Method] = {
    "AdamW": Method(_trials("decay", (0.01, 1.0), RATES), _adamw),
    "mode of a spectral prior": Method(_trials("strength", (1.0, 30.0), RATES), _map),
    "posterior over spectra": Method(_trials("strength", (1.0, 30.0), RATES), _svi),
    "IVON": Method(_trials("weight", (1.0, 100.0), IVON_RATES), _ivon),
}
"""The methods by name."""
