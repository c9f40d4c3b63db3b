"""Training, testing and resuming from a config; and how the user's mistakes end."""

import argparse
import contextlib
import io
import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from mmengine.runner import CheckpointLoader

from mmdat.apis import parse_run_args, train
from mmdat.apis import test as evaluate
from mmdat.checkpoints import read_weights
from mmdat.datasets import LoadImageFromFile
from mmdat.errors import UserError

TOOLS = Path(__file__).parents[2] / 'tools'


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def epochs_in(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True)['meta']['epoch']


def test_train_resume_and_test_run_through(config: Path, tmp_path: Path) -> None:
    work_dir = tmp_path / 'work'
    train(str(config), str(work_dir))
    checkpoint = work_dir / 'epoch_1.pth'
    runner = train(
        str(config), str(work_dir), resume='auto', cfg_options={'train_cfg.max_epochs': 2}
    )
    assert epochs_in(work_dir / 'epoch_2.pth') == 2
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 6, 'the resumed run goes on with the history of the first'

    out = tmp_path / 'results.pkl'
    metrics = evaluate(
        str(config), str(checkpoint), str(work_dir), out=str(out), show_dir='pictures'
    )
    assert 'coco/segm_mAP_50' in metrics
    assert len(pickle.loads(out.read_bytes())) == 2
    assert len(list(work_dir.glob('*/pictures/*.png'))) == 2

    augmented = evaluate(str(config), str(checkpoint), str(work_dir), tta=True)
    assert augmented.keys() == metrics.keys()


def test_broken_training_image_is_skipped_and_counted(
    config: Path, coco_root: Path, tmp_path: Path
) -> None:
    (coco_root / 'train2017' / '0.png').write_bytes(b'no image')
    runner = train(str(config), str(tmp_path / 'work'))
    loader = runner.train_dataloader.dataset.pipeline.transforms[0]
    assert isinstance(loader, LoadImageFromFile)
    assert loader.num_broken == 1
    log = next((tmp_path / 'work').rglob('*.log')).read_text()
    assert log.count('0.png') == 1 and 'Skipped broken images 1 times' in log


def break_annotations(change: Callable[[dict], object]) -> Callable[[Path, Path], None]:
    def apply(config: Path, root: Path) -> None:
        path = root / 'annotations' / 'instances_train2017.json'
        annotations = json.loads(path.read_text())
        change(annotations)
        path.write_text(json.dumps(annotations))

    return apply


def break_images(split: str, number: int) -> Callable[[Path, Path], None]:
    def apply(config: Path, root: Path) -> None:
        for index in range(number):
            (root / split / f'{index}.png').write_bytes(b'no image')

    return apply


