"""Label smoothing in every method, in saved runs, and in scores that know nothing of it."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from pyro.infer.autoguide import AutoNormal
from torch.optim import SGD

import bayes_htr as htr
from bayes_htr.inference import Batches, Problem, nuts

WEIGHTS = [0.5, 1.0, 3.0]
NORMAL = htr.Priors({"*": htr.Entries(htr.Normal(0.0, 0.5))})
BOTH = pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "class weights"])


def smoothed(logits, y, weights, eps=0.2):
    """By soft labels."""
    q = (1 - eps) * F.one_hot(y, 3) + eps / 3
    w = torch.tensor(weights or [1.0, 1.0, 1.0])[y]
    return (w * F.cross_entropy(logits, q.to(logits), reduction="none")).mean()


@BOTH
def test_map_step(make_model, data, weights):
    model = make_model(class_weights=weights, label_smoothing=0.2)
    method = htr.MAP(lr=0.1, optimizer=SGD, scheduler=None)
    posterior = htr.fit(model, data, method=method, epochs=1, batch_size=50)
    net = copy.deepcopy(model.net)
    loss = smoothed(net(data[0]), data[1], weights)
    loss.backward()
    for name, p in net.named_parameters():
        found = posterior.network().get_parameter(name).detach()
        torch.testing.assert_close(found, p.detach() - 0.1 * p.grad)
    assert posterior.history[0]["train_nll"] == pytest.approx(loss.item(), rel=1e-6)


@BOTH
@pytest.mark.parametrize("guide", ["spectral", "meanfield", AutoNormal])
def test_svi_step(make_model, data, weights, guide):
    """Where draws are all but the weights themselves, the loss is the smoothed one."""
    model = make_model(NORMAL, class_weights=weights, label_smoothing=0.2)
    method = htr.SVI(guide=guide, lr=1e-30, init_scale=1e-6)
    posterior = htr.fit(model, data, method=method, epochs=1, batch_size=16)
    expected = smoothed(model.net(data[0]), data[1], weights).item()
    assert posterior.history[0]["train_nll"] == pytest.approx(expected, rel=1e-4)


@BOTH
def test_density_of_nuts(make_model, data, weights):
    model = make_model(NORMAL, class_weights=weights, label_smoothing=0.2)
    problem = Problem(
        model=model,
        net=copy.deepcopy(model.net),
        train=Batches(data, batch_size=50, seed=0),
        validation=None,
        epochs=0,
        seed=0,
    )
    found = nuts.NUTSSampler(htr.NUTS(), problem).log_density_at_start()
    law = torch.distributions.Normal(0.0, 0.5)
    prior = sum(float(law.log_prob(p.detach()).sum()) for p in model.net.parameters())
    expected = prior - 50 * smoothed(model.net(data[0]), data[1], weights).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_scores_are_not_smoothed(make_model, data, validation):
    """At weights that do not move, validation and evaluation are those of the plain model."""
    given = {"method": htr.MAP(lr=1e-30), "epochs": 1, "validation": validation}
    plain, smooth = (htr.fit(make_model(label_smoothing=eps), data, **given) for eps in (0.0, 0.5))
    assert smooth.history[0]["train_nll"] != plain.history[0]["train_nll"]
    for key in ("val_nll", "val_accuracy"):
        assert smooth.history[0][key] == plain.history[0][key]
    assert smooth.evaluate(validation) == plain.evaluate(validation)


@pytest.mark.parametrize("method", [htr.MAP(), htr.SVI(guide=AutoNormal)], ids=["map", "svi"])
def test_saved_runs_keep_it_and_resume_with_no_other(make_model, data, tmp_path, method):
    out = tmp_path / "run"

    def run(eps, epochs=1, **more):
        model = make_model(NORMAL, label_smoothing=eps)
        return htr.fit(model, data, method=method, epochs=epochs, out=out, **more)

    posterior = run(0.2)
    loaded = htr.load(out, make_model().net)
    assert posterior.config["label_smoothing"] == loaded.config["label_smoothing"] == 0.2
    assert torch.equal(loaded.predict(data[0]).probs, posterior.predict(data[0]).probs)
    for eps in (0.0, 0.1):
        with pytest.raises(htr.CheckpointError, match=f"label_smoothing is 0.2, and this .* {eps}"):
            run(eps, epochs=2, resume=True)
    assert len(run(0.2, epochs=2, resume=True).history) == 2


@pytest.mark.parametrize("method", [htr.MAP(), htr.SVI(guide=AutoNormal)], ids=["map", "svi"])
def test_runs_from_before_had_none(make_model, data, tmp_path, method):
    """A configuration that does not name it loads, and goes on without smoothing only."""
    out = tmp_path / "run"

    def run(eps=0.0, **more):
        model = make_model(NORMAL, label_smoothing=eps)
        return htr.fit(model, data, method=method, out=out, **more)

    posterior = run(epochs=1)
    config = json.loads((out / "config.json").read_text())
    assert config.pop("label_smoothing") == 0.0
    (out / "config.json").write_text(json.dumps(config))
    (out / "digests.json").unlink()
    loaded = htr.load(out, make_model().net)
    assert torch.equal(loaded.predict(data[0]).probs, posterior.predict(data[0]).probs)
    with pytest.raises(htr.CheckpointError, match=r"label_smoothing is 0.0, and this one's 0.1"):
        run(0.1, epochs=2, resume=True)
    assert len(run(epochs=2, resume=True).history) == 2
