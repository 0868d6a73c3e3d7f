"""Recording of spectra during fits and training loops, and what is made of the records."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bayes_htr as htr
from bayes_htr.analysis.history import next_log_step
from tests.analysis.history_cases import DATA, fit_with, make_model, make_network


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
    with pytest.raises(htr.SpectrumError, match=r"0\.weight holds 1 entries"):
        history.record(net, 9)
    assert len(history["2.weight"]) == len(history.steps) == 9


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
