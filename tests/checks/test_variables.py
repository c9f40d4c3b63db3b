"""Variables of a config have no effect once it is read; the keys that count are named."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdat.checks.config_file import read_config
from mmdat.checks.variables import check_variables
from mmdat.errors import UserError

BASE = """
EPOCHS = 12
data_root = 'data/'
num_classes = 80
scale = (64, 64)
test_pipeline = [dict(type='Load'), dict(type='Resize', scale=scale)]
tta_pipeline = [dict(type='Load'), dict(transforms=[[dict(type='Resize', scale=scale)]])]
dataset = dict(type='CocoDataset', pipeline=test_pipeline)
val_dataloader = dict(batch_size=1, dataset=dict(data_root=data_root, **dataset))
test_dataloader = dict(dataset={'data_root': data_root, 'pipeline': test_pipeline})
train_dataloader = test_dataloader
val_evaluator = dict(ann_file=data_root + 'val.json')
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(vis_backends=vis_backends)
data_preprocessor = dict(size=scale)
model = dict(head=dict(num_classes=num_classes), data_preprocessor=data_preprocessor)
train_cfg = dict(max_epochs=EPOCHS)
param_scheduler = [dict(type='LinearLR'), dict(end=EPOCHS)]
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base in a folder whose name has what a search for names could trip over."""
    path = tmp_path / 'é {}%s [1] b' / 'base.py'
    path.parent.mkdir()
    path.write_text(BASE, encoding='utf-8')
    return path


@pytest.mark.parametrize(
    'key, places',
    [
        (
            'test_pipeline.1.scale',
            "'val_dataloader.dataset.pipeline.1.scale', 'test_dataloader.dataset.pipeline.1.scale'"
            ", 'train_dataloader.dataset.pipeline.1.scale'"
            " and 'tta_pipeline.1.transforms.0.0.scale'",
        ),
        (
            'data_root',
            "'val_dataloader.dataset.data_root', 'test_dataloader.dataset.data_root', "
            "'train_dataloader.dataset.data_root' and 'val_evaluator.ann_file'",
        ),
        ('num_classes', "'model.head.num_classes'"),
        ('EPOCHS', "'train_cfg.max_epochs' and 'param_scheduler.1.end'"),
        ('data_preprocessor.size', "'model.data_preprocessor.size'"),
        ('vis_backends.0.type', "'visualizer.vis_backends.0.type'"),
    ],
)
def test_an_option_for_a_variable_is_refused(key: str, places: str, base: Path) -> None:
    leaf = base.with_name('leaf.py')
    leaf.write_text("_base_ = './base.py'\ntrain_cfg = dict(val_interval=2)\n")
    for path in (base, leaf):
        with pytest.raises(UserError) as caught:
            read_config(path, {key: 1})
        assert str(caught.value) == (
            f"'{key}' in --cfg-options changes a variable, which has no effect once the config is "
            f'read: set {places} instead'
        )


def test_an_option_for_a_variable_of_a_dump_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'dumped.py'
    path.write_text(
        "data_root = 'a'\ntest_pipeline = [dict(type='X')]\nval_dataloader = dict(dataset="
        "dict(data_root='a', pipeline=[dict(type='X')]))\ntrain_dataloader = dict(dataset="
        "dict(data_root='b', pipeline=[dict(type='Y')]))\n"
    )
    for key, place in (('data_root', 'data_root'), ('test_pipeline.0.type', 'pipeline.0.type')):
        with pytest.raises(UserError, match=f"set 'val_dataloader.dataset.{place}' instead"):
            read_config(path, {key: 'c'})


def test_keys_that_a_config_has_no_more_are_not_named(base: Path) -> None:
    leaf = base.with_name('leaf.py')
    leaf.write_text(
        "_base_ = './base.py'\nnum_classes = 8\nscale = (8, 8)\n"
        "pipeline = [dict(type='Resize', scale=scale)]\n"
        'model = dict(head=dict(_delete_=True))\n'
        'val_dataloader = dict(dataset=dict(pipeline=pipeline))\n'
    )
    for key, remedy in (
        ('num_classes', 'leave it out'),
        ('test_pipeline.1.scale', "set 'test_dataloader.dataset.pipeline.1.scale', "),
    ):
        with pytest.raises(UserError) as caught:
            read_config(leaf, {key: 1})
        assert f'once the config is read: {remedy}' in str(caught.value)


def test_an_option_for_what_a_run_reads_is_taken(base: Path) -> None:
    options = {'tta_pipeline.0.type': 'x', 'train_cfg.max_epochs': 3, 'custom_hooks': []}
    assert read_config(base, options).train_cfg.max_epochs == 3
    alone = base.with_name('alone.py')
    alone.write_text("test_pipeline = [dict(type='X')]")
    assert read_config(alone, {'test_pipeline.0.type': 'Y'}).test_pipeline[0].type == 'Y'


@pytest.mark.parametrize(
    'text, sentence',
    [
        ('EPOCHS = 3', "sets 'EPOCHS', .*: set 'train_cfg.max_epochs' and 'param_scheduler.1.end'"),
        (
            "data_root = 'x'\nnum_classes = 4",
            "sets 'data_root' and 'num_classes', .*: set .* and 'model.head.num_classes' instead",
        ),
        ('test_pipeline = []', "set 'val_dataloader.dataset.pipeline', 'test_dataloader.data"),
        ('data_preprocessor = dict(size=(8, 8))', "set 'model.data_preprocessor' instead"),
        # Set where they count, used, or as the base has them.
        ('EPOCHS = 3\ntrain_cfg = dict(max_epochs=EPOCHS)', None),
        ('num_classes = 4\nmodel = dict(head=dict(num_classes=4))', None),
        (
            "data_root = 'x'\nval_evaluator = dict(ann_file='x/val.json')\n"
            "val_dataloader = dict(dataset=dict(data_root='y'))\n"
            "test_dataloader = dict(dataset=dict(data_root='z'))\n"
            'train_dataloader = test_dataloader',
            None,
        ),
        ("data_root = 'data/'", None),
        ('extra = 1\nmodel = dict(extra=extra)', None),
        ("work_dir = 'x'", None),
    ],
)
def test_a_variable_that_comes_too_late_is_told_once(
    text: str, sentence: str | None, base: Path
) -> None:
    leaf = base.with_name('leaf.py')
    leaf.write_text(f"_base_ = './base.py'\n{text}\n")
    found: list[str] = []
    check_variables(Config.fromfile(leaf), found.append)
    assert len(found) == (sentence is not None)
    assert sentence is None or re.search(sentence, found[0])
