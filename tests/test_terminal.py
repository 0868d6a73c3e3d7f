from __future__ import annotations

import argparse

import pytest

from bayes_htr._terminal import (
    AnalysisProgress,
    HelpFormatter,
    TrainingProgress,
    count,
    hidden_bars,
    positive,
    visible,
)

METRICS = {"loss": 0.5, "train_accuracy": 0.75}


def test_help_states_the_defaults_of_options_that_are_on():
    parser = argparse.ArgumentParser(formatter_class=HelpFormatter)
    parser.add_argument("--epochs", default=20, help="how many")
    parser.add_argument("--resume", action="store_true", help="go on")
    parser.add_argument("--out", help="where")
    text = parser.format_help()
    assert "how many (default: 20)" in text
    assert text.count("default:") == 1


@pytest.mark.parametrize(("parse", "least"), [(positive, 1), (count, 0)])
def test_whole_numbers(parse, least):
    assert [parse(str(least)), parse("12")] == [least, 12]
    for text in (str(least - 1), "1.5", "many", ""):
        with pytest.raises(argparse.ArgumentTypeError, match=f"{text!r}: give .* from {least} on"):
            parse(text)


def test_text_that_a_terminal_would_obey_is_escaped():
    assert visible("a\x1b[31mb\u202ec\n") == r"a\x1b[31mb\u202ec\n"
    assert visible("fc1.weight ß λ") == "fc1.weight ß λ"


@pytest.mark.parametrize("show", [True, False])
def test_bars_stand_on_standard_error_if_they_are_shown(capsys, show):
    with TrainingProgress(show, "MAP", epochs=2, done=1, batches=3) as bar:
        for _ in range(3):
            bar.advance()
        bar.epoch(METRICS | {"val_nll": 1.0, "val_accuracy": 0.25})
    output = capsys.readouterr()
    assert output.out.strip() == ""
    assert ("MAP" in output.err) is show
    assert ("6/6" in output.err) is show


def test_names_are_shown_as_they_are(capsys):
    with AnalysisProgress(True, 10.0) as bar:
        bar.begin("[red]\x1b[31mfc1")
        bar.advance(10.0)
    assert r"[red]\x1b[31mfc1" in capsys.readouterr().err


@pytest.mark.parametrize("show", [True, False])
def test_early_stopping_says_what_it_did(capsys, show):
    with TrainingProgress(show, "MAP", epochs=9, done=0, batches=1) as bar:
        bar.kept({"epoch": 3, "nll": 0.25}, 5, is_early=True)
        bar.kept({"epoch": 8, "nll": 0.125}, 9, is_early=False)
    output = " ".join(capsys.readouterr().err.split())
    early = (
        "stopped after epoch 5 of 9: none better for 2 epochs; the weights of epoch 3 are kept, "
        "with val_nll 0.2500"
    )
    assert (early in output) is show
    assert ("the weights of epoch 8 are kept, with val_nll 0.1250" in output) is show


def test_bars_are_hidden_where_a_command_is_quiet(capsys):
    for hidden in (True, False):
        with hidden_bars(hidden), TrainingProgress(True, "MAP", epochs=1, done=0, batches=1) as bar:
            bar.advance()
        assert ("MAP" in capsys.readouterr().err) is not hidden
