"""What is no density is refused, with the matrix and an alternative that is not refused."""

from __future__ import annotations

import re

import pytest

import bayes_htr as htr
from tests.models.densities import draw, model_of

LOMAX = htr.Lomax(2.0)
CASES = [
    (htr.ESD(htr.ImproperPowerlaw(2.0)), 1.0),
    (htr.MaxEigenvalue(htr.ImproperPowerlaw(2.0)), 1.0),
    (htr.ESD(htr.Powerlaw(2.0), tail=0.5), 1.0),
    (htr.ESD(LOMAX, tail=0.5), 0.3),
    (htr.StableRank(htr.Exponential(1.0)), 1.0),
    (htr.ESD(htr.Lomax(htr.Hill())), 1.0),
    (htr.MaxEigenvalue(htr.Frechet(htr.Hill(), 1.0)), 0.7),
    (htr.ESD(LOMAX), 0.5),
    (htr.SingularValues(LOMAX), 0.3),
    (htr.MaxEigenvalue(htr.Frechet(1.0)), 0.37),
    (htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))), 0.9),
    (htr.Entries(htr.HalfCauchy()), 0.5),
    (htr.ESD(LOMAX) & htr.StableRank(htr.Exponential(1.0)), 1.0),
]


def refused(model):
    """The message, the same from everything that needs a density."""
    messages = set()
    batch = (draw((5, 3)), draw((5,)).gt(0).long())
    for call in (
        lambda: htr.sample_prior(model, 2),
        lambda: htr.prior_predictive(model, batch[0]),
        lambda: model.pyro_model("weight"),
        lambda: model.pyro_model("spectral"),
        lambda: model.log_joint({}, batch, num_data=5, coordinates="weight"),
    ):
        with pytest.raises(htr.PriorError) as caught:
            call()
        messages.add(str(caught.value))
    (message,) = messages
    if "Entries" not in repr(model):  # of one sign
        model.log_joint({}, batch, num_data=5)  # MAP takes it
    return message


@pytest.mark.parametrize(("prior", "strength"), CASES, ids=lambda v: repr(v))
def test_names_the_matrix_and_a_proper_alternative(prior, strength):
    message = refused(model_of(htr.Priors(prior).scaled(strength), (4, 3)))
    assert message.startswith("0.weight: ")
    (named,) = re.findall(r"; take (.*?)(?: at strength [\d.]+)?\. MAP takes", message)
    alternative = eval(named, vars(htr))
    assert type(alternative).__name__ in repr(prior) or "StableRank" in repr(prior)
    model = model_of(htr.Priors(alternative).scaled(strength), (4, 3))
    model.pyro_model("weight")
    assert htr.sample_prior(model, 3)["0.weight"].isfinite().all()


@pytest.mark.parametrize("whole", [False, True])
def test_above(whole):
    prior = htr.ESD(LOMAX)
    priors = htr.Priors(prior).above(1.0) if whole else htr.Priors(prior.above(1.0))
    message = refused(model_of(priors, (4, 3)))
    assert message.startswith("0.weight: ")
    (named,) = re.findall(r"leave out \.above\(\.\.\.\), as in (.*?), or use htr\.MAP", message)
    alternative = eval(named, vars(htr))
    htr.sample_prior(model_of(alternative, (4, 3)), 2)


def test_strength_zero_is_flat():
    model = model_of(htr.Priors(htr.StableRank(htr.Exponential(1.0)).scaled(0.0)), (4, 3))
    with pytest.warns(UserWarning, match=r"no prior on 0\.weight"):
        htr.sample_prior(model, 1)
