import json
import math

import pytest

import bayes_htr as htr
from bayes_htr.posterior.scores import Score
from bayes_htr.tuning.search import (
    Bracket,
    Journal,
    Listed,
    Trial,
    best_of,
    failed,
    is_behind,
    merged,
    run_search,
    smoothed_minimum,
)


def finished(strength, value, **more):
    return Trial(strength, "finished", Score(value, 0.01), {"brier": value}, (value,), **more)


def searched(search, function, count=5, **more):
    def attempt(strength, gives_up):
        return finished(strength, function(strength))

    return run_search(search, attempt, Journal(None, {}), count, **more)


def bowl(best, steep=1.0):
    return lambda s: steep * math.log10(s / best) ** 2


@pytest.mark.parametrize("best", [0.11, 0.3, 1.0, 3.0, 9.0, 30.0])
def test_a_bracket_finds_the_minimum_within_a_factor_of_two(best):
    trials = searched(Bracket(1.0), bowl(best), 7)
    found = min(trials, key=lambda t: t.order).strength
    assert max(found / best, best / found) < 2
    assert len({t.strength for t in trials}) == len(trials)


def test_a_bracket_of_five_trials():
    strengths = [t.strength for t in searched(Bracket(2.0), bowl(2.5))]
    assert strengths == pytest.approx([2.0, 6.32, 0.632, 3.56, 1.12], rel=0.01)
    strengths = [t.strength for t in searched(Bracket(1.0), bowl(20.0))]
    assert strengths == pytest.approx([1.0, 3.16, 10.0, 31.6, 100.0], rel=0.01)


def test_a_bracket_ends_where_all_neighbours_have_been_tried():
    assert len(searched(Bracket(1.0), bowl(1.0), 100)) == 5


def test_a_bracket_leaves_strengths_that_fail():
    def attempt(strength, gives_up):
        if strength > 0.05:
            return failed(strength, htr.DivergenceError("the loss is nan"))
        return finished(strength, bowl(0.01)(strength))

    trials = run_search(Bracket(10.0), attempt, Journal(None, {}), 5)
    assert [t.outcome for t in trials][:3] == ["failed"] * 3
    assert trials[3].outcome == "finished"
    assert trials[3].strength == pytest.approx(0.01)


def test_if_all_trials_fail_the_error_names_them():
    def attempt(strength, gives_up):
        return failed(strength, htr.DivergenceError("the loss is nan"))

    with pytest.raises(htr.DivergenceError, match=r"10: the loss is nan; 1: .* smaller start="):
        run_search(Bracket(10.0), attempt, Journal(None, {}), 2)


def test_a_list_is_tried_in_order():
    assert [t.strength for t in searched(Listed((3.0, 1.0, 2.0)), bowl(1.0))] == [3.0, 1.0, 2.0]


def test_a_trial_is_behind_where_the_best_one_was_clearly_better():
    rival = finished(1.0, 0.2, curve={2: Score(0.3, 0.003), 4: Score(0.25, 0.003)})
    worse = finished(2.0, 0.4, curve={2: Score(0.5, 0.003)})
    margin = 3 * math.hypot(0.003, 0.004)
    assert is_behind([worse, rival], 2, Score(0.3 + 1.01 * margin, 0.004))
    assert not is_behind([worse, rival], 2, Score(0.3 + 0.99 * margin, 0.004))
    assert not is_behind([worse, rival], 3, Score(9.0, 0.004))
    assert not is_behind([], 2, Score(9.0, 0.004))
    assert is_behind([rival], 2, Score(math.nan, math.nan))
    assert Bracket(1.0).gives_up([rival], 2, Score(0.5, 0.004))
    assert not Bracket(1.0, prune=False).gives_up([rival], 2, Score(0.5, 0.004))


def test_a_pruned_trial_is_not_chosen_although_its_score_is_lower():
    trials = [finished(1.0, 0.3), Trial(2.0, "pruned", Score(0.1, 0.01))]
    assert min(trials, key=lambda t: t.order).strength == 1.0


def test_scores_of_several_seeds():
    fits = [finished(2.0, value, epochs=3, seconds=1.5) for value in (0.1, 0.2, 0.6)]
    trial = merged(fits)
    assert trial.score.value == pytest.approx(0.3)
    assert trial.score.error == pytest.approx(math.sqrt(0.07) / math.sqrt(3))
    assert trial.by_seed == (0.1, 0.2, 0.6)
    assert (trial.epochs, trial.seconds) == (9, 4.5)
    assert merged(fits[:1]).score == fits[0].score
    lost = failed(2.0, htr.SpectrumError("fc1 is not finite"), epochs=1)
    trial = merged([fits[0], lost])
    assert (trial.outcome, trial.by_seed, trial.epochs) == ("failed", (0.1,), 4)
    assert trial.message == "fc1 is not finite"


