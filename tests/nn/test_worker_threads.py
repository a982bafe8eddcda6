# SPDX-License-Identifier: Apache-2.0
"""Parts in threads: each is done once, errors come through, and nothing else changes."""

import threading

import pytest
import torch

from pc3dcli.nn.worker_threads import in_parallel, num_workers

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_each_part_is_done_once_in_threads_without_gradients(two_threads):
    total, meet = torch.zeros(4), threading.Barrier(2, timeout=20)
    weight = torch.ones(4, requires_grad=True)

    def work(index: int) -> None:
        meet.wait()  # two parts run at a time, or this fails
        assert torch.get_num_threads() == 1
        total[index] += (weight * index)[index]

    in_parallel(work, [(index,) for index in range(4)], CPU)
    assert total.tolist() == [0, 1, 2, 3]
    assert not total.requires_grad
    assert torch.get_num_threads() == num_workers(CPU) == 2


def test_errors_of_a_part_are_raised(two_threads):
    def work(index: int) -> None:
        if index == 1:
            raise ValueError("part 1")

    with pytest.raises(ValueError, match="part 1"):
        in_parallel(work, [(0,), (1,)], CPU)
