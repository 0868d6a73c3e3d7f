"""Values of every kind: laws, priors, hyperparameters, schedules."""

from __future__ import annotations

import bayes_htr as htr

LAWS = [
    htr.Powerlaw(2.0, 1e-3),
    htr.Powerlaw(htr.Hill(0.3, exponent="tail"), 1.0),
    htr.Powerlaw(tail_index=htr.Gamma(9.0, 3.0), xmin=1e-3),
    htr.ImproperPowerlaw(2.5),
    htr.ImproperPowerlaw(htr.Hill(differentiable=True)),
    htr.Lomax(2.0),
    htr.Lomax(2.0, 0.5),
    htr.Lomax(scale=htr.HalfCauchy(), tail_index=htr.Joint(htr.Gamma(2.0, 1.0))),
    htr.TruncatedPowerlaw(-1.5, 0.5, 2.0),
    htr.TruncatedPowerlaw(htr.Normal(1.0, 2.0), 0.5, 2.0),
    htr.Frechet(2.0),
    htr.Frechet(htr.Shared("a.b 'c'", htr.LogNormal(0.1, 0.2)), htr.Exponential(2.0), -1.0),
    htr.MarchenkoPastur(0.5, 2.0, 100.0),
    htr.Normal(),
    htr.Normal(1.0),
    htr.Normal(scale=3.0),
    htr.Normal(htr.Frechet(2.0, loc=-1.0), htr.Gamma(1.0, 2.0)),
    htr.Exponential(),
    htr.Gamma(1.0, 2.0),
    htr.LogNormal(scale=2.0),
    htr.HalfCauchy(3.0),
]
SCHEDULES = [htr.PowerDecay(), htr.PowerDecay(2.0, 5, 0.1), htr.ExpDecay(k=0.5, cutoff=0.01)]
A, B, C = htr.ESD(htr.Lomax(2.0)), htr.Entries(htr.Normal()), htr.StableRank(htr.Exponential())
PRIORS = [
    A,
    B,
    C,
    htr.ESD(htr.Powerlaw(2.0), tail=0.3),
    htr.SingularValues(htr.Exponential(2.0)),
    htr.MaxEigenvalue(htr.Frechet(2.0)),
    A & B & C,
    A.scaled(2.0) & B.above(-3.5),
    (A & B).scaled(2.0).scheduled(SCHEDULES[1]).above(1.0).scaled(0.5),
]
WHOLE = [
    htr.Priors({}),
    htr.Priors(A & B),
    htr.Priors({"b.*": A.scaled(2.0), "a 'x'[0-9]": B & C, "*": A}).scaled(80.0),
    htr.Priors(A).scheduled(SCHEDULES[0]).scheduled(SCHEDULES[2]).above(4.0).scaled(3.0),
]
OTHERS = [htr.Hill(), htr.Hill(0.25, True, "tail"), htr.Joint(B.law), htr.Shared("x", B.law)]
OTHERS += [*SCHEDULES, htr.Exact(), htr.Every(5), htr.Drift(0.2, 8)]
OTHERS += [htr.Categorical(), htr.Categorical((1.0, 2.0), 0.1, ignore_index=-100), htr.Bernoulli()]
