"""Refuse the keys of a config that the toolboxes would pass over in silence, or trip over late."""

import ast
import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from math import inf
from operator import gt
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import Priority, Runner
from mmengine.utils.dl_utils import set_multi_processing
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from mmdat.errors import UserError, enumerate_names, suggest
from mmdat.models.arch import fits
from mmdat.stack import require

from .config_tree import class_name, items, metrics, paths, value_at
from .folders import DATA_OF_SCOPE


def parameters(function: Callable) -> set[str]:
    """Name the parameters of a function, but for ``self``, ``*args`` and ``**kwargs``."""
    return {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    } - {'self'}


# Top-level keys that the runner or the tools read; a config may hold variables beside them.
RUNNER_KEYS = (parameters(Runner.__init__) - {'cfg'}) | {
    'activation_checkpointing',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
    'vis_backends',
}
# Top-level keys that must be dicts where they are set.
DICTS = (
    'auto_scale_lr',
    'default_hooks',
    'env_cfg',
    'model',
    'optim_wrapper',
    'randomness',
    *(f'{split}_{kind}' for split in ('train', 'val', 'test') for kind in ('cfg', 'dataloader')),
)
# Valid keys of dicts that no single class checks when it is built.
NESTED_KEYS = {
    'auto_scale_lr': {'base_batch_size', 'enable'},
    'default_hooks.checkpoint': {
        'type',
        *parameters(CheckpointHook.__init__),
        *parameters(Runner.save_checkpoint),
    },
    'compile': {'target', *parameters(torch.compile)} - {'model'},
    'env_cfg': {'cudnn_benchmark', 'dist_cfg', 'mp_cfg', 'resource_limit'},
    'env_cfg.mp_cfg': parameters(set_multi_processing) - {'distributed'},
    'optim_wrapper.paramwise_cfg': {
        'bias_decay_mult',
        'bias_lr_mult',
        'bypass_duplicate',
        'custom_keys',
        'dcn_offset_lr_mult',
        'dwconv_decay_mult',
        'flat_decay_mult',
        'layer_decay_rate',
        'norm_decay_mult',
    },
    'randomness': parameters(Runner.set_randomness),
}
# Top-level keys of configs for the toolboxes before mmengine.
OLD_KEYS = ('data', 'optimizer', 'optimizer_config', 'lr_config', 'runner', 'checkpoint_config')
# Types of optim_wrapper that clip gradients so; without one it is mmengine's OptimWrapper.
WRAPPERS = ('', 'OptimWrapper', 'AmpOptimWrapper', 'ApexOptimWrapper', 'BFloat16OptimWrapper')
# How gradients are clipped (optim_wrapper.clip_grad.type) -> the function, and its limit.
CLIPPING: dict[str, tuple[Callable, str]] = dict(
    norm=(clip_grad_norm_, 'max_norm'), value=(clip_grad_value_, 'clip_value')
)
# Key -> the least whole number that makes sense there. mmengine takes others too, and then fails
# late or trains in another way. An infinite interval means that there is none.
LEAST = {
    'auto_scale_lr.base_batch_size': 1,
    'default_hooks.checkpoint.interval': -1,  # none, as 0
    'default_hooks.checkpoint.max_keep_ckpts': -1,  # all
    'optim_wrapper.accumulative_counts': 1,
    'train_cfg.max_epochs': 0,
    'train_cfg.max_iters': 0,
    'train_cfg.val_begin': 0,
    'train_cfg.val_interval': 1,
}
# Parts in which text that is a number is meant as one.
NUMERIC = (
    'optim_wrapper',
    'param_scheduler',
    'randomness',
    'train_cfg',
    *(
        f'{split}_dataloader.{key}'
        for split in ('train', 'val', 'test')
        for key in ('batch_size', 'num_workers')
    ),
)
NUMBER = re.compile(r'[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?', re.IGNORECASE)
LOG_LEVELS = ('CRITICAL', 'DEBUG', 'ERROR', 'INFO', 'WARNING')
# Constructors of optimizers that read paramwise_cfg as NESTED_KEYS has it, but for
# layer_decay_rate, which ours alone reads.
DEFAULT_CONSTRUCTORS = ('DefaultOptimWrapperConstructor', None)
PARAMWISE_CONSTRUCTORS = (*DEFAULT_CONSTRUCTORS, 'mmdat.BackboneDecayConstructor')
# Keys of mmsegmentation's metric, which takes any other in silence.
IOU_METRIC_KEYS = {
    'type',
    'ignore_index',
    'iou_metrics',
    'nan_to_num',
    'beta',
    'collect_device',
    'output_dir',
    'format_only',
    'prefix',
}
SUPPRESSIONS = ('nms', 'nms_match', 'nms_quadri', 'nms_rotated', 'soft_nms')  # of mmcv
IOU_METRICS = ('mDice', 'mFscore', 'mIoU')
MIXING = ('CopyPaste', 'MixUp', 'Mosaic')  # of mmdet, each of several images
# Dicts whose valid keys nobody lists: a key that is spelled almost like another is a slip.
FREE_DICTS = ('model.train_cfg', 'model.test_cfg', 'tta_model.tta_cfg')


