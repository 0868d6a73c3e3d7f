"""All peers: each learns, and its seed decides everything that is random."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from benchmarks.common.pictures import METHOD_LINES, METHOD_MARKS
from benchmarks.study.peers.methods import PEERS
from benchmarks.study.studies import STUDIES

FITS = [name for name, method in PEERS.items() if method.fit is not None]


@pytest.mark.parametrize("name", FITS)
def test_it_learns(name, task, images):
    x, y = images
    method = PEERS[name]
    if method.package is not None:
        pytest.importorskip(method.package.module)
    numbers = method.trials[len(method.trials) // 2]
    state = torch.get_rng_state()
    one, same, other = (method.fit(task(numbers, seed=seed)).predict(x, 4) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.log_probs.shape == (96, 3)
    torch.testing.assert_close(one.probs.sum(1), torch.ones(96))
    assert (one.labels == y).float().mean() > 0.6  # a guess has a third
    assert torch.equal(one.log_probs, same.log_probs)
    assert not torch.allclose(one.log_probs, other.log_probs)


@pytest.mark.parametrize("name", FITS)
def test_its_trials(name):
    """At most six, as other methods have, and all of the same numbers."""
    method = PEERS[name]
    assert len(method.trials) == 6
    assert all(one != other for i, one in enumerate(method.trials) for other in method.trials[:i])
    assert all(one.keys() == other.keys() for one, other in pairwise(method.trials))
    assert (method.family, method.members) == ("peer", 1)


@pytest.mark.parametrize("name", FITS)
def test_every_number_of_a_trial_matters(name, task, images):
    x, _ = images
    method = PEERS[name]
    if method.package is not None:
        pytest.importorskip(method.package.module)
    first = method.trials[0]
    base = method.fit(task(first, epochs=4)).predict(x, 4).log_probs
    for number in first:
        # Of a number with a single value, another one.
        others = {trial[number] for trial in method.trials} - {first[number]}
        value = min(others, default=10 * first[number])
        changed = method.fit(task({**first, number: value}, epochs=4)).predict(x, 4)
        assert not torch.allclose(changed.log_probs, base), number


def test_the_ensemble_is_of_plain_networks():
    ensemble, plain = PEERS["ensemble10"], STUDIES["mixtures"].methods["none"]
    assert (ensemble.members, ensemble.trials) == (10, ({},))
    assert (ensemble.priors, ensemble.inference) == (plain.priors, plain.inference)


def test_peers_are_in_the_study_of_mixtures_and_can_be_told_apart():
    methods = STUDIES["mixtures"].methods
    assert set(PEERS) <= set(methods)
    assert not {methods[name].family for name in PEERS} & set(STUDIES["mixtures"].entrants)
    looks = [(*METHOD_LINES[name], METHOD_MARKS.get(name)) for name in methods]
    assert len(set(looks)) == len(looks)
