"""Evaluate a checkpoint on the test data of a config."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mmdat import checks
from mmdat.checkpoints.reading import read_checkpoint
from mmdat.checks import config_tree
from mmdat.checks.exceptions import explained
from mmdat.checks.masks import ANNOTATION_LOADERS
from mmdat.engine import parts_in_bfloat16

from .runner import build_runner, leave_out_early_stopping, read_run_config
from .toolboxes import toolbox_of, visualizer_of


def test(
    config: str,
    checkpoint: str,
    work_dir: str | None = None,
    out: str | None = None,
    show_dir: str | None = None,
    tta: bool = False,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = 'none',
    amp: bool = False,
) -> dict[str, float]:
    """Evaluate a checkpoint on the test data of a config.

    With ``test_evaluator.format_only`` no annotations are read, which then need not be there.

    Args:
        config: Path of the config.
        checkpoint: Path of a checkpoint that fits the config's model.
        work_dir: Where the log goes, ``work_dirs/<config's name>`` if None.
        out: A ``.pkl`` file to write the predictions to.
        show_dir: A folder for pictures of the predictions, below ``work_dir``. They have the names
            and subfolders of the images.
        tta: Merge the predictions for augmented copies of each image (test-time augmentation).
        cfg_options: Values to put into the config, by dotted key.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        amp: Run backbone and neck in bfloat16.

    Returns:
        The metrics by name.

    Raises:
        UserError: For a mistake in what was given.
    """
    cfg = read_run_config(config, work_dir, cfg_options, launcher)
    warnings: list[str] = []
    checks.before_testing(cfg, out=out, show_dir=show_dir, tta=tta, amp=amp, warn=warnings.append)
    checks.before_loading(read_checkpoint(checkpoint, skip_objects=True), checkpoint, resume=False)
    cfg.load_from = checkpoint
    # Whatever the training, the checkpoint is whole, and so is the model that is tested.
    cfg.pop('runner_type', None)
    cfg.pop('strategy', None)
    leave_out_early_stopping(cfg)
    if show_dir is not None:
        cfg.custom_hooks += [_drawing_hook(cfg, os.path.join(cfg.work_dir, show_dir))]
    if out is not None:
        metric = dict(type=toolbox_of(cfg).metric, out_file_path=out)
        cfg.custom_hooks += [dict(type='mmdat.WriteResultsHook', metric=metric)]
    if tta:
        cfg.model = dict(cfg.tta_model, module=cfg.model)
        for _, dataset in config_tree.datasets(cfg, 'test'):
            dataset.pipeline = cfg.tta_pipeline
    # All metrics write files, for which they need no annotations.
    if all(_values_of_metrics(cfg, 'format_only')):
        for _, dataset in config_tree.datasets(cfg, 'test'):
            dataset.pipeline = _without_annotations(dataset.pipeline)
    with explained(cfg):
        runner = build_runner(cfg, warnings)
        if any(_values_of_metrics(cfg, 'output_dir')):
            checks.masks.check_written_names(runner.test_loop.dataloader.dataset)
        with parts_in_bfloat16(runner.model) if amp else contextlib.nullcontext():
            return runner.test()


def _drawing_hook(cfg: Config, out_dir: str) -> dict[str, Any]:
    """The hook that draws what is predicted."""
    hook = dict(type='mmdat.DrawPredictionsHook', out_dir=out_dir, visualizer=visualizer_of(cfg))
    threshold = config_tree.value_at(cfg, 'default_hooks.visualization.score_thr')
    if threshold is not None:
        hook['pred_score_thr'] = threshold
    return hook


def _values_of_metrics(cfg: Config, key: str) -> Iterator[Any]:
    """Yield what each metric of a test has for a key; None if it has none."""
    for _, metric in config_tree.metrics(cfg, 'test'):
        yield metric.get(key) if isinstance(metric, Mapping) else getattr(metric, key, None)


def _without_annotations(pipeline: list) -> list:
    """Leave the transforms that load annotations out of a pipeline, also out of nested ones."""
    steps: list = []
    for step in pipeline:
        if isinstance(step, list):
            inner_steps = _without_annotations(step)
            steps += [inner_steps] if inner_steps else []
        elif config_tree.class_name(step) not in ANNOTATION_LOADERS:
            inner = step.get('transforms')
            steps.append(dict(step, transforms=_without_annotations(inner)) if inner else step)
    return steps
