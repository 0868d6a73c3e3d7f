"""Arguments that are not valid, each with an error that names it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import bayes_htr as htr

HYPER = htr.Gamma(2.0, 1.0)
IMPROPER = htr.ImproperPowerlaw(2.0)
A = htr.ESD(htr.Lomax(2.0))
POSITIVE = [
    (htr.Lomax, {"alpha": 2.0}, "scale"),
    (htr.Lomax, {}, "tail_index"),
    (htr.Powerlaw, {"alpha": 2.0}, "xmin"),
    (htr.Powerlaw, {"xmin": 1.0}, "tail_index"),
    (htr.ImproperPowerlaw, {}, "alpha"),
    (htr.TruncatedPowerlaw, {"alpha": 2.0, "xmax": 9.0}, "xmin"),
    (htr.Frechet, {}, "alpha"),
    (htr.Frechet, {"alpha": 2.0}, "scale"),
    (htr.MarchenkoPastur, {}, "ratio"),
    (htr.MarchenkoPastur, {"ratio": 0.5}, "variance"),
    (htr.MarchenkoPastur, {"ratio": 0.5}, "size"),
    (htr.Normal, {}, "scale"),
    (htr.Exponential, {}, "rate"),
    (htr.Gamma, {"rate": 1.0}, "concentration"),
    (htr.Gamma, {"concentration": 1.0}, "rate"),
    (htr.LogNormal, {}, "scale"),
    (htr.HalfCauchy, {}, "scale"),
]
ANY = [
    (htr.TruncatedPowerlaw, {"xmin": 1.0, "xmax": 9.0}, "alpha"),
    (htr.Frechet, {"alpha": 2.0}, "loc"),
    (htr.Normal, {}, "loc"),
    (htr.LogNormal, {}, "loc"),
]
NO_NUMBERS = [math.nan, math.inf, -math.inf, True, "2", [2.0], 1j, np.bool_(True), 10**400]
NO_NUMBERS += [torch.tensor(2.0), A]


@pytest.mark.parametrize(("law", "rest", "name"), POSITIVE + ANY)
def test_numbers(law, rest, name):
    for bad in NO_NUMBERS:
        with pytest.raises(htr.PriorError, match=f"{law.__name__} {name}"):
            law(**rest, **{name: bad})
    if (law, rest, name) in POSITIVE:
        for bad in (0, -1.0):
            with pytest.raises(htr.PriorError, match=f"{law.__name__} {name}"):
                law(**rest, **{name: bad})
    for good in (1, np.float32(1.0), np.int64(1)):
        assert law(**rest, **{name: good}) == law(**rest, **{name: 1.0})


@pytest.mark.parametrize("alpha", [1.0, 0.5, -2.0])
def test_the_exponent_of_a_density_is_greater_than_one(alpha):
    for law in (htr.Powerlaw, htr.Lomax):
        with pytest.raises(htr.PriorError, match="alpha"):
            law(alpha)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: htr.Lomax(), "either alpha or tail_index"),
        (lambda: htr.Lomax(2.0, tail_index=1.0), "either alpha or tail_index"),
        (lambda: htr.Powerlaw(xmin=1.0), "either alpha or tail_index"),
        # Hyperpriors go on the tail index, and not without a normaliser.
        (lambda: htr.Lomax(HYPER), "tail_index="),
        (lambda: htr.Powerlaw(htr.Joint(HYPER), 1.0), "tail_index="),
        (lambda: htr.Powerlaw(2.0, HYPER), "give a number"),
        (lambda: htr.ImproperPowerlaw(htr.Shared("a", HYPER)), "tail_index="),
        (lambda: htr.MarchenkoPastur(HYPER), "give a number"),
        (lambda: htr.Frechet(2.0, 1.0, HYPER), "give a number"),
        (lambda: htr.TruncatedPowerlaw(2.0, HYPER, 3.0), "give a number"),
        # Hyperpriors are proper, positive where need be, and of numbers.
        (lambda: htr.Lomax(tail_index=IMPROPER), "proper"),
        (lambda: htr.Joint(IMPROPER), "proper"),
        (lambda: htr.Shared("a", IMPROPER), "proper"),
        (lambda: htr.Lomax(tail_index=htr.Powerlaw(2.0)), "xmin"),
        (lambda: htr.Lomax(tail_index=htr.Gamma(HYPER, 1.0)), "proper"),
        (lambda: htr.Lomax(tail_index=htr.Frechet(htr.Hill())), "proper"),
        (lambda: htr.Lomax(tail_index=htr.Normal()), "positive"),
        (lambda: htr.Frechet(htr.Joint(htr.Normal())), "positive"),
        (lambda: htr.Normal(0.0, htr.Frechet(2.0, loc=-1.0)), "positive"),
        (lambda: htr.Joint(3.0), "3.0 must be a law"),
        (lambda: htr.Shared("a", A), "must be a law"),
        (lambda: htr.Shared("", HYPER), "name"),
        (lambda: htr.Shared(3, HYPER), "name"),
        # Hill estimates an exponent.
        (lambda: htr.Lomax(2.0, htr.Hill()), "Hill estimates an exponent"),
        (lambda: htr.Frechet(2.0, htr.Hill()), "Hill estimates an exponent"),
        (lambda: htr.Normal(htr.Hill()), "Hill estimates an exponent"),
        (lambda: htr.Lomax(tail_index=htr.Hill()), "Hill estimates an exponent"),
        (lambda: htr.Entries(htr.Powerlaw(htr.Hill(), 1.0)), "not of entries"),
        *[(lambda f=f: htr.Hill(f), "fraction") for f in (0, 1, -1, math.nan, "a", True)],
        (lambda: htr.Hill(differentiable=1), "differentiable=1"),
        (lambda: htr.Hill(exponent="Density"), "exponent"),
        (lambda: htr.TruncatedPowerlaw(2.0, 3.0, 3.0), "greater than xmin"),
        (lambda: htr.TruncatedPowerlaw(2.0, 3.0, 1.0), "greater than xmin"),
        (lambda: htr.MarchenkoPastur(1.1), "at most 1"),
        # Statistics.
        *[
            (lambda s=s: s(3.0), "must be a law")
            for s in (htr.ESD, htr.SingularValues, htr.MaxEigenvalue, htr.Entries, htr.StableRank)
        ],
        (lambda: htr.ESD(A), "must be a law"),
        (lambda: htr.ESD(htr.Hill()), "must be a law"),
        (lambda: htr.ESD(3.0, tail=0.5), "must be a law"),
        *[
            (lambda s=s: s(htr.Powerlaw(2.0)), "xmin")
            for s in (htr.ESD, htr.SingularValues, htr.MaxEigenvalue, htr.Entries, htr.StableRank)
        ],
        (lambda: htr.ESD(htr.Powerlaw(2.0, 1.0), tail=0.5), "xmin"),
        (lambda: htr.ESD(htr.Frechet(HYPER), tail=0.5), "Powerlaw and Lomax"),
        *[(lambda t=t: htr.ESD(htr.Lomax(2.0), tail=t), "tail") for t in (0, 1, -1, "a", True)],
        *[(lambda s=s: A.scaled(s), "strength") for s in (-1, math.nan, math.inf, "a", True)],
        *[(lambda s=s: htr.Priors(A).scaled(s), "strength") for s in (-1, math.nan, "a", True)],
        *[(lambda t=t: A.above(t), "threshold") for t in (math.nan, "a", None)],
        *[(lambda t=t: htr.Priors(A).above(t), "threshold") for t in (math.nan, "a", None)],
        (lambda: A.scheduled(0.5), "schedule=0.5"),
        (lambda: htr.Priors(A).scheduled(0.5), "schedule=0.5"),
        *[(lambda k=k: htr.PowerDecay(k), "PowerDecay k") for k in (-1, math.inf, "a")],
        *[(lambda p=p: htr.ExpDecay(1.0, p), "ExpDecay period") for p in (0, 1.5, True)],
        *[(lambda c=c: htr.ExpDecay(1.0, 1, c), "ExpDecay cutoff") for c in (-0.1, 1.0, 7)],
        *[(lambda x=x: htr.Priors(x), "Priors takes") for x in (None, 3, [A], htr.Lomax(2.0))],
        (lambda: htr.Priors({"a": htr.Lomax(2.0)}), "'a'.*no prior"),
        (lambda: htr.Priors({3: A}), "pattern 3"),
        (lambda: htr.Priors({"": A}), "pattern ''"),
    ],
)
def test_what_does_not_go_together(make, said):
    with pytest.raises(htr.PriorError, match=said):
        make()


def test_priors_are_multiplied_with_priors_alone():
    for other in (3, htr.Lomax(2.0), htr.Priors(A)):
        with pytest.raises(TypeError):
            A & other


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("lomax", r"only bayes-htr fit --prior takes names.*as in ESD\(Lomax\(2\.5, 0\.05\)\)"),
        ("Weight_Decay", r"as in Entries\(Normal\(0\.0, 1\.0\)\)"),
        (htr.Lomax(2.0), r"a law; wrap it in ESD\(\.\.\.\), as in ESD\(Lomax\(2\.0\)\)"),
        (3, r"not 3, such as ESD\(Lomax"),
        ({"w": htr.Frechet(2.0, 1.0)}, r"'w': .*wrap it in ESD.*None is a flat prior"),
        ({"w": "lomax"}, r"'w': 'lomax' is no prior; only bayes-htr fit"),
    ],
    ids=repr,
)
def test_what_is_no_prior_says_what_to_write(given, message):
    with pytest.raises(htr.PriorError, match=message):
        htr.Priors(given)
