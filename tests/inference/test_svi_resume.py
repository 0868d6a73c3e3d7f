"""Runs of SVI that are interrupted go on exactly."""

from __future__ import annotations

import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import bayes_htr as htr
from bayes_htr.errors import CheckpointError
from bayes_htr.inference import RunFolder

NORMAL = htr.Priors({"*": htr.Entries(htr.Normal(0.0, 0.5))})
GAMMA = htr.Priors(htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))))
SCALE = htr.Priors({"*": htr.Entries(htr.Normal(0.0, htr.LogNormal(0.0, 0.5)))})
TOP = htr.Priors(
    htr.MaxEigenvalue(htr.Frechet(2.0, htr.LogNormal(0.0, 0.5))) & htr.ESD(htr.Lomax(2.0))
)
HEAVY = htr.Priors(htr.ESD(htr.Lomax(6.0)))
ENDING = htr.Priors(
    htr.ESD(htr.Lomax(6.0)) & htr.ESD(htr.Lomax(6.0)).scheduled(htr.ExpDecay(1.0, 1, cutoff=0.5))
)
MEANFIELD = {"guide": "meanfield"}
CASES = {
    "spectral": (GAMMA, {"refresh": htr.Drift(0.01)}),
    "spectral, exact": (TOP, {"refresh": htr.Exact(), "directions": 2}),
    "spectral, full gradient": (GAMMA, {"full_gradient": True, "directions": 2}),
    "spectral, schedule": (HEAVY.scheduled(htr.PowerDecay(1.0, period=1, cutoff=0.3)), {}),
    "spectral, a factor that ends": (ENDING, {"refresh": htr.Every(100)}),
    "spectral, patience": (GAMMA, {"refresh": htr.Every(3), "patience": 3, "lr": 0.5}),
    "meanfield": (NORMAL, MEANFIELD),
    "hyperparameters": (GAMMA, MEANFIELD),
    "lowrank": (SCALE, {"guide": "lowrank", "particles": 2}),
    "pyro": (SCALE, {"guide": AutoNormal}),
    "warm-up": (NORMAL, {"kl_warmup": 4, **MEANFIELD}),
    "schedule": (NORMAL.scheduled(htr.PowerDecay(1.0, period=1)), MEANFIELD),
    "patience": (NORMAL, {"patience": 3, "lr": 0.5, **MEANFIELD}),
}


@pytest.mark.parametrize("name", CASES)
def test_resume_is_exact(make_model, data, validation, tmp_path, same_weights, name):
    priors, options = CASES[name]
    method = htr.SVI(**{"lr": 0.02, **options})

    def run(out, **more):
        return htr.fit(
            make_model(priors, "dropout"),
            data,
            method=method,
            epochs=6,
            batch_size=16,
            validation=validation,
            seed=5,
            out=tmp_path / out,
            **more,
        )

    whole = run("whole")
    run("parts", callbacks=[lambda event: event.epoch == 2])
    parts = run("parts", resume=True)
    same_weights(whole, parts)
    for a, b in zip(whole.history, parts.history, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        }
    first, second = (RunFolder(tmp_path / out).checkpoint()["guide"] for out in ("whole", "parts"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("patience", [None, 2])
def test_what_is_loaded_has_the_priors_of_its_epoch(
    make_model, data, validation, tmp_path, patience
):
    """A prior that a schedule has ended is not in force again, nor one that early stopping saw."""
    priors = HEAVY.scheduled(htr.PowerDecay(1.0, period=1, cutoff=0.4))
    x, y = validation
    fitted = htr.fit(
        make_model(priors),
        data,
        method=htr.SVI(lr=0.05, patience=patience),
        epochs=4,
        validation=(x, (y + 1) % 3),  # so that training makes it worse
        out=tmp_path / "run",
    )
    best = 4 if patience is None else 1
    assert fitted.guide.epoch == best - 1
    assert bool(fitted.guide.spectra()) == (best < 4)
    loaded = htr.load(tmp_path / "run", make_model(priors).net)
    a, b = (p.guide.draw(torch.Generator().manual_seed(0)) for p in (fitted, loaded))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_another_guide_is_another_run(make_model, data, tmp_path):
    for guide in ("meanfield", "lowrank"):
        method = htr.SVI(guide=guide)
        if guide == "meanfield":
            htr.fit(make_model(NORMAL), data, method=method, epochs=1, out=tmp_path / "run")
            continue
        with pytest.raises(CheckpointError, match=r"method\.guide"):
            htr.fit(
                make_model(NORMAL), data, method=method, epochs=2, out=tmp_path / "run", resume=True
            )
