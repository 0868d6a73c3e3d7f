"""Fine-tuning of low-rank adapters with a posterior over their singular values.

A small transformer, whose weights stand for pre-trained ones, learns by adapters to tell whether a
sentence has more good words than bad ones. A first fit finds the mode, from which the fit of the
posterior begins. The posterior is saved, loaded again and evaluated, and the singular values of
each adapter are printed with their uncertainty. Sentences are made; take your own tokens and
labels.

Run: `python examples/lora.py`. Needs `pip install "bayes-htr[integrations]"`.
"""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import bayes_htr as htr

WORDS, LENGTH, RANK = 30, 12, 4
OUT = Path("runs/lora")


def sentences(count: int, seed: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Numbers of words, of which 1 to 9 are good and 10 to 18 bad, and labels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, WORDS, (count, LENGTH), generator=generator)
    good, bad = ((ids >= low) & (ids < low + 9) for low in (1, 10))
    return {"input_ids": ids}, (good.sum(1) > bad.sum(1)).long()


def adapted() -> nn.Module:
    """A transformer whose weights are frozen but for adapters and the last layer."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
        initializer_range=32**-0.5,
    )
    lora = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=["query", "value", "dense"],
        modules_to_save=["classifier"],
    )
    net: nn.Module = get_peft_model(BertForSequenceClassification(config), lora)
    return net


def main(epochs: int = 8) -> float:
    """Train, save, load and evaluate, and return the accuracy on test sentences."""
    train, test = sentences(800, seed=1), sentences(400, seed=2)
    priors = htr.Priors({"*.lora_BA.default": htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0)))})
    model = htr.BayesianClassifier(adapted(), priors)
    mode = htr.fit(
        model,
        train,
        method=htr.MAP(lr=1e-2, optimizer=torch.optim.Adam),
        epochs=epochs,
        batch_size=32,
        progress=False,
    )
    htr.fit(model, train, epochs=epochs, batch_size=32, init=mode, out=OUT, resume=True)
    posterior = htr.load(OUT, adapted())
    scores = posterior.evaluate(test)
    for name in ("accuracy", "nll", "ece"):
        print(f"{name}: {scores[name]:.3f}")
    for name, eigenvalues in posterior.spectra(samples=200).items():
        if "lora_BA" not in name:
            continue
        sigma = eigenvalues.sqrt()
        values = zip(sigma.mean(0).tolist(), sigma.std(0).tolist(), strict=True)
        shown = ", ".join(f"{mean:.2f} ± {sd:.2f}" for mean, sd in values)
        print(f"{name.removeprefix('base_model.model.bert.')}: {shown}")
    return float(scores["accuracy"])


if __name__ == "__main__":
    main()
