"""Averages of draws, and dropout as draws."""

from __future__ import annotations

import torch

from benchmarks.study.peers.draws import Draws
from benchmarks.study.peers.dropout import mc_dropout


def test_probabilities_are_averaged(images):
    x, _ = images
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

    def draw(count):
        for i in range(min(count, 2)):
            yield lambda part, i=i: logits[i].expand(len(part), 3)

    found = Draws(draw, torch.device("cpu")).predict(x, 5)
    torch.testing.assert_close(found.probs[0], logits.softmax(1).mean(0))
    assert (found.mutual_information > 0).all()


def test_dropout_has_other_masks_for_each_draw_and_the_same_at_each_call(task, images):
    x, _ = images
    fit = mc_dropout(task({"dropout": 0.5, "decay": 0.0}))
    one, two = fit.predict(x, 3), fit.predict(x, 3)
    assert torch.equal(one.log_probs, two.log_probs)
    assert (one.mutual_information > 0).all()
    assert (
        mc_dropout(task({"dropout": 0.0, "decay": 0.0})).predict(x, 3).mutual_information < 1e-6
    ).all()
