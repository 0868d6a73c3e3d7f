"""The cost of whole fits, end to end on a few images; no number of seconds is asserted."""

import json

from benchmarks.__main__ import main
from benchmarks.common import held_out
from benchmarks.cost.whole_fits import PLAIN, POSTERIOR, SCORES


def test_the_benchmark(tmp_path, data_dir, monkeypatch, capsys):
    monkeypatch.setattr(held_out, "HELD", 12)
    sizes = ["--networks", "lenet5", "--examples", "10", "--epochs", "1", "--rounds", "2"]
    command = ["fits", "--out", str(tmp_path), "--data-dir", str(data_dir), *sizes]
    assert main(command) == 0
    printed = capsys.readouterr().out
    for word in ("to plain", PLAIN, POSTERIOR, "1.00 (1.00–1.00)"):
        assert word in printed
    cell = json.loads((tmp_path / "fits.json").read_text())["cells"]["lenet5/10"]
    rounds = [cell[f"fits/{seed}"]["result"] for seed in range(2)]
    for one in rounds:
        assert set(one) == {PLAIN, POSTERIOR}
        for fit in one.values():
            assert fit["seconds"] > 0
            assert set(SCORES) <= set(fit)
    # Each round has a seed of its own, and the two fits differ.
    assert rounds[0][PLAIN]["nll"] != rounds[1][PLAIN]["nll"]
    assert rounds[0][PLAIN]["nll"] != rounds[0][POSTERIOR]["nll"]
    assert main(command) == 0
    assert "2 of 2 parts are in fits.json already" in capsys.readouterr().out
