"""mmengine still has the names that are not public and that mmdat uses."""

import inspect

import mmengine
import pytest
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DefaultScope, build_from_cfg
from mmengine.runner import FlexibleRunner, Runner

from mmdat.checks.mmengine_private import in_scope, is_subset

WHERE = f'mmengine {mmengine.__version__}, unlike 0.10.7, lacks this: mend checks/mmengine_private'


def test_a_config_is_read_by_file2dict() -> None:
    assert 'filename' in inspect.signature(Config._file2dict).parameters, WHERE


def test_what_is_built_is_named_in_the_builder() -> None:
    assert {'cfg', 'obj_cls'} <= set(build_from_cfg.__code__.co_varnames), WHERE


def test_a_config_knows_what_it_imports() -> None:
    assert Config()._imported_names == set(), WHERE


@pytest.mark.parametrize('runner', [Runner, FlexibleRunner])
def test_a_runner_keeps_its_loops_and_its_checkpoint(runner: type) -> None:
    attributes = {'_train_loop', '_val_loop', '_test_loop', '_load_from', '_resume'}
    assert attributes <= set(runner.__init__.__code__.co_names), WHERE


def test_a_data_set_keeps_which_part_it_has() -> None:
    assert is_subset(Numbers(indices=2, serialize_data=False))
    assert not is_subset(Numbers(serialize_data=False))


def test_scopes_that_overlap_are_left_alone() -> None:
    def current() -> str | None:
        scope = DefaultScope.get_current_instance()
        return scope and scope.scope_name

    before = current()
    first, second = in_scope('mmdet'), in_scope('mmseg')  # as of two threads
    first.__enter__()
    assert current() == 'mmdet'
    second.__enter__()
    first.__exit__(None, None, None)
    assert current() == 'mmseg'
    second.__exit__(None, None, None)
    assert current() == before


class Numbers(BaseDataset):
    def load_data_list(self) -> list[dict]:
        return [dict(number=number) for number in range(4)]
