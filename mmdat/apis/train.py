"""Train a model from a config."""

from typing import Any

from mmengine.runner import Runner

from mmdat import checks
from mmdat.checkpoints.reading import read_checkpoint
from mmdat.checks.checkpoint import latest_checkpoint
from mmdat.checks.exceptions import explained

from .runner import build_runner, read_run_config


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
    cfg = read_run_config(config, work_dir, cfg_options, launcher)
    warnings: list[str] = []
    checks.before_training(cfg, amp=amp, auto_scale_lr=auto_scale_lr, warn=warnings.append)
    if amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if auto_scale_lr:
        cfg.auto_scale_lr.enable = True
    if resume is not None:
        cfg.resume = True
        cfg.load_from = latest_checkpoint(cfg.work_dir) if resume == 'auto' else resume
    if cfg.get('load_from') is not None:
        resumes = cfg.get('resume', False)
        # Of a training that goes on, all is needed; else weights alone.
        content = read_checkpoint(cfg.load_from, skip_objects=not resumes)
        checks.before_loading(content, cfg.load_from, resume=resumes)
        del content  # it can be as large as the model and its optimizer, and is read again
    with explained(cfg):
        runner = build_runner(cfg, warnings)
        runner.train()
    return runner
