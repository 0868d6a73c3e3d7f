"""The runs whose steps are timed: they train, and Pyro's network is the same model."""

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

import bayes_htr as htr
from benchmarks.cost import guide_runs
from benchmarks.cost.guide_runs import NORMAL, PyroNetwork, TrainerRun, random_images


@pytest.fixture
def work():
    return random_images(16, 8, seed=0)


def test_pyros_network_is_the_same_model(work):
    """Pyro's log joint at our network's weights is ours, at the full data set."""
    net = work.network()
    model = htr.BayesianClassifier(net, NORMAL)
    values = {name: p.detach() for name, p in net.named_parameters()}
    conditioned = pyro.condition(PyroNetwork(len(work.x)), data=values)
    theirs = pyro.poutine.trace(conditioned).get_trace(work.x, work.y).log_prob_sum()
    ours = model.log_joint(values, (work.x, work.y), num_data=16, coordinates="weight")
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=0)


def test_our_steps_descend(work):
    """The run is training: the mean-field guide fits sixteen random images."""
    run = TrainerRun(work, NORMAL, htr.SVI(guide="meanfield", lr=3e-3, temperature=1e-3))
    trainer = run.trainer

    def mean_log_probability():
        logits = trainer._outputs(trainer.guide.centre(), work.x)
        return logits.log_softmax(1)[range(16), work.y].mean()

    before = mean_log_probability()
    run.steps(40)
    after = mean_log_probability()
    assert after > before / 2


def test_pyros_steps_descend(work):
    torch.manual_seed(0)
    run = guide_runs._PyroLoop(work, Trace_ELBO())
    run.steps(1)
    with pyro.get_param_store().scope(run._store) as store:
        before = {k: v.detach().clone() for k, v in store["params"].items()}
    run.steps(2)
    after = run._store["params"]
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[k], after[k]) for k in before)
