"""One low-rank adapter (LoRA) of a spectral guide: the spectrum of the product `scale B A`.

The factors are `B`, of shape `(m, r)`, and `A`, of shape `(r, n)`, and `P = scale B A` has `r`
nonzero singular values. With an orthonormal basis `Q` of the rows of `A`, `(n, r)`, the compact
matrix `M = scale B (A Q)` has the same singular values, and `P = M Q'`. So the state of an adapter
is that of `M`, whose shape is `(m, r)`. `P` is never formed: a step costs `O(r^2 (m + n))`.

A draw changes `A` alone. With the right singular vectors `V` of `P`,

    P V (g - 1) V' + P = scale B (A + A V (g - 1) V'),

which has the singular vectors of `P` and its singular values times `g`.

In gradients `Q` is a constant. A function of singular values has the same gradient with respect to
the factors whether `Q` moves or not, because its gradient with respect to `P` has the row space of
`P`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from bayes_htr.engine.autograd import Derivative, itself
from bayes_htr.errors import PriorError, SpectrumError
from bayes_htr.inference.guides.eigenvalues import EigenvaluePosterior
from bayes_htr.inference.guides.spectral_state import SpectralState
from bayes_htr.priors import MatrixPrior, ParameterPrior
from bayes_htr.spectra import working
from bayes_htr.spectra.gram import Eigen
from bayes_htr.spectra.names import plain_name


class AdapterState(SpectralState):
    """The product of an adapter's factors under a spectral prior.

    Args:
        adapter: The prior of the product.
        factors: The parameters that would otherwise be points, with their priors, by name.
        directions: How many leading singular values have a spread; `None` for all.
        spread: The initial standard deviation of the logarithm of each singular value.
        full_gradient: Refused if true.

    Attributes:
        drawn_name: The name of `A`, the parameter that a draw changes.

    Raises:
        PriorError: `full_gradient` is true; the prior is not on the spectrum alone; a factor is
            frozen, shared or has a prior of its own; or `B` has more columns than the product has
            rows or columns.
    """

    def __init__(
        self,
        adapter: ParameterPrior,
        factors: dict[str, tuple[ParameterPrior, nn.Parameter]],
        directions: int | None,
        spread: float,
        *,
        full_gradient: bool = False,
    ) -> None:
        computed = adapter.parameter.computed
        assert computed is not None
        if full_gradient:
            raise PriorError(
                f"{adapter.name} is the product of an adapter's factors, of which the gradient is "
                "that at fixed singular vectors; leave out full_gradient=True"
            )
        names = [plain_name(path) for path in computed.part_paths]
        _check(adapter, names, factors)
        prior = compact(adapter.matrices[0])
        (self.drawn_name, _), (A, B) = names, (factors[name][1] for name in names)
        free = min(prior.rank, directions or prior.rank)
        super().__init__(EigenvaluePosterior(prior, free), A, spread)
        self._B, self.scale = (B,), computed.scale  # in a tuple: the guide has registered it

    @property
    def matrix(self) -> Tensor:
        """The compact matrix `scale B (A Q)` now, `(m, r)`, with gradient to both factors."""
        A = self._rows()
        return self._by_left(A @ _basis(A))

    def derivative(self) -> Derivative:
        """Return the derivative in the compact matrix, which is in the graph of both factors."""
        with torch.enable_grad():
            return super().derivative()._replace(tensor=self.matrix, view=itself)

    def drawn(self, noise: Tensor, frames: Tensor | None = None) -> Tensor:
        """Return `A` of a draw, in its shape: `b A + A V (g - b) V'`, differentiable.

        Args:
            noise: `(free,)` standard normal.
            frames: `(r, free)` right singular vectors of the compact matrix; by default those of
                the last refresh.
        """
        A = self._rows()
        V = _basis(A) @ (self.frames if frames is None else frames)
        Y = A @ V
        medians = self._by_left(Y).square().sum(0).double() if self.law.needs_medians else None
        factors, base = self.factors(medians, noise)
        rest = base * A if self.law.has_ratios else A
        noisy = rest + (Y * (factors - base)) @ V.mT
        return noisy.view(self._parameter[0].shape).to(self._parameter[0].dtype)

    def _rows(self) -> Tensor:
        """Return `A`, `(r, n)`."""
        return working(self._parameter[0].flatten(1))

    def _by_left(self, X: Tensor) -> Tensor:
        """Return `scale B X`."""
        return self.scale * (working(self._B[0].flatten(1)) @ X)

    def _decomposed(self, W: Tensor, *, rough: bool = False) -> Eigen:
        if not bool(W.any()):
            raise SpectrumError(
                f"{self.name} is zero, as adapters start, and the spectral guide is a law of the "
                "logarithms of its singular values; train a mode first and start there, with "
                "init=, or start with factors that are not zero, as "
                "LoraConfig(init_lora_weights=False) does"
            )
        return super()._decomposed(W, rough=rough)


def compact(prior: MatrixPrior) -> MatrixPrior:
    """Return the prior of an `(m, n)` product as that of an `(m, r)` matrix.

    The product is that of a matrix with `r` columns and one with `r` rows.
    """
    return replace(prior, shape=(prior.shape[0], prior.rank), factors=None, view=itself)


def _basis(A: Tensor) -> Tensor:
    """Return an orthonormal basis `(n, r)` of the rows of `A`, without gradient.

    It is the Gram-Schmidt basis, which is a continuous function of `A`.
    """
    Q, R = torch.linalg.qr(A.detach().mT)
    return Q * torch.where(R.diagonal() < 0, -1.0, 1.0)


def _check(
    adapter: ParameterPrior,
    names: list[str],
    factors: dict[str, tuple[ParameterPrior, nn.Parameter]],
) -> None:
    """Raise unless a state can be made of an adapter."""
    name = adapter.name
    if len(adapter.matrices) != 1 or len(adapter.parameter.matrices) != 1:
        raise PriorError(
            f"{name} holds {len(adapter.parameter.matrices)} matrices by its declared layout: the "
            "spectral guide takes an adapter as one matrix; leave out its layout, or use htr.MAP"
        )
    (matrix,) = adapter.matrices
    if matrix.entries:
        raise PriorError(
            f"{name}: {matrix.stated!r} is a law of the entries of a product: the spectral guide "
            "takes laws of its spectrum alone, such as ESD(Lomax(2.0)); or use htr.MAP"
        )
    if matrix.rank < (matrix.factors or 0):
        raise PriorError(
            f"{name} has shape {matrix.shape[0]} x {matrix.shape[1]} and rank {matrix.factors} at "
            f"most: take an adapter of rank {matrix.rank} or less, or leave it out: "
            f"Priors({{{name!r}: None, ...}})"
        )
    for factor in names:
        if factor not in factors:
            raise PriorError(
                f"{name}: its factor {factor} is frozen, or another parameter too; the spectral "
                "guide trains both factors of an adapter. Train it, or use htr.MAP"
            )
        if factors[factor][0].matrices:
            raise PriorError(
                f"{name} has a prior, and so has its factor {factor}: in a posterior that would "
                f"count twice; leave out one of them, as by {{{factor!r}: None}}"
            )