def check_keys(cfg: Config) -> None:
    """Refuse keys that nothing reads, and parts that are no dicts."""
    for key in DICTS:
        if cfg.get(key) is not None and not isinstance(cfg[key], Mapping):
            raise UserError(f'{key} must be a dict, got {cfg[key]!r}')
    if not cfg.get('model'):
        raise UserError(f'config {cfg.filename} has no model')
    for key in _unread_names(cfg):
        raise UserError(f"unknown key '{key}' in config {cfg.filename}: {_meant(key, cfg)}")
    for path, valid in NESTED_KEYS.items():
        given = value_at(cfg, path)
        if not isinstance(given, Mapping) or _is_custom(cfg, path):
            continue
        for key in given.keys() - valid:
            if not key.startswith('_'):  # _scope_ and its like are mmengine's
                raise UserError(f"unknown key '{path}.{key}': {suggest(key, valid)}")
    paramwise_cfg = value_at(cfg, 'optim_wrapper.paramwise_cfg') or {}
    constructor = value_at(cfg, 'optim_wrapper.constructor')
    if 'layer_decay_rate' in paramwise_cfg and constructor in DEFAULT_CONSTRUCTORS:
        raise UserError(
            'optim_wrapper.paramwise_cfg.layer_decay_rate needs optim_wrapper.constructor='
            "'mmdat.BackboneDecayConstructor'"
        )
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer', dict(type=None))
    if constructor in PARAMWISE_CONSTRUCTORS and not _is_typed(optimizer):
        raise UserError(
            "optim_wrapper.optimizer must be a dict with a type, such as 'AdamW', got "
            f'{optimizer!r}'
        )
    level = cfg.get('log_level')
    if isinstance(level, str) and not isinstance(logging.getLevelName(level), int):
        raise UserError(f'log_level is {level!r}: {suggest(level, LOG_LEVELS)}')
    if not isinstance(cfg.get('compile'), bool | Mapping | None):
        raise UserError(f'compile must be True, False or a dict, got {cfg.compile!r}')
    _check_hooks(cfg)
    for name in ('val_evaluator', 'test_evaluator'):
        evaluator = cfg.get(name)
        if (
            isinstance(evaluator, Mapping)
            and 'metrics' in evaluator
            and not (class_name(evaluator) or 'Evaluator').endswith('Evaluator')
        ):
            raise UserError(
                f"unknown key '{name}.metrics' for {evaluator['type']}: did you mean 'metric'?"
            )
    _check_numbers(cfg)
    for path in NUMERIC:
        _check_no_text(value_at(cfg, path), path)
    _check_clipping(cfg)
    _check_suppression(cfg)
    _check_segmentor(cfg)
    _check_mixing(cfg)
    for path in FREE_DICTS:
        for key, neighbor in _near_twins(value_at(cfg, path), path):
            raise UserError(f"unknown key '{key}': did you mean {neighbor!r}?")


