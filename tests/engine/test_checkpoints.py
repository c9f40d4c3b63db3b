"""One checkpoint that is whole is always there, and a signal leaves one."""

import errno
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import FlexibleRunner, Runner

from mmdat.checkpoints.patches import WholeFileBackend
from mmdat.checks.exceptions import explained
from mmdat.engine import stopping
from mmdat.engine.stopping import requested, requests_to_stop
from mmdat.errors import UserError

EPOCHS = dict(type='mmdat.ResumableEpochLoop', max_epochs=4)
EMA = dict(type='EMAHook', momentum=0.1)
HOOK = dict(type='mmdat.CheckpointHook', max_keep_ckpts=1, save_best='tiny/score', rule='less')


def run(work_dir: Path, *hooks: Any, checkpoint: dict | None = None, **options: Any) -> Any:
    options = dict(loop=EPOCHS) | options
    runner = tiny.runner(work_dir, hooks, checkpoint=HOOK | (checkpoint or {}), **options)
    runner.train()
    return runner


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file() and path.suffix != '.py'}


def read(path: Path) -> Any:
    return torch.load(path, weights_only=True)


class Watch(Hook):
    """Notes the checkpoints that are whole whenever one is about to be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[set[str]] = []

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        self.seen.append({name for name in names(self.folder) if name.endswith('.pth')})


def test_the_old_checkpoint_is_there_until_the_new_one_is(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    run(tmp_path, watch)
    regular = [{name for name in seen if 'best' not in name} for seen in watch.seen]
    assert all(regular[1:]) and len(regular) >= 8
    left = {name for name in names(tmp_path) if name.endswith('.pth')}
    assert len([name for name in left if 'best' in name]) == 1
    assert {name for name in left if 'best' not in name} == {'epoch_4.pth'}
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_4.pth')


def test_a_checkpoint_of_one_name_for_all_is_kept(tmp_path: Path) -> None:
    run(tmp_path, checkpoint=dict(filename_tmpl='model.pth'))
    assert read(tmp_path / 'model.pth')['meta']['epoch'] == 4


def test_a_name_for_checkpoints_without_a_place_for_the_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"filename_tmpl 'e_\{epoch\}.pth' .* takes no number:"):
        run(tmp_path, checkpoint=dict(filename_tmpl='e_{epoch}.pth'))


def test_a_name_for_checkpoints_with_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"filename_tmpl 'sub/e_{}.pth' .* has a folder, .*out_dir"):
        run(tmp_path, checkpoint=dict(filename_tmpl='sub/e_{}.pth'))


def test_a_folder_for_checkpoints_is_made(tmp_path: Path) -> None:
    run(tmp_path / 'work', checkpoint=dict(out_dir=str(tmp_path / 'new' / 'kept')))
    assert (tmp_path / 'new' / 'kept' / 'work' / 'epoch_4.pth').is_file()


def test_a_best_checkpoint_by_a_metric_that_does_not_come_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="save_best is 'tiny/skore', which .* did you mean 'tiny/s"):
        run(tmp_path, checkpoint=dict(save_best='tiny/skore'))
    assert (tmp_path / 'epoch_1.pth').exists()


@pytest.mark.parametrize('kind, numbers', [(Runner, (3, 5)), (FlexibleRunner, (5,))])
def test_a_training_killed_as_it_writes_resumes_as_if_it_were_not(
    kind: type, numbers: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dict(kind=kind)
    whole = run(tmp_path / 'a', **options)
    replace = Path.replace
    for number in numbers:
        left = [number]

        def kill(path: Path, target: Path, left: list[int] = left) -> Path:
            left[0] -= 1
            if not left[0]:
                path.write_bytes(path.read_bytes()[:1000])
                raise tiny.Killed
            return replace(path, target)

        work_dir = tmp_path / str(number)
        with monkeypatch.context() as patched, pytest.raises(tiny.Killed):
            patched.setattr(Path, 'replace', kill)
            run(work_dir, **options)
        resumed = run(work_dir, resume=True, **options)
        assert not tiny.differences(tiny.state_of(whole), tiny.state_of(resumed)), number
        assert names(work_dir) == names(tmp_path / 'a')


def test_a_copied_folder_touches_nothing_of_the_first(tmp_path: Path) -> None:
    with pytest.raises(tiny.Killed):
        run(tmp_path / 'a', tiny.KillHook('after_train_epoch', 3))
    before = names(tmp_path / 'a')
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    last = tmp_path / 'b' / 'epoch_3.pth'
    runner = run(tmp_path / 'b', resume=True, load_from=str(last))
    assert names(tmp_path / 'a') == before
    assert runner.message_hub.get_info('best_ckpt').startswith(str(tmp_path / 'b'))
    assert len([name for name in names(tmp_path / 'b') if 'best' in name]) == 1


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'epoch_1.pth'
    WholeFileBackend().put(b'old', path)

    def write(partial: Path, data: bytes) -> None:
        partial.open('wb').write(data[:2])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, 'write_bytes', write)
    with pytest.raises(UserError, match=f'{path} cannot be written: .*{os.strerror(code)}'):
        WholeFileBackend().put(b'new', path)
    assert path.read_bytes() == b'old' and names(tmp_path) == {'epoch_1.pth'}


def test_a_folder_that_is_gone_ends_training_in_a_sentence(tmp_path: Path) -> None:
    class Remove(Hook):
        def after_train_epoch(self, runner: Any) -> None:
            shutil.rmtree(tmp_path / 'work')

    with pytest.raises(UserError, match='epoch_1.pth cannot be written: its folder is gone'):
        run(tmp_path / 'work', Remove())


class FillDisk(Hook):
    """Lets no file grow from the end of the first epoch on."""

    priority = 'LOWEST'

    def after_train_epoch(self, runner: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
@pytest.mark.parametrize('backend', ['LocalVisBackend', 'TensorboardVisBackend'])
def test_a_disk_that_is_full_for_other_files_first_is_told_and_leaves_the_checkpoint(
    backend: str, tmp_path: Path
) -> None:
    if backend == 'TensorboardVisBackend':
        pytest.importorskip('tensorboard')
    visualizer = dict(type='Visualizer', vis_backends=[dict(type=backend)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            pytest.raises(UserError, match=' cannot be written: File too large$') as caught,
            explained(Config(dict(work_dir=str(tmp_path)))),
        ):
            run(tmp_path, FillDisk(), visualizer=visualizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert backend != 'LocalVisBackend' or '.json cannot' in str(caught.value)
    assert read(tmp_path / 'epoch_1.pth')['meta']['epoch'] == 1


class Signal(Hook):
    """Asks the training to stop, at a moment."""

    def __init__(self, moment: str, number: int, request: int) -> None:
        self.left = number
        self.request = request
        setattr(self, moment, self._send)

    def _send(self, *_: Any, **__: Any) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), self.request)


@pytest.mark.parametrize(
    'request_, moment, number, accumulative_counts',
    [
        (signal.SIGINT, 'before_train_iter', 6, 1),
        (signal.SIGTERM, 'after_val_iter', 2, 1),
        (signal.SIGUSR1, 'before_train_iter', 5, 3),
        (
            signal.SIGUSR1,
            'before_train_iter',
            8,
            3,
        ),  # in an epoch's last step, of which one is left
    ],
)
def test_a_request_to_stop_leaves_a_checkpoint_from_which_training_goes_on(
    request_: int, moment: str, number: int, accumulative_counts: int, tmp_path: Path
) -> None:
    wrapper = dict(optimizer=dict(type='AdamW', lr=0.1), accumulative_counts=accumulative_counts)
    options: dict[str, Any] = dict(optim_wrapper=wrapper)
    whole = run(tmp_path / 'a', EMA, **options)
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / 'b', EMA, Signal(moment, number, request_), **options)
    assert caught.value.code == 128 + request_ and not requested()
    last = Path((tmp_path / 'b' / 'last_checkpoint').read_text())
    iterations = dict(before_train_iter=number, after_val_iter=4)[moment]
    if number == 5:
        iterations += 1  # which completes a step of three
    assert read(last)['meta']['iter'] == iterations
    resumed = run(tmp_path / 'b', EMA, resume=True, **options)
    assert not tiny.differences(tiny.state_of(whole), tiny.state_of(resumed))
    assert names(tmp_path / 'b') == names(tmp_path / 'a')


@pytest.mark.parametrize('apart, status', [(0.0, signal.SIGINT), (9.0, 0)])
def test_a_second_signal_ends_at_once_unless_a_launcher_passed_it_on(
    apart: float, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, 'SAME_REQUEST', apart)
    process = os.fork()
    if not process:
        with requests_to_stop():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(0)
    assert os.waitpid(process, 0)[1] == status
