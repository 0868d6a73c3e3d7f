import pytest

from bayes_htr.posterior.scores import Score
from bayes_htr.tuning.optuna_search import OptunaSearch, new_study
from bayes_htr.tuning.search import Trial


def test_optuna_prunes_and_notes_failures():
    optuna = pytest.importorskip("optuna")
    search = new_study(1.0, 0, True)
    assert isinstance(search.study.pruner, optuna.pruners.SuccessiveHalvingPruner)
    assert isinstance(new_study(1.0, 0, False).study.pruner, optuna.pruners.NopPruner)
    pruner = optuna.pruners.ThresholdPruner(upper=0.5)
    study = optuna.create_study(pruner=pruner)
    search = OptunaSearch(study, 0.01, 100.0, 1.0)
    ended = []
    for score in (0.4, 0.6, float("nan")):
        strength = search.propose(ended)
        pruned = search.gives_up(ended, 1, Score(score, 0.1))
        assert pruned == (score != 0.4)
        outcome = {0.4: "finished", 0.6: "pruned"}.get(score, "failed")
        ended.append(Trial(strength, outcome, Score(score, 0.1)))
        search.tell(ended[-1])
    assert [t.state.name for t in study.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert ended[0].strength == 1.0
