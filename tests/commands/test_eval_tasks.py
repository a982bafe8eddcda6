# SPDX-License-Identifier: Apache-2.0
"""Every task of `pc3d eval` keeps the contract of commands/evaluation.py."""

import inspect
import typing

import pytest

from pc3dcli.commands import eval as command

TASKS = typing.get_args(command.Task)
PARAMETERS = set(inspect.signature(command.evaluate).parameters) - {"ctx"}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_presets_options_and_a_manual(task):
    module = command.task_module(task)
    assert module.PRESETS and all(rule.strip() for rule in module.PRESETS.values())
    assert module.OPTIONS <= PARAMETERS - command.COMMON
    assert len(module.MANUAL) > 200 and callable(module.run) and callable(module.metric_names)


def test_every_preset_is_offered_and_every_option_is_of_some_task():
    modules = [command.task_module(task) for task in TASKS]
    assert {preset for module in modules for preset in module.PRESETS} == set(typing.get_args(command.Preset))
    used = frozenset.union(*(module.OPTIONS for module in modules))
    assert PARAMETERS - used - command.COMMON <= {"compare"}


@pytest.mark.parametrize("task", ["classify", "svm"])
def test_tasks_of_one_file_have_nothing_that_could_be_missing(run, tmp_path, task):
    (tmp_path / "cls.csv").write_text("label,pred\n0,0\n")
    done = run("eval", "--task", task, tmp_path / "cls.csv", "--allow-missing")
    assert done.code == 2 and "--allow-missing does not apply" in done.err
