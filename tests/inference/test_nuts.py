"""NUTS in spectral coordinates: exact answers, what a draw means, and what is refused."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import replace

import pyro
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import bayes_htr as htr
from bayes_htr.inference import nuts
from bayes_htr.inference.chains import ChainSettings, run_chains
from bayes_htr.inference.data import Batches
from bayes_htr.inference.problem import Problem
from tests.reference.quadrature import (
    frames_of,
    linear_likelihood,
    log_eigenvalues_by_quadrature,
)

torch.set_num_threads(1)

LOMAX = htr.ESD(htr.Lomax(3.0, 1.0))
SHORT = htr.NUTS(warmup=4, samples=4, frames="held", max_tree_depth=2)


def linear(inputs: int, classes: int, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(inputs, classes, bias=False)


def problem_of(model, data, **more) -> Problem:
    batches = Batches(data, dtype=next(model.net.parameters()).dtype)
    return Problem(model, copy.deepcopy(model.net), batches, None, epochs=0, seed=0, **more)


def fit(model, data, method, **more):
    """The fit without the warnings of chains that are short on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the chains do not agree|.*trajectories")
        return method.prepare(problem_of(model, data, **more)).run()


def nothing_learnt(inputs: int):
    """Data on which the likelihood of a linear classifier without bias is constant."""
    return torch.zeros(3, inputs), torch.tensor([0, 1, 0])


def spectra_by_draw(fitted, name="weight"):
    weights = torch.stack([draw[name] for draw in fitted.guide.draws(len(fitted.guide), 0)])
    return torch.linalg.svdvals(weights.double()).square()


# Exact answers


@pytest.mark.long
@pytest.mark.parametrize(
    ("prior", "frames", "K", "law"),
    [
        (LOMAX, "sampled", 3, stats.lomax(2)),
        (LOMAX, "held", 8, stats.lomax(2)),
        (htr.SingularValues(htr.Exponential(2.0)), "held", 8, stats.expon(scale=0.5)),
    ],
)
def test_prior_of_a_whole_spectrum(prior, frames, K, law):
    model = htr.BayesianClassifier(linear(K + 1, K).double(), htr.Priors(prior))
    method = htr.NUTS(warmup=60, samples=90, chains=1, frames=frames)
    lam = spectra_by_draw(fit(model, nothing_learnt(K + 1), method))[::3]
    x = lam.sqrt() if isinstance(prior, htr.SingularValues) else lam
    assert x.numel() == 30 * K
    assert stats.kstest(x.flatten().numpy(), law.cdf).pvalue > 1e-3


@pytest.mark.long
def test_prior_of_the_largest_eigenvalue():
    model = htr.BayesianClassifier(linear(3, 2), htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0))))
    method = htr.NUTS(warmup=60, samples=210, chains=1, frames="held")
    lam = spectra_by_draw(fit(model, nothing_learnt(3), method))[::3]
    assert stats.kstest(lam[:, 0].numpy(), stats.invweibull(2).cdf).pvalue > 1e-3
    assert stats.kstest((lam[:, 1] / lam[:, 0]).numpy(), stats.uniform.cdf).pvalue > 1e-3


def test_prior_of_the_entries():
    model = htr.BayesianClassifier(linear(6, 5), htr.Priors(htr.Entries(htr.Normal(1.0, 0.5))))
    method = htr.NUTS(warmup=80, samples=150, chains=1)
    fitted = fit(model, nothing_learnt(6), method)
    W = torch.stack([fitted.guide[i]["weight"] for i in range(0, 150, 3)])
    assert stats.kstest(W.flatten().numpy(), stats.norm(1.0, 0.5).cdf).pvalue > 1e-3


