"""Training by MAP in several processes that shard the weights.

PyTorch's `fully_shard` gives each process a part of every weight, of its gradient and of the
optimiser's state. A layer's weights are gathered for its forward and its backward pass only.
`docs/distributed.md` says what is sent when.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayes_htr.distributed import all_sum, copy_from_rank0, run_on_rank0, world_size
from bayes_htr.errors import DivergenceError
from bayes_htr.inference.callbacks import StepCallback
from bayes_htr.inference.map_trainer import DistributedMAPTrainer, MAPSettings, MAPTrainer
from bayes_htr.inference.nonfinite import divergence
from bayes_htr.inference.problem import Fitted, Problem, score_sums
from bayes_htr.inference.replica import DistributedTrainer, Replica, evaluate_replicas
from bayes_htr.inference.run_folder import CHECKPOINT, RunFolder
from bayes_htr.models.inputs import Inputs, call, map_inputs


class ShardedMAPTrainer(DistributedMAPTrainer):
    """Training by MAP in several processes, each of which has a part of the weights.

    Cached gradients of the prior are computed anew at each epoch. A checkpoint, which holds whole
    weights, therefore needs none of these gradients, and the run can be resumed by another number
    of processes, even by a single one that has all weights.

    Args:
        method: The settings.
        problem: The problem to train on; its network is sharded in place.

    Raises:
        ValueError: There is one process, a callback follows steps, the optimiser needs a closure,
            or `amp="float16"`.
    """

    replica: Replica  # type: ignore[assignment]

    def __init__(self, method: MAPSettings, problem: Problem) -> None:
        if world_size() == 1:
            raise ValueError(
                "shard=True shards the weights between processes, and there is one; start several "
                "by torchrun, or leave it out"
            )
        if method.amp == "float16":
            raise ValueError("amp='float16' does not go with shard=True; take amp='bfloat16'")
        self.example = map_inputs(lambda t: t[:1], problem.train.first()[0])
        self.whole = copy.deepcopy(problem.net).to("meta")
        copy_from_rank0([*problem.net.parameters(), *problem.net.buffers()])
        shard(problem.net)
        super().__init__(method, problem)
        if self.needs_closure:
            raise ValueError(
                f"{type(self.optimizer).__name__} needs a closure, and shard=True takes optimisers "
                "that do not; take torch.optim.Adam"
            )
        for callback in problem.callbacks:
            if isinstance(callback, StepCallback):
                raise ValueError(
                    f"{callback!r} looks at the weights in one process, and with shard=True no "
                    "process has them; leave it out"
                )

    def run(
        self, folder: RunFolder | None = None, checkpoint: dict[str, Any] | None = None
    ) -> Fitted:
        """Train to the end; all processes return the whole network."""
        self.replica = Replica()
        return DistributedTrainer.run(self, folder, checkpoint)

    def start_epoch(self, seed: int) -> None:
        """Seed the global generators, and forget the cached gradients of the prior."""
        super().start_epoch(seed)
        self.energy.invalidate()

    def score(self, x: Inputs, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Score this process's part of the batch; the mean over processes is that over the batch.

        Weights are gathered by all processes together, so that a process without examples calls
        the network with the first example of the data, which counts nothing. An error of the
        network in one process ends all of them when that process ends.
        """
        if self.replica.failure is None and len(y):
            nll, score = self.mean_score(x, y)
            return nll * (len(y) * world_size() / size), score
        nothing = call(self.net, self.example).sum() * 0
        return nothing, nothing.detach()

    def validate(self) -> tuple[float, float]:
        """Return NLL and score on the validation data, of which each process has a part."""
        assert self.problem.validation is not None
        values = {name: value.detach() for name, value in self.point.values().items()}

        def sums_of(parts: Iterable[tuple[Inputs, Tensor]]) -> tuple[float, float, float]:
            return score_sums(self.net, parts, self.likelihood, values)

        return evaluate_replicas(self.problem.validation, sums_of, skip_empty=False)

    def check_weights(self, x: Inputs) -> None:
        """Raise if the last update made a weight of any process not finite."""
        bad = sum(int(not bool(torch.isfinite(_local(p)).all())) for p in self.weights)
        if float(all_sum(torch.tensor(float(bad)))):
            raise self.diverged("a weight is not finite after it", self.step - 1, x)

    def diverged(self, reason: str, step: int, x: Inputs) -> DivergenceError:
        """Return the error to raise, which does not look for the layer in the sharded network."""
        last = None if self.folder is None else self.folder.path / CHECKPOINT
        return divergence(reason, step, self.epoch, last, None, x)

    def save(self) -> None:
        """Write a checkpoint of the whole weights and the metrics, in process 0."""
        if self.folder is None:
            return
        folder, state = self.folder, gathered_tensors(self.state())
        run_on_rank0(lambda: folder.write_checkpoint(state, self.history))

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state that `save` has written, each process its part."""
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments = {
            index: {name: _alike(value, weights[index]) for name, value in values.items()}
            for index, values in state["optimizer"]["state"].items()
        }
        super().restore({**state, "optimizer": {**state["optimizer"], "state": moments}})

    def _load_learnt(self, state: Mapping[str, Any]) -> None:
        present = self.net.state_dict()
        net = {name: _alike(value, present.get(name)) for name, value in state["net"].items()}
        super()._load_learnt({**state, "net": net})

    def fitted(self) -> Fitted:
        """Return the whole network, on the device of training, and its hyperparameters."""
        found = MAPTrainer.fitted(self)
        whole = self.whole.to_empty(device=self.problem.train.device)
        whole.load_state_dict(gathered_tensors(self.net.state_dict()))
        return Fitted(whole.eval(), found.hyperparameters, found.history)


def shard(net: nn.Module) -> None:
    """Divide the weights of a network between all processes, in place, layer by layer.

    The weights of each child module are gathered together. If children share a parameter, all
    weights are.
    """
    from torch.distributed.fsdp import fully_shard

    children = [child for child in net.children() if any(True for _ in child.parameters())]
    owned = [id(p) for child in children for p in child.parameters()]
    if len(owned) == len(set(owned)):
        for child in children:
            fully_shard(child)
    fully_shard(net, reshard_after_forward=True)


def gathered_tensors(state: Any) -> Any:
    """Return a nested state in which whole tensors, on the CPU, replace the sharded ones.

    All processes have to call it.
    """
    if isinstance(state, Mapping):
        return {name: gathered_tensors(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(gathered_tensors(value) for value in state)
    if hasattr(state, "full_tensor"):
        return state.full_tensor().cpu()
    return state


def _alike(value: Any, present: Any) -> Any:
    """Shard a whole tensor as `present` is sharded, if `present` has the same shape."""
    if not (isinstance(value, Tensor) and hasattr(present, "device_mesh")):
        return value
    if value.shape != present.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = present.device_mesh, present.placements
    return distribute_tensor(value.to(present.device), mesh, placements, src_data_rank=None)


def _local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor."""
    local: Callable[[], Tensor] | None = getattr(tensor, "to_local", None)
    return tensor if local is None else local()
