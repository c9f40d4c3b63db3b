"""Train and test from a config: mmengine's runner, behind checks that cost no time."""

import os
from pathlib import Path
from typing import Any

import torch
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import CheckpointLoader, Runner, find_latest_checkpoint

from mmdat.checks.config_file import read_config
from mmdat.checks.config_keys import RUNNER_KEYS, check_keys, replace_values
from mmdat.checks.exceptions import explained
from mmdat.checks.run import check_writable
from mmdat.errors import UserError, reason, suggest
from mmdat.models.published.files import WEB, ZOOS, read_checkpoint

from .toolboxes import toolbox_of

# Name -> an environment variable that it sets, and the program.
LAUNCHERS = {
    'pytorch': ('RANK', 'torchrun'),
    'slurm': ('SLURM_PROCID', 'srun'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
}
# Data set -> its task in tools/make_shapes.py.
MADE_DATA = {
    'mmdat.ShapesDataset': 'detect',
    'mmdat.ShapesSegmentDataset': 'segment',
    'mmdat.ShapesClassifyDataset': 'classify',
}


def train(
    config: str,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = 'none',
) -> Runner:
    """Train the model of a config.

    Args:
        config: Path of the config.
        work_dir: Where logs and checkpoints go, ``work_dirs/<config's name>`` if None.
        resume: A checkpoint to go on from, ``'auto'`` for the latest in ``work_dir``.
        amp: Train in mixed precision; needs a GPU.
        auto_scale_lr: Scale the learning rate to the batch size in use.
        cfg_options: Values to put into the config, by dotted key.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        UserError: For a mistake in what was given, before the first iteration where it can be
            known then.
    """
    cfg = _load_config(config, work_dir, cfg_options, launcher)
    _check_data(cfg, ('train', 'val'))
    _check_strategy(cfg)
    if amp:
        if not torch.cuda.is_available():
            raise UserError('--amp needs a GPU, and none is available: train without it')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    if auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise UserError(f'--auto-scale-lr needs auto_scale_lr.base_batch_size in {config}')
        cfg.auto_scale_lr.enable = True
    if resume is not None:
        cfg.resume = True
        cfg.load_from = _latest_checkpoint(cfg.work_dir) if resume == 'auto' else resume
    if resume is not None or cfg.get('load_from'):
        meta = _check_checkpoint(cfg.load_from, resume=cfg.get('resume', False))
        for unit in ('epoch', 'iter') if cfg.get('resume', False) else ():
            most = (cfg.get('train_cfg') or {}).get(f'max_{unit}s')
            if most and meta.get(unit, 0) >= most:
                print(
                    f'{cfg.load_from} is at {unit} {meta[unit]} of {most}: nothing is left to '
                    f'train; to go on, raise train_cfg.max_{unit}s'
                )
    with explained(cfg):
        runner = _build_runner(cfg)
        runner.train()
    return runner


def test(
    config: str,
    checkpoint: str,
    work_dir: str | None = None,
    out: str | None = None,
    show_dir: str | None = None,
    tta: bool = False,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = 'none',
) -> dict[str, float]:
    """Evaluate a checkpoint on the test data of a config.

    Args:
        config: Path of the config.
        checkpoint: Path of a checkpoint that fits the config's model.
        work_dir: Where the log goes, ``work_dirs/<config's name>`` if None.
        out: A ``.pkl`` file to write the predictions to.
        show_dir: A folder for pictures of the predictions, below that of the log.
        tta: Merge the predictions for augmented copies of each image (test-time augmentation).
        cfg_options: Values to put into the config, by dotted key.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Returns:
        The metrics by name.

    Raises:
        UserError: For a mistake in what was given.
    """
    if out is not None and not out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {out} must end in .pkl')
    if out is not None:
        if Path(out).is_dir():
            raise UserError(f'--out {out} is a folder: give a file')
        check_writable('--out', Path(out).parent)
    cfg = _load_config(config, work_dir, cfg_options, launcher)
    if show_dir is not None:
        check_writable('--show-dir', Path(cfg.work_dir, show_dir))
    _check_data(cfg, ('test',))
    _check_checkpoint(checkpoint)
    # A whole model, from a whole checkpoint, however it was trained.
    cfg.pop('runner_type', None)
    cfg.pop('strategy', None)
    cfg.load_from = checkpoint
    if show_dir is not None:
        toolbox_of(cfg).draw(cfg, show_dir)
    if tta:
        if missing := {'tta_model', 'tta_pipeline'} - set(cfg):
            raise UserError(f'--tta needs {" and ".join(sorted(missing))} in {config}')
        cfg.model = dict(cfg.tta_model, module=cfg.model)
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    with explained(cfg):
        runner = _build_runner(cfg)
        if out is not None:
            runner.test_evaluator.metrics.append(toolbox_of(cfg).metric(out_file_path=out))
        return runner.test()


def _load_config(
    config: str, work_dir: str | None, cfg_options: dict[str, Any] | None, launcher: str
) -> Config:
    if launcher != 'none' and LAUNCHERS[launcher][0] not in os.environ:
        raise UserError(
            f'--launcher {launcher} must be started by {LAUNCHERS[launcher][1]}: '
            'start it so, or leave --launcher away'
        )
    setup_cache_size_limit_of_dynamo()
    cfg = read_config(config)
    for key in cfg_options or {}:
        name = key.split('.')[0]
        if name not in RUNNER_KEYS and name not in cfg:
            raise UserError(
                f"unknown key '{key}' in --cfg-options: {suggest(name, RUNNER_KEYS | set(cfg))}"
            )
    try:
        cfg.merge_from_dict(cfg_options or {})
    except Exception as error:  # an index that is no number, a key below what is no dict
        raise UserError(f'--cfg-options do not fit config {config}: {reason(error)}') from error
    check_keys(cfg)
    toolbox_of(cfg)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(config).stem}'
    check_writable('work dir', cfg.work_dir)
    return cfg


