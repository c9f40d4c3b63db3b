"""Hooks that find mistakes before time is spent, or tell of what was passed over."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from mmdat.errors import UserError
from mmdat.models.backbones.base import HierarchicalBackbone
from mmdat.registry import HOOKS

from .sharding import whole_weights


@HOOKS.register_module()
class CheckFitHook(Hook):
    """Refuse a neck, heads or a checkpoint that do not fit the backbone, the data or the model.

    A checkpoint that is tested or resumed must fill the model exactly; one that training starts
    from must fill the backbone, since heads may be for other classes.

    Raises:
        UserError: Before the first iteration; names what does not fit.
    """

    def before_run(self, runner: Runner) -> None:
        model = _unwrap(runner.model)
        backbone = getattr(model, 'backbone', None)
        if isinstance(backbone, HierarchicalBackbone):
            widths = [backbone.settings[stage].embed_dims for stage in sorted(backbone.out_indices)]
            for name, expected, given in _readers(model, widths):
                if expected != given:
                    raise UserError(
                        f'model.{name}.in_channels is {expected}, but model.backbone returns maps '
                        f'of {given} channels: give the {name} those'
                    )
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
            classes = getattr(dataset, 'metainfo', {}).get('classes', ())
            for name, num_classes in _head_classes(model):
                if classes and num_classes != len(classes):
                    raise UserError(
                        f'model.{name}.num_classes is {num_classes}, but the data set has '
                        f'{len(classes)} classes ({", ".join(map(str, classes[:8]))}'
                        f'{", ..." if len(classes) > 8 else ""}): make num_classes of the heads '
                        "and the data set's metainfo=dict(classes=(...)) agree"
                    )
            for single in _datasets(dataset):
                _check_annotations(single)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        head = getattr(_unwrap(runner.model), 'decode_head', None)
        num_classes = getattr(head, 'num_classes', None)
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
        if num_classes is None or samples is None:
            return
        ignored = getattr(head, 'ignore_index', 255)
        for sample in samples:
            values = sample.gt_sem_seg.data
            wrong = values[(values >= num_classes) & (values != ignored)]
            if wrong.numel():
                raise UserError(
                    f'mask {sample.metainfo.get("seg_map_path", "of an image")} has class '
                    f'{int(wrong[0])} (counted from 0, after reduce_zero_label), but there are '
                    f'{num_classes} classes: mend the mask, or name all classes'
                )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get('state_dict', checkpoint)
        loaded = {name.removeprefix('module.'): value for name, value in state.items()}
        model = {
            name: value
            for name, value in _weights(runner.model).items()
            if not name.endswith('num_batches_tracked')
        }
        fine_tuning = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        if fine_tuning:
            model = {name: value for name, value in model.items() if name.startswith('backbone.')}
        problems = [
            _describe('lacks', sorted(model.keys() - loaded.keys())),
            _describe(
                'has other shapes for',
                [
                    name
                    for name in sorted(model.keys() & loaded.keys())
                    if getattr(loaded[name], 'shape', None) != model[name].shape
                ],
            ),
        ]
        if not fine_tuning:
            problems.append(
                _describe(
                    'has in addition',
                    [
                        name
                        for name in sorted(loaded.keys() - model.keys())
                        if not name.endswith('num_batches_tracked')
                    ],
                )
            )
        if any(problems):
            raise UserError(
                f'{runner._load_from or "the checkpoint"} is of another model than '
                f"the config's: it {', '.join(filter(None, problems))}"
            )


@HOOKS.register_module()
class CountBrokenImagesHook(Hook):
    """Tell after each epoch how many images were skipped because they could not be read."""

    def after_train_epoch(self, runner: Runner) -> None:
        skipped = sum(
            transform.num_broken
            for transform in _transforms(runner.train_dataloader)
            if hasattr(transform, 'num_broken')
        )
        if skipped:
            runner.logger.log(
                logging.WARNING,
                f'Skipped broken images {skipped} times so far; '
                'their paths are in the warnings above',
            )


def _check_annotations(dataset: Any) -> None:
    """Refuse masks that are not there, and labels of no class."""
    if not hasattr(dataset, 'get_data_info') or not len(dataset):
        return
    classes = dataset.metainfo.get('classes', ())
    first = dataset.get_data_info(0)
    # Data sets of mmdet name maps too, which need not be there; mmsegmentation's tell this of them.
    if 'reduce_zero_label' in first and 'seg_map_path' in first:
        if dataset.backend_args:  # elsewhere than on this machine's disk
            return
        for index in range(len(dataset)):
            item = dataset.get_data_info(index)
            if not os.path.exists(item['seg_map_path']):
                raise UserError(
                    f'image {item["img_path"]} has no mask {item["seg_map_path"]}: '
                    'check data_prefix.seg_map_path and seg_map_suffix, or take the '
                    'image out of the data set'
                )
    # Without such a file, labels are those of folders.
    elif isinstance(first.get('gt_label'), int) and dataset.ann_file and classes:
        for index in range(len(dataset)):
            item = dataset.get_data_info(index)
            if not 0 <= item['gt_label'] < len(classes):
                raise UserError(
                    f'{dataset.ann_file} gives image {item["img_path"]} the class '
                    f'{item["gt_label"]}, but there are {len(classes)} classes, '
                    'counted from 0: mend it'
                )


def _unwrap(model: nn.Module) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.get_submodule('module')
    return model


def _weights(model: nn.Module) -> dict[str, Any]:
    return (
        whole_weights(model)
        if isinstance(model, FullyShardedDataParallel)
        else _unwrap(model).state_dict()
    )


def _readers(model: nn.Module, widths: list[int]) -> Iterator[tuple[str, Any, Any]]:
    """Name and ``in_channels`` of what reads the backbone's maps, and those maps' channels."""
    neck = getattr(model, 'neck', None)
    channels = getattr(neck, 'in_channels', None)
    if isinstance(channels, Sequence):
        yield 'neck', list(channels), widths
    if channels is not None:
        return
    # A neck without channels, if any, pools the last map.
    if isinstance(width := getattr(getattr(model, 'head', None), 'in_channels', None), int):
        yield 'head', width, widths[-1]
    for name in ('decode_head', 'auxiliary_head'):
        head = getattr(model, name, None)
        channels, index = getattr(head, 'in_channels', None), getattr(head, 'in_index', None)
        if (
            isinstance(channels, int)
            and isinstance(index, int)
            and -len(widths) <= index < len(widths)
        ):
            yield name, channels, widths[index]
        elif isinstance(channels, Sequence):
            yield name, list(channels), widths


def _head_classes(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Name and ``num_classes`` of the heads that tell the data's classes apart."""
    for name, module in model.named_modules():
        num_classes = getattr(module, 'num_classes', None)
        # A region proposal head tells objects from background, whatever the classes.
        if 'head' in name and 'rpn_head' not in name and isinstance(num_classes, int):
            yield name, num_classes


def _describe(verb: str, names: list[str], most: int = 3) -> str:
    if not names:
        return ''
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return f'{verb} {", ".join(names[:most])}{more}'


def _datasets(dataset: Any) -> Iterator[Any]:
    """The data sets in one, through wrappers such as RepeatDataset."""
    inner = [
        *getattr(dataset, 'datasets', ()),
        *([dataset.dataset] if hasattr(dataset, 'dataset') else ()),
    ]
    for part in inner:
        yield from _datasets(part)
    if not inner:
        yield dataset


def _transforms(dataloader: Any) -> Iterable[Any]:
    """The transforms of the data sets in a data loader."""
    for dataset in _datasets(dataloader.dataset):
        yield from getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
