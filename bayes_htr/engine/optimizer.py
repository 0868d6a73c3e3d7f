"""`with_prior`: an optimiser that takes a prior's step beside its own.

Update, with the learning rate `lr` of the parameter's group:

- coupled: the optimiser sees `grad loss + grad energy / num_data`;
- decoupled: `W <- U(W, grad loss) - lr * grad energy(W) / num_data`, where `U` is the optimiser's
  own update and both gradients are those at the same `W`.

Source: Loshchilov & Hutter (2019), arXiv:1711.05101, whose decay is the step of a normal prior on
the entries. For schedule-free optimisers: Defazio et al. (2024), arXiv:2405.15682.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayes_htr._checks import number, whole_number
from bayes_htr.engine.autograd import (
    Derivative,
    add_to_gradients,
    add_to_tensor,
    enter,
    itself,
)
from bayes_htr.engine.energy import SpectralEnergy, bind
from bayes_htr.engine.optimizer_kinds import (
    check_form,
    check_type,
    needs_closure,
    schedule_free_step,
)
from bayes_htr.engine.refresh import Refresh
from bayes_htr.errors import CheckpointError, PriorError
from bayes_htr.priors import Priors
from bayes_htr.spectra import Gradient

HYPER_LR = 0.05
"""The learning rate of hyperparameters and of their laws, whose coordinates have no unit."""

_STATE_KEY = "prior"
"""Where the state of an optimiser holds that of its prior."""

_STATE_HOOKS = [
    f"_optimizer_{name}_hooks"
    for name in (
        "state_dict_pre",
        "state_dict_post",
        "load_state_dict_pre",
        "load_state_dict_post",
    )
]


def with_prior(
    optimizer: Optimizer,
    priors: Priors,
    net: nn.Module,
    *,
    num_data: float,
    decoupled: bool | None = None,
    refresh: Refresh | None = None,
    share: bool = True,
) -> PriorOptimizer:
    """Let an optimiser train a network under priors, without a change of the loss.

    Wrap the optimiser before a trainer gets it, such as before `accelerator.prepare`.

    Args:
        optimizer: Any optimiser of the network's parameters.
        priors: The priors. The optimiser has to have all parameters with a prior that are not
            frozen.
        net: The network.
        num_data: The number of terms of which the loss is the mean: training examples, or tokens
            for the loss of a language model. Not the size of a batch, and not multiplied by epochs.
        decoupled: Whether the prior has a step of its own, as weight decay has in AdamW, or its
            gradient is added to that of the loss. By default it is decoupled, but for `SGD` and
            for optimisers that need a closure, such as `LBFGS`.
        refresh: The policy by which the gradients of the prior are computed anew; by default
            `Drift(0.1)`.
        share: Whether processes of `torch.distributed` spread the work, if there are several.

    Returns:
        An optimiser with the same parameter groups. `step()` takes both steps, and `state_dict()`
        has the state of both.

    Raises:
        PriorError: The priors do not fit the network, as for `bind`; the optimiser lacks a
            parameter that has a prior; or the optimiser cannot be wrapped.
        SpectrumError: The same errors as for `bind`.

    Example:
        >>> optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0)
        >>> optimizer = with_prior(optimizer, priors, net, num_data=len(train))
    """
    return PriorOptimizer(
        optimizer,
        bind(priors, net, refresh=refresh, share=share),
        num_data=num_data,
        decoupled=decoupled,
    )


class PriorOptimizer(Optimizer):
    """The optimiser that `with_prior` returns.

    Attributes that it does not have itself, such as `train()` and `eval()` of schedule-free
    optimisers, are those of the wrapped optimiser. The prior acts once at every step, also on
    parameters without a gradient of the loss, and not at all if a `GradScaler` skips the step. It
    acts after gradients have been unscaled and clipped. Hyperparameters with hyperpriors are
    trained by Adam with a learning rate of 0.05.

    Args:
        optimizer: The optimiser that is wrapped.
        energy: The energy of its network.
        num_data: As in `with_prior`.
        decoupled: As in `with_prior`.

    Attributes:
        inner: The wrapped optimiser.
        energy: The energy of the network under its priors.
        num_data: The number of terms of which the loss is the mean.
        decoupled: Whether the prior has a step of its own.
        epoch: The epoch, from 0, for priors with a schedule; set it at the start of each epoch.
        prior_energy: The energy at the last step, 0-d; `None` before the first step.

    Raises:
        PriorError: The same errors as in `with_prior`.
    """

    _step_supports_amp_scaling = False
    """A fused optimiser would unscale gradients itself, after the prior's gradient is added."""

    inner: Optimizer
    energy: SpectralEnergy
    num_data: float
    decoupled: bool
    prior_energy: Tensor | None
    hyper_optimizer: torch.optim.Adam | None

    def __init__(
        self,
        optimizer: Optimizer,
        energy: SpectralEnergy,
        *,
        num_data: float,
        decoupled: bool | None = None,
    ) -> None:
        check_type(optimizer)
        if isinstance(optimizer, PriorOptimizer):
            raise PriorError(
                "the optimiser has priors already; state all of them in one htr.Priors, where "
                "a & b multiplies two of them"
            )
        if decoupled is None:
            decoupled = not (isinstance(optimizer, torch.optim.SGD) or needs_closure(optimizer))
        hyperparameters = list(energy.parameters())
        # Not `Optimizer.__init__`, which would make other parameter groups and another state.
        self.__setstate__(
            {
                "inner": optimizer,
                "energy": energy,
                "num_data": number(num_data, "num_data", above=0, error=PriorError),
                "decoupled": bool(decoupled),
                "prior_energy": None,
                "hyper_optimizer": (
                    torch.optim.Adam(hyperparameters, lr=HYPER_LR) if hyperparameters else None
                ),
                "_epoch": None,
            }
        )
        check_form(optimizer, energy, decoupled=self.decoupled)
        self._require([p for p in energy.weights().values() if p.requires_grad])

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A hook on the state is one of the wrapped optimiser, which makes and takes the state.
        hooks = {name: getattr(state["inner"], name) for name in _STATE_HOOKS}
        super().__setstate__({**state, **hooks})

    def __getstate__(self) -> dict[str, Any]:
        names = ["num_data", "decoupled", "prior_energy", "hyper_optimizer", "_epoch"]
        return {name: self.__dict__[name] for name in ["inner", "energy", *names]}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "inner" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.inner, name)

    def __repr__(self) -> str:
        form = "decoupled" if self.decoupled else "coupled"
        return f"{self.inner!r} with {form} prior {self.energy.priors!r}"

    @property
    def epoch(self) -> int | None:
        """The epoch, from 0, for priors with a schedule."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int | None) -> None:
        self._epoch = None if epoch is None else whole_number(epoch, "epoch", error=PriorError)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of the wrapped optimiser."""
        return self.inner.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.inner.param_groups = groups

    @property
    def state(self) -> Any:
        """The state of the wrapped optimiser, by parameter."""
        return self.inner.state

    @state.setter
    def state(self, state: Any) -> None:
        self.inner.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The default settings of the wrapped optimiser."""
        return self.inner.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.inner.defaults = defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to the wrapped optimiser."""
        self.inner.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of all parameters."""
        self.inner.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None, **options: Any) -> Any:
        """Take the optimiser's step and that of the prior.

        Args:
            closure: Computes the loss and its gradients anew, and returns the loss.
            options: Other arguments of the wrapped optimiser's `step`.

        Returns:
            What the wrapped optimiser returns: the loss of the closure. If the optimiser needs a
            closure, as LBFGS does, the loss includes that of the prior, `energy / num_data`.

        Raises:
            PriorError: A prior has a schedule and no epoch is set, or the optimiser does not have a
                parameter with a prior.
            SpectrumError: A matrix is not finite, or a law cannot score it.
        """
        if self.decoupled:
            derivatives = self._derivatives()
            loss = self._own_step(closure, options)
            self._move(derivatives)
        elif closure is None:
            add_to_gradients(self._derivatives(), 1 / self.num_data)
            loss = self._own_step(None, options)
        else:
            loss = self._own_step(self._with_prior(closure), options)
        if self.hyper_optimizer is not None:
            self.hyper_optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the wrapped optimiser, with that of the prior under `"prior"`.

        The prior's state has tensors, numbers and texts; `torch.load(weights_only=True)` reads it.
        """
        hyper = self.hyper_optimizer
        own = {
            "priors": repr(self.energy.priors),
            "energy": dict(self.energy.state_dict()),
            "hyper": None if hyper is None else hyper.state_dict(),
            "epoch": self.epoch,
        }
        return {**self.inner.state_dict(), _STATE_KEY: own}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned.

        A state without a prior, or with another prior, is loaded with a warning: cached gradients
        and hyperparameters then begin anew.

        Raises:
            CheckpointError: The state of the prior cannot be read.
        """
        own = state_dict.get(_STATE_KEY)
        rest = {name: value for name, value in state_dict.items() if name != _STATE_KEY}
        self.inner.load_state_dict(rest)
        self.prior_energy = None
        if own is None or own.get("priors") != repr(self.energy.priors):
            found = "no prior" if own is None else f"the prior {own.get('priors')}"
            warnings.warn(
                f"the optimiser's state was saved with {found}, and is loaded with "
                f"{self.energy.priors!r}: cached gradients and hyperparameters begin anew",
                stacklevel=2,
            )
            self.energy.invalidate()
            return
        try:
            self.energy.load_state_dict(own["energy"])
            if self.hyper_optimizer is not None:
                self.hyper_optimizer.load_state_dict(own["hyper"])
            self.epoch = own["epoch"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the state of a prior in an optimiser's state cannot be read ({error}); delete "
                f"its key {_STATE_KEY!r} to go on without cached gradients"
            ) from error

    def _derivatives(self) -> list[Derivative]:
        """Return the derivatives of the energy in weights.

        Hyperparameters have their derivatives in `.grad`.
        """
        self.prior_energy, derivatives = self.energy.derivatives(self.epoch)
        trained = [d for d in derivatives if d.tensor.requires_grad]
        if self.hyper_optimizer is not None:
            self.hyper_optimizer.zero_grad()
            own = {id(u) for u in self.energy.parameters()}
            add_to_gradients([d for d in trained if id(d.tensor) in own], 1 / self.num_data)
            trained = [d for d in trained if id(d.tensor) not in own]
        computed = [d for d in trained if not d.tensor.is_leaf]
        if computed:
            trained = [d for d in trained if d.tensor.is_leaf] + self._of_parameters(computed)
        self._require([d.tensor for d in trained])
        return trained

    def _of_parameters(self, computed: list[Derivative]) -> list[Derivative]:
        """Convert derivatives in weights that the network computes to derivatives in parameters."""
        parameters = [p for p in self.energy.net.parameters() if p.requires_grad]
        with torch.enable_grad():
            first = computed[0].tensor
            value = enter(torch.zeros((), dtype=first.dtype, device=first.device), computed)
            gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        pairs = zip(parameters, gradients, strict=True)
        return [Derivative(p, itself, Gradient(g)) for p, g in pairs if g is not None]

    def _with_prior(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """Return a closure that also adds the prior's gradient."""
        compares_losses = needs_closure(self.inner)

        def both() -> Any:
            loss = closure()
            add_to_gradients(self._derivatives(), 1 / self.num_data)
            if compares_losses:
                assert self.prior_energy is not None
                return loss + self.prior_energy.to(loss) / self.num_data
            return loss

        return both

    def _own_step(self, closure: Callable[[], Any] | None, options: Mapping[str, Any]) -> Any:
        if closure is None:
            return self.inner.step(**options)
        return self.inner.step(closure, **options)

    @torch.no_grad()
    def _move(self, derivatives: list[Derivative]) -> None:
        """Take the decoupled step along derivatives at the weights before the optimiser's step."""
        groups = self._group_of()
        for derivative in derivatives:
            tensor = derivative.tensor
            group, kept = groups[id(tensor)], self.state.get(tensor, {})
            if "train_mode" in group and "z" in kept:
                lr, share = schedule_free_step(group)
                add_to_tensor(kept["z"], derivative, -lr / self.num_data)
                add_to_tensor(tensor, derivative, -lr * share / self.num_data)
            else:
                add_to_tensor(tensor, derivative, -float(group["lr"]) / self.num_data)

    def _group_of(self) -> dict[int, dict[str, Any]]:
        """Return the group of each parameter, by the parameter's identity."""
        return {id(p): group for group in self.param_groups for p in group["params"]}

    def _require(self, tensors: list[Tensor]) -> None:
        """Raise if the optimiser does not have a parameter."""
        known = self._group_of()
        missing = {id(tensor) for tensor in tensors if id(tensor) not in known}
        if missing:
            names = [n for n, p in self.energy.net.named_parameters() if id(p) in missing]
            raise PriorError(
                f"{', '.join(names)} has a prior and is trained, but the optimiser "
                f"{type(self.inner).__name__} does not have it. If another optimiser trains it, "
                "give each of them priors of its own parameters, as in "
                'htr.Priors({"blocks.*.weight": prior}); otherwise freeze it'
            )
