"""Loggers of `htr.fit`, with the real packages, whose files are read back.

CSV needs no package; the others are skipped where their package is not installed.
"""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.analysis.loggers import spectral_metrics
from bayes_htr.inference import StepEvent
from tests.analysis.history_cases import DATA, fit_with, make_network

EPOCHS = 3
PLAIN = {"loss", "train_nll", "train_accuracy", "energy", "lr", "seconds"}
SPECTRAL = {
    f"spectra/{matrix}/{quantity}"
    for matrix in ("0.weight", "2.weight")
    for quantity in ("lambda_max", "stable_rank")
}


def fitted(logger, **more):
    return fit_with(logger, **({"epochs": EPOCHS, "progress": False} | more))


def read(path):
    with path.open(newline="") as file:
        return [
            {name: float(cell) if cell else math.nan for name, cell in row.items()}
            for row in csv.DictReader(file)
        ]


class Failing(htr.analysis.MetricsLogger):
    """A logger that keeps its calls, and fails in an epoch."""

    def __init__(self, epoch=None, **more):
        super().__init__(**more)
        self.epoch, self.rows, self.opened, self.closed = epoch, {}, [], []

    def open(self, epoch):
        self.opened.append(epoch)

    def write(self, epoch, metrics, spectra):
        if epoch == self.epoch:
            raise RuntimeError("the log is full")
        self.rows[epoch] = (metrics, spectra)

    def close(self, error):
        self.closed.append(error)


# What all loggers log


def test_metrics_are_those_of_the_history_and_of_the_spectra():
    logger = Failing()
    posterior = fitted(logger)
    assert logger.opened == [0]
    assert logger.closed == [None]
    assert list(logger.rows) == [1, 2, 3]
    for (metrics, spectra), row in zip(logger.rows.values(), posterior.history, strict=True):
        assert metrics.keys() == PLAIN | SPECTRAL
        assert {name: metrics[name] for name in PLAIN} == {name: row[name] for name in PLAIN}
        assert set(spectra) == {"0.weight", "2.weight"}
    lam = htr.spectrum(posterior.network()[0].weight.detach()).double()
    torch.testing.assert_close(spectra["0.weight"], lam, rtol=1e-5, atol=1e-7)
    assert metrics["spectra/0.weight/lambda_max"] == pytest.approx(float(lam[0]), rel=1e-5)
    ratio = float(lam.sum() / lam[0])
    assert metrics["spectra/0.weight/stable_rank"] == pytest.approx(ratio, rel=1e-5)


def test_validation_and_svi_have_their_names():
    logger = Failing(spectra=None)
    method = htr.SVI(guide="meanfield")
    fitted(logger, method=method, validation=DATA, prior=htr.Entries(htr.Normal(0.0, 1.0)))
    expected = (PLAIN - {"energy"}) | {"kl", "val_nll", "val_accuracy"}
    assert logger.rows[1][0].keys() == expected
    assert logger.rows[1][1] == {}


def test_alpha_is_that_of_analyze_and_left_out_where_there_is_none():
    net = nn.Sequential(nn.Linear(60, 80), nn.Linear(80, 3))
    with torch.no_grad():  # singular values with a power-law tail
        u, s, v = torch.linalg.svd(net[0].weight, full_matrices=False)
        s = torch.arange(1, 61).float() ** -0.5
        net[0].weight.copy_(u * s @ v)
    spectra = {name: htr.spectrum(W).double() for name, W in htr.matrices_of(net).items()}
    metrics = spectral_metrics({name: lam.detach() for name, lam in spectra.items()})
    (row,) = (row for row in htr.analyze(net, bootstrap=0).rows if row["name"] == "0.weight")
    assert metrics["spectra/0.weight/alpha"] == pytest.approx(row["alpha"], rel=1e-3)
    assert "spectra/1.weight/alpha" not in metrics
    zero = spectral_metrics({"w": torch.zeros(4, dtype=torch.float64)})
    assert zero == {"spectra/w/lambda_max": 0.0}


def test_spectra_of_chosen_matrices_and_epochs():
    logger = Failing(spectra="0.*", every=2)
    fitted(logger)
    assert [sorted(spectra) for _, spectra in logger.rows.values()] == [[], ["0.weight"], []]
    assert "spectra/2.weight/lambda_max" not in logger.rows[2][0]


def test_spectra_are_those_of_the_matrices_that_the_priors_declare():
    logger = Failing()
    priors = htr.Priors({}, matrices={"0.weight": None})
    model = htr.BayesianClassifier(make_network(), priors)
    htr.fit(model, DATA, method=htr.MAP(), epochs=1, callbacks=[logger], progress=False)
    assert list(logger.rows[1][1]) == ["2.weight"]


