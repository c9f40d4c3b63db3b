"""What every run has: checks, and checkpoints that are loaded without running code in them."""

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader, EpochBasedTrainLoop, IterBasedTrainLoop

from mmdat.apis.runner import add_checks, make_resumable, prepare_processes_on_cpu
from mmdat.apis.terminal import short_terminal
from mmdat.checkpoints import read_weights
from mmdat.errors import UserError


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server of the files in ``tmp_path``."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'cache'))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        Thread(target=httpd.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()


def test_code_in_a_checkpoint_from_a_url_is_not_run(server: str, tmp_path: Path) -> None:
    torch.save(dict(a=torch.ones(2), b=Attack(tmp_path / 'run')), tmp_path / 'evil.pth')
    for load in (CheckpointLoader.load_checkpoint, read_weights):
        with contextlib.suppress(UserError):
            load(f'{server}/evil.pth')
        assert not (tmp_path / 'run').exists()


def test_checkpoint_is_downloaded_once_and_refused_where_it_is_missing(
    server: str, tmp_path: Path
) -> None:
    torch.save(dict(a=torch.ones(2)), tmp_path / 'good.pth')
    for _ in range(2):
        assert read_weights(f'{server}/good.pth')['a'].sum() == 2
        (tmp_path / 'good.pth').unlink(missing_ok=True)
    with pytest.raises(UserError, match=r'missing.pth cannot be downloaded: .*404'):
        read_weights(f'{server}/missing.pth')


COCO: dict[str, Any] = dict(type='CocoDataset')
CHECKING_HOOKS = ['mmdat.CheckFitHook', 'mmdat.CountBrokenImagesHook', 'mmdat.FiniteLossHook']


@pytest.mark.parametrize(
    'dataset',
    [
        COCO,
        dict(type='mmdet.CocoDataset'),
        dict(type=CocoDataset),
        dict(type='RepeatDataset', dataset=COCO),
        dict(type='MultiImageMixDataset', dataset=dict(type='ConcatDataset', datasets=[COCO] * 2)),
    ],
)
@pytest.mark.parametrize('hooks', [None, [dict(type='EMAHook')], [EMAHook()]])
def test_a_config_of_the_toolboxes_gets_all_checks(dataset: dict, hooks: list | None) -> None:
    cfg = Config(
        dict(
            default_scope='mmdet',
            custom_hooks=hooks,
            train_dataloader=dict(dataset=dataset),
            test_dataloader=dict(dataset=dict(type='LVISV1Dataset')),
        )
    )
    assert "'mmdat.CheckFitHook'" in add_checks(cfg)
    assert [hook['type'] for hook in cfg.custom_hooks[:3]] == CHECKING_HOOKS
    assert len(cfg.custom_hooks) == 3 + len(hooks or ())
    assert "'type': 'mmdat.CocoDataset'" in str(cfg.train_dataloader)
    assert 'LVISV1Dataset' in str(cfg.test_dataloader)
    assert not add_checks(cfg), 'once they are there, none is added'


def test_coco_in_the_scope_of_another_toolbox_is_found() -> None:
    cfg = Config(
        dict(
            default_scope='mmseg',
            val_dataloader=dict(dataset=dict(type='CocoDataset', _scope_='mmdet')),
            test_dataloader=dict(dataset=dict(type='NoDataset')),
        )
    )
    add_checks(cfg)
    assert cfg.val_dataloader.dataset.type == 'mmdat.CocoDataset'


class OwnLoop(EpochBasedTrainLoop):
    """A loop of a user's."""


@pytest.mark.parametrize(
    'train_cfg, loop',
    [
        (dict(by_epoch=True, max_epochs=3), 'mmdat.ResumableEpochLoop'),
        (dict(by_epoch=False, max_iters=3), 'mmdat.ResumableIterLoop'),
        (dict(max_epochs=3), 'mmdat.ResumableEpochLoop'),
        (dict(max_iters=3), 'mmdat.ResumableIterLoop'),
        (dict(type='EpochBasedTrainLoop'), 'mmdat.ResumableEpochLoop'),
        (dict(type=IterBasedTrainLoop), 'mmdat.ResumableIterLoop'),
        (dict(type='mmdat.ResumableIterLoop'), 'mmdat.ResumableIterLoop'),
        (dict(type=OwnLoop), OwnLoop),
    ],
)
def test_training_resumes_exactly_with_mmengines_loops(train_cfg: dict, loop: Any) -> None:
    cfg = Config(dict(default_scope='mmdet', train_cfg=train_cfg))
    told: list[str] = []
    make_resumable(cfg, told.append)
    assert cfg.train_cfg.type == loop and 'by_epoch' not in cfg.train_cfg
    assert cfg.default_hooks.checkpoint.type == 'mmdat.CheckpointHook'
    own = ['If this training is resumed, it goes on as exactly as OwnLoop can']
    assert told == (own if loop is OwnLoop else [])


def test_a_log_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    with short_terminal():
        logger = MMLogger('full', log_file=str(tmp_path / 'a.log'))
    terminal, file = logger.handlers
    terminal.setLevel('CRITICAL')
    full = open('/dev/full', 'w')  # noqa: SIM115  its end is below
    file.setStream(full).close()
    with pytest.raises(UserError, match='a.log cannot be written: No space left on device$'):
        logger.info('a line')
    logger.info('what follows is not to hide that')
    with pytest.raises(OSError):
        full.close()


class OwnWrapper(torch.nn.Module):
    """A wrapper that is none of PyTorch's."""


PARALLEL = dict(
    type='MMDistributedDataParallel',
    broadcast_buffers=False,
    find_unused_parameters=False,
    device_ids=None,
)


@pytest.mark.parametrize(
    'given, used',
    [
        (None, PARALLEL),
        (dict(static_graph=True, device_ids=[0]), dict(PARALLEL, static_graph=True)),
        (dict(type='MMFullyShardedDataParallel', cpu_offload=True), PARALLEL),
        (
            dict(type='MMSeparateDistributedDataParallel'),
            dict(PARALLEL, type='MMSeparateDistributedDataParallel'),
        ),
        (dict(type=OwnWrapper, depth=2), dict(type=OwnWrapper, depth=2)),
    ],
)
def test_processes_on_cpus_are_wrapped_as_the_config_says(
    given: Any, used: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda backend: None)
    norm = dict(norm_cfg=dict(type='SyncBN'))
    cfg = Config(dict(model=norm, sync_bn='torch', model_wrapper_cfg=given))
    prepare_processes_on_cpu(cfg)
    assert cfg.model_wrapper_cfg == used
    assert cfg.model.norm_cfg.type == 'BN' and 'sync_bn' not in cfg
