# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from pc3dcli.nn.ema import update_ema


def test_one_step_by_hand():
    teacher, student = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(teacher.weight, 4.0)
    student.running_mean += 1.0
    student.num_batches_tracked += 7
    update_ema(teacher, student, 0.75)
    assert teacher.weight.tolist() == [3.25, 3.25]
    assert teacher.running_mean.tolist() == [0.25, 0.25]
    assert teacher.num_batches_tracked.item() == 7  # copied
    assert teacher.weight.grad is None and student.weight.tolist() == [1, 1]


def test_the_ends():
    teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    before = teacher.weight.detach().clone()
    update_ema(teacher, student, 1.0)
    assert torch.equal(teacher.weight, before)
    update_ema(teacher, student, 0.0)
    torch.testing.assert_close(teacher.weight, student.weight)


def test_a_student_may_hold_more_but_not_less():
    part, whole = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    update_ema(part, whole, 0.0)
    torch.testing.assert_close(part[0].weight, whole[0].weight)
    with pytest.raises(KeyError):
        update_ema(whole, part, 0.5)
