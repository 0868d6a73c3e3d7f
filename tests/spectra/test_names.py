"""Patterns find parameters and parts of them."""

import pytest

from bayes_htr.spectra.names import matches_matrix, matches_name, matches_part, split_part


def test_a_name_has_a_parameter_and_a_part():
    assert split_part("a.in_proj_weight[q]") == ("a.in_proj_weight", "q")
    assert split_part("a.gate_up_proj[3,gate]") == ("a.gate_up_proj", "3,gate")
    assert split_part("a.weight") == ("a.weight", "")


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*.in_proj_weight[q]", "a.in_proj_weight[q]", True),
        ("*.in_proj_weight[q]", "a.in_proj_weight[k]", False),
        ("*.in_proj_weight[?]", "a.in_proj_weight[k]", True),
        ("*.in_proj_weight", "a.in_proj_weight[k]", True),
        ("*.in_proj_weight[*]", "a.in_proj_weight[k]", True),
        ("a.in_proj_weight[k]", "a.in_proj_weight[k]", True),
        ("*.experts.*[*,gate]", "l.experts.w[12,gate]", True),
        ("*.experts.*[1?,gate]", "l.experts.w[12,gate]", True),
        ("*.experts.*[*,gate]", "l.experts.w[12,up]", False),
        ("layer[0-3]", "layer2", True),  # as fnmatch
        ("layer[0-3].weight", "layer2.weight", True),
        ("module.a.in_proj_weight[q]", "a.in_proj_weight[q]", True),
        ("a.*", "_checkpoint_wrapped_module.a.weight", True),
        ("weight[q]", "weight", False),
    ],
)
def test_patterns(pattern, name, matches):
    assert matches_matrix(pattern, name) is matches
    parameter, part = split_part(name)
    found = matches_name(pattern, [parameter]) or matches_part(pattern, [parameter], part)
    assert found is matches