def test_trials_are_plain_data_and_back():
    trials = [
        finished(1.0, 0.1, curve={3: Score(0.2, math.nan)}, epochs=4),
        failed(2.0, htr.DivergenceError("no")),
    ]
    text = json.dumps([t.to_dict() for t in trials], allow_nan=False)
    again = [Trial.from_dict(t) for t in json.loads(text)]
    assert repr(again) == repr(trials)


def test_an_interrupted_search_goes_on_to_the_same_end(tmp_path):
    settings = {"epochs": 3}
    whole = searched(Bracket(1.0), bowl(4.0))
    calls = []

    def attempt(strength, gives_up):
        calls.append(strength)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return finished(strength, bowl(4.0)(strength))

    with pytest.raises(KeyboardInterrupt):
        run_search(Bracket(1.0), attempt, Journal(tmp_path, settings), 5)
    assert [p.name for p in tmp_path.iterdir()] == ["tuning.json"]
    journal = Journal(tmp_path, settings, resume=True)
    assert len(journal.trials) == 2
    again = run_search(Bracket(1.0), attempt, journal, 5)
    assert [t.strength for t in again] == [t.strength for t in whole]
    assert len(calls) == 6  # five trials, one of them twice
    assert Journal(tmp_path, settings, resume=True).trials == again


def test_trials_of_other_settings_are_refused(tmp_path):
    Journal(tmp_path, {"epochs": 3, "seeds": [0]}).add(finished(1.0, 0.1))
    with pytest.raises(htr.CheckpointError, match=r"epochs=3, and this call has epochs=4"):
        Journal(tmp_path, {"epochs": 4, "seeds": [0]}, resume=True)
    journal = Journal(tmp_path, {"epochs": 3, "seeds": [0]}, resume=True)
    with pytest.raises(htr.CheckpointError, match=r"strength 1, and this search would try 5"):
        run_search(Bracket(5.0), lambda s, g: finished(s, 0.1), journal, 5)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1, "settings": {}, "trials": [{}]}', "\0"],
)
def test_foreign_files_are_refused(tmp_path, content):
    (tmp_path / "tuning.json").write_text(content)
    with pytest.raises(htr.CheckpointError, match=r"tuning.json does not hold the trials"):
        Journal(tmp_path, {}, resume=True)


def test_a_smooth_curve_is_not_led_astray_by_a_lucky_fit():
    """Scores on a parabola around 10, one of which is too good by chance."""
    strengths = (1.0, 3.0, 10.0, 30.0, 100.0)
    exact = [finished(s, 0.2 + 0.01 * math.log(s / 10) ** 2) for s in strengths]
    assert smoothed_minimum(exact) == pytest.approx(10, rel=0.1)
    lucky = [*exact[:3], finished(30.0, exact[2].score.value - 0.0001), exact[4]]
    assert best_of(lucky).strength == 30.0
    assert 10 < smoothed_minimum(lucky) < 25
    assert Bracket(10.0).choose(lucky) == smoothed_minimum(lucky)
    assert Listed(strengths).choose(lucky) == 30.0


def test_a_curve_has_pruned_trials_and_cuts_off_what_is_far_above():
    curve = {1: Score(0.5, 0.01), 3: Score(0.2, 0.01)}
    good = [finished(10.0, 0.2, curve=curve), finished(1.0, 0.26), finished(3.0, 0.21)]
    pruned = Trial(30.0, "pruned", Score(0.52, 0.01), curve={1: Score(0.52, 0.01)})
    lost = Trial(300.0, "failed", Score(math.inf, math.nan))
    with_pruned = smoothed_minimum([*good, pruned, lost])
    equivalent = [*good, finished(30.0, 0.22)]
    assert with_pruned == smoothed_minimum(equivalent)
    assert 3 < with_pruned < 30
    far = [*good, finished(30.0, 0.3)]
    farther = [*good, finished(30.0, 9.0)]
    assert smoothed_minimum(far) == smoothed_minimum(farther)


def test_where_brier_scores_are_alike_the_nll_decides():
    """A strength that is too small, with a lucky Brier score, has a much worse NLL."""

    def trial(strength, brier, nll):
        return Trial(strength, "finished", Score(brier, 0.012), {"brier": brier, "nll": nll})

    scores = {13.0: (0.142, 0.38), 41.0: (0.1365, 0.35), 73.0: (0.1388, 0.32)}
    scores |= {130.0: (0.1375, 0.30), 411.0: (0.15, 0.34)}
    trials = [trial(strength, *both) for strength, both in scores.items()]
    by_brier = [finished(strength, brier) for strength, (brier, _) in scores.items()]
    assert smoothed_minimum(by_brier) < 45
    assert 90 < smoothed_minimum(trials) < 150


def test_two_trials_have_no_curve():
    assert smoothed_minimum([finished(1.0, 0.3), finished(3.0, 0.2)]) == 3.0
