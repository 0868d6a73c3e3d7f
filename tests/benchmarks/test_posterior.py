"""The study of posteriors, end to end on a few random images, and its parts."""

import json

import pytest
import torch

from bayes_htr.experiments import load_dataset
from bayes_htr.posterior.prediction import Prediction, scores
from benchmarks.__main__ import main
from benchmarks.common.results import Results
from benchmarks.study.posterior import protocol
from benchmarks.study.posterior.methods import METHODS, Compared
from benchmarks.study.posterior.protocol import Cut, StudySettings, chosen_trial
from benchmarks.study.posterior.tables import baseline_of, by_seed, relative_difference
from benchmarks.study.scores import Predicted, all_scores, fitted_temperature, tempered

SHORT = ["--seeds", "2", "--samples", "2", "--batch-size", "8", "--epochs", "1", "--threads", "1"]
FEW = ["--validation", "6", "--ood", "4"]


@pytest.fixture
def two_trials(monkeypatch):
    """The first two trials of every method."""
    for name, method in METHODS.items():
        short = Compared(**{**vars(method), "trials": method.trials[:2]})
        monkeypatch.setitem(METHODS, name, short)


def study(out, data_dir, *methods):
    given = ["--out", str(out), "--data-dir", str(data_dir), "--data", "kmnist"]
    return ["posterior", *given, *SHORT, *FEW, "--methods", *methods]


def test_the_study(tmp_path, data_dir, capsys, monkeypatch, two_trials):
    methods = ("map_plain", "map_decay", "ensemble", "spectral_lomax_map")
    assert main(study(tmp_path, data_dir, *methods)) == 0
    printed = capsys.readouterr().out
    for word in ("OOD AUROC", "after temperature scaling", "tuning on validation NLL"):
        assert word in printed
    data = json.loads((tmp_path / "posterior.json").read_text())
    cells = data["cells"]
    # What a method starts from is tuned, but fitted with seeds only where it was asked for.
    assert set(cells["kmnist/map_frechet"]) == {"trial/0", "trial/1"}
    assert set(cells["kmnist/map_plain"]) == {"trial/0", "seed/0", "seed/1"}
    spectral = cells["kmnist/spectral_lomax_map"]
    assert set(spectral) == {"trial/0", "trial/1", "seed/0", "seed/1"}
    frechet = cells["kmnist/map_frechet"]
    best = min(frechet, key=lambda trial: frechet[trial]["result"]["nll"])
    assert spectral["seed/1"]["settings"]["start"] == frechet[best]["settings"]["numbers"]
    result = cells["kmnist/ensemble"]["seed/0"]["result"]
    assert set(result) == {"validation", "plain", "scaled", "temperature", "seconds"}
    assert set(result["plain"]) == {
        *("accuracy", "nll", "ece", "brier", "ood_auroc_entropy"),
        *("ood_auroc_mutual_information", "ood_auroc_confidence"),
    }
    assert (tmp_path / "posterior.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "posterior.md").read_text()
    assert "differences to MAP, weight decay" in page
    assert str(data_dir) not in page

    monkeypatch.setattr(protocol, "fit", None)
    assert main(study(tmp_path, data_dir, *methods)) == 0
    assert "parts are in posterior.json already" in capsys.readouterr().out


def test_too_many_validation_images(tmp_path, data_dir, capsys):
    command = study(tmp_path, data_dir, "map_plain")
    command[command.index("--validation") + 1] = "24"
    assert main(command) == 1
    assert "24 validation images of 24 training images" in capsys.readouterr().err


def test_the_cut(data_dir):
    kmnist, fashion = (load_dataset(n, data_dir) for n in ("kmnist", "fashion_mnist"))
    cut = Cut.of(kmnist, fashion, StudySettings(train=20, validation=5, ood=3))
    assert [len(cut.train[0]), len(cut.validation[0]), len(cut.ood)] == [15, 5, 3]
    both = torch.cat([cut.train[0], cut.validation[0]]).flatten(1)
    distances = torch.cdist(both, kmnist.x_train[:20].flatten(1))
    assert (distances.min(1).values < 1e-2).all()  # together they are the first 20
    assert len(distances.argmin(1).unique()) == 20
    raw = cut.ood * kmnist.deviation + kmnist.mean
    expected = fashion.x_test[:3] * fashion.deviation + fashion.mean
    torch.testing.assert_close(raw, expected, rtol=1e-4, atol=1e-2)


def test_methods_that_are_tuned_have_the_same_number_of_trials():
    assert len({len(m.trials) for m in METHODS.values() if len(m.trials) > 1}) == 1


def prediction(seed, sharpness, n=4000):
    """Labels drawn from known probabilities, and the prediction `p^sharpness`, normalised."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(n, 4, generator=generator).mul(2).log_softmax(1)
    y = torch.multinomial(log_probs.exp(), 1, generator=generator).squeeze(1)
    return Prediction((log_probs * sharpness).log_softmax(1), torch.zeros(n)), y


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_was_done(sharpness):
    found, y = prediction(0, sharpness)
    temperature = fitted_temperature(found, y)
    assert temperature == pytest.approx(sharpness, rel=0.08)
    undone, exact = tempered(found, temperature), prediction(0, 1.0)[0]
    assert scores(undone, y)["nll"] <= scores(exact, y)["nll"] + 1e-6
    assert torch.equal(undone.labels, found.labels)


def test_the_temperature_comes_from_validation_data():
    (validation, y_validation), (test, y_test) = prediction(0, 3.0), prediction(1, 0.5)
    found = all_scores(Predicted(validation, test, test), y_validation, y_test)
    assert found["temperature"] == fitted_temperature(validation, y_validation)
    assert found["scaled"]["nll"] > found["plain"]["nll"]
    assert found["plain"]["ood_auroc_entropy"] == 0.5


@pytest.fixture
def results(tmp_path):
    """Two tuned MAP fits of three seeds; one seed of the first is of another trial."""
    found = Results(tmp_path, "posterior", {"cpu": "a"})
    for method, nlls in (("map_frechet", (0.4, 0.3)), ("map_decay", (0.5, 0.35))):
        for trial, nll in enumerate(nlls):
            settings = {"numbers": {"strength": trial}, "seed": 0}
            found.put(f"kmnist/{method}", f"trial/{trial}", settings, {"nll": nll})
        for seed in range(3):
            own = 0 if (method, seed) == ("map_frechet", 2) else 1
            value = {"nll": nlls[1] * (1 + 0.1 * seed)}
            settings = {"numbers": {"strength": own}, "seed": seed}
            found.put(f"kmnist/{method}", f"seed/{seed}", settings, {"plain": value})
    return found


def test_tuned_results(results):
    assert chosen_trial(results, "kmnist/map_frechet") == 1
    assert chosen_trial(results, "kmnist/meanfield") is None
    assert list(by_seed(results, "kmnist/map_frechet")) == [0, 1]
    assert list(by_seed(results, "kmnist/map_decay")) == [0, 1, 2]
    assert baseline_of(results, "kmnist") == "map_frechet"


def test_relative_differences_are_paired_by_seed(results):
    d = relative_difference(results, "kmnist", "map_decay", "map_frechet", "plain", "nll")
    assert d["mean"] == pytest.approx(0.35 / 0.3 - 1)
    assert d["pairs"] == 2
    # Differences 0.05 and 0.055 over the mean 0.315; t of one degree of freedom is 12.706.
    half = 12.7062 * 0.0025 / 0.315
    assert d["high"] - d["mean"] == pytest.approx(half, rel=1e-4)
