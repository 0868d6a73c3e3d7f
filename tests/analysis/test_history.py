"""Recording of spectra during fits and training loops, and what is made of the records."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bayes_htr as htr
from bayes_htr.analysis.recording import next_log_step
from tests.analysis.history_cases import DATA, diverged, fit_with, make_model, make_network


def test_log_steps():
    steps = [-1]
    while steps[-1] < 100:
        steps.append(next_log_step(steps[-1], 8))
    assert steps[1:] == [0, 1, 2, 3, 4, 6, 7, 10, 13, 18, 24, 32, 42, 56, 75, 100]


def test_fit_records_the_start_due_steps_and_the_end():
    history = htr.SpectrumHistory()
    posterior = fit_with(history)
    assert history.steps == [0, 1, 2, 3, 4, 6, 7, 10, 13, 18, 24]
    assert history.epochs == [step / 6 for step in history.steps]
    start = htr.spectrum(make_network()[0].weight)
    torch.testing.assert_close(history["0.weight"][0], start)
    torch.testing.assert_close(history["0.weight"][-1], posterior.spectra()["0.weight"][0])
    assert fit_with(htr.SpectrumHistory()).evaluate(DATA) == posterior.evaluate(DATA)
    plain = htr.fit(
        make_model(), DATA, method=htr.MAP(scheduler=None), epochs=4, batch_size=10
    ).network()
    for a, b in zip(plain.parameters(), posterior.network().parameters(), strict=True):
        assert a.equal(b)
    with pytest.raises(ValueError, match="holds another run"):
        fit_with(history)


def test_svi_shows_the_centre_and_trains_as_without():
    prior = htr.Entries(htr.Normal(0.0, 1.0))
    history = htr.SpectrumHistory("2.*")
    posterior = fit_with(history, method=htr.SVI(guide="meanfield"), prior=prior)
    assert list(history) == ["2.weight"]
    centre = htr.spectrum(posterior.network()[2].weight)
    torch.testing.assert_close(history["2.weight"][-1], centre)
    assert not history["2.weight"][3].equal(history["2.weight"][4])
    method = htr.SVI(guide="meanfield")
    plain = htr.fit(make_model(prior), DATA, method=method, epochs=4, batch_size=10)
    for a, b in zip(plain.network().parameters(), posterior.network().parameters(), strict=True):
        assert a.equal(b)


def test_a_resumed_run_goes_on(tmp_path):
    file, out = tmp_path / "history.safetensors", tmp_path / "run"
    first = htr.SpectrumHistory(path=file)
    fit_with(first, epochs=2, out=out)
    assert first.steps == [0, 1, 2, 3, 4, 6, 7, 10, 12]  # the end is not due otherwise
    first.record(make_network(), 15)  # beyond the checkpoint
    again = htr.SpectrumHistory.load(file)
    fit_with(again, epochs=4, out=out, resume=True)
    assert again.steps == [0, 1, 2, 3, 4, 6, 7, 10, 12, 13, 18, 24]
    whole = htr.SpectrumHistory()
    fit_with(whole)
    assert again["0.weight"][-1].equal(whole["0.weight"][-1])


def test_own_loop():
    net, history = make_network(), htr.SpectrumHistory()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(net(DATA[0]), DATA[1]).backward()
            optimizer.step()

    with history.watch(net, optimizer):
        train(5)
    train(3)  # outside
    assert history.steps == [0, 1, 2, 3, 4, 5]
    with history.watch(net, optimizer):
        train(3)
    assert history.steps == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    torch.testing.assert_close(history["2.weight"][-1], htr.spectrum(net[2].weight))
    with pytest.raises(ValueError, match="step=8 is not after the last record, 8"):
        history.record(net, 8)
    with pytest.raises(ValueError, match="another network"):
        history.record(nn.Linear(4, 6), 9)
    with pytest.raises(ValueError, match=r"there are 0.weight, 2.weight"):
        htr.SpectrumHistory("fc*").record(net, 0)
    with torch.no_grad():
        net[0].weight[0, 0] = torch.nan
    with pytest.warns(UserWarning, match=r"at step 9 the spectrum of 0\.weight is not finite"):
        history.record(net, 9)
    assert len(history["2.weight"]) == len(history.steps) == 10
    assert history["0.weight"][9].isnan().all() and history["2.weight"].isfinite().all()
    assert history.not_finite("0.weight") == [9] and history.not_finite("2.weight") == []


# Runs that diverge


@pytest.mark.filterwarnings("ignore:at step")
def test_a_run_that_diverges_keeps_its_record(tmp_path):
    file = tmp_path / "history.safetensors"
    history = diverged(file)
    lam = history["0.weight"][:, 0]
    finite = lam.isfinite()
    assert history.steps[-1] == 60 and not finite[-1]
    assert float(lam[finite][-1]) > 1e60, "squares have more room than float32"
    growth = lam[1:3] / lam[:2]
    assert growth.tolist() == pytest.approx([100.0, 100.0], rel=1e-5)
    lost = [step for step, kept in zip(history.steps, finite.tolist(), strict=True) if not kept]
    assert history.not_finite("0.weight") == lost
    again = htr.SpectrumHistory.load(file)
    torch.testing.assert_close(
        again["0.weight"], history["0.weight"], equal_nan=True, rtol=0, atol=0
    )
    assert again["2.weight"].dtype == torch.float32, "which has room for this matrix"
    assert again.not_finite("0.weight") == lost
    again.record(make_network(), 70)
    alpha = again.trace("0.weight", "alpha").values
    assert len(alpha) == len(again.steps)
    assert "0.weight:lambda_max" not in again.rows()[-2]
    assert not again.rows()[-1]["0.weight:lambda_max"] > 1e9


def test_fit_with_a_large_learning_rate_keeps_its_record(tmp_path):
    file = tmp_path / "history.safetensors"
    history = htr.SpectrumHistory(path=file)
    with contextlib.suppress(htr.DivergenceError):
        fit_with(history, method=htr.MAP(lr=1e25, scheduler=None), epochs=3)
    assert float(history["2.weight"][-1, 0]) > 1e40
    assert htr.SpectrumHistory.load(file).steps == history.steps != []


def test_tiny_weights_keep_their_eigenvalues():
    history, net = htr.SpectrumHistory(), make_network()
    expected = htr.spectrum(net[0].weight.detach().double() * 1e-30)
    net[0].weight.data *= 1e-30
    history.record(net, 0)
    torch.testing.assert_close(history["0.weight"][0], expected, rtol=1e-5, atol=0)
    net[0].weight.data.zero_()
    history.record(net, 1)
    assert history["0.weight"][1].eq(0).all() and history.not_finite("0.weight") == []


def test_weights_that_recover_are_warned_of_twice():
    history, net = htr.SpectrumHistory(), make_network()
    for step, value in enumerate([1.0, torch.inf, torch.inf, 1.0, -torch.inf]):
        net[0].weight.data[0, 0] = value
        if step in (1, 4):
            with pytest.warns(UserWarning, match=f"at step {step} "):
                history.record(net, step)
        else:
            history.record(net, step)
    assert history.not_finite("0.weight") == [1, 2, 4]


def test_traces_and_rows():
    history = htr.SpectrumHistory()
    net = nn.Linear(60, 40, bias=False)
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        net.weight.data = torch.eye(40, 60) * torch.rand(60, generator=generator) ** -0.3
        history.record(net, step, epoch=step / 6)
    lam = history["weight"].double()
    found = history.trace("weight", "alpha", level=0.9)
    fits = [htr.fit_powerlaw(row, level=0.9) for row in lam]
    np.testing.assert_allclose(found.values, [f.alpha for f in fits], rtol=1e-9)
    np.testing.assert_allclose(found.interval, [f.interval for f in fits], rtol=1e-9)
    one = history.at(5).alpha("weight", 0.9)
    assert found.interval[5] == pytest.approx([one.low, one.high])
    rows = history.rows()
    assert rows[1]["weight:lambda_max"] == pytest.approx(float(lam[1, 0]))
    assert rows[1]["epoch"] == 1 / 6
    flat = htr.SpectrumHistory()
    flat.record(nn.Linear(1, 3), 0)
    assert math.isnan(flat.trace("weight", "alpha").values[0])
    assert "weight:alpha" not in flat.rows()[0]
    with pytest.raises(ValueError, match="quantity='rank'"):
        history.trace("weight", "rank")


def test_layouts_say_which_axes_form_matrices(tmp_path):
    net = nn.Sequential(nn.LSTM(6, 5))
    layouts = {"*.weight_hh_l0": {"parts": "ifgo"}}
    history = htr.SpectrumHistory(["*_hh_l0[f]", "*_hh_l0[o]"], layouts=layouts)
    history.record(net, 0)
    forget = net[0].weight_hh_l0[5:10]
    assert list(history) == ["0.weight_hh_l0[f]", "0.weight_hh_l0[o]"]
    torch.testing.assert_close(history["0.weight_hh_l0[f]"][0], htr.spectrum(forget))
    history.save(tmp_path / "history.safetensors")
    loaded = htr.SpectrumHistory.load(tmp_path / "history.safetensors")
    loaded.record(net, 1)
    assert list(loaded) == list(history) and loaded.steps == [0, 1]
    with pytest.raises(ValueError, match="mapping from patterns to layouts"):
        htr.SpectrumHistory(layouts="qkv")