def _build_runner(cfg: Config) -> Runner:
    if cfg.launcher == 'pytorch' and not torch.cuda.is_available():
        # mmengine would ask for GPUs; it takes a process group and a wrapper that are there.
        torch.distributed.init_process_group('gloo')
        # Statistics over processes are for GPUs alone; in one process the runner does this.
        replace_values(cfg.model, 'type', 'SyncBN', 'BN')
        if _shards(cfg):
            # Where weights are offloaded to where they are, PyTorch frees them.
            cfg.strategy.model_wrapper.update(device_id='cpu')
            cfg.strategy.state_dict_cfg = dict(
                state_dict_type='FULL_STATE_DICT',
                state_dict_config=dict(type='FullStateDictConfig', rank0_only=True),
                optim_state_dict_config=dict(type='FullOptimStateDictConfig', rank0_only=True),
            )
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
    return RUNNERS.build(cfg)


def _check_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Refuse data roots that do not exist before anything is built or written."""
    for split in splits:
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset', {})
        while 'dataset' in dataset:
            dataset = dataset['dataset']
        root = dataset.get('data_root')
        if root and '://' not in root and not os.path.isdir(root):
            toolbox, task = toolbox_of(cfg), MADE_DATA.get(dataset.get('type'))
            how = (
                f'make it with tools/make_shapes.py {root} --task {task}, or set the '
                'environment variable that the config reads (SHAPES_...)'
                if task
                else 'set the environment variable that the config reads '
                f'({toolbox.root_variable} for {toolbox.data})'
            )
            raise UserError(
                f'data root {root} of {split}_dataloader does not exist: {how} or '
                f'{split}_dataloader.dataset.data_root'
            )


def _check_strategy(cfg: Config) -> None:
    runner_type = cfg.get('runner_type', 'Runner')
    if RUNNERS.get(runner_type) is None:
        raise UserError(
            f'runner_type {runner_type!r} is no runner: {suggest(runner_type, RUNNERS.module_dict)}'
        )
    if not _shards(cfg):
        return
    if cfg.launcher == 'none':
        raise UserError(
            f'config {cfg.filename} shares a model among processes (FSDPStrategy): '
            'start it with tools/dist_train.sh or tools/slurm_train.sh'
        )
    if (cfg.get('optim_wrapper') or {}).get('clip_grad'):
        raise UserError(
            'optim_wrapper.clip_grad clips each shard by itself under FSDPStrategy: '
            'set it to None, or train without the strategy'
        )


def _shards(cfg: Config) -> bool:
    return (cfg.get('strategy') or {}).get('type') in ('FSDPStrategy', 'mmdat.FSDPStrategy')


@CheckpointLoader.register_scheme(['', *WEB, *ZOOS], force=True)
def load_from_disk_or_web(filename: str, map_location: Any = None) -> Any:
    """Loader of checkpoints for mmengine, whose own runs code that it finds at a URL."""
    return read_checkpoint(filename, map_location)


def _check_checkpoint(source: str, resume: bool = False) -> dict[str, Any]:
    """Refuse what the runner cannot load, before it is built; return how far it was trained."""
    content = read_checkpoint(source)
    state = content.get('state_dict', content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(
            f'checkpoint {source} holds no weights by name, but a '
            f'{type(content).__name__}: give a file that training wrote'
        )
    if resume and (
        missing := [key for key in ('meta', 'message_hub', 'optimizer') if key not in content]
    ):
        raise UserError(
            f'checkpoint {source} cannot be resumed from, since it has no '
            f'{" and no ".join(missing)}: start from its weights with load_from'
        )
    return content.get('meta') or {}


def _latest_checkpoint(work_dir: str) -> str:
    checkpoint = find_latest_checkpoint(work_dir)
    if not checkpoint:
        raise UserError(
            f'--resume found no checkpoint in {work_dir}: train without it, or name a checkpoint'
        )
    return checkpoint
