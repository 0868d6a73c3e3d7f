"""Which prior each parameter of a network has, and how that is explained."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import bayes_htr as htr

A = htr.ESD(htr.Lomax(2.0))
B = htr.Entries(htr.Normal(0.0, 0.1))
TOP = htr.MaxEigenvalue(htr.Frechet(2.0))
LOGN = htr.LogNormal(0.0, 1.0)
MATRICES = {
    "embed.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "frozen.weight",
}


def assigned(priors, net):
    return {a.parameter.name: a.prior for a in priors.resolve(net) if a.prior is not None}


def test_the_first_match_wins(net):
    assert assigned(htr.Priors({"attention.*": A, "*": TOP}), net) == {
        "embed.weight": TOP,
        "attention.in_proj_weight": A,
        "attention.out_proj.weight": A,
        "frozen.weight": TOP,
    }


def test_one_prior_is_for_every_matrix(net):
    assert assigned(htr.Priors(B), net) == dict.fromkeys(MATRICES, B)
    assert assigned(htr.Priors({"*": A}), net) == dict.fromkeys(MATRICES, A)


def test_vectors_take_entries(net):
    found = assigned(htr.Priors({"*bias": B, "norm.weight": B}), net)
    assert set(found) == {
        "norm.weight",
        "norm.bias",
        "attention.in_proj_bias",
        "attention.out_proj.bias",
        "frozen.bias",
        "head.bias",
    }


def test_a_vector_goes_on_to_a_later_pattern(net):
    found = assigned(htr.Priors({"head.*": A, "*": B}), net)
    assert found["embed.weight"] == A  # by the name head.weight
    assert found["head.bias"] == B


def test_one_prior_for_every_matrix_needs_one():
    for net, there in ((nn.LayerNorm(4), "weight, bias"), (nn.ReLU(), "none")):
        with pytest.raises(htr.PriorError, match=f"no weight matrix .* are {there}$"):
            htr.Priors(A).resolve(net)
        assert all(a.prior is None for a in htr.Priors({}).resolve(net))


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (
            {"nothing.*": A},
            r"'nothing\.\*' matches no parameter.*embed\.weight, norm\.weight.*head\.bias",
        ),
        ({"Embed.weight": A}, "matches no parameter"),
        ({"*": A, "embed.weight": B}, r"'embed\.weight' does nothing.*move it up"),
        ({"embed.*": A, "head.weight": B}, r"'head\.weight' does nothing"),
        ({"*": A, "attention.*weight": TOP}, "does nothing"),
        ({"norm.weight": A}, r"'norm\.weight' is a vector of shape \(4,\).*Entries"),
        ({"norm.bias": A & B}, "Entries"),
        ({"norm.*": A}, r"vectors only.*norm\.weight, norm\.bias.*Entries"),
    ],
)
def test_patterns_that_do_nothing_are_errors(patterns, said, net):
    for use in (htr.Priors(patterns).resolve, htr.Priors(patterns).explain):
        with pytest.raises(htr.PriorError, match=said):
            use(net)


def test_none_is_a_flat_prior_that_keeps_later_patterns_away(net):
    priors = htr.Priors({"frozen.weight": None, "attention.*": None, "*": A})
    assert assigned(priors, net) == {"embed.weight": A}
    rows = explained(priors, net)
    assert rows["frozen.weight"].prior == "flat ('frozen.weight' says so)"
    assert htr.Priors.from_dict(priors.to_dict()) == priors
    assert priors.to_dict()["priors"]["frozen.weight"] == {"type": "Flat"}
    assert eval(repr(priors), vars(htr)) == priors
    with pytest.raises(htr.PriorError, match="'nothing' matches no parameter"):
        htr.Priors({"nothing": None}).resolve(net)
    with pytest.raises(htr.PriorError, match="does nothing: earlier patterns"):
        htr.Priors({"embed.*": A, "embed.weight": None}).resolve(net)


def test_patterns_are_those_of_fnmatch(net):
    for pattern, names in [
        ("[ef]*.weight", {"embed.weight", "frozen.weight"}),
        ("?????.weight", {"embed.weight"}),
        ("*proj*", {"attention.in_proj_weight", "attention.out_proj.weight"}),
    ]:
        assert set(assigned(htr.Priors({pattern: A}), net)) == names


def test_prefixes_of_wrappers_are_ignored(net):
    for wrapped in (nn.DataParallel(net), torch.compile(net)):
        for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
            priors = htr.Priors({f"{prefix}frozen.weight": A})
            assert assigned(priors, wrapped) == {"frozen.weight": A}
    outer = nn.Module()
    outer.module = nn.Linear(3, 3)  # a network's own part of that name
    for pattern in ("module.weight", "weight", "module.*"):
        assert assigned(htr.Priors({pattern: A}), outer) == {"module.weight": A}


def explained(priors, net, **kwargs):
    return {row.parameter: row for row in priors.explain(net, **kwargs).rows}


def test_explain_has_a_row_for_each_matrix_and_vector(net):
    rows = explained(htr.Priors({"*.weight": TOP, "attention.in*weight": A}), net)
    assert set(rows) == {p for p, _ in net.named_parameters()} - {"attention.in_proj_weight"} | {
        f"attention.in_proj_weight[{x}]" for x in "qkv"
    }
    assert rows["embed.weight"].matrix == rows["embed.weight"].shape == "9x4"
    row = rows["attention.in_proj_weight[k]"]
    assert (row.shape, row.matrix, row.pattern) == ("12x4", "4x4", "attention.in*weight")
    assert row.prior == repr(A)
    assert rows["norm.weight"].prior == "flat (a vector, '*.weight' needs a matrix)"
    assert rows["head.bias"].prior == "flat (no pattern matches)"
    assert "frozen: a constant" in rows["frozen.weight"].prior
    assert rows["frozen.weight"].cost == rows["frozen.weight"].algorithm == ""
    assert explained(htr.Priors(A), net)["head.bias"].prior == "flat (a vector)"
    assert explained(htr.Priors({}), net)["embed.weight"].prior == "flat (no pattern matches)"


@pytest.mark.parametrize("prior", [TOP, A, A & B, B, htr.MaxEigenvalue(htr.Frechet(LOGN))])
def test_explain_shows_energy_and_gradient_at_the_present_weights(net, prior):
    priors = htr.Priors({"embed.weight": prior, "*in_proj_weight": prior}).scaled(3.0)
    rows = explained(priors, net)
    energy = htr.bind(priors, net, refresh=htr.Exact())
    energy().backward()
    row = rows["embed.weight"]
    terms = energy.terms()
    assert float(row.energy) == pytest.approx(terms["embed.weight"].item(), rel=1e-3)
    assert float(row.gradient) == pytest.approx(net.embed.weight.grad.norm().item(), rel=1e-2)
    assert float(row.norm) == pytest.approx(net.embed.weight.norm().item(), rel=1e-2)
    part = rows["attention.in_proj_weight[k]"]
    slope = net.attention.in_proj_weight.grad[4:8].norm().item()
    assert float(part.gradient) == pytest.approx(slope, rel=1e-2)
    assert rows["norm.weight"].energy == rows["frozen.weight"].energy == ""
    assert explained(priors, net, at_weights=False)["embed.weight"].gradient == ""


def test_explain_shows_a_scale_that_does_not_fit_before_training():
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    nn.init.trunc_normal_(net[1].weight, std=0.02)
    rows = explained(htr.Priors(TOP), net)
    assert float(rows["1.weight"].gradient) > 100 * float(rows["1.weight"].norm)
    nn.init.zeros_(net[1].weight)
    explanation = htr.Priors(TOP).explain(net)
    assert [r.energy for r in explanation.rows if r.parameter == "1.weight"] == ["cannot be scored"]
    assert "1.weight is zero" in explanation.notes[0]
    assert "1.weight is zero" in str(explanation)


def test_explain_of_scheduled_priors_and_on_the_meta_device(net):
    scheduled = htr.Priors(A).scheduled(htr.PowerDecay())
    assert float(explained(scheduled, net)["embed.weight"].energy) > 0
    assert explained(htr.Priors(A), nn.Linear(3, 4, device="meta"))["weight"].energy == ""


def test_explain_shows_the_strength_as_a_coefficient(net):
    priors = htr.Priors({"embed.weight": A.scaled(0.5) & B.scaled(4.0)}).scaled(80.0)
    assert explained(priors, net)["embed.weight"].strength == "40, 320"
    row = explained(priors, net, num_data=1000)["embed.weight"]
    assert row.strength == "40 (mu=0.04), 320 (mu=0.32)"


@pytest.mark.parametrize(
    ("prior", "strength", "density"),
    [
        (A, 1.0, "proper"),
        (A, 0.4, "improper"),
        (A.scaled(4.0), 0.1, "improper"),
        (htr.penalties.frechet(), 1.0, "improper"),
        (htr.penalties.stable_rank(), 1.0, "factor"),
    ],
)
def test_explain_says_whether_it_is_proper(prior, strength, density, net):
    rows = explained(htr.Priors(prior).scaled(strength), net)
    assert rows["embed.weight"].density == density


@pytest.mark.parametrize(
    ("prior", "algorithm"),
    [
        (B, "entries"),
        (TOP, "top pair (block Krylov)"),
        (htr.penalties.stable_rank(), "top pair (block Krylov)"),
        (htr.penalties.frechet(), "eigh of Gram matrix (257 largest)"),
        (A, "log det (Cholesky of Gram matrix)"),
        (A & TOP, "top pair (block Krylov) + log det (Cholesky of Gram matrix)"),
        (htr.penalties.weighted_alpha(), "eigh of Gram matrix (257 largest)"),
        (htr.penalties.powerlaw(), "eigh of Gram matrix (all, float64)"),
        (htr.ESD(htr.Exponential(1.0)), "eigh of Gram matrix (all, float64)"),
        (htr.ESD(htr.Lomax(htr.Hill(0.1))), "eigh of Gram matrix (all, float64)"),
        (htr.ESD(htr.Powerlaw(2.0), tail=0.25), "eigh of Gram matrix (129 largest)"),
        (htr.penalties.nuclear_norm(), "singular value decomposition"),
    ],
    ids=repr,
)
def test_explain_names_the_algorithm_and_its_cost(prior, algorithm):
    rows = explained(htr.Priors(prior), nn.Linear(784, 512))
    assert rows["weight"].algorithm == algorithm
    cost = float(rows["weight"].cost.removesuffix(" Mflop"))
    assert 784 * 512 <= cost * 1e6 < 1e11
    small = explained(htr.Priors(TOP), nn.Linear(50, 10))["weight"].algorithm
    assert small == "top pair (Gram matrix)"


def test_explain_prints(net):
    priors = htr.Priors(A).scaled(2.0).scheduled(htr.PowerDecay()).above(3.0)
    text = str(priors.explain(net, num_data=10))
    for part in ("in_proj_weight[q]", "ESD(Lomax(2.0))", "proper", "2 (mu=0.2)", "9x4"):
        assert part in text
    assert "schedule PowerDecay()" in text
    assert "at least 3.0" in text


@pytest.mark.parametrize(
    "wrap",
    [
        lambda layer: torch.nn.utils.parametrizations.weight_norm(layer),
        lambda layer: torch.nn.utils.parametrizations.spectral_norm(layer),
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
    ids=["weight_norm", "spectral_norm", "pruned"],
)
def test_a_prior_on_a_computed_weight(wrap):
    net = torch.nn.Sequential(wrap(torch.nn.Linear(4, 3)), torch.nn.Linear(3, 2))
    raw = [p for p, t in net.named_parameters() if p.startswith("0.") and t.ndim > 1]
    for priors in (htr.Priors(A), htr.Priors({"*": A}), htr.Priors({"*.weight": A})):
        assert assigned(priors, net) == {"0.weight": A, "1.weight": A}
        assert all(
            "0.weight is computed from it" in explained(htr.Priors(A), net)[n].prior for n in raw
        )
    assert list(htr.matrices_of(net)) == ["0.weight", "1.weight"]
    decay = htr.penalties.weight_decay()
    found = assigned(htr.Priors({"*": decay}), net)
    assert set(raw) <= set(found)
    assert "0.weight" not in found, "the entries are scored once, as those of the parameters"
    assert set(assigned(htr.Priors({"0.weight": decay}), net)) == {"0.weight"}
    with pytest.raises(htr.PriorError, match=r"not a weight but what 0\.weight is computed from"):
        htr.Priors({raw[0]: A}).resolve(net)


@pytest.mark.parametrize(
    ("priors", "scheduled"),
    [
        (htr.Priors({}), False),
        (htr.Priors(htr.ESD(htr.Lomax(2.0))), False),
        (htr.Priors(htr.ESD(htr.Lomax(2.0))).scheduled(htr.PowerDecay(1.0, 2)), True),
        (htr.Priors(htr.ESD(htr.Lomax(2.0)).scheduled(htr.PowerDecay(1.0, 2))), True),
        (
            htr.Priors(
                {
                    "a": htr.Entries(htr.Normal(0.0, 1.0)),
                    "b": htr.ESD(htr.Lomax(2.0))
                    & htr.Entries(htr.Normal(0.0, 1.0)).scheduled(htr.PowerDecay(1.0, 2)),
                }
            ),
            True,
        ),
    ],
)
def test_whether_anything_is_scheduled(priors, scheduled):
    assert priors.is_scheduled is scheduled
