from __future__ import annotations

import os
import threading
import time

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr import _threads
from bayes_htr._threads import counted_work, exclusive, restored_threads, suitable_threads

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
LOMAX = htr.Priors({"*.weight": htr.ESD(htr.Lomax(2.0))})


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


# Several threads of the user


def test_blocks_take_turns_and_may_be_nested():
    seen = []

    def enter(name):
        with exclusive(), exclusive():
            seen.append((name, "in"))
            time.sleep(0.02)
            seen.append((name, "out"))

    threads = [threading.Thread(target=enter, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for entered, left in zip(seen[::2], seen[1::2], strict=True):
        assert (entered[0], "out") == left


@pytest.fixture
def leave():
    """An event for which another thread waits in an exclusive block that it has entered."""
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with exclusive():
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(30)
    yield leave
    leave.set()
    thread.join()


def test_a_thread_that_waits_says_so(monkeypatch, leave):
    monkeypatch.setattr(_threads, "_PATIENCE", 0.05)
    threading.Timer(0.3, leave.set).start()
    with pytest.warns(UserWarning, match="another thread .* start several processes"), exclusive():
        assert leave.is_set()


METHODS = {
    "map": lambda: htr.MAP(lr=0.05),
    "svi": lambda: htr.SVI(guide="meanfield", lr=0.01),
    "AutoNormal": lambda: htr.SVI(guide=__import__("pyro").infer.autoguide.AutoNormal, lr=0.01),
    "nuts": lambda: htr.NUTS(warmup=5, samples=4, chains=1, frames="held", max_tree_depth=2),
}


@pytest.mark.filterwarnings("ignore:the chains do not agree", "ignore:no prior on")
@pytest.mark.filterwarnings("ignore:.*trajectories", "ignore:another thread")
@pytest.mark.parametrize("one", METHODS)
@pytest.mark.parametrize("other", ["map", "AutoNormal"])
def test_fits_in_two_threads_are_those_of_one(one, other):
    model = htr.BayesianClassifier(network(), LOMAX)  # made before: it takes random weights

    def run(name):
        epochs = None if name == "nuts" else 6
        posterior = htr.fit(
            model, (X, Y), method=METHODS[name](), epochs=epochs, batch_size=8, progress=False
        )
        return posterior.predict(X, samples=3).log_probs

    alone = {name: run(name) for name in {one, other}}
    found = {}

    def work(number, name):
        found[number] = run(name)

    threads = [threading.Thread(target=work, args=item) for item in enumerate((one, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(found[0], alone[one])
    assert torch.equal(found[1], alone[other])


@pytest.mark.filterwarnings("ignore:no prior on")
def test_draws_in_another_thread_do_not_disturb_a_fit():
    model = htr.BayesianClassifier(network(), LOMAX)
    posterior = htr.fit(model, (X, Y), method=METHODS["AutoNormal"](), epochs=1, progress=False)
    again = {"method": METHODS["AutoNormal"](), "epochs": 4, "progress": False}
    alone = htr.fit(model, (X, Y), **again).predict(X, samples=2).log_probs
    stop, errors = threading.Event(), []

    def draw():
        try:
            while not stop.is_set():
                posterior.predict(X, samples=2)
                posterior.network()
                htr.prior_predictive(model, X[:4], samples=2)
                htr.sample_prior(model, 2, seed=1)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        found = [htr.fit(model, (X, Y), **again).predict(X, samples=2) for _ in range(3)]
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert all(torch.equal(p.log_probs, alone) for p in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_process_forked_meanwhile_does_not_wait_for_a_thread_that_it_has_not(leave):
    child = os.fork()
    if child == 0:
        with exclusive():
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


# Threads of PyTorch


def test_work_is_counted():
    layers = nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 2, 2), nn.Flatten(), nn.Linear(50, 7)
    )
    with counted_work(layers) as work:
        layers(torch.zeros(5, 4, 6, 6))
    conv = 5 * 6 * 16 * 2 * 9
    transposed = 5 * 6 * 16 * 2 * 4
    assert work.multiply_adds == conv + transposed + 5 * 7 * 50
    layers(torch.zeros(5, 4, 6, 6))
    assert work.multiply_adds == conv + transposed + 5 * 7 * 50
    assert not any(m._forward_hooks for m in layers.modules())


@pytest.fixture
def three_threads():
    with restored_threads():
        torch.set_num_threads(3)
        yield


def test_small_networks_have_one_thread(three_threads):
    small, large = nn.Linear(10, 10), nn.Linear(1500, 1500)
    assert suitable_threads(small, 1e6) == 1
    assert suitable_threads(small, 1e9) == 3  # a deep network of convolutions, say
    assert suitable_threads(large, 1e6) == 3


@pytest.mark.parametrize(("given", "count"), [(None, 1), (2, 2)])
def test_fit_chooses_the_number_of_threads_and_says_so(three_threads, capsys, given, count):
    seen = []
    posterior = htr.fit(
        htr.BayesianClassifier(network(), LOMAX),
        (X, Y),
        method=htr.MAP(),
        epochs=1,
        threads=given,
        callbacks=[lambda event: seen.append(torch.get_num_threads())],
        progress=True,
    )
    assert seen == [count]
    assert torch.get_num_threads() == 3
    assert posterior.config["threads"] == count
    assert f"MAP, {count} thread" in capsys.readouterr().err


def test_threads_are_restored_after_an_error(three_threads):
    def fail(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        htr.fit(
            htr.BayesianClassifier(network(), LOMAX),
            (X, Y),
            method=htr.MAP(),
            epochs=1,
            callbacks=[fail],
        )
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_a_bad_number_of_threads_is_named(threads):
    model = htr.BayesianClassifier(network(), LOMAX)
    with pytest.raises(ValueError, match=f"threads={threads!r} must be a whole number"):
        htr.fit(model, (X, Y), method=htr.MAP(), epochs=1, threads=threads)


def test_a_run_resumes_with_another_number_of_threads(tmp_path):
    def run(epochs, threads):
        model = htr.BayesianClassifier(network(), LOMAX)
        settings = {"method": htr.MAP(), "epochs": epochs, "threads": threads}
        return htr.fit(model, (X, Y), out=tmp_path / "run", resume=True, **settings)

    run(1, 1)
    assert run(2, 2).config["threads"] == 2
