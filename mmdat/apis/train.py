"""Train a model from a config."""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.runner import Runner

from mmdat import checks
from mmdat.checkpoints.reading import read_checkpoint
from mmdat.checks.checkpoint import check_whole, latest_checkpoint
from mmdat.checks.exceptions import explained
from mmdat.checks.mmengine_private import built_loops, keeps_numbers
from mmdat.checks.run import LAUNCHERS, VIS_BACKENDS, vis_backends_in
from mmdat.errors import UserError, reason, suggest
from mmdat.files import alone_in

from .curves import write_curves
from .runner import build_runner, make_resumable, read_run_config, use_mixed_precision
from .toolboxes import visualizer_of


def train(
    config: str,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = 'none',
    vis_backends: Sequence[str] = (),
) -> Runner:
    """Train the model of a config, and draw its curves into the work dir when it ends.

    Args:
        config: Path of the config.
        work_dir: Where logs and checkpoints go, ``work_dirs/<config's name>`` if None.
        resume: A checkpoint to go on from; ``'latest'`` for the newest whole one in ``work_dir``;
            ``'auto'`` for that too, or a training from the start where there is none.
        amp: Train in mixed precision: float16 on a GPU, bfloat16 on a CPU.
        auto_scale_lr: Scale the learning rate to the batch size in use.
        cfg_options: Values to put into the config, by dotted key.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        vis_backends: Where losses and metrics go besides files, such as ``'tensorboard'``.

    Raises:
        UserError: For a mistake in what was given, before the first iteration where it can be
            known then.
    """
    cfg = read_run_config(config, work_dir, cfg_options, launcher)
    _add_vis_backends(cfg, vis_backends)
    warnings: list[str] = []
    checks.before_training(cfg, amp=amp, auto_scale_lr=auto_scale_lr, warn=warnings.append)
    make_resumable(cfg, warnings.append)
    if amp:
        use_mixed_precision(cfg, torch.cuda.is_available())
    if auto_scale_lr:
        cfg.auto_scale_lr.enable = True
    _check_source(cfg, resume, warnings.append)
    if (cfg.get('randomness') or {}).get('deterministic'):
        # Without it, PyTorch refuses to multiply matrices on a GPU then.
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    with explained(cfg), ExitStack() as stack:
        if _is_first(launcher):  # before the runner writes its config over another's
            stack.enter_context(alone_in(Path(cfg.work_dir)))
        runner = build_runner(cfg, warnings)
        runner.logger.info(_where_to_look(runner))
        try:
            runner.train()
        finally:  # of an interrupted training too
            _draw_curves(runner)
            if isinstance(sys.exc_info()[1], SystemExit):  # all processes were asked to stop
                barrier()  # else a launcher ends this one when another has ended
    return runner


def _is_first(launcher: str) -> bool:
    """Whether this is the first process of those that a launcher started, before they meet."""
    return launcher == 'none' or int(os.environ[LAUNCHERS[launcher][0][0]]) == 0


def _check_source(cfg: Config, resume: str | None, warn: Callable[[str], None]) -> None:
    """Say in a config what training starts or goes on from, and check it."""
    if resume is None and cfg.get('resume') and cfg.get('load_from') is None:
        # mmengine takes True for the newest checkpoint, its FlexibleRunner a path too.
        resume = cfg.resume if isinstance(cfg.resume, str) else 'auto'
    content = None
    if resume in ('auto', 'latest'):
        found = latest_checkpoint(cfg, warn)
        cfg.resume = found is not None
        if found is not None:
            cfg.load_from, content = found
        elif resume == 'latest':
            raise UserError(
                f'--resume found no checkpoint in {cfg.work_dir}: train without it, or name a '
                'checkpoint'
            )
        else:
            warn(f'There is no checkpoint in {cfg.work_dir} to go on from: training begins')
    elif resume is not None:
        cfg.resume, cfg.load_from = True, resume
    if cfg.get('load_from') is not None:
        resumes = cfg.get('resume', False)
        if content is None:
            # A training that goes on needs all of it, one that starts from it the weights alone.
            content = read_checkpoint(cfg.load_from, skip_objects=not resumes)
            if resumes:
                check_whole(cfg.load_from)
        checks.before_loading(content, cfg.load_from, resume=resumes)


def _add_vis_backends(cfg: Config, packages: Sequence[str]) -> None:
    """Add visual backends that a config lacks to its visualizer."""
    for package in packages:
        if package not in VIS_BACKENDS:
            raise UserError(f'{package!r} is no visual backend: {suggest(package, VIS_BACKENDS)}')
        if VIS_BACKENDS[package] not in vis_backends_in(cfg):
            visualizer = visualizer_of(cfg)
            backends = visualizer.get('vis_backends') or dict(type='LocalVisBackend')
            backends = [backends] if isinstance(backends, dict) else list(backends)
            added = dict(type=VIS_BACKENDS[package])
            if package == 'mlflow':  # which refuses the folder that mmengine would have it write to
                name = os.path.basename(os.path.abspath(cfg.work_dir))
                added |= dict(exp_name=name, tracking_uri='sqlite:///mlflow.db')
            visualizer['vis_backends'] = [*backends, added]
            cfg.visualizer = visualizer


def _where_to_look(runner: Runner) -> str:
    folder = os.path.abspath(runner.work_dir)
    text = f'Watch this training in {folder}: log {runner.timestamp}/{runner.timestamp}.log'
    if keeps_numbers(runner):
        text += (
            '; losses and metrics as curves.png when it ends, or now by '
            f'`mmdat plot {shlex.quote(folder)}`'
        )
    if runner.visualizer.get_backend(VIS_BACKENDS['tensorboard']) is not None:
        text += f'; `tensorboard --logdir {shlex.quote(folder)}`'
    return text


def _draw_curves(runner: Runner) -> None:
    loop = built_loops(runner).get('train')
    if loop is None or loop.iter == 0 or not keeps_numbers(runner) or not is_main_process():
        return
    try:
        runner.logger.info(f'Curves: {write_curves([runner.work_dir]).resolve()}')
    except Exception as error:  # of matplotlib too: what ended the training is to be told
        runner.logger.warning(f'There are no curves: {reason(error)}')
