"""What the toolboxes raise while they build from a config is told in a sentence."""

import errno
import logging
import os
import socket
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import mmdet.datasets  # noqa: F401  registers what the config names
import mmseg.datasets
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.models import DetTTAModel
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.model import ImgDataPreprocessor
from mmengine.optim.scheduler import CosineAnnealingLR
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, FlexibleRunner, Runner, TestLoop, ValLoop
from mmengine.structures import InstanceData
from mmseg.evaluation import IoUMetric
from mmseg.models import SegDataPreProcessor
from pycocotools.mask import decode
from torch import distributed, nn
from torch.utils.data import DataLoader

from mmdat.checks.config_file import read_config
from mmdat.checks.exceptions import explained
from mmdat.errors import UserError
from mmdat.registry import MODELS


@pytest.fixture(scope='module')
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A runner without a loop, which builds what it is given."""
    return Runner(nn.Linear(1, 1), str(tmp_path_factory.mktemp('runner')))


def build_backbone(runner: Runner, cfg: Config) -> Any:
    return MODELS.build(cfg.model.backbone)


def build_dataloader(runner: Runner, cfg: Config) -> Any:
    return runner.build_dataloader(cfg.train_dataloader)


def build_optimizer(runner: Runner, cfg: Config) -> Any:
    return runner.build_optim_wrapper(cfg.optim_wrapper)


def build_evaluator(runner: Runner, cfg: Config) -> Any:
    return runner.build_evaluator(cfg.val_evaluator)


@pytest.mark.parametrize(
    'build, options, sentence',
    [
        (
            build_backbone,
            {'model.backbone.drop_path_rat': 0.1},
            r"unknown key 'model.backbone.drop_path_rat' for DATPlusPlus: did you mean 'drop_path",
        ),
        (
            build_backbone,
            {'model.backbone.drop_path_rat': np.zeros(2)},
            r"unknown key 'model.backbone.drop_path_rat' for DATPlusPlus: did you mean 'drop_path",
        ),
        (
            build_backbone,
            {'model.backbone.type': 'mmdat.DATPlus'},
            r"unknown model.backbone.type='mmdat.DATPlus': nothing of that name is registered in m"
            r".*; did you mean 'mmdat.DATPlusPlus'\? Else check its scope",
        ),
        (
            build_backbone,
            {'model.backbone.type': 'ScalableViT'},
            r"nothing of that name is registered in .*; did you mean 'mmdat.ScalableViT'\?",
        ),
        (
            build_backbone,
            {'model.backbone.type': 'DATPlusplus'},
            r"nothing of that name is registered in .*; did you mean 'mmdat.DATPlusPlus'\?",
        ),
        (
            build_backbone,
            {'model.backbone.type': 'mmdet.DATPlusPlus'},
            r"nothing of that name is registered in .*; did you mean 'mmdat.DATPlusPlus'\?",
        ),
        (
            build_backbone,
            {'model.backbone.arch': 'tny'},
            r"DATPlusPlus has no arch 'tny': did you mean 'tiny'\?",
        ),
        (
            build_backbone,
            {'model.backbone.pretrained': 'a.pth', 'model.pretrained': 'a.pth'},
            r"model.pretrained='a.pth' is for another backbone: set it to None, and the weights of",
        ),
        (build_backbone, {'model.backbone.arch': [1]}, r"DATPlusPlus has no arch '\[1\]'"),
        (
            build_backbone,
            {'model.backbone.out_indices': 3},
            r'out_indices must be a list of stages from 0 to 3, got 3',
        ),
        (
            build_backbone,
            {'model.backbone.frozen_stages': '1'},
            r"frozen_stages must be from -1 to 4, got '1'",
        ),
        (
            build_backbone,
            {'model.backbone.drop_path_rate': 'a'},
            r"drop_path_rate must be .* below 1, got 'a'",
        ),
        (
            lambda runner, cfg: MODELS.build(cfg.model.neck),
            {'model.neck.num_outs': 1},
            r'^model.neck cannot be used: AssertionError: assert num_outs >= ',
        ),
        (
            lambda runner, cfg: DATASETS.build(cfg.test_dataloader.dataset),
            {'test_dataloader.dataset.metainfo': 3},
            r'^test_dataloader.dataset cannot be used: .',
        ),
        (
            build_dataloader,
            {'train_dataloader.batchsize': 2},
            r"unknown key 'train_dataloader.batchsize' for DataLoader: did you mean 'batch_size'",
        ),
        (
            build_dataloader,
            {'train_dataloader.batch_size': 0},
            r'train_dataloader.batch_sampler cannot be .*=0',
        ),
        (
            build_dataloader,
            {'train_dataloader.num_workers': -1},
            r'train_dataloader cannot be used: num_workers',
        ),
        (
            build_optimizer,
            {'optim_wrapper.optimizer.learning_rate': 1},
            r"unknown key 'optim_wrapper.optimizer.learning_rate' for AdamW: allowed are .*'lr'",
        ),
        (
            build_optimizer,
            {'optim_wrapper.optimizer.type': 'Adamm'},
            r"unknown optim_wrapper.optimizer.type='Adamm'",
        ),
        (
            build_optimizer,
            {'optim_wrapper.optimizer.lr': 'high'},
            r'optim_wrapper.optimizer cannot be used: .',
        ),
        (
            lambda runner, cfg: Runner.build_optim_wrapper(
                SimpleNamespace(model=nn.ModuleDict(dict(backbone=nn.Linear(1, 1)))),
                cfg.optim_wrapper,
            ),
            {
                'optim_wrapper.constructor': 'LearningRateDecayOptimizerConstructor',
                'optim_wrapper.paramwise_cfg': dict(
                    num_layers=6, decay_rate=0.9, decay_type='layer_wise'
                ),
            },
            r"constructor='LearningRateDecay.*' does not know .* 'mmdat.BackboneDecayConstructor'",
        ),
        (
            build_evaluator,
            {'val_evaluator.metric': ['box']},
            r'val_evaluator .*cannot be used: .*but got box',
        ),
        (
            lambda runner, cfg: runner.build_train_loop(cfg.train_cfg),
            {'train_cfg.max_epochs': 'abc'},
            r"train_cfg cannot be used: invalid literal .* 'abc'",
        ),
        *(
            (
                lambda runner, cfg, key=key: Runner(
                    runner.model, runner.work_dir, **{key: cfg[key]}, experiment_name=key
                ),
                {option: value},
                rf'^{key} cannot be used: .*{told}',
            )
            for key, option, value, told in (
                ('randomness', 'randomness.seed', 'a', 'U1'),
                ('env_cfg', 'env_cfg.mp_cfg.mp_start_method', 'spwn', 'spwn'),
                ('log_level', 'log_level', 'LOUD', 'LOUD'),
                ('custom_hooks', 'custom_hooks', 'EMAHook', 'but got E'),
            )
        ),
        (
            lambda runner, cfg: runner.scale_lr(
                runner.build_optim_wrapper(cfg.optim_wrapper), cfg.auto_scale_lr
            ),
            {'auto_scale_lr.enable': True, 'auto_scale_lr.base_batch_size': 'a'},
            r'^auto_scale_lr cannot be used: ',
        ),
        (
            lambda runner, cfg: MODELS.build(cfg.model.backbone).init_weights(),
            {'model.backbone.init_cfg': dict(type='Kaimin')},
            r"unknown model.backbone.init_cfg.type='Kaimin': .* registered in .*weight initializer",
        ),
        (
            lambda runner, cfg: (
                runner.register_custom_hooks([dict(cfg.custom_hooks[0])])
                or runner.call_hook('before_run')
            ),
            {'custom_hooks': [dict(type='EMAHook', ema_type='Averages')]},
            r"^unknown type='Averages': nothing of that name is registered in ",
        ),
        (
            lambda runner, cfg: EMAHook(begin_epoch=9).before_train(
                SimpleNamespace(model=runner.model, max_epochs=1)
            ),
            {'custom_hooks': [dict(type='EMAHook', begin_epoch=9)]},
            r'^custom_hooks.0 cannot be used: self.begin_epoch should be smaller .* 9',
        ),
        (
            lambda runner, cfg: FlexibleRunner(
                runner.model, work_dir=runner.work_dir, train_cfg=cfg.train_cfg
            ),
            {},
            r'config .*py cannot be used: .*train_cfg',
        ),
    ],
)
def test_mistake_is_told_with_its_place(
    build: Callable[[Runner, Config], Any],
    options: dict[str, Any],
    sentence: str,
    runner: Runner,
    config: Path,
) -> None:
    cfg = read_config(config, options)
    with (
        DefaultScope.overwrite_default_scope('mmdet'),
        pytest.raises(UserError, match=sentence) as caught,
        explained(cfg),
    ):
        build(runner, cfg)
    assert '\n' not in str(caught.value)


def test_what_a_pipeline_does_not_load_is_told() -> None:
    sentence = "pipeline of train_dataloader.dataset gives no '{}', .*with_mask=True"
    objects = InstanceData(bboxes=torch.zeros(1, 4))
    with DefaultScope.overwrite_default_scope('mmdet'):
        head = FCNMaskHead(num_convs=0)
    with pytest.raises(UserError, match=sentence.format('masks')), explained(Config()):
        head.get_targets([], [objects], Config())
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=('a', 'b'))
    prediction = dict(pred_sem_seg=dict(data=torch.zeros(1, 2, 2)))
    with pytest.raises(UserError, match=sentence.format('gt_sem_seg')), explained(Config()):
        metric.process({}, [prediction])
    with pytest.raises(UserError, match=sentence.format('gt_instances')), explained(Config()):
        unpack_gt_instances([DetDataSample()])
    with pytest.raises(AttributeError, match='mask'), explained(Config()):
        print(objects.mask)  # in code that is not a toolbox's
    with pytest.raises(AttributeError, match='pred_instances'), explained(Config()):
        DetTTAModel._merge_single_sample(None, [DetDataSample()])  # which nothing predicted


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
@pytest.mark.parametrize(
    'scope, pack', [('mmdet', 'PackDetInputs'), ('mmseg', 'PackSegInputs'), ('own', 'what packs')]
)
def test_a_pipeline_that_does_not_pack_is_told(split: str, scope: str, pack: str) -> None:
    loops = dict(train=EpochBasedTrainLoop, val=ValLoop, test=TestLoop)
    loop: Any = type(loops[split].__name__, (BaseLoop,), {})

    def run(self: Any) -> None:
        ImgDataPreprocessor()(dict(img=[torch.zeros(3, 2, 2)]))

    loop.run = run
    loop.__abstractmethods__ = frozenset()
    sentence = f"pipeline of {split}_dataloader.dataset gives no 'inputs', .*: end it with {pack}"
    with pytest.raises(UserError, match=sentence), explained(Config(dict(default_scope=scope))):
        loop.__new__(loop).run()


def test_a_folder_without_images_is_told(tmp_path: Path) -> None:
    (tmp_path / '0.png').touch()
    with (
        pytest.raises(UserError, match=r"found no image in its folder: .* img_suffix \(as in '.p"),
        explained(Config()),
    ):
        mmseg.datasets.BaseSegDataset(data_prefix=dict(img_path=str(tmp_path)))


def test_zero_labels_that_disagree_are_told(tmp_path: Path) -> None:
    mask = str(tmp_path / 'mask.png')
    cv2.imwrite(mask, np.zeros((2, 2), np.uint8))
    load = mmseg.datasets.LoadAnnotations(reduce_zero_label=True)
    results = dict(seg_map_path=mask, seg_fields=[], label_map=None, reduce_zero_label=False)
    with (
        pytest.raises(UserError, match='the data set and LoadAnnotations disagree on reduce_zero'),
        explained(Config()),
    ):
        load(results)


def test_a_file_that_does_not_exist_is_told() -> None:
    with (
        pytest.raises(UserError, match="file nowhere.json does not exist: check the config's pat"),
        explained(Config()),
    ):
        Path('nowhere.json').read_text()
    sentence = "^file nowhere.pkl can not be found: check the config's paths$"
    with pytest.raises(UserError, match=sentence), explained(Config()):
        raise FileNotFoundError('file nowhere.pkl can not be found.')


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize(
    'content, sentence',
    [
        (None, r"file .*a\.png does not exist: check the config's paths"),
        (b'no image', r'image .*a\.png cannot be read \(it does not decode\): mend it, or take'),
    ],
)
def test_an_image_that_does_not_load_is_told_by_worker_processes_too(
    content: bytes | None, sentence: str, num_workers: int, tmp_path: Path
) -> None:
    path = tmp_path / 'a.png'
    if content is not None:
        path.write_bytes(content)
    images = [dict(img_path=str(path))]
    loader = DataLoader(
        images, num_workers=num_workers, collate_fn=lambda items: LoadImageFromFile()(items[0])
    )
    with pytest.raises(UserError, match=f'^{sentence}[^\n]*$'), explained(Config()):
        next(iter(loader))


def test_batch_norm_of_one_image_and_an_epoch_without_a_step_are_told() -> None:
    with pytest.raises(UserError, match='needs batches of two images'), explained(Config()):
        nn.BatchNorm1d(2)(torch.rand(1, 2))
    with pytest.raises(UserError, match='yields no batch'), explained(Config()):
        CosineAnnealingLR.build_iter_from_epoch(T_max=3, epoch_length=0)


def test_an_optimizer_of_several_losses_a_step_is_told() -> None:
    optimizer: Any = torch.optim.LBFGS([nn.Parameter(torch.zeros(1))])
    with (
        pytest.raises(UserError, match='optimizer .* as LBFGS does, .* such as'),
        explained(Config()),
    ):
        optimizer.step()


def test_a_port_that_is_in_use_is_told() -> None:
    with socket.create_server(('', 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=f'at port {port} .* is in use, as by another training'),
            explained(Config()),
        ):
            distributed.TCPStore('127.0.0.1', port, is_master=True)


def test_images_of_several_sizes_in_a_batch_are_told() -> None:
    images = [torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)]
    sentence = r'of a batch have different sizes \(\[3, 4, 4\] .* Resize'
    with pytest.raises(UserError, match=sentence), explained(Config()):
        next(iter(DataLoader(images, batch_size=2)))  # type: ignore[arg-type]


@pytest.mark.parametrize('split', ['val', 'test'])
def test_images_of_several_sizes_that_mmseg_does_not_pad_are_told(split: str) -> None:
    loop: Any = type(dict(val=ValLoop, test=TestLoop)[split].__name__, (BaseLoop,), {})

    def run(self: Any) -> None:
        images = [torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)]
        SegDataPreProcessor()(dict(inputs=images, data_samples=None))

    loop.run = run
    loop.__abstractmethods__ = frozenset()
    sentence = rf'which segmentors do not pad .*: set {split}_dataloader.batch_size to 1$'
    with pytest.raises(UserError, match=sentence), explained(Config()):
        loop.__new__(loop).run()


@pytest.mark.parametrize(
    'layer, size, sentence',
    [
        (nn.Conv2d(3, 4, 1), (1, 5, 2, 2), 'model.neck.0 takes 3 channels, but gets 5: make in_ch'),
        (nn.Linear(3, 4), (2, 5), 'model.neck.0 takes 3 channels, but gets 5: make in_channels of'),
    ],
)
def test_a_layer_that_gets_other_channels_is_named(
    layer: nn.Module, size: tuple[int, ...], sentence: str
) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neck = nn.Sequential(layer)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.neck(x)

    with pytest.raises(UserError, match=sentence), explained(Config()):
        Whole()(torch.zeros(size))
    with pytest.raises(RuntimeError), explained(Config()):
        layer(torch.zeros(size))


def test_a_classifier_without_pooling_is_told_to_pool() -> None:
    backbone = dict(type='mmdat.DATPlusPlus', arch='nano', out_indices=(3,))
    head = dict(type='LinearClsHead', num_classes=2, in_channels=128)
    sentence = (
        r'^model.head.fc takes vectors, but gets maps of 128 channels: pool them with '
        r"model.neck=dict\(type='GlobalAveragePooling'\)$"
    )
    for neck in (None, dict(type='GlobalAveragePooling')):
        model: Any = dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
        classifier = MODELS.build(dict(model, _scope_='mmpretrain'))
        told = nullcontext() if neck else pytest.raises(UserError, match=sentence)
        with told, explained(Config()):
            classifier(torch.zeros(1, 3, 64, 64))


def test_what_is_no_mistake_of_the_user_passes() -> None:
    with pytest.raises(ZeroDivisionError), explained(Config()):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    'name, remedy',
    [
        ('backbone', 'take them out of the model'),
        ('backbone.norms', 'leave the maps .*out_indices'),
    ],
)
def test_a_parameter_without_gradient_is_told_in_several_processes(name: str, remedy: str) -> None:
    class FirstAlone(nn.ModuleList):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[0](x)

    class Whole(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.get_submodule(name)(x)

    whole: Any = Whole()
    layers = FirstAlone([nn.Linear(1, 1) for _ in '123'])
    layers[1].requires_grad_(False)
    whole.backbone = nn.ModuleDict(dict(norms=layers)) if '.' in name else layers
    distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(whole)
        model(torch.ones(1, 1)).sum().backward()
        sentence = (
            rf'had no gradient in a step \({name}.2.weight, {name}.2.bias\), .*: {remedy}, or '
            'set find_unused_parameters=True in the config'
        )
        with pytest.raises(UserError, match=sentence), explained(Config()):
            model(torch.ones(1, 1))
    finally:
        distributed.destroy_process_group()


def test_the_end_of_other_processes_and_of_the_work_dir_are_told(tmp_path: Path) -> None:
    cfg = Config(dict(work_dir=str(tmp_path)))
    lost = RuntimeError('[gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:9')
    killed = RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')
    missing = RuntimeError('DataLoader worker (pid(s) 7, 9) exited unexpectedly')
    gone = FileNotFoundError(2, 'No such file or directory', str(tmp_path / 'a' / 'b.json'))
    for error, sentence in (
        (lost, 'another process of this run has ended or cannot be reached, .* --resume'),
        (killed, r'a worker process .* \(it is killed by signal: Killed\), .*lower num_workers'),
        (missing, r'a worker process of a data loader was ended \(it exited\)'),
        (gone, f'{tmp_path}/a/b.json cannot be written: its folder is gone'),
    ):
        with pytest.raises(UserError, match=sentence), explained(cfg):
            raise error


def test_a_file_that_cannot_be_written_is_told_whoever_wrote_it(tmp_path: Path) -> None:
    cfg = Config(dict(work_dir=str(tmp_path)))
    path = tmp_path / 'scalars.json'
    path.symlink_to('/dev/full')

    def write() -> None:
        with path.open('a+') as file:
            file.write('a line')

    def write_into(handler: logging.FileHandler) -> None:
        handler.stream.write('a line')
        handler.stream.flush()

    full = f'^{path} cannot be written: No space left on device$'
    with pytest.raises(UserError, match=full), explained(cfg):
        write()
    for error, sentence in (
        (
            OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
            'a file cannot be written: .*Disk quota',
        ),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), 'a.log'), 'a.log cannot be .*: Read-only'),
        (PermissionError(13, 'Permission denied', 'a.log'), 'a.log cannot be opened: Permission'),
        # As a worker process, PyTorch's shared memory and a database say it.
        (
            OSError('Caught OSError in a worker.\nOSError: [Errno 28] No space left on device'),
            'No sp',
        ),
        (
            RuntimeError('unable to write to file </torch_1>: No space left on device (28)'),
            'torch_1',
        ),
        (RuntimeError('(sqlite3.OperationalError) database or disk is full'), 'disk is full$'),
    ):
        with pytest.raises(UserError, match=sentence), explained(cfg):
            raise error
    with pytest.raises(OSError, match='^5$'), explained(cfg):
        raise OSError(5)
    handler = logging.FileHandler('/dev/full')
    with pytest.raises(UserError, match='^/dev/full cannot be written'), explained(cfg):
        write_into(handler)  # as mmengine does with how weights were initialized
    with pytest.raises(OSError):
        handler.close()


def test_a_mask_of_run_lengths_that_does_not_decode_is_told() -> None:
    told = pytest.raises(
        UserError, match='^a mask of run lengths of the train data does not decode'
    )
    with told, explained(Config()):
        decode(dict(size=[4, 4], counts='zzz\x01garbage'))