MISTAKES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    'missing data root': (
        lambda config, root: root.rename(root.with_name('elsewhere')),
        r'data root .*/coco/ of train_dataloader does not exist: set .*COCO_ROOT',
    ),
    'missing data root of the shapes': (
        lambda config, root: config.write_text(
            f"_base_ = '{TOOLS.parent}/configs/mask_rcnn_dat_pp_nano_shapes.py'\n"
            "train_dataloader = dict(dataset=dict(data_root='nowhere/'))"
        ),
        r'data root nowhere/ of .* does not exist: make it with tools/make_shapes.py nowhere/ --t',
    ),
    'missing annotation file': (
        lambda config, root: (root / 'annotations' / 'instances_train2017.json').unlink(),
        r'annotation file .*instances_train2017.json does not exist',
    ),
    'annotations that are not JSON': (
        lambda config, root: (root / 'annotations' / 'instances_train2017.json').write_text('a,b'),
        r'annotation file .*instances_train2017.json is not JSON',
    ),
    'annotations without images': (
        break_annotations(lambda annotations: annotations.pop('images')),
        r"annotation file .* is not in COCO format: it has no list 'images'",
    ),
    'annotations without boxes': (
        break_annotations(lambda annotations: annotations['annotations'][3].pop('bbox')),
        r"not in COCO format: in 'annotations' the item with id 3 has no 'bbox'",
    ),
    'categories of other data': (
        break_annotations(lambda annotations: annotations['categories'][0].update(name='cat')),
        r"has no category 'box', .*num_classes of the heads to its own \('cat' and 'disk'\)",
    ),
    'no annotated object': (
        break_annotations(lambda annotations: annotations['annotations'].clear()),
        r'leaves no image to use',
    ),
    'head for other classes': (
        lambda config, root: replace(
            config, 'fc_out_channels=16, num_classes=2', 'fc_out_channels=16, num_classes=80'
        ),
        r'model.roi_head.bbox_head.num_classes is 80, but the data set has 2 classes \(box, disk',
    ),
    'neck for other widths': (
        lambda config, root: replace(
            config, 'in_channels=[16, 32, 64, 128]', 'in_channels=[16, 32, 64, 64]'
        ),
        r'model.neck.in_channels is \[16, 32, 64, 64\], but .* of \[16, 32, 64, 128\] channels',
    ),
    'missing images': (
        lambda config, root: (root / 'val2017' / '1.png').unlink(),
        r'1 of the 2 images of .*val2017.json do not exist, such as .*val2017/1.png',
    ),
    'validation image that does not decode': (
        break_images('val2017', 1),
        r'val2017/0.png is not an image that can be read',
    ),
    'mostly broken training images': (
        break_images('train2017', 5),
        r'of the first \d+ images cannot be read, the last is .*png',
    ),
    'unknown backbone option': (
        lambda config, root: replace(config, "arch='nano'", "arch='nano', drop_path_rat=0.1"),
        r"unknown key 'model.backbone.drop_path_rat' for DATPlusPlus: did you mean 'drop_path_r",
    ),
    'unknown architecture': (
        lambda config, root: replace(config, "arch='nano'", "arch='tny'"),
        r"DATPlusPlus has no arch 'tny': did you mean 'tiny'\?",
    ),
    'unknown option of the data loader': (
        lambda config, root: replace(
            config, 'train_dataloader = dict(', 'train_dataloader = dict(batchsize=2,'
        ),
        r"unknown key 'train_dataloader.batchsize' for DataLoader: did you mean 'batch_size'",
    ),
    'unknown option of the optimizer': (
        lambda config, root: config.write_text(
            config.read_text() + 'optim_wrapper = dict(optimizer=dict(learning_rate=1))'
        ),
        r"unknown key 'optim_wrapper.optimizer.learning_rate' for AdamW: allowed are .*'lr'",
    ),
    'unknown key of the config': (
        lambda config, root: replace(config, 'train_dataloader = ', 'train_dataloder = '),
        r"unknown key 'train_dataloder' in config .*: did you mean 'train_dataloader'\?",
    ),
    'unknown type': (
        lambda config, root: replace(config, "arch='nano'", "type='mmdat.DATPlus', arch='nano'"),
        r"unknown model.backbone.type='mmdat.DATPlus'",
    ),
    'config that is not Python': (
        lambda config, root: config.write_text('model = dict('),
        r'config .* is not valid Python: .* in line 1',
    ),
    'config that divides by zero': (
        lambda config, root: config.write_text('\n\n1 / 0'),
        r'config .* cannot be read: division by zero in line 3',
    ),
    'config whose custom import is missing': (
        lambda config, root: config.write_text("custom_imports = dict(imports=['nowhere'])"),
        r'config .* cannot be read: Failed to import nowhere',
    ),
    'empty config': (lambda config, root: config.write_text(''), r'config .* has no model'),
    'base that is not Python': (
        lambda config, root: (
            config.rename(root / 'base.py').write_text('model = dict('),
            config.write_text("_base_ = 'coco/base.py'"),
        ),
        r"config .*/coco/base.py is not valid Python: '\(' was never closed in line 1",
    ),
    'config whose base is missing': (
        lambda config, root: replace(config, 'coco_1x.py', 'coco_9x.py'),
        r'config .* cannot be read: .*coco_9x.py',
    ),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistake_ends_training_in_one_sentence(
    mistake: str, config: Path, coco_root: Path, tmp_path: Path
) -> None:
    apply, sentence = MISTAKES[mistake]
    apply(config, coco_root)
    with pytest.raises(UserError, match=sentence) as caught:
        train(str(config), str(tmp_path / 'work'))
    assert '\n' not in str(caught.value)
    assert not list(tmp_path.rglob('*.pth'))


