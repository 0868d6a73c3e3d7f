"""What all commands share: their help, and whole numbers."""

import pytest

from benchmarks.__main__ import build_parser, main


def test_help_tells_defaults_only_where_there_are_some(capsys):
    with pytest.raises(SystemExit):
        main(["guides", "--help"])
    shown = capsys.readouterr().out
    assert "(default: " in shown
    assert "None)" not in shown and "False)" not in shown


@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_counts_are_whole_and_positive(value, capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["growth", "--out", "x", "--threads", value])
    assert "give a whole number from 1 on" in capsys.readouterr().err
