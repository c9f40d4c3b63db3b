"""All that is checked of what a user gave, before time is spent on it.

When                            | What runs                        | Called by
------------------------------- | -------------------------------- | -------------------------
a config is read                | ``config_file.read_config``      | every tool with a config
--cfg-options were read         | ``variables.check_options``      | ``config_file``
a config was read               | :func:`after_reading`            | every tool with a config
before training, before testing | :func:`before_training`,         | ``apis.train``,
                                | :func:`before_testing`           | ``apis.test``
a checkpoint was read           | :func:`before_loading`           | ``apis.train``,
                                |                                  | ``apis.test``,
                                |                                  | ``apis.model``
a tool's flags were read        | ``run.check_least``,             | ``apis.cli``,
                                | ``run.check_share``,             | ``apis.predictor``,
                                | ``run.check_shape``,             | ``analysis``
                                | ``run.check_device``,            |
                                | ``run.check_display``,           |
                                | ``run.check_cfg_option``         |
the results of a test are       | ``results.read_results``,        | ``analysis.report``
reported on                     | ``results.check_same_data``      |
a part of the config is built   | ``exceptions.explained``         | ``apis``, ``analysis``
a data set in COCO format is    | ``coco.read_coco``,              | ``datasets.CocoDataset``
built                           | ``coco.check_categories``        |
all is built, before a step     | :func:`before_first_step`,       | ``engine.CheckFitHook``,
                                | :func:`check_schedule`,          | ``analysis.data``
                                | :func:`check_monitors`           |
an image or a mask is loaded    | ``images.misfit``,               | ``datasets``
                                | ``masks.decode_mask``            |
weights go into the model       | ``model_fit.check_weights_fit``, | ``engine.CheckFitHook``,
                                | ``checkpoint.check_class_order`` | ``apis.model``
training goes on                | ``checkpoint.check_precision``,  | ``engine.CheckFitHook``
                                | ``checkpoint.check_optimizer``   |
training begins                 | ``checkpoint.warn_if_finished``  | ``engine.CheckFitHook``
the first training step         | ``schedule.watch_batch_norm``    | ``engine.CheckFitHook``
a training step                 | ``masks.check_mask_classes``     | ``engine.CheckFitHook``

A check returns nothing. It raises :class:`mmdat.errors.UserError`, whose sentence names what is
wrong and says what to do; models and data that it is not made for pass. In all checks ``model`` is
without wrappers, ``dataset`` is built, as are ``datasets`` and ``evaluators`` by split, ``files``
are those of data sets, ``source`` is what a sentence calls a file, and ``warn`` is told what may be
wrong, once of each kind, and how often it is so.

Readers (``read_config``, ``read_coco``, ``read_results``, ``latest_checkpoint``) return what they
read. ``config_tree`` walks through configs and wrapped data sets. What mmengine keeps private and
checks need is in ``mmengine_private``.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mmdat.errors import Warn

from . import (
    checkpoint,
    classes,
    coco,
    config_keys,
    folders,
    images,
    masks,
    mmengine_private,
    model_fit,
    monitors,
    run,
    schedule,
    variables,
)


def after_reading(cfg: Config) -> None:
    """Check what a config holds: keys that nothing reads, parts that are no dicts, its scope."""
    config_keys.check_keys(cfg)
    config_keys.check_scope(cfg)


def before_training(
    cfg: Config, *, amp: bool = False, auto_scale_lr: bool = False, warn: Warn = print
) -> None:
    """Check all that can be known of a training before anything is built or written.

    Args:
        cfg: The config, with ``work_dir`` and ``launcher``.
    """
    _before_run(cfg, warn)
    run.check_parts(cfg, ('train_dataloader', 'train_cfg', 'optim_wrapper'))
    for name, hook in (cfg.get('default_hooks') or {}).items():
        out_dir = hook.get('out_dir') if isinstance(hook, Mapping) else None
        if isinstance(out_dir, str) and '://' not in out_dir:
            run.check_writable(f'default_hooks.{name}.out_dir', out_dir)
    folders.check_data_roots(cfg, ('train', 'val'))
    folders.check_lists(cfg, ('train', 'val'))
    run.check_strategy(cfg)
    run.check_bfloat16(cfg)
    if amp:
        run.check_amp(cfg)
    if amp or run.is_mixed(cfg):
        run.warn_of_slow_bfloat16(warn)
    if auto_scale_lr:
        run.check_lr_scaling(cfg, warn)


def before_testing(
    cfg: Config,
    *,
    out: str | None = None,
    show_dir: str | None = None,
    tta: bool = False,
    amp: bool = False,
    warn: Warn = print,
) -> None:
    """Check all that can be known of a test before anything is built or written.

    Args:
        cfg: The config, with ``work_dir`` and ``launcher``.
        out: File for the predictions.
        show_dir: Folder for pictures, below ``work_dir``.
    """
    if out is not None:
        run.check_results_file(out)
    _before_run(cfg, warn)
    if amp:
        run.warn_of_slow_bfloat16(warn)
    if show_dir is not None:
        run.check_writable('--show-dir', Path(cfg.work_dir, show_dir))
    run.check_parts(cfg, ('test_dataloader', 'test_cfg', 'test_evaluator'))
    folders.check_data_roots(cfg, ('test',))
    folders.check_lists(cfg, ('test',))
    if tta:
        run.check_tta(cfg, warn)


def _before_run(cfg: Config, warn: Warn) -> None:
    run.check_launcher(cfg.launcher)
    after_reading(cfg)
    variables.check_variables(cfg, warn)
    run.check_writable('work dir', cfg.work_dir)
    run.check_vis_backends(cfg)


def before_loading(content: Any, source: str, *, resume: bool) -> None:
    """Check that a checkpoint can be loaded, and resumed if that is wanted."""
    checkpoint.check_weights(content, source)
    if resume:
        checkpoint.check_resumable(content, source)


def log_warning(message: str) -> None:
    """Write a warning into the log of the run."""
    print_log(message, 'current', logging.WARNING)


def check_schedule(runner: Runner) -> None:
    """Check that batches, learning rates and intervals fit the data and the training's length."""
    warn = runner.logger.warning
    for split, loop in mmengine_private.built_loops(runner).items():
        schedule.check_ends(loop, split)
        schedule.check_batches(loop.dataloader, split, warn)
        if split == 'train':
            schedule.check_rates(runner.optim_wrapper, warn)
            schedule.check_schedulers(runner.param_schedulers, loop, warn)
            schedule.check_intervals(loop, runner.hooks, warn)
            schedule.check_custom_keys(runner.model, runner.cfg.get('optim_wrapper'), warn)
            if isinstance(loop, EpochBasedTrainLoop):
                schedule.check_same_batches(loop.dataloader)