def test_loggers_do_not_change_the_run_and_share_the_spectra(monkeypatch):
    plain = htr.fit(
        htr.BayesianClassifier(make_network(), htr.Priors({})),
        DATA,
        method=htr.MAP(scheduler=None),
        epochs=EPOCHS,
        batch_size=10,
        progress=False,
    )
    calls = []
    original = htr.inference.callbacks.singular_values
    counted = lambda W, name: (calls.append(name), original(W, name))[1]  # noqa: E731
    monkeypatch.setattr(htr.inference.callbacks, "singular_values", counted)
    first, second = Failing(), Failing()
    logged = htr.fit(
        htr.BayesianClassifier(make_network(), htr.Priors({})),
        DATA,
        method=htr.MAP(scheduler=None),
        epochs=EPOCHS,
        batch_size=10,
        callbacks=[first, second],
        progress=False,
    )
    assert calls == ["0.weight", "2.weight"] * EPOCHS
    assert second.rows[1][1]["0.weight"] is first.rows[1][1]["0.weight"]
    for a, b in zip(plain.network().parameters(), logged.network().parameters(), strict=True):
        assert a.equal(b)


def test_a_failed_run_is_closed_with_its_error():
    logger = Failing(epoch=2)
    with pytest.raises(RuntimeError, match="the log is full") as caught:
        fitted(logger)
    assert logger.closed == [caught.value]


@pytest.mark.parametrize("every", [0, 1.5, True])
def test_every_must_be_a_whole_number(every):
    with pytest.raises(ValueError, match=f"every={every!r}"):
        htr.CSVLogger("m.csv", every=every)


def test_a_pattern_without_a_matrix_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"spectra='fc\*' matches no matrix.*0\.weight"):
        fitted(htr.CSVLogger(tmp_path / "m.csv", spectra=["0.*", "fc*"]))
    assert not (tmp_path / "m.csv").exists()


def test_an_unknown_matrix_of_an_event_is_named():
    event = htr.EpochEvent(1, {}, make_network())
    assert event.spectrum("0.weight") is event.spectrum("0.weight")
    with pytest.raises(KeyError, match=r"no matrix '1\.weight'; there are 0\.weight"):
        event.spectrum("1.weight")


# CSV


def test_csv(tmp_path):
    path = tmp_path / "new" / "metrics.csv"
    posterior = fitted(htr.CSVLogger(path))
    rows = read(path)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert next(iter(rows[0])) == "epoch"
    assert rows[0].keys() == {"epoch"} | PLAIN | SPECTRAL
    for row, expected in zip(rows, posterior.history, strict=True):
        assert {name: row[name] for name in expected} == expected


def test_csv_has_empty_cells_where_spectra_are_not_logged(tmp_path):
    path = tmp_path / "metrics.csv"
    fitted(htr.CSVLogger(path, every=2))
    column = [row["spectra/0.weight/lambda_max"] for row in read(path)]
    assert [math.isnan(value) for value in column] == [True, False, True]


def test_csv_of_a_resumed_run_continues(tmp_path):
    path, out = tmp_path / "metrics.csv", tmp_path / "run"
    fitted(htr.CSVLogger(path), out=out, epochs=2)
    with path.open("a") as file:
        file.write("3,0.5\n")  # of an epoch after the checkpoint
    fitted(htr.CSVLogger(path), out=out, epochs=4, resume=True)
    rows = read(path)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert not any(math.isnan(value) for row in rows for value in row.values())