def _check_hooks(cfg: Config) -> None:
    """Refuse hooks that are no dicts with a type, and priorities that there are not."""
    defaults, own = cfg.get('default_hooks') or {}, cfg.get('custom_hooks') or ()
    if isinstance(own, (str, Mapping)):
        raise UserError(f'custom_hooks must be a list of dicts with a type, got {own!r}')
    for name, hook in defaults.items():
        if isinstance(hook, Mapping) and 'type' not in hook:
            raise UserError(
                f"unknown key 'default_hooks.{name}', or it lacks a type: "
                f'{suggest(name, defaults.keys() - {name})}'
            )
    for path, hook in (
        *((f'default_hooks.{name}', hook) for name, hook in defaults.items()),
        *((f'custom_hooks.{index}', hook) for index, hook in enumerate(own)),
    ):
        if hook is not None and not _is_typed(hook):
            raise UserError(f'{path} must be a dict with a type, got {hook!r}')
        priority = value_at(cfg, f'{path}.priority')
        if isinstance(priority, str) and priority.upper() not in Priority.__members__:
            raise UserError(
                f'{path}.priority is {priority!r}: {suggest(priority, Priority.__members__)}'
            )


def _is_typed(part: Any) -> bool:
    """Whether a part of a config is a dict with a type, or is built."""
    return 'type' in part if isinstance(part, Mapping) else not isinstance(part, str | None)


def _check_no_text(value: Any, path: str) -> None:
    """Refuse numbers that are text, with which mmengine ends late and says nothing of them."""
    if isinstance(value, str) and NUMBER.fullmatch(value):
        raise UserError(f'{path} is the text {value!r}: give the number {value}')
    for key, item in items(value):
        _check_no_text(item, f'{path}.{key}')


def check_scope(cfg: Config) -> None:
    """Refuse a config that is for none of the toolboxes, or with a ``_scope_`` that is no name."""
    scope = cfg.get('default_scope')
    old = [key for key in OLD_KEYS if key in cfg]
    # Configs of today have variables of these names: optimizer = dict(...).
    if scope is None and old and 'optim_wrapper' not in cfg:
        raise UserError(
            f'config {cfg.filename} is for mmdet 2, mmsegmentation 0 or mmcls 0, as its '
            f'{enumerate_names(old)} show: write it anew, on a base of the installed toolbox'
        )
    if scope not in [*DATA_OF_SCOPE]:  # a list, since the scope may not be hashable
        raise UserError(
            f'default_scope of config {cfg.filename} is {scope!r}, which is none of '
            f'{enumerate_names(DATA_OF_SCOPE)}'
        )
    try:
        require(scope)
    except ImportError as error:
        raise UserError(f'config {cfg.filename} is for {scope}, but {error}') from error
    for path in paths(cfg, '_scope_'):
        if not isinstance(value_at(cfg, path), str | None):
            raise UserError(f'{path} is {value_at(cfg, path)!r}: give the name of a package')


def _check_numbers(cfg: Config) -> None:
    """Refuse numbers with which a training would end in an error, or go the wrong way."""
    for path, least in LEAST.items():
        value = value_at(cfg, path)
        may_be_endless = 'val_' in path or path.endswith('interval')
        if value is None or (fits(value, float) and value == inf and may_be_endless):
            continue
        if _is_custom(cfg, path.rpartition('.')[0]):
            continue
        # mmdet's configs have whole numbers such as 8000.0.
        if not (fits(value, float) and value % 1 == 0 and value >= least):
            raise UserError(f'{path} must be a whole number of at least {least}, got {value!r}')