def check_monitors(runner: Runner, model: nn.Module) -> None:
    """Check that what a training waits for in the results of validations will be in them."""
    loops = mmengine_private.built_loops(runner)
    if 'train' in loops:
        monitors.check_monitors(
            runner.hooks, runner.param_schedulers, loops.get('val'), model, runner.logger.warning
        )


def before_first_step(
    model: nn.Module, datasets: Mapping[str, Any], evaluators: Mapping[str, Evaluator] | None = None
) -> None:
    """Check that the parts of a model fit each other and the data, and the data's files."""
    for check in first_step_checks(model, datasets, evaluators or {}, log_warning):
        check()


def first_step_checks(
    model: nn.Module, datasets: Mapping[str, Any], evaluators: Mapping[str, Evaluator], warn: Warn
) -> Iterator[Callable[[], None]]:
    """Yield the checks of :func:`before_first_step`, none of which presupposes another."""
    yield partial(classes.check_names, datasets, warn)
    yield partial(model_fit.check_channels, model)
    yield partial(model_fit.check_strides, model)
    yield partial(model_fit.check_image_channels, model)
    yield partial(model_fit.check_class_weights, model)
    yield partial(model_fit.check_topk, model)
    yield partial(model_fit.check_single_output, model)
    yield partial(model_fit.check_one_hot_classes, model)
    names = next((names for *_, names in classes.data_with_classes(datasets)), ())
    metrics = {split: evaluator.metrics for split, evaluator in evaluators.items()}
    yield partial(model_fit.check_ignored, model, metrics, names, warn)
    yield partial(model_fit.check_predicts_masks, model, metrics)
    yield partial(folders.check_class_folders, datasets)
    yield partial(classes.check_same, datasets)
    yield partial(masks.check_same_zero, datasets)
    for split, evaluator in evaluators.items():
        yield partial(model_fit.check_parts_evaluated, evaluator, datasets[split], split)
        for metric, single in model_fit.metrics_with_data(evaluator, datasets[split]):
            yield partial(model_fit.check_metric, metric, single, split)
            yield partial(coco.check_evaluator, metric, single)
    num_classes = getattr(getattr(model, 'head', None), 'num_classes', None)
    ignore_index = getattr(getattr(model, 'decode_head', None), 'ignore_index', masks.IGNORED)
    files = images.list_files(datasets)
    for split, dataset in datasets.items():
        yield partial(coco.check_classes_occur, dataset, warn)
        formats = [getattr(metric, 'format_only', False) for metric in metrics.get(split, ())]
        writes_alone = bool(formats) and all(formats)  # whatever is in the masks
        for listed in files[split]:
            single = listed.dataset
            yield partial(masks.check_annotated, listed)
            yield partial(model_fit.check_num_classes, model, single)
            if listed.in_training:
                yield partial(model_fit.check_padding, model, single, warn)
            yield partial(coco.check_left_out, single, warn)
            yield partial(coco.check_object_counts, model, single, warn)
            yield partial(folders.check_labels, listed, warn, num_classes)
            yield partial(folders.check_left_out, listed, warn)
            yield partial(images.check_image_files, listed, warn)
            yield partial(masks.check_mask_files, listed)
            yield partial(images.check_image_headers, listed, warn)
            yield partial(masks.check_mask_sizes, listed, warn)
            if not writes_alone:
                yield partial(masks.check_mask_values, listed, warn, ignore_index)
    yield partial(folders.check_overlap, files, warn)
    yield partial(folders.check_unlisted, files, warn)