@pytest.mark.long
@pytest.mark.parametrize("kind", ["Lomax", pytest.param("Powerlaw", marks=pytest.mark.slow)])
def test_tail_index_given_the_spectrum_is_gamma(kind):
    """`Gamma(a + K, b + S)`, with the spectrum pinned."""
    a, b, K = 9.0, 3.0, 60
    if kind == "Lomax":
        law, r = htr.Lomax(tail_index=htr.Gamma(a, b), scale=0.5), lambda x: (x / 0.5).log1p()
    else:
        law, r = htr.Powerlaw(tail_index=htr.Gamma(a, b), xmin=0.1), lambda x: (x / 0.1).log()
    model = htr.BayesianClassifier(linear(K, K).double(), htr.Priors(htr.ESD(law)))
    lam = torch.rand(K, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.2
    x, y = nothing_learnt(K)
    program = model.pyro_model("spectral", frames="held")
    pinned = pyro.poutine.condition(program, data={"weight:spectrum": lam})
    (name,) = model.densities().trainable[0].matrices[0].hyperparameters
    chains = run_chains(
        lambda: pinned(x.double(), y, num_data=3),
        {name: torch.tensor(3.0, dtype=torch.float64)},
        ChainSettings(warmup=80, samples=800, chains=1),
        seed=0,
    )
    draws = chains.sites[name].flatten()
    exact = stats.gamma(a + K, scale=1 / (b + float(r(lam).sum())))
    assert float(draws.mean()) == pytest.approx(exact.mean(), rel=0.02)
    for q in (0.025, 0.975):
        assert float(draws.quantile(q)) == pytest.approx(exact.ppf(q), rel=0.05)


def logistic(inputs: int, n: int):
    """A linear classifier with two classes, and data that it fits."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, inputs, generator=generator, dtype=torch.float64)
    y = (x[:, 0] + 0.7 * torch.randn(n, generator=generator, dtype=torch.float64) > 0).long()
    net = linear(inputs, 2, seed=3).double()
    with torch.no_grad():  # frames that have something to do with the data
        net.weight[1, 0] += 1.5
    return net, (x, y)


@pytest.mark.long
@pytest.mark.parametrize("inputs", [1, 3])
def test_log_eigenvalues_against_quadrature(inputs):
    net, data = logistic(inputs, n=30)
    K = min(inputs, 2)
    model = htr.BayesianClassifier(net, htr.Priors(LOMAX))
    fitted = fit(model, data, htr.NUTS(warmup=80, samples=150, frames="held"))
    exact = log_eigenvalues_by_quadrature(
        lambda lam: (math.log(2) - 3 * lam.log1p()).sum(1), linear_likelihood(net, *data), K
    )
    U, V = frames_of(net)
    W = torch.stack([draw["weight"] for draw in fitted.guide.draws(300, 0)])
    u = (U.mT @ W @ V).diagonal(dim1=1, dim2=2).square().log()  # by label, not sorted
    for i in range(K):
        size = fitted.history[-1][f"ess:weight:log_eigenvalue[{i}]"]
        assert size > 60
        error = float(exact.sd[i]) / math.sqrt(size)
        assert float(u[:, i].mean()) == pytest.approx(float(exact.mean[i]), abs=4 * error)
        # The error of a standard deviation is sd sqrt((kurtosis - 1) / 4 n); kurtosis up to 9.
        assert float(u[:, i].std()) == pytest.approx(float(exact.sd[i]), abs=4 * 1.5 * error)
    prior = stats.lomax(2, scale=1)
    assert abs(float(exact.mean[0]) - prior.expect(math.log)) > 0.3  # the data have a say


# What a draw means


def two_layers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 3))
    priors = htr.Priors(
        {
            "0.weight": LOMAX,
            "3.weight": htr.MaxEigenvalue(htr.Frechet(2.0, scale=htr.LogNormal(0.0, 1.0))),
            "*.bias": htr.Entries(htr.Normal(0.0, 1.0)),
        }
    )
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 4, generator=generator)
    return htr.BayesianClassifier(net, priors), (x, x[:, :3].argmax(1))


SCALE = "3.weight:MaxEigenvalue.scale"


def test_guide_network_and_hyperparameters():
    model, data = two_layers()
    before = copy.deepcopy(model.net.state_dict())
    state = torch.get_rng_state()
    fitted = fit(model, data, SHORT)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.net.training
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, before[name]), name
    names = [name for name, _ in model.net.named_parameters()]
    assert len(fitted.guide) == 8
    assert set(fitted.guide.names) == {*names, SCALE}
    centre = fitted.guide.centre()
    for name, parameter in fitted.net.named_parameters():
        torch.testing.assert_close(parameter.detach(), centre[name])
        assert parameter.dtype == torch.float32
        assert not torch.equal(fitted.guide[0][name], fitted.guide[4][name])
    torch.testing.assert_close(fitted.hyperparameters[SCALE].exp(), centre[SCALE])
    assert not fitted.net.training


@pytest.mark.parametrize("frames", ["sampled", "held"])
def test_frames(frames):
    model, data = two_layers()
    fitted = fit(
        model, data, htr.NUTS(warmup=5, samples=4, chains=1, frames=frames, max_tree_depth=3)
    )
    W, start = fitted.guide[3]["0.weight"].double(), model.net[0].weight.detach().double()
    U, _, Vh = torch.linalg.svd(start, full_matrices=False)
    inside = U.mT @ W @ Vh.mT
    off = (inside - inside.diagonal().diag()).norm() / inside.norm()
    assert (off < 1e-5) == (frames == "held")


@pytest.mark.parametrize("frames", ["sampled", "held"])
@pytest.mark.parametrize(
    "prior", [LOMAX, htr.SingularValues(htr.Exponential(1.0)), htr.MaxEigenvalue(htr.Frechet(2.0))]
)
def test_eigenvalues_that_are_compared_are_those_of_the_draws(prior, frames):
    """By label where frames are held, else sorted."""
    net = linear(4, 3).double()
    with torch.no_grad():  # eigenvalues so close that they change places
        net.weight.copy_(torch.tensor([[1.5], [0.8], [0.75]]) * torch.eye(3, 4))
    model = htr.BayesianClassifier(net, htr.Priors(prior))
    method = htr.NUTS(warmup=2, samples=4, chains=8, frames=frames, max_tree_depth=3, jitter=2.0)
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = nuts.NUTSSampler(method, problem_of(model, (x, torch.arange(10) % 3)))
    settings = ChainSettings(warmup=2, samples=4, chains=8, max_tree_depth=3, jitter=2.0)
    chains = run_chains(target.program, target.start, settings, seed=0)
    W = target.draws(chains)["weight"]
    if frames == "held":
        U, V = frames_of(model.net)
        lam = (U.mT @ W @ V).diagonal(dim1=1, dim2=2).square()
        assert (lam.diff(dim=1) > 0).any()
    else:
        lam = torch.linalg.svdvals(W).square()
    found = target.quantities(chains)
    for i in range(3):
        expected = lam[:, i].log().reshape(8, 4)
        torch.testing.assert_close(found[f"weight:log_eigenvalue[{i}]"], expected)


def test_likelihood_is_that_of_all_data_with_class_weights():
    """The log density that is sampled against one put together here, dropout off."""
    net = nn.Sequential(nn.Dropout(0.9), linear(3, 2)).double()
    priors = htr.Priors(htr.Entries(htr.Normal(0.0, 2.0)))
    model = htr.BayesianClassifier(net, priors, class_weights=[0.5, 3.0])
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = (x[:, 0] > 0).long()
    given = problem_of(model, (x, y))

    target = nuts.NUTSSampler(SHORT, given)
    found = target.log_density_at_start()
    W = net[1].weight.detach()
    losses = F.cross_entropy(x @ W.mT, y, reduction="none") * torch.tensor([0.5, 3.0])[y]
    prior = torch.distributions.Normal(0.0, 2.0).log_prob(W).sum()
    assert found == pytest.approx(float(prior - losses.sum()), rel=1e-6)


def test_starts_at_the_weights_and_at_given_hyperparameters():
    model, data = two_layers()
    given = problem_of(model, data, hyperparameters={SCALE: torch.tensor(0.7)})
    with torch.no_grad():
        given.net[0].weight.mul_(2)  # as from init=
    start = nuts.NUTSSampler(SHORT, given).start
    assert float(start[SCALE]) == pytest.approx(math.exp(0.7), rel=1e-6)
    lam = htr.spectrum(given.net[0].weight.detach().double())
    torch.testing.assert_close(start["0.weight:spectrum"], lam)


def test_frames_start_at_the_singular_vectors():
    """The mean of `X'X` is `I`."""
    shape = (12, 30)
    model = htr.BayesianClassifier(linear(30, 12), htr.Priors(LOMAX))
    start = nuts.NUTSSampler(htr.NUTS(), problem_of(model, nothing_learnt(30))).start
    for side, rows in zip(("left", "right"), shape, strict=True):
        frame = start[f"weight:{side}"]
        assert frame.shape == (rows, 12)
        torch.testing.assert_close(frame.mT @ frame, torch.eye(12, dtype=frame.dtype))


def test_history():
    model, data = two_layers()
    fitted = fit(model, data, SHORT)
    *chains, summary = fitted.history
    assert [row["chain"] for row in chains] == [0, 1]
    assert all(0 < row["acceptance"] <= 1 and row["step_size"] > 0 for row in chains)
    eigenvalues = [f"0.weight:log_eigenvalue[{i}]" for i in range(4)]
    eigenvalues += [f"3.weight:log_eigenvalue[{i}]" for i in range(3)]
    norms = ["0.bias:log_square_norm", "3.bias:log_square_norm"]
    names = {"log_density", SCALE, *eigenvalues, *norms}
    assert {k[5:] for k in summary if k.startswith("rhat:")} == names
    assert summary["rhat"] == max(summary[f"rhat:{n}"] for n in names)
    assert summary["ess"] == min(summary[f"ess:{n}"] for n in names)


@pytest.mark.filterwarnings("ignore:.*trajectories")
def test_fit_keeps_history_in_the_run_folder(tmp_path):
    model, data = two_layers()
    with pytest.warns(UserWarning, match=r"R-hat is above 1.01 for \d+ of 11 .* of 8 draws"):
        posterior = htr.fit(model, data, method=SHORT, epochs=0, out=tmp_path / "run")
    again = htr.load(tmp_path / "run", model.net)
    assert again.history == posterior.history
    assert again.config["method"] == SHORT.describe()
    with pytest.raises(htr.CheckpointError, match="holds a finished run"):
        htr.fit(model, data, method=SHORT, epochs=0, out=tmp_path / "run", resume=True)


@pytest.mark.filterwarnings("ignore:.*trajectories", "ignore:the chains")
def test_a_run_that_was_cut_off_starts_anew(tmp_path):
    model, data = two_layers()
    whole = htr.fit(model, data, method=SHORT, epochs=0, out=tmp_path / "run")
    for file in ("weights.safetensors", "spectra.safetensors", "metrics.jsonl"):
        (tmp_path / "run" / file).unlink()
    again = htr.fit(model, data, method=SHORT, epochs=0, out=tmp_path / "run", resume=True)
    for p, q in zip(whole.network().parameters(), again.network().parameters(), strict=True):
        assert torch.equal(p, q)


def test_history_is_no_curve_over_epochs():
    plots = pytest.importorskip("bayes_htr.posterior.training_plots")
    plt = pytest.importorskip("matplotlib.pyplot")
    epoch = {"epoch": 1.0, "train_nll": 0.5, "train_accuracy": 0.8}
    figure = plots.plot_history({"nuts": [{"chain": 0.0}, {"rhat": 1.0}], "map": [epoch]})
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [0, 1]
    plt.close(figure)


def test_the_same_seed_gives_the_same_draws():
    model, data = two_layers()
    one, two = (fit(model, data, SHORT).guide[5] for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.long
@pytest.mark.parametrize("chains", [2, 3])
def test_chains_in_processes_of_their_own_have_the_same_draws(chains):
    model, data = two_layers()
    method = replace(SHORT, chains=chains, frames="sampled")
    alone, spread = (fit(model, data, replace(method, processes=n)) for n in (1, 2))
    for i in range(len(alone.guide)):
        for name, value in alone.guide[i].items():
            assert torch.equal(value, spread.guide[i][name])
    for one, two in zip(alone.history, spread.history, strict=True):
        assert {**one, "seconds": 0.0} == {**two, "seconds": 0.0}
    assert replace(method, processes=2).describe() == method.describe()  # the same run


def test_a_model_that_other_processes_cannot_get():
    class Local(nn.Linear):
        """A class that `pickle` does not find."""

    net = Local(3, 2, bias=False)
    model = htr.BayesianClassifier(net, htr.Priors(LOMAX))
    data = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="cannot be sent to other processes"):
        fit(model, data, replace(SHORT, processes=2))


def test_warns_of_what_is_held():
    model = htr.BayesianClassifier(nn.Linear(3, 3), htr.Priors({"weight": LOMAX}))
    with pytest.warns(UserWarning, match="no prior on bias: NUTS leaves them"):
        fitted = fit(model, nothing_learnt(3), SHORT)
    assert torch.equal(fitted.guide[3]["bias"], model.net.bias)


def test_warns_with_numbers():
    def warned(**more):
        summary = {"divergences": 0.0, "saturated": 0.0, "rhat:a": 1.001, "ess:a": 9.0} | more
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            nuts._warn(summary, SHORT)
        return [str(w.message) for w in caught]

    assert warned() == []
    (message,) = warned(**{"rhat:b": 1.34, "ess:b": 5.0})
    assert "1 of 2 quantities, the largest 1.340 for b" in message
    assert "size is 5 of 8 draws" in message
    (message,) = warned(**{"rhat:b": math.nan, "ess:b": 8.0})
    assert "nan for b" in message
    (message,) = warned(divergences=3.0)
    assert "3 of 8 trajectories diverged" in message
    (message,) = warned(saturated=2.0)
    assert "2 of 8 trajectories reached max_tree_depth=2" in message


# What is refused


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"epochs": 3}, ValueError, "epochs=3: NUTS has no epochs"),
        ({"callbacks": [print]}, ValueError, "callbacks"),
        ({"validation": nothing_learnt(4)}, ValueError, "posterior.evaluate"),
    ],
)
def test_refuses_what_would_do_nothing(more, error, message):
    model, data = two_layers()
    with pytest.raises(error, match=message):
        htr.fit(model, data, **{"method": SHORT, "epochs": 0, **more})


def test_refuses_a_prior_that_is_no_density():
    model = htr.BayesianClassifier(linear(4, 3), htr.Priors(htr.ESD(htr.ImproperPowerlaw(2.0))))
    with pytest.raises(htr.PriorError, match=r"Lomax\(2.0\)"):
        htr.fit(model, nothing_learnt(4), method=SHORT, epochs=0)


def test_refuses_priors_nowhere():
    model = htr.BayesianClassifier(linear(4, 3), htr.Priors({}))
    with pytest.raises(ValueError, match="nothing to sample"):
        htr.fit(model, nothing_learnt(4), method=SHORT, epochs=0)


def test_refuses_large_models_by_the_number_of_coordinates():
    net = nn.Linear(200, 100, bias=False)
    model = htr.BayesianClassifier(net, htr.Priors(LOMAX))
    data = (torch.zeros(2, 200), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"30100 unconstrained coordinates.*at most 20000.*held"):
        htr.fit(model, data, method=htr.NUTS(), epochs=0)
    htr.NUTS(frames="held").prepare(problem_of(model, data))  # 100 of them


def test_refuses_a_loader_that_leaves_examples_out():
    model, (x, y) = two_layers()
    loader = DataLoader(TensorDataset(x, y), batch_size=16, drop_last=True)
    with pytest.raises(htr.DataError, match="gives 32 of 40 examples"):
        htr.fit(model, loader, method=SHORT, epochs=0)


@pytest.mark.parametrize(
    "setting",
    [
        {"warmup": 0},
        {"samples": 3},
        {"chains": 0},
        {"chains": 2.0},
        {"frames": "free"},
        {"target_accept": 1.0},
        {"max_tree_depth": 0},
        {"dense_mass": 1},
        {"jitter": -0.1},
        {"processes": 0},
    ],
)
def test_settings_out_of_range(setting):
    (name, value), *_ = setting.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        htr.NUTS(**setting)


def sharing(scale):
    """A trainable and a frozen layer with one tail index; the scale is the frozen one's alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    net[0].requires_grad_(False)
    shared = htr.Shared("t", htr.Gamma(9.0, 3.0))
    priors = htr.Priors(
        {
            "0.weight": htr.ESD(htr.Lomax(tail_index=shared, scale=scale)),
            "1.weight": htr.ESD(htr.Lomax(tail_index=shared)),
        }
    )
    return htr.BayesianClassifier(net, priors)


SCALE_0 = "0.weight:ESD.scale"


def test_hyperparameters_of_a_frozen_layer_are_sampled_too():
    model, data = sharing(htr.LogNormal(0.0, 0.5)), nothing_learnt(3)
    hyper = {"t": torch.tensor(0.5), SCALE_0: torch.tensor(0.7)}
    given = problem_of(model, data, hyperparameters=hyper)
    target = nuts.NUTSSampler(SHORT, given)
    assert float(target.start[SCALE_0]) == pytest.approx(math.exp(0.7), rel=1e-6)
    density = target.log_density_at_start()
    assert density == target.log_density_at_start()  # nothing is drawn
    t, s = math.exp(0.5), math.exp(0.7)
    lam = [htr.spectrum(layer.weight.detach()).numpy() for layer in model.net]
    expected = stats.gamma(9.0, scale=1 / 3).logpdf(t) + stats.lognorm(0.5).logpdf(s)
    expected += stats.lomax(t, scale=s).logpdf(lam[0]).sum() + stats.lomax(t).logpdf(lam[1]).sum()
    single = problem_of(sharing(1.0), data, hyperparameters=hyper)
    other = stats.gamma(9.0, scale=1 / 3).logpdf(t)
    other += stats.lomax(t).logpdf(lam[0]).sum() + stats.lomax(t).logpdf(lam[1]).sum()
    change = density - nuts.NUTSSampler(SHORT, single).log_density_at_start()
    assert change == pytest.approx(expected - other, rel=1e-6)
    posterior = fit(model, data, SHORT)
    assert {"t", SCALE_0} <= posterior.guide[0].keys()
    assert {"t", SCALE_0} == posterior.hyperparameters.keys()
    assert len({float(posterior.guide[i][SCALE_0]) for i in range(8)}) > 1
    assert math.isfinite(posterior.history[-1][f"rhat:{SCALE_0}"])


@pytest.mark.long
def test_a_frozen_layer_informs_the_tail_index():
    """With the trainable spectrum at its prior: `Gamma(a + K, b + S)` of the frozen one."""
    model = sharing(0.01)  # large ratios: a small tail index
    method = htr.NUTS(warmup=50, samples=150, chains=1, frames="held")
    fitted = fit(model, nothing_learnt(3), method)
    r = (htr.spectrum(model.net[0].weight) / 0.01).log1p().sum().item()
    exact = stats.gamma(9.0 + 3, scale=1 / (3.0 + r))
    found = torch.stack([fitted.guide[i]["t"] for i in range(0, 150, 3)]).double().numpy()
    assert stats.kstest(found, exact.cdf).pvalue > 1e-3
    assert stats.kstest(found, stats.gamma(9.0, scale=1 / 3).cdf).pvalue < 1e-6
