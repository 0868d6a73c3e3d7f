"""The priors that the command line knows by name."""

import pytest

import bayes_htr as htr
from bayes_htr.experiments import PRIORS, build_network, named_priors


def energy(name, net, **given):
    priors = named_priors(name, strength=None, num_data=1000, **given)
    return htr.bind(priors, net, refresh=htr.Exact())().item()


def test_the_exponential_law_of_all_eigenvalues_is_weight_decay_for_a_mode():
    net = build_network("mlp", (1, 8, 8), 10).double()
    assert energy("exponential", net) == pytest.approx(energy("weight_decay", net), rel=1e-12)


@pytest.mark.parametrize("name", PRIORS)
def test_strengths_are_those_of_a_mode_or_of_a_posterior(name):
    net, named = build_network("mlp", (1, 8, 8), 10), PRIORS[name]
    one = htr.bind(htr.Priors(named.prior), net, refresh=htr.Exact())().item()
    assert energy(name, net) == pytest.approx(1000 * named.mu * one, rel=1e-5)
    strength = 1000 * named.mu if named.strength is None else named.strength
    law = named.of_posterior or named.prior
    of_posterior = htr.bind(htr.Priors(law), net, refresh=htr.Exact())().item()
    assert energy(name, net, posterior=True) == pytest.approx(strength * of_posterior, rel=1e-5)


def test_unknown_names_and_none():
    assert named_priors("none", strength=None, num_data=10) == htr.Priors({})
    with pytest.raises(htr.PriorError, match=r"none has no strength; 3\.0 was given"):
        named_priors("none", strength=3.0, num_data=10)
    with pytest.raises(htr.PriorError, match=r"'lomaxx' is not one of none, frechet, lomax"):
        named_priors("lomaxx", strength=None, num_data=10)


def test_a_file_has_its_own_strength(tmp_path):
    file = tmp_path / "own.toml"
    law = '{type = "Normal", loc = 0.0, scale = 1.0}'
    file.write_text(f'strength = 2.0\n[priors]\n"*" = {{type = "Entries", law = {law}}}\n')
    for strength, expected in ((None, 2.0), (3.0, 6.0)):
        assert named_priors(file, strength=strength, num_data=10).strength == expected
