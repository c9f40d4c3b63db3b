"""What is no checkpoint, or cannot be resumed from, is refused before a model is built."""

import io
import itertools
import os
import pickle
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.model import BaseModule
from mmengine.optim import (
    AmpOptimWrapper,
    CosineAnnealingLR,
    CosineAnnealingMomentum,
    LinearLR,
    OptimWrapper,
)
from torch import nn

from mmdat import checks
from mmdat.checkpoints.reading import read_checkpoint
from mmdat.checks.checkpoint import (
    check_averages,
    check_class_order,
    check_optimizer,
    check_precision,
    latest_checkpoint,
    warn_if_random,
)
from mmdat.errors import UserError
from mmdat.models import DAT, DATPlusPlus, ScalableViT


def written(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    'content, resume, sentence',
    [
        *(
            (
                pickle.dumps([torch.ones(2), os.system], protocol),
                resume,
                '.* posix.system.* could run code',
            )
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
            for resume in (False, True)
        ),
        (pickle.dumps([1]), False, r'cannot be loaded as a checkpoint: it is damaged, or not'),
        (b'no checkpoint', False, r'cannot be loaded as a checkpoint: it is damaged'),
        (b'import torch\nbase = 3\n', False, r'cannot be loaded as a checkpoint: it is damaged'),
        (b'', False, r'cannot be loaded as a checkpoint: it is empty'),
        (b'PK\x03\x04junk', False, r'cannot be loaded as a checkpoint: it is damaged'),
        (written(dict(a=torch.ones(9)))[:-50], False, r'cannot be loaded as a checkpoint'),
        (written([torch.ones(9)]), False, r'holds no weights by name, but a list'),
        (written(torch.ones(9)), False, r'holds no weights by name, but a Tensor'),
        (written({1: torch.ones(9)}), False, r'holds no weights by name, but a dict'),
        (
            written(dict(state_dict={})),
            True,
            r'cannot be resumed from, since it has no meta and no message_hub and no optimizer:',
        ),
    ],
)
def test_a_wrong_checkpoint_is_refused(
    content: bytes, resume: bool, sentence: str, tmp_path: Path
) -> None:
    path = str(tmp_path / 'wrong.pth')
    Path(path).write_bytes(content)
    with pytest.raises(UserError, match=f'wrong.pth {sentence}') as caught:
        content = read_checkpoint(path, skip_objects=not resume)
        checks.before_loading(content, path, resume=resume)
    assert '\n' not in str(caught.value)


def test_weights_alone_can_be_loaded_but_not_resumed_from() -> None:
    weights = dict(a=torch.ones(9))
    for content in (weights, dict(state_dict=weights)):
        checks.before_loading(content, 'x.pth', resume=False)
        with pytest.raises(UserError, match='start from its weights with load_from'):
            checks.before_loading(content, 'x.pth', resume=True)