def test_csv_replaces_no_file_without_being_told(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("mine")
    with pytest.raises(htr.OutputError, match=r"metrics\.csv exists.*overwrite=True"):
        fitted(htr.CSVLogger(path))
    assert path.read_text() == "mine"
    fitted(htr.CSVLogger(path, overwrite=True))
    assert len(read(path)) == EPOCHS


def test_csv_continues_no_other_file(tmp_path):
    path, out = tmp_path / "metrics.csv", tmp_path / "run"
    fitted(Failing(), out=out, epochs=1)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(htr.CheckpointError, match=r"metrics\.csv cannot be continued"):
        fitted(htr.CSVLogger(path), out=out, epochs=2, resume=True)
    assert path.read_text() == "a,b\n1,2\n"


# Other packages


@pytest.mark.parametrize(
    ("logger", "package"),
    [("TensorBoardLogger", "tensorboard"), ("WandbLogger", "wandb"), ("MLflowLogger", "mlflow")],
)
def test_a_missing_package_is_named(logger, package, monkeypatch):
    for module in [*sys.modules]:
        if module.split(".")[0] == package or module.startswith("torch.utils.tensorboard"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{logger} needs {package}.*bayes-htr\[loggers\]"):
        getattr(htr, logger)()


def test_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    fitted(htr.TensorBoardLogger(tmp_path / "log"), out=out, epochs=2)
    posterior = fitted(htr.TensorBoardLogger(tmp_path / "log"), out=out, resume=True)
    events = accumulator.EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == PLAIN | SPECTRAL
    losses = [(e.step, e.value) for e in events.Scalars("loss")]
    assert [step for step, _ in losses] == [1, 2, 3]
    expected = [row["loss"] for row in posterior.history]
    assert [value for _, value in losses] == pytest.approx(expected, rel=1e-6)
    histogram = events.Histograms("spectra/0.weight/log10_eigenvalues")[-1]
    lam = posterior.spectra()["0.weight"][0].double().log10()
    assert histogram.histogram_value.num == len(lam)
    assert histogram.histogram_value.max == pytest.approx(float(lam.max()), rel=1e-5)
    assert histogram.histogram_value.sum == pytest.approx(float(lam.sum()), rel=1e-4)


def test_a_new_run_replaces_what_tensorboard_shows_of_the_old_one(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fitted(htr.TensorBoardLogger(tmp_path), epochs=4)
    fitted(htr.TensorBoardLogger(tmp_path), epochs=2)
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]


def test_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = htr.WandbLogger(mode="offline", dir=str(tmp_path), project="test", config={"a": 1})
    posterior = fitted(logger)
    assert wandb.run is None
    rows, exits = _wandb_records(tmp_path)
    assert [json.loads(row["epoch"]) for row in rows] == [1, 2, 3]
    losses = [json.loads(row["loss"]) for row in rows]
    assert losses == [pytest.approx(row["loss"]) for row in posterior.history]
    assert rows[0].keys() >= SPECTRAL
    counts = json.loads(rows[0]["spectra/0.weight/log10_eigenvalues/values"])
    assert sum(counts) == len(posterior.spectra()["0.weight"][0])
    assert exits == [0]


def test_wandb_marks_a_failed_run_and_leaves_a_given_run_open(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = htr.WandbLogger(mode="offline", dir=str(tmp_path / "failed"))
    (tmp_path / "failed").mkdir()
    with pytest.raises(RuntimeError, match="full"):
        htr.fit(
            htr.BayesianClassifier(make_network(), htr.Priors({})),
            DATA,
            method=htr.MAP(),
            epochs=2,
            callbacks=[logger, Failing(epoch=1)],
            progress=False,
        )
    assert _wandb_records(tmp_path / "failed")[1] == [1]
    run = wandb.init(mode="offline", dir=str(tmp_path), reinit="create_new")
    fitted(htr.WandbLogger(run, spectra=None), epochs=1)
    run.log({"mine": 1.0})
    run.finish()
    with pytest.raises(ValueError, match="project: settings of a new run"):
        htr.WandbLogger(run, project="p")


def _wandb_records(folder):
    """The rows and exit codes in an offline run's log, which is complete soon after the run."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.rglob("*.wandb")
    rows, exits = [], []
    for _ in range(100):
        records = [*map(wandb_internal_pb2.Record.FromString, _log_records(file.read_bytes()))]
        exits = [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"]
        if exits:
            break
        time.sleep(0.1)
    for record in records:
        if record.WhichOneof("record_type") == "history":
            rows.append({"/".join(i.nested_key): i.value_json for i in record.history.item})
    return rows, exits


def _log_records(data, block=2**15):
    """The records of a file in LevelDB's log format: chunks with a header of 7 bytes in blocks."""
    record, position = b"", 7  # after the header of the file
    while position + 7 <= len(data):
        if (left := block - position % block) < 7:  # no room for a header
            position += left
            continue
        size, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        record += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.fixture
def mlflow_client(tmp_path, monkeypatch):
    """A client of a new local store, and the store's address."""
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    address = (tmp_path / "store").as_uri()
    return tracking.MlflowClient(tracking_uri=address), address


def test_mlflow(mlflow_client):
    client, address = mlflow_client
    logger = htr.MLflowLogger(tracking_uri=address, experiment="spectra", run_name="first")
    posterior = fitted(logger)
    run = client.get_run(logger.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert run.info.experiment_id == client.get_experiment_by_name("spectra").experiment_id
    assert set(run.data.metrics) == PLAIN | SPECTRAL
    history = client.get_metric_history(logger.run_id, "loss")
    assert [m.step for m in history] == [1, 2, 3]
    assert [m.value for m in history] == [row["loss"] for row in posterior.history]
    from mlflow.artifacts import download_artifacts

    artifact = f"runs:/{logger.run_id}/spectra/epoch_00003.json"
    downloaded = Path(download_artifacts(artifact, tracking_uri=address))
    with downloaded.open() as file:
        values = torch.tensor(json.load(file)["2.weight"])
    torch.testing.assert_close(values, posterior.spectra()["2.weight"][0], rtol=1e-4, atol=1e-6)


def test_mlflow_names_and_status(mlflow_client):
    client, address = mlflow_client
    logger = htr.MLflowLogger(tracking_uri=address)
    logger.on_start(StepEvent(0, 0.0, make_network()))
    logger.write(1, {"spectra/attn.in_proj_weight[q]/alpha": 2.5}, {})
    logger.close(RuntimeError("no"))
    run = client.get_run(logger.run_id)
    assert run.data.metrics == {"spectra/attn.in_proj_weight_q_/alpha": 2.5}
    assert run.info.status == "FAILED"
    given = client.create_run("0").info.run_id
    fitted(htr.MLflowLogger(given, tracking_uri=address, spectra=None), epochs=1)
    assert client.get_run(given).info.status == "RUNNING"
    with pytest.raises(ValueError, match="leave those out"):
        htr.MLflowLogger(given, run_name="second")
