"""Examples and outputs: what is taken, what is refused, and by which words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

import bayes_htr as htr
from bayes_htr.models.examples import as_tensor, check_labels, reason_against_outputs

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "values",
    [
        X.numpy(),
        X.tolist(),
        list(X),
        tuple(X.clone().requires_grad_()),
        X.clone().requires_grad_(),
        np.ma.array(X.numpy()),
    ],
    ids=["array", "lists", "list of tensors", "with gradients", "with gradient", "nothing masked"],
)
def test_numbers_are_a_tensor_without_gradient(values):
    found = as_tensor(values, "inputs")
    assert torch.equal(found.float(), X)
    assert not found.requires_grad


RAGGED = [torch.ones(3), torch.ones(4)]


@pytest.mark.filterwarnings("ignore:.*(beta state|prototype stage)")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RAGGED, r"of different shapes, \(3,\) and \(4,\); pad or crop"),
        (lambda: [[1.0, 2.0], [3.0]], "cannot be made one array .*; bring all examples to one"),
        (lambda: [[RAGGED[0], 1.0], [RAGGED[1], 2.0]], "cannot be made one array|are no numbers"),
        (X.to_sparse, "layout torch.sparse_coo .* are not dense; convert"),
        (X.to_sparse_csr, "layout torch.sparse_csr .* are not dense; convert"),
        (lambda: torch.nested.nested_tensor(RAGGED), "are not dense; convert"),
        (lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.qint8), "qint8 are not dense"),
        (lambda: sparse.csr_matrix(X.numpy()), "sparse csr_matrix; convert them by .toarray"),
        (lambda: X.to("meta"), "on the meta device"),
        (lambda: np.ma.masked_greater(X.numpy(), 0.5), "masked entries; fill them"),
        (lambda: X.numpy().astype(np.longdouble), "cannot be used"),
        (lambda: {"x": X}, "dtype object are no numbers"),
        (lambda: None, "dtype object are no numbers"),
    ],
)
def test_what_is_no_dense_array_of_numbers(make, message):
    with pytest.raises(
        htr.DataError, match=f"the inputs (of|are|cannot|on|have).*{message}|{message}"
    ):
        as_tensor(make(), "the inputs")


@pytest.mark.parametrize("y", [[0, 3], [-100, 0]])
def test_labels_out_of_range(y):
    with pytest.raises(htr.DataError, match=r"the data: label (3|-100) "):
        check_labels(torch.tensor(y), "the data", 3)
    torch.vmap(lambda each: check_labels(each, "the data", 3) or each)(torch.tensor([y]))


def network(*last):
    return nn.Sequential(nn.Linear(3, 4), *last)


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Flatten(1)], ids=str)
def test_probabilities_are_no_logits(last):
    reason = reason_against_outputs(network()(X).softmax(1), network(last))
    assert reason is not None
    assert "leave out the softmax" in reason


@pytest.mark.parametrize("last", [nn.Sigmoid(), nn.ReLU(), nn.Tanh(), nn.Softmin(1)], ids=str)
def test_outputs_in_an_interval_are_no_logits(last):
    net = network(last)
    reason = reason_against_outputs(net(X), net)
    assert reason is not None
    assert type(last).__name__ in reason or "softmax" in reason


@pytest.mark.parametrize("last", [nn.Identity(), nn.LogSoftmax(1), nn.Linear(4, 4)], ids=str)
def test_logits_of_any_kind_are_taken(last):
    net = network(last)
    assert reason_against_outputs(net(X), net) is None
    assert reason_against_outputs(torch.zeros(6, 4), net) is None
    assert reason_against_outputs(torch.ones(6, 1), net) is None