@pytest.mark.parametrize(
    'options, sentence',
    [
        ({'train_cfg': 3}, r'train_cfg must be a dict, got 3'),
        ({'train_cfg.max_epochs': 'abc'}, r"train_cfg cannot be used: invalid literal .* 'abc'"),
        ({'train_dataloader.dataset.pipeline.9.type': 'x'}, r'--cfg-options do not fit .*Index 9'),
        (
            {'optim_wrapper.optimizer.type': 'Adamm'},
            r"unknown optim_wrapper.optimizer.type='Adamm'",
        ),
        ({'optim_wrapper.optimizer.lr': 'high'}, r'optim_wrapper cannot be used: '),
        ({'train_dataloader.batch_size': 0}, r'train_dataloader.batch_sampler cannot be .*=0'),
        ({'train_dataloader.num_workers': -1}, r'train_dataloader cannot be used: num_workers'),
        ({'val_evaluator.metric': ['box']}, r'val_evaluator .*cannot be used: .*but got box'),
        ({'val_evaluator.metrics': ['bbox']}, r"'val_evaluator.metrics' for .* mean 'metric'"),
        ({'model.backbone.out_indices': 3}, r'out_indices must be stages from 0 to 3, got 3'),
        ({'model.backbone.frozen_stages': '1'}, r"frozen_stages must be from -1 to 4, got '1'"),
        ({'model.backbone.drop_path_rate': 'a'}, r"drop_path_rate must be .* below 1, got 'a'"),
        ({'model.backbone.arch': [1]}, r"DATPlusPlus has no arch '\[1\]'"),
        ({'randomness.seed': 'a'}, r'config .* cannot be used: .*'),
    ],
)
def test_wrong_option_ends_training_in_one_sentence(
    options: dict, sentence: str, config: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        train(str(config), str(tmp_path / 'work'), cfg_options=options)
    assert '\n' not in str(caught.value)


def test_value_with_a_quote_is_told_from_a_mistake_in_the_config(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('COCO_ROOT', "it's")
    with pytest.raises(UserError, match=r'coco_instance.py is not valid .* variables COCO_ROOT'):
        train(str(config))


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        (dict(resume='auto'), r'--resume found no checkpoint in .*work'),
        (dict(resume='nowhere.pth'), r"there is no checkpoint 'nowhere.pth': give"),
        (dict(resume=''), r"there is no checkpoint '': give"),
        (dict(cfg_options={'load_from': 'ftp://host/x.pth'}), r'ftp://.* is at an unknown kind of'),
        (
            dict(cfg_options={'load_from': 'torchvision://resnet5'}),
            r'//resnet5 is not in that model',
        ),
        (
            dict(cfg_options={'train_dataloder.batch_size': 1}),
            r"unknown key 'train_dataloder.batch_size' in --cfg-options: "
            r"did you mean 'train_dataloader'",
        ),
        *[
            (dict(launcher=launcher), f'--launcher {launcher} must be started by {program}')
            for launcher, program in [('pytorch', 'torchrun'), ('slurm', 'srun'), ('mpi', 'mpirun')]
        ],
        pytest.param(
            dict(amp=True),
            r'--amp needs a GPU',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is here'),
        ),
    ],
)
def test_wrong_argument_ends_before_anything_is_written(
    arguments: dict, sentence: str, config: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        train(str(config), str(tmp_path / 'work'), **arguments)
    assert not (tmp_path / 'work').exists()


def test_places_that_cannot_be_written_to_are_refused_first(config: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'work dir .* cannot be written to: .* is not a folder'):
        train(str(config), str(config))
    for out, sentence in [
        ('results.pkl', r'results.pkl is a folder'),
        (f'{config.name}/results.pkl', r'--out .* cannot be written to'),
    ]:
        (tmp_path / 'results.pkl').mkdir(exist_ok=True)
        with pytest.raises(UserError, match=sentence):
            evaluate(str(config), 'missing.pth', out=str(tmp_path / out))


@pytest.mark.parametrize('option', ['foo', '=3', 'a=[1,2)'])
def test_option_that_is_no_key_and_value_is_refused(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', ['train.py', '--cfg-options', option])
    with pytest.raises(UserError, match=r'--cfg-options'):
        parse_run_args(argparse.ArgumentParser())


def test_checkpoint_of_another_model_is_refused(config: Path, tmp_path: Path) -> None:
    work_dir = tmp_path / 'work'
    train(str(config), str(work_dir))
    checkpoint = str(work_dir / 'epoch_1.pth')
    for old, new, sentence in [
        (
            "arch='nano'",
            'arch=dict(embed_dims=(16, 32, 64, 128), num_heads=(1, 2, 4, 8), '
            "groups=(1, 1, 2, 4), blocks=('D', 'D', 'D', 'D'))",
            'lacks backbone.stages.0',
        ),
        ('num_convs=1', 'num_convs=2', r'lacks roi_head.mask_head.convs.1.*bias'),
    ]:
        other = tmp_path / 'other.py'
        other.write_text(config.read_text())
        replace(other, old, new)
        with pytest.raises(UserError, match=f'epoch_1.pth is of another model.*{sentence}'):
            evaluate(str(other), checkpoint, str(work_dir))


def test_heads_for_other_classes_can_be_trained_from_a_checkpoint(
    config: Path, tmp_path: Path
) -> None:
    train(str(config), str(tmp_path / 'work'))
    replace(config, 'num_convs=1', 'num_convs=2')
    runner = train(
        str(config),
        str(tmp_path / 'fine_tuned'),
        cfg_options={'load_from': str(tmp_path / 'work' / 'epoch_1.pth')},
    )
    assert runner.epoch == 1


def written(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    'content, resume, sentence',
    [
        (pickle.dumps(subprocess.run), False, r'cannot be loaded as a checkpoint: it is damaged'),
        (b'no checkpoint', False, r'cannot be loaded as a checkpoint: it is damaged'),
        (b'', False, r'cannot be loaded as a checkpoint: it is damaged'),
        (b'PK\x03\x04junk', False, r'cannot be loaded as a checkpoint: it is damaged'),
        (written(dict(a=torch.ones(9)))[:-50], False, r'cannot be loaded as a checkpoint'),
        (written([torch.ones(9)]), False, r'holds no weights by name, but a list'),
        (written(torch.ones(9)), False, r'holds no weights by name, but a Tensor'),
        (
            written(dict(state_dict={})),
            True,
            r'cannot be resumed from, since it has no meta and no',
        ),
    ],
)
def test_wrong_checkpoint_is_refused_before_anything_is_written(
    content: bytes, resume: bool, sentence: str, config: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / 'wrong.pth'
    checkpoint.write_bytes(content)
    with pytest.raises(UserError, match=f'wrong.pth {sentence}') as caught:
        if resume:
            train(str(config), str(tmp_path / 'work'), resume=str(checkpoint))
        else:
            evaluate(str(config), str(checkpoint), str(tmp_path / 'work'))
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'work').exists()


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


@pytest.mark.parametrize(
    'tool, arguments',
    [
        ('train.py', ['missing.py']),
        ('test.py', ['missing.py', 'missing.pth']),
        ('analysis_tools/get_flops.py', ['missing.py']),
        ('analysis_tools/benchmark.py', ['missing.py']),
        ('analysis_tools/browse_dataset.py', ['missing.py']),
    ],
)
def test_tool_prints_the_sentence_without_traceback(tool: str, arguments: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, TOOLS / tool, *arguments], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == 'error: config missing.py does not exist'
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize('package', ['mmcv', 'mmdet'])
def test_tool_names_a_missing_package_without_traceback(package: str, tmp_path: Path) -> None:
    script = f'import runpy, sys; sys.modules[{package!r}] = None; runpy.run_path(sys.argv[1])'
    result = subprocess.run(
        [sys.executable, '-c', script, TOOLS / 'train.py'], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.startswith(f'error: mmdat needs {package} >= ')
    assert len(result.stderr.splitlines()) == 1


def run_script(
    name: str, *arguments: object, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script of ``tools``, with this Python as its ``python``."""
    path = os.pathsep.join([str(cwd), str(Path(sys.executable).parent), os.environ['PATH']])
    return subprocess.run(
        [TOOLS / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, 'PATH': path, **variables},
    )


def free_port() -> str:
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return str(server.getsockname()[1])


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is here')
def test_two_processes_train_and_test_on_a_cpu(config: Path, tmp_path: Path) -> None:
    trained = run_script(
        'dist_train.sh', config.name, 2, '--work-dir', 'work', cwd=tmp_path, PORT=free_port()
    )
    assert trained.returncode == 0, trained.stderr
    checkpoint = tmp_path / 'work' / 'epoch_1.pth'
    assert epochs_in(checkpoint) == 1
    history = torch.load(checkpoint, weights_only=True)['message_hub']['runtime_info']
    assert history['iter'] == 1, 'of the 6 images, each process takes 3 in 2 batches'
    tested = run_script(
        'dist_test.sh',
        config.name,
        checkpoint,
        2,
        '--work-dir',
        'work',
        cwd=tmp_path,
        PORT=free_port(),
    )
    assert tested.returncode == 0, tested.stderr
    assert 'coco/segm_mAP_50' in tested.stdout


@pytest.mark.parametrize(
    'script, arguments, command',
    [
        (
            'slurm_train.sh',
            ['part', 'job', 'a b.py', 'work', '--resume'],
            ['train.py', 'a b.py', '--launcher', 'slurm', '--work-dir', 'work', '--resume'],
        ),
        (
            'slurm_train.sh',
            ['part', 'job', 'a.py', '--resume'],
            ['train.py', 'a.py', '--launcher', 'slurm', '--resume'],
        ),
        (
            'slurm_test.sh',
            ['part', 'job', 'a.py', 'b.pth', '--out', 'c.pkl'],
            ['test.py', 'a.py', 'b.pth', '--launcher', 'slurm', '--out', 'c.pkl'],
        ),
    ],
)
def test_slurm_is_asked_for_gpus(
    script: str, arguments: list[str], command: list[str], tmp_path: Path
) -> None:
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$MASTER_PORT" "$@"\n')
    srun.chmod(0o755)
    result = run_script(
        script, *arguments, cwd=tmp_path, GPUS='4', PORT='12345', SRUN_ARGS='--time 1:00'
    )
    assert result.returncode == 0, result.stderr
    port, *given = result.stdout.splitlines()
    asked, run = given[: given.index('python')], given[given.index('python') + 2 :]
    assert port == '12345'
    assert asked == [
        '-p',
        'part',
        '--job-name=job',
        '--gres=gpu:4',
        '--ntasks=4',
        '--ntasks-per-node=4',
        '--cpus-per-task=5',
        '--kill-on-bad-exit=1',
        '--time',
        '1:00',
    ]
    assert [Path(run[0]).name, *run[1:]] == command
    assert Path(run[0]).is_file()


@pytest.mark.parametrize(
    'script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh']
)
def test_script_says_what_it_takes(script: str, tmp_path: Path) -> None:
    result = run_script(script, 'a.py', cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith('usage: ') and ' CONFIG ' in result.stderr
