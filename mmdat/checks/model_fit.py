"""Checks of whether the parts of a model fit each other, the data and a checkpoint."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmdat.errors import UserError
from mmdat.models.backbones.base import HierarchicalBackbone


def check_channels(model: nn.Module) -> None:
    """Refuse a neck or a head for other channels than a backbone of mmdat returns.

    Raises:
        UserError: Names the part, its channels and the backbone's.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, HierarchicalBackbone):
        return
    for name, expected, given in _readers(model, list(backbone.out_channels)):
        if expected != given:
            raise UserError(
                f'model.{name}.in_channels is {expected}, but model.backbone returns maps '
                f'of {given} channels: give the {name} those'
            )


def check_image_channels(model: nn.Module) -> None:
    """Refuse a data preprocessor that normalizes other channels than a backbone of mmdat takes.

    Its mean and standard deviation would make as many channels as they have of one channel.

    Raises:
        UserError: Names both numbers of channels.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, HierarchicalBackbone):
        return
    preprocessor = getattr(model, 'data_preprocessor', None)
    for name in ('mean', 'std'):
        values = getattr(preprocessor, name, None)
        if isinstance(values, Tensor) and values.numel() != backbone.in_channels:
            raise UserError(
                f'data_preprocessor.{name} has {values.numel()} values, but model.backbone has '
                f'in_channels {backbone.in_channels}: give a value for each channel'
            )


def unbuilt_stages(model: nn.Module) -> tuple[str, ...]:
    """What the names of weights begin with whose stages a model's backbone does not build."""
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, HierarchicalBackbone):
        return ()
    return tuple(f'backbone.{name}' for name in backbone.unbuilt_stages)


def check_num_classes(model: nn.Module, dataset: Any) -> None:
    """Refuse heads for another number of classes than a built data set has.

    Raises:
        UserError: Names the head and the classes.
    """
    classes = getattr(dataset, 'metainfo', {}).get('classes', ())
    for name, num_classes in head_classes(model):
        if classes and num_classes != len(classes):
            raise UserError(
                f'model.{name}.num_classes is {num_classes}, but the data set has '
                f'{len(classes)} classes ({", ".join(map(str, classes[:8]))}'
                f'{", ..." if len(classes) > 8 else ""}): make num_classes of the heads '
                "and the data set's metainfo=dict(classes=(...)) agree"
            )


def check_weights_fit(
    content: Mapping[str, Any],
    weights: Mapping[str, Any],
    source: str,
    backbone_only: bool,
    unneeded: tuple[str, ...] = (),
) -> None:
    """Refuse a checkpoint of another model.

    Args:
        content: The checkpoint.
        weights: The model's weights by name.
        source: The checkpoint's path, for the sentence.
        backbone_only: Whether it must fill the backbone alone, as heads may be for other classes;
            else it must fill the model exactly.
        unneeded: What names of weights begin with that it may have in addition.

    Raises:
        UserError: Names the first weights that differ.
    """
    state = content.get('state_dict', content)
    loaded = {name.removeprefix('module.'): value for name, value in state.items()}
    expected = {name: value for name, value in weights.items() if _is_compared(name)}
    if backbone_only:
        expected = {name: value for name, value in expected.items() if name.startswith('backbone.')}
    lacking = expected.keys() - loaded.keys()
    reshaped = [
        name
        for name in expected.keys() & loaded.keys()
        if getattr(loaded[name], 'shape', None) != expected[name].shape
    ]
    additional = [
        name
        for name in loaded.keys() - expected.keys()
        if _is_compared(name) and not name.startswith(unneeded)
    ]
    problems = [_describe('lacks', lacking), _describe('has other shapes for', reshaped)]
    if not backbone_only:
        problems.append(_describe('has in addition', additional))
    if any(problems):
        raise UserError(
            f"{source} is of another model than the config's: it "
            f'{", ".join(filter(None, problems))}'
        )


def _readers(model: nn.Module, channels: list[int]) -> Iterator[tuple[str, Any, Any]]:
    """Yield what reads the backbone's maps: its name, its ``in_channels`` and the maps' channels.

    Args:
        model: The model.
        channels: Channels of each map that the backbone returns.
    """
    neck = getattr(model, 'neck', None)
    neck_channels = getattr(neck, 'in_channels', None)
    if isinstance(neck_channels, Sequence):
        yield 'neck', list(neck_channels), channels
    if neck_channels is not None:
        return
    # A neck without channels, if any, pools the last map.
    width = getattr(getattr(model, 'head', None), 'in_channels', None)
    if isinstance(width, int):
        yield 'head', width, channels[-1]
    for name in ('decode_head', 'auxiliary_head'):
        head = getattr(model, name, None)
        head_channels: Any = getattr(head, 'in_channels', None)
        index: Any = getattr(head, 'in_index', None)
        if isinstance(head_channels, Sequence):
            yield name, list(head_channels), channels
        elif isinstance(head_channels, int) and index in range(-len(channels), len(channels)):
            yield name, head_channels, channels[index]


def head_classes(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield name and ``num_classes`` of the heads that tell the data's classes apart."""
    for name, module in model.named_modules():
        num_classes = getattr(module, 'num_classes', None)
        # A region proposal head tells objects from background, whatever the classes.
        if 'head' in name and 'rpn_head' not in name and isinstance(num_classes, int):
            yield name, num_classes


def _is_compared(name: str) -> bool:
    """Whether a weight is compared: all but batch norm's counter, which older checkpoints lack."""
    return not name.endswith('num_batches_tracked')


def _describe(verb: str, names: Iterable[str], most: int = 3) -> str:
    """Say which names a checkpoint lacks or has, the first of many; nothing if there are none."""
    names = sorted(names)
    if not names:
        return ''
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return f'{verb} {", ".join(names[:most])}{more}'