def _check_clipping(cfg: Config) -> None:
    """Refuse keys that the way of clipping does not take, and a limit that is none.

    A negative one would turn gradients round.
    """
    path = 'optim_wrapper.clip_grad'
    given = value_at(cfg, path)
    # A wrapper of the user's may clip otherwise.
    is_known = class_name(cfg.get('optim_wrapper')) in WRAPPERS
    if not (isinstance(given, Mapping) and given and is_known):
        return
    kind = given.get('type', 'norm')
    if kind not in CLIPPING:
        raise UserError(f'{path}.type is {kind!r}: {suggest(str(kind), CLIPPING)}')
    function, limit = CLIPPING[kind]
    valid = {'type', *parameters(function)} - {'parameters'}
    for key in given.keys() - valid:
        raise UserError(f"unknown key '{path}.{key}' for type={kind!r}: {suggest(key, valid)}")
    value: Any = given.get(limit)
    if not fits(value, float) or not value > 0:
        raise UserError(f'{path}.{limit} must be a number above 0, got {value!r}')


def _check_segmentor(cfg: Config) -> None:
    """Refuse a test mode, IoUMetric key or metric that mmsegmentation would not refuse in time.

    It ignores them, or rejects them only at its first evaluation.
    """
    if cfg.get('default_scope') != 'mmseg':
        return
    test_cfg = value_at(cfg, 'model.test_cfg') or {}
    mode = test_cfg.get('mode', 'whole')
    # mmsegmentation's DepthEstimator has 'slide_flip', and those of users may have others.
    if mode not in ('whole', 'slide') and class_name(cfg.model).endswith('EncoderDecoder'):
        raise UserError(f'model.test_cfg.mode is {mode!r}: {suggest(mode, ("slide", "whole"))}')
    for key in ('crop_size', 'stride'):
        if mode == 'slide' and not _is_pair(test_cfg.get(key)):
            raise UserError(
                f"model.test_cfg.mode 'slide' needs model.test_cfg.{key}: give it a "
                'height and a width'
            )
    if mode == 'slide' and any(map(gt, test_cfg['stride'], test_cfg['crop_size'])):
        raise UserError(
            f'model.test_cfg.stride {test_cfg["stride"]} is above its crop_size '
            f'{test_cfg["crop_size"]}, which leaves pixels out: set at most that'
        )
    for name, metric in (*metrics(cfg, 'val'), *metrics(cfg, 'test')):
        if not isinstance(metric, Mapping) or class_name(metric) != 'IoUMetric':
            continue
        for key in metric:
            if key not in IOU_METRIC_KEYS and not key.startswith('_'):
                raise UserError(f"unknown key '{name}.{key}': {suggest(key, IOU_METRIC_KEYS)}")
        kinds = metric.get('iou_metrics', ())
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            if kind not in IOU_METRICS:
                raise UserError(
                    f'{name}.iou_metrics has {kind!r}: {suggest(str(kind), IOU_METRICS)}'
                )


def _check_mixing(cfg: Config) -> None:
    """Refuse transforms of mmdet that mix images where they get one, or masks, which they lose."""
    for path in paths(cfg.get('train_dataloader'), 'pipeline', prefix='train_dataloader.'):
        dataset = value_at(cfg, path.removesuffix('.pipeline'))
        for _, transform in items(dataset['pipeline']):
            name = class_name(transform) if isinstance(transform, Mapping) else ''
            if name not in MIXING or cfg.get('default_scope') != 'mmdet':
                continue
            if class_name(dataset) != 'MultiImageMixDataset':
                raise UserError(
                    f'{path} has {name}, which mixes several images and gets one there: put it '
                    'into the pipeline of a MultiImageMixDataset around this data set'
                )
            if name != 'CopyPaste' and [*paths(dataset.get('dataset'), 'with_mask', True)]:
                raise UserError(
                    f'{path} has {name}, which mixes no masks: take Cached{name} in the pipeline '
                    'of the data set itself, or leave out with_mask'
                )


