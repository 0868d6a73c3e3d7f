"""What a process does by itself; `tests/inference/test_replica.py` starts several."""

from __future__ import annotations

import pytest
import torch

from bayes_htr import distributed
from bayes_htr.distributed import local_slice, own_device, synchronised_rng


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_parts_are_contiguous_and_of_nearly_one_size(monkeypatch, processes, count):
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    parts = []
    for number in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        parts.append(list(range(count))[local_slice(count)])
    assert [i for part in parts for i in part] == list(range(count))
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


def test_what_all_draw_alike_does_not_depend_on_the_global_state():
    def numbers(seed):
        torch.manual_seed(seed)
        found = []
        for item in synchronised_rng((float(torch.rand(())) for _ in range(3)), seed=5):
            found.append((item, float(torch.rand(()))))
        return zip(*found, strict=True)

    (alike, own), (alike_too, other) = numbers(1), numbers(2)
    assert alike == alike_too
    assert own != other


def test_devices_of_several_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for local, expected in {"0": "cuda:0", "1": "cuda:1"}.items():
        monkeypatch.setenv("LOCAL_RANK", local)
        assert own_device("auto") == own_device("cuda") == torch.device(expected)
        assert own_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="process 2 of this machine has no device of its own"):
        own_device("auto")
    for device in ("cuda:1", "mps", "abacus"):
        with pytest.raises(ValueError, match=f"device='{device}' is not for several processes"):
            own_device(device)
