"""Alarms of a spectrum history."""

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.analysis.alarms import alarms_of
from tests.analysis.cases import gaussian, pareto
from tests.analysis.history_cases import DATA, make_model


def alarms(W, name="w"):
    return alarms_of(name, W, htr.spectrum(W), 7)


def test_what_calls_for_a_look():
    (heavy,) = [alarm for alarm in alarms(pareto(200, 0.5, 0)) if alarm.kind == "alpha"]
    fit = htr.tails.fit_tail(htr.spectrum(pareto(200, 0.5, 0)).numpy()).fit
    assert heavy.value == fit.alpha < 2 and (heavy.step, heavy.matrix) == (7, "w")
    assert str(heavy).startswith("step 7, w: alpha is 1.")
    spiked = gaussian(120, 100)
    spiked[3, 4] = 30.0
    (trap,) = alarms(spiked)
    assert (trap.kind, trap.value) == ("traps", 1)
    lost = gaussian(20, 20)
    lost[:2, 0] = torch.nan
    (lost,) = alarms_of("w", lost, torch.full((20,), torch.nan), 3)
    assert (lost.kind, lost.value) == ("not finite", 2) and "2 entries" in str(lost)


def test_ordinary_matrices_give_no_alarm():
    assert alarms(gaussian(200, 100)) == []
    assert alarms(pareto(200, 3.0, 0)) == []
    assert alarms(torch.zeros(30, 30)) == []
    assert alarms(torch.eye(30)) == []
    assert alarms(gaussian(8, 3, seed=1)) == []


@pytest.mark.filterwarnings("ignore:at step")
def test_an_alarm_is_told_when_it_begins_and_once_more_after_it_ended():
    seen = []
    history = htr.SpectrumHistory(on_alarm=seen.append)
    net = nn.Linear(100, 100, bias=False)
    states = {"good": gaussian(100, 100).float(), "bad": pareto(100, 0.4, 1).float()}
    for step, kind in enumerate(["good", "bad", "bad", "good", "bad"]):
        net.weight.data = states[kind].clone()
        history.record(net, step)
    assert [alarm.step for alarm in seen if alarm.kind == "alpha"] == [1, 4]
    net.weight.data[0, 0] = torch.nan
    history.record(net, 9)
    assert (seen[-1].kind, seen[-1].matrix) == ("not finite", "weight")


@pytest.mark.filterwarnings("ignore:at step")
@pytest.mark.parametrize("answer", [True, None])
def test_a_callback_may_end_a_fit(answer):
    model = make_model()
    seen = []

    def look(alarm):
        seen.append(alarm)
        return answer

    history = htr.SpectrumHistory(on_alarm=look)
    original = history._alarms.look

    def with_one_alarm(weights, spectra, step, call):
        original(weights, spectra, step, call)
        if step == 3:
            lam = torch.full((4,), torch.nan)
            original({"x": torch.full((4, 4), torch.nan)}, {"x": lam}, step, call)

    history._alarms.look = with_one_alarm
    method = htr.MAP(scheduler=None)
    htr.fit(model, DATA, method=method, epochs=4, batch_size=10, callbacks=[history])
    assert [alarm.step for alarm in seen] == [3]
    assert history.steps[-1] == (6 if answer else 24)