def _is_pair(value: Any) -> bool:
    is_two = isinstance(value, (list, tuple)) and len(value) == 2
    return is_two and all(fits(item, int) and item > 0 for item in value)


def _check_suppression(cfg: Config) -> None:
    """Refuse misspelled suppressions of mmcv, which looks with the first image.

    A head of the user's may have others, such as ``'fast_nms'``.
    """
    for part in ('model', 'tta_model'):
        for path in paths(cfg.get(part), 'nms', prefix=f'{part}.'):
            kind = value_at(cfg, f'{path}.type')
            if not isinstance(kind, str) or kind in SUPPRESSIONS:
                continue
            if get_close_matches(kind, SUPPRESSIONS, n=1, cutoff=0.85):
                raise UserError(f'{path}.type is {kind!r}: {suggest(kind, SUPPRESSIONS)}')


def _unread_names(cfg: Config) -> list[str]:
    """List the top-level names of a config that neither the runner nor the config itself reads."""
    others = [
        name
        for name in cfg
        if name not in RUNNER_KEYS and not name.isupper() and not name.startswith('_')
    ]
    path = Path(cfg.filename or '')  # a config in memory has none, or a file that is gone
    source = path.read_text(encoding='utf-8') if path.is_file() else ''
    used = names_read(source) if path.suffix == '.py' else set()
    # A config without bases may be a dump of another, with the variables but not their uses.
    if not re.search(r'^\s*["\']?_base_\b["\']?\s*[=:]', source, re.MULTILINE):
        return [
            name
            for name in others
            if name not in used and get_close_matches(name, RUNNER_KEYS, n=1, cutoff=0.9)
        ]
    # Before the text of each file mmengine puts a line with its path.
    in_bases = re.sub(r'^/.*\.py$', '', cfg.text.removesuffix(source), flags=re.MULTILINE)
    try:
        used |= {
            node.id
            for node in ast.walk(ast.parse(in_bases))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
    except SyntaxError:  # a base in JSON or YAML
        return []
    return [name for name in others if name not in used]


def names_read(source: str) -> set[str]:
    """Names that a config in Python reads itself, of its base too, or gives to items of loops."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):  # {{_base_.name}}
            names.add(node.attr)
        elif isinstance(node, ast.For):
            names |= {part.id for part in ast.walk(node.target) if isinstance(part, ast.Name)}
    return names


def _meant(key: str, cfg: Config) -> str:
    """End of the sentence that refuses a top-level key: what was probably meant."""
    meant = [path for path in paths(cfg, key) if path != key]
    meant = meant or get_close_matches(key, RUNNER_KEYS, n=1, cutoff=0.6)
    return f'did you mean {meant[0]!r}?' if meant else 'nothing reads it, remove it'


def _is_custom(cfg: Config, path: str) -> bool:
    """Whether a class that is not known here reads the dict at ``path``."""
    if path == 'default_hooks.checkpoint':
        return value_at(cfg, f'{path}.type') not in ('CheckpointHook', None)
    if path == 'optim_wrapper.paramwise_cfg':
        return value_at(cfg, 'optim_wrapper.constructor') not in PARAMWISE_CONSTRUCTORS
    return False


def _near_twins(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield each key that is spelled almost like an earlier one of its dict, with that one.

    Another number in it is no slip, as in ``stage_1_thr`` and ``stage_2_thr``; one more is.
    """
    earlier: list[str] = []
    for key, item in items(value):
        if isinstance(key, str):
            for twin in get_close_matches(key, earlier, n=1, cutoff=0.85):
                if re.sub(r'\d+', '0', key) != re.sub(r'\d+', '0', twin):
                    yield f'{path}.{key}', twin
            earlier.append(key)
        yield from _near_twins(item, f'{path}.{key}')