@pytest.mark.parametrize(
    'source, sentence',
    [
        ('nowhere.pth', r"there is no checkpoint 'nowhere.pth': give"),
        ('', r"there is no checkpoint '': give"),
        ('ftp://host/x.pth', r'ftp://.* is at an unknown kind of'),
        ('torchvision://resnet5', r'//resnet5 is not in that model'),
    ],
)
def test_a_checkpoint_that_is_not_there_is_refused(source: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_checkpoint(source)


def write_checkpoint(folder: Path, name: str, iteration: int, time: str = '') -> Path:
    """Write a checkpoint that training can go on from, as the last."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = dict(iter=iteration, epoch=iteration, time=time)
    weights = torch.zeros(1000)
    content = dict(meta=meta, message_hub={}, optimizer={}, state_dict=dict(weight=weights))
    torch.save(content, folder / name)
    (folder / 'last_checkpoint').write_text(str(folder / name))
    return folder / name


def latest(folder: Path, told: list[str] | None = None, **hook: Any) -> str | None:
    cfg = Config(dict(work_dir=str(folder), default_hooks=dict(checkpoint=hook)))
    found = latest_checkpoint(cfg, ([] if told is None else told).append)
    if found is not None:
        assert found[1]['meta']['iter'] == int(found[0][-5])
    return found and found[0]


def test_the_latest_checkpoint_is_the_one_named_last(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    for name, iteration in (('a_9.pth', 9), ('b_1.pth', 1)):  # of another training, and of this
        write_checkpoint(tmp_path, name, iteration, time='2026')
    assert latest(tmp_path) == str(tmp_path / 'b_1.pth')
    write_checkpoint(tmp_path / 'elsewhere' / tmp_path.name, 'c_2.pth', 2)
    assert latest(tmp_path, out_dir=str(tmp_path / 'elsewhere')).endswith('c_2.pth')


def test_a_copied_folder_goes_on_from_its_own_files(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / 'a', 'epoch_1.pth', 1)
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    assert latest(tmp_path / 'b') == str(tmp_path / 'b' / 'epoch_1.pth')


@pytest.mark.parametrize('damage', ['cut', 'changed', 'empty', 'gone', 'code'])
def test_a_damaged_checkpoint_is_passed_over(damage: str, tmp_path: Path) -> None:
    for iteration in (2, 3, 1, 4):
        write_checkpoint(tmp_path, f'epoch_{iteration}.pth', iteration, str(2020 + iteration))
    torch.save(dict(state_dict={}), tmp_path / 'best_5.pth')
    path = tmp_path / 'epoch_4.pth'
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    code = pickle.dumps(dict(meta=subprocess.run))
    path.write_bytes(dict(cut=data[: len(data) // 2], changed=data, code=code).get(damage, b''))
    if damage == 'gone':
        path.unlink()
    told: list[str] = []
    assert latest(tmp_path, told) == str(tmp_path / 'epoch_3.pth')
    assert len(told) == (damage != 'gone')
    for sentence in told:
        assert '--resume goes back to the checkpoint before: ' in sentence and str(path) in sentence
        assert ('subprocess.run' in sentence) is (damage == 'code')


def test_the_latest_checkpoint_may_be_of_an_old_kind(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 'epoch_1.pth', 1)
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    (tmp_path / 'last_checkpoint').unlink()
    assert latest(tmp_path) == str(path)


def test_a_folder_of_broken_checkpoints_is_not_begun_anew(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 'epoch_1.pth', 1)
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match='no checkpoint in .* that can be read: .*epoch_1.pth'):
        latest(tmp_path)
    (tmp_path / 'last_checkpoint').unlink()
    with pytest.raises(UserError, match='Move them away to begin anew'):
        latest(tmp_path)


def test_classes_in_another_order_than_in_training_are_refused() -> None:
    warnings: list[str] = []
    trained = dict(meta=dict(dataset_meta=dict(classes=('person', 'sofa', 'cat'))))
    check_class_order(trained, 'a.pth', ['person', 'sofa', 'cat'], warnings.append)
    check_class_order(dict(), 'a.pth', ['cat'], warnings.append)
    check_class_order(trained, 'a.pth', ['cat'], warnings.append)  # heads differ
    assert not warnings
    with pytest.raises(UserError, match=r"order, so that 'person -> sofa' and 'sofa -> person' w"):
        check_class_order(trained, 'a.pth', ('sofa', 'person', 'cat'), warnings.append)
    concatenated = dict(meta=dict(dataset_meta=[trained['meta']['dataset_meta'], {}]))
    with pytest.raises(UserError, match='same classes in another order'):
        check_class_order(concatenated, 'a.pth', ('sofa', 'person', 'cat'), warnings.append)
    check_class_order(trained, 'a.pth', ('person', 'couch', 'cat'), warnings.append)
    assert len(warnings) == 1
    assert "1 of the 3 classes of a.pth have another name in the data: 'sofa -> co" in warnings[0]


@pytest.mark.parametrize('mixed', ['mmdat.BFloat16OptimWrapper', AmpOptimWrapper])
def test_another_precision_than_in_training_is_told(mixed: Any) -> None:
    told: list[str] = []
    for trained, goes_on in itertools.product((mixed, 'OptimWrapper'), repeat=2):
        before, now = (Config(dict(optim_wrapper=dict(type=name))) for name in (trained, goes_on))
        runner: Any = SimpleNamespace(cfg=now, logger=SimpleNamespace(warning=told.append))
        check_precision(runner, dict(meta=dict(cfg=before.pretty_text)), 'a.pth')
        check_precision(runner, dict(meta=dict(epoch=1)), 'a.pth')
    assert told == [
        'a.pth was trained with mixed precision and goes on without it: give --amp to go on as '
        'before',
        'a.pth was trained without mixed precision and goes on with it: leave out --amp to go on '
        'as before',
    ]


def test_going_on_from_averaged_weights_without_averaging_is_told() -> None:
    told: list[str] = []
    for hooks, content in itertools.product(([], [EMAHook()]), ({}, {'ema_state_dict': {}})):
        runner: Any = SimpleNamespace(hooks=hooks, logger=SimpleNamespace(warning=told.append))
        check_averages(runner, content, 'a.pth')
    assert told == [
        'a.pth holds weights that EMAHook averaged, and training goes on from these without it: '
        'add the hook to custom_hooks to go on as before'
    ]


def trained_with(optimizer: str = 'AdamW', groups: int = 1, end: int = 8, **options: Any) -> Any:
    """A runner with an optimizer and a schedule that took some steps, and its checkpoint."""
    parts = [dict(params=[nn.Parameter(torch.zeros(1))]) for _ in range(groups)]
    wrapper = OptimWrapper(getattr(torch.optim, optimizer)(parts, **{'lr': 0.1, **options}))
    schedules = [
        LinearLR(wrapper, end=2, by_epoch=False),
        CosineAnnealingLR(wrapper, T_max=end, end=end, by_epoch=False),
        CosineAnnealingMomentum(wrapper, T_max=8, by_epoch=False),  # changes betas
    ]
    runner = SimpleNamespace(optim_wrapper=wrapper, param_schedulers=schedules)
    for _ in range(3):
        wrapper.step()
        for schedule in schedules:
            schedule.step()
    states = [schedule.state_dict() for schedule in schedules]
    return runner, dict(optimizer=wrapper.state_dict(), param_schedulers=states)


def test_a_training_with_another_optimizer_is_not_gone_on_with() -> None:
    _, content = trained_with()
    for changed, sentence in (
        (dict(optimizer='SGD'), "has 'amsgrad', 'betas', .* config's SGD 'dampening' and 'nest"),
        (dict(groups=3), r'another number of groups of parameters \(1, not 3\): paramwise_cfg'),
    ):
        runner, _ = trained_with(**changed)
        with pytest.raises(UserError, match=f'^a.pth cannot be resumed from.* {sentence}.*load_fr'):
            check_optimizer(runner, content, 'a.pth')


@pytest.mark.parametrize(
    'changed, sentence',
    [
        (dict(), None),
        (dict(lr=5.0), r'with lr 0.1 \(not 5.0\); to train'),
        (dict(weight_decay=0.3), r'with weight_decay 0.01 \(not 0.3\); to train'),
        (
            dict(betas=(0.8, 0.9)),
            r'with betas \(0.9, 0.999\) \(not \(0.8, 0.9\)\), momentum 0.9 \(not 0.8',
        ),
        (dict(end=9), r'with param_scheduler.1.T_max 8 \(not 9\), param_scheduler.1.end 8 \(not 9'),
    ],
)
def test_settings_that_a_resumed_training_does_not_take_over_are_told(
    changed: dict[str, Any], sentence: str | None
) -> None:
    told: list[str] = []
    _, content = trained_with()
    runner, _ = trained_with(**changed)
    runner.logger = SimpleNamespace(warning=told.append)
    check_optimizer(runner, content, 'a.pth')
    assert [bool(re.search(sentence or '', text)) for text in told] == [True] * bool(sentence)
    runner.param_schedulers.pop()
    check_optimizer(runner, content, 'a.pth')
    assert '3 param_scheduler (not 2)' in told[-1]
    runner.param_schedulers = None
    runner.optim_wrapper = dict()
    check_optimizer(runner, content, 'a.pth')
    assert len(told) == 1 + bool(sentence)


@pytest.mark.parametrize(
    'backbone, told',
    [
        (DATPlusPlus('tiny'), "random weights, .*'mmdat://dat_pp_t_in1k'"),
        (ScalableViT('small', frozen_stages=1), "as they are: .*'mmdat://scalablevit_s_in1k'"),
        (DATPlusPlus('nano', frozen_stages=0), 'keeps random .* model.backbone.init_cfg weights$'),
        (DAT('tiny'), None),
        (DATPlusPlus('tiny', init_cfg=dict(type='Normal', layer='Linear')), 'random weights'),
        (DATPlusPlus('nano'), None),  # of which there are no weights
        (DATPlusPlus('tiny', init_cfg=dict(type='Pretrained', checkpoint='a.pth')), None),
        (nn.Identity(), None),
    ],
)
def test_a_backbone_with_random_weights_is_told(backbone: nn.Module, told: str | None) -> None:
    model = BaseModule()
    model.backbone, warned = backbone, []
    warn_if_random(model, warned.append)
    assert [re.search(told, text) is not None for text in warned] == [True] if told else not warned


def test_a_classifier_may_start_from_random_weights() -> None:
    model, warned = BaseModule(), []
    model.backbone, model.head = DATPlusPlus('tiny'), nn.Identity()
    warn_if_random(model, warned.append)
    assert not warned
