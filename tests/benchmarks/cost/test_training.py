"""The loop is the one that anyone would write, and a prior enters by one line."""

import pytest
import torch
import torch.nn.functional as F

import bayes_htr as htr
from bayes_htr.experiments import named_priors
from benchmarks.cost.training import Case, Training


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def by_hand(case, steps, scale=0.0):
    net = case.network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    energy = htr.bind(named_priors("lomax", strength=1.0, num_data=70), net, refresh=htr.Exact())
    batches = case.batches()
    for _ in range(steps):
        x, y = next(batches)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        if scale:
            loss = loss + energy() * scale
        loss.backward()
        optimizer.step()
    return weights(net)


def test_plain_run_is_plain_training(case):
    run = case().plain_run()
    run.steps(7)
    assert torch.equal(weights(run.net), by_hand(case(), 7))


@pytest.mark.parametrize("entry", ["backward", "loss"])
def test_with_the_prior(case, entry):
    run = case(entry=entry).prior_run()
    run.steps(7)
    torch.testing.assert_close(weights(run.net), by_hand(case(), 7, scale=1 / 70))
    assert not torch.allclose(weights(run.net), by_hand(case(), 7))


def test_naive_run_takes_the_same_steps(case):
    run = case().naive_run()
    run.steps(7)
    torch.testing.assert_close(weights(run.net), by_hand(case(), 7, scale=1 / 70))


def test_batches_have_one_size_and_an_order_of_the_seed(case):
    def sums(tiny):
        batches = tiny.batches()
        return [next(batches)[0].sum().item() for _ in range(6)]

    tiny = case()
    batches = tiny.batches()
    assert {len(next(batches)[0]) for _ in range(9)} == {16}
    assert sums(tiny) == sums(tiny)
    assert sums(tiny) != sums(tiny.seeded(1))
    assert not torch.equal(weights(tiny.network()), weights(tiny.seeded(1).network()))


def test_more_examples_per_batch_than_there_are(data):
    with pytest.raises(ValueError, match=r"batch_size=71.*70"):
        Case(lambda seed: torch.nn.Linear(12, 4), *data, Training(batch_size=71), "lomax")
