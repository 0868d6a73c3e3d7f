"""Parts of parameters have priors of their own, also under declared layouts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayes_htr as htr

A = htr.ESD(htr.Lomax(2.0))
TOP = htr.MaxEigenvalue(htr.Frechet(2.0))
GATES = {"*gate_up_proj": {"batch": [0], "rows": [1], "parts": ["gate", "up"]}}


class Experts(nn.Module):
    """As those of Mixtral in transformers 5."""

    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(3, 8, 5))
        self.down_proj = nn.Parameter(torch.randn(3, 5, 4))


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2)
        self.experts = Experts()
        self.heads = nn.Parameter(torch.randn(6, 2, 3))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Mixture().double()


def by_matrix(priors, net):
    return {m.name: m.stated for p in priors.resolve(net) for m in p.matrices}


def explained(priors, net):
    return {row.parameter: row for row in priors.explain(net).rows}


def test_a_part_is_found_by_the_name_that_is_printed(net):
    q = {"attention.in_proj_weight[q]": TOP}
    for pattern in ("*.in_proj_weight[q]", "attention.in_proj_weight[q]", "*[q]"):
        priors = htr.Priors({pattern: TOP})
        assert by_matrix(priors, net) == q
        energy = htr.bind(priors, net, refresh=htr.Exact())
        energy().backward()
        assert (net.attention.in_proj_weight.grad[6:] == 0).all()
        expected = (
            -htr.Frechet(2.0)
            .distribution()
            .log_prob(torch.linalg.matrix_norm(net.attention.in_proj_weight[:6], 2).square())
        )
        constant = torch.log(torch.tensor(2.0))
        assert energy().item() == pytest.approx((expected + constant).item(), rel=1e-6)


def test_the_first_pattern_wins_for_each_part(net):
    priors = htr.Priors({"*[v]": None, "*[q]": TOP, "attention.*weight": A})
    assert by_matrix(priors, net) == {
        "attention.in_proj_weight[q]": TOP,
        "attention.in_proj_weight[k]": A,
        "attention.out_proj.weight": A,
    }
    rows = explained(priors, net)
    assert rows["attention.in_proj_weight[q]"].pattern == "*[q]"
    assert rows["attention.in_proj_weight[k]"].pattern == "attention.*weight"
    assert rows["attention.in_proj_weight[v]"].prior == "flat ('*[v]' says so)"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("*.in_proj_weight[x]", r"no part; there are attention.in_proj_weight\[q\], "),
        ("*.out_proj.weight[q]", "no part; there are attention.out_proj.weight"),
        ("nothing[q]", "matches no parameter"),
    ],
)
def test_a_pattern_of_a_part_that_is_not_there(net, pattern, said):
    with pytest.raises(htr.PriorError, match=said):
        htr.Priors({pattern: A}).resolve(net)


def test_a_posterior_takes_all_parts_or_none(net):
    model = htr.BayesianClassifier(net, htr.Priors({"*[q]": A}))
    with pytest.raises(htr.PriorError, match=r"weight\[k\], .*\[v\] has no prior, and .*\[q\]"):
        model.pyro_model("weight")
    wide = htr.Entries(htr.Normal(0.0, 10.0))
    priors = htr.Priors({"*[q]": A, "attention.in_proj_weight": wide})
    htr.BayesianClassifier(net, priors).pyro_model("weight")


def test_fused_experts_are_one_matrix_each(net):
    names = [f"experts.gate_up_proj[{i}]" for i in range(3)]
    for priors in (htr.Priors(A), htr.Priors({"experts.gate_up_proj": A})):
        energy = htr.bind(priors, net, refresh=htr.Exact())
        assert set(names) <= set(energy.refreshes)
        total = sum(float(htr.bind(htr.Priors({n: A}), net)().detach()) for n in names)
        assert energy.terms()["experts.gate_up_proj"].item() == pytest.approx(total)
    report = htr.analyze(net, min_size=1)
    assert [r["name"] for r in report.rows if "gate_up" in r["name"]] == names
    stored = htr.analyze(net.state_dict(), min_size=1)
    assert [r["name"] for r in stored.rows] == [r["name"] for r in report.rows]


def test_one_declaration_serves_priors_and_analyze(net, tmp_path):
    matrices = {**GATES, "heads": {"batch": [1], "rows": [2], "columns": [0]}}
    priors = htr.Priors({"*gate_up_proj[*,gate]": TOP, "heads": A}, matrices=matrices)
    names = [f"experts.gate_up_proj[{i},gate]" for i in range(3)] + ["heads[0]", "heads[1]"]
    assert set(by_matrix(priors, net)) == set(names)
    assert htr.Priors.from_dict(priors.to_dict()) == priors
    assert eval(repr(priors), {name: getattr(htr, name) for name in htr.__all__}) == priors
    assert priors.scaled(2.0).matrices == priors.matrices
    energy = htr.bind(priors, net)
    energy().backward()
    assert torch.isfinite(net.experts.gate_up_proj.grad).all()
    assert (net.experts.gate_up_proj.grad[:, 4:] == 0).all()
    for source in (net, net.state_dict()):
        report = htr.analyze(source, matrices=matrices, layers=names, min_size=1)
        assert {r["name"] for r in report.rows} == set(names)
    W = htr.matrices_of(net, matrices)["heads[1]"]
    assert torch.equal(W, net.heads[:, 1].T)
    file = tmp_path / "priors.toml"
    file.write_text(
        '[matrices."heads"]\nbatch = [1]\nrows = [2]\ncolumns = [0]\n'
        '[priors."heads"]\ntype = "ESD"\n[priors."heads".law]\ntype = "Lomax"\nalpha = 2.0\n'
    )
    assert set(by_matrix(htr.Priors.from_toml(file), net)) == {"heads[0]", "heads[1]"}


def test_a_declared_parameter_is_a_weight_and_none_is_no_matrix(net):
    declared = htr.Priors(A, matrices={"heads": htr.MatrixLayout(), "experts.*": None})
    assert set(by_matrix(declared, net)) == {
        *(f"attention.in_proj_weight[{x}]" for x in "qkv"),
        "attention.out_proj.weight",
        "heads",
    }
    report = htr.analyze(net, min_size=1, matrices={"experts.*": None})
    assert report.skipped["experts.down_proj"] == "it is declared as no matrix"


@pytest.mark.parametrize(
    ("matrices", "said"),
    [
        ({"nothing": None}, "matrices: the pattern 'nothing' matches no"),
        ({"heads": {"rows": [3]}}, "heads has shape"),
        ({"heads": {"rows": [0], "columns": [1]}}, "each axis has to be in one"),
    ],
)
def test_a_declaration_that_does_not_fit_is_an_error(net, matrices, said):
    with pytest.raises((htr.PriorError, htr.SpectrumError), match=said):
        htr.Priors(A, matrices=matrices).resolve(net)
    with pytest.raises((htr.DataError, htr.SpectrumError), match=said):
        htr.analyze(net, matrices=matrices)


def test_a_posterior_under_a_layout_knows_its_matrices():
    torch.manual_seed(0)

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(0.3 * torch.randn(6, 2, 3))
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.einsum("ni,ihw->nhw", x, self.w).flatten(1))

    data = (torch.randn(40, 6), torch.randint(3, (40,)))
    layouts = {"w": {"batch": [1], "rows": [2], "columns": [0]}}
    priors = htr.Priors({"w": A, "head.weight": A}, matrices=layouts)
    for method in (htr.MAP(), htr.SVI(guide="spectral"), htr.SVI(guide="meanfield")):
        model = htr.BayesianClassifier(Heads(), priors)
        posterior = htr.fit(model, data, method=method, epochs=1, progress=False)
        assert {"w[0]", "w[1]", "head.weight"} <= set(posterior.spectra(samples=2))
    assert htr.sample_prior(model, 2)["w"].shape == (2, 6, 2, 3)
