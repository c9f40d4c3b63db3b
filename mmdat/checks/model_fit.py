"""Checks of whether the parts of a model fit each other, the data and a checkpoint."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from mmengine.evaluator import Evaluator
from torch import Tensor, nn

from mmdat.checkpoints import recognize
from mmdat.checkpoints.reading import weights_in
from mmdat.checkpoints.recognition import AUTHORS
from mmdat.errors import UserError, Warn, list_first
from mmdat.models.backbones.base import HierarchicalBackbone

from .config_tree import transforms, unwrap

# Packages in which the parts of a detector that predict masks have 'mask' in their names.
DETECTOR_PACKAGES = ('mmdat', 'mmdet', 'mmcv', 'mmengine', 'torch')
SEGMENTING = ('decode_head', 'auxiliary_head')  # the heads of a segmentor
# Parts that read an FPN's maps from the first one on; masks or semantics may be of another map.
ANCHORED = ('bbox_head', 'rpn_head')
READING_FIRST = (*SEGMENTING, 'bbox_roi_extractor', 'mask_roi_extractor')


def own_backbone(model: nn.Module) -> HierarchicalBackbone | None:
    """The backbone of a model if it is one of mmdat."""
    backbone = getattr(model, 'backbone', None)
    return backbone if isinstance(backbone, HierarchicalBackbone) else None


def check_channels(model: nn.Module) -> None:
    """Refuse a neck or a head for other channels than a backbone of mmdat returns."""
    if (backbone := own_backbone(model)) is None:
        return
    for name in SEGMENTING if getattr(model, 'neck', None) is None else ():
        index: Any = getattr(getattr(model, name, None), 'in_index', 0)
        count = len(backbone.out_channels)
        if not all(each in range(-count, count) for each in _listed(index)):
            raise UserError(
                f'model.{name}.in_index is {index}, but model.backbone returns {count} maps: '
                f'choose from 0 to {count - 1}'
            )
    for name, expected, given in _readers(model, list(backbone.out_channels)):
        if expected != given:
            raise UserError(
                f'model.{name}.in_channels is {expected}, but model.backbone returns maps '
                f'of {given} channels: give the {name} those'
            )


def check_strides(model: nn.Module) -> None:
    """Refuse heads for other strides than those of the maps of an FPN on a backbone of mmdat.

    Anchors would lie on a part of the image, and regions be cut out elsewhere, in silence.

    Raises:
        UserError: Names the part, its strides and the maps'.
    """
    backbone, neck = own_backbone(model), getattr(model, 'neck', None)
    if backbone is None or type(neck).__name__ != 'FPN':
        return
    fpn: Any = neck
    strides = list(backbone.out_strides[fpn.start_level : fpn.backbone_end_level])
    while strides and len(strides) < fpn.num_outs:
        strides.append(2 * strides[-1])
    for name, module in model.named_modules():
        parts = name.split('.')
        if parts[0] in ANCHORED:
            priors = getattr(getattr(module, 'prior_generator', None), 'strides', None)
            given, expected = [max(_listed(stride)) for stride in priors or ()], strides
        elif {*parts} & {*READING_FIRST}:
            first = getattr(module, 'featmap_strides', getattr(module, 'feature_strides', None))
            given = list(first or ())
            # Extractors have no in_index and read the first maps.
            read = _listed(getattr(module, 'in_index', range(len(given))))
            expected = [strides[each] for each in read if -len(strides) <= each < len(strides)]
        else:
            continue
        # YOLACT gives the strides of one size of images, such as 30.6 in place of 32.
        if not given or (
            len(given) == len(expected)
            and all(0.7 < a / b < 1.4 for a, b in zip(given, expected, strict=True))
        ):
            continue
        raise UserError(
            f'model.{name} is for maps of strides {given}, but backbone and neck return maps '
            f'of strides {strides}: set its strides to those'
        )


def check_image_channels(model: nn.Module) -> None:
    """Refuse a data preprocessor that normalizes other channels than a backbone of mmdat takes.

    Its mean and standard deviation would make as many channels as they have of one channel.
    """
    if (backbone := own_backbone(model)) is None:
        return
    preprocessor = getattr(model, 'data_preprocessor', None)
    for name in ('mean', 'std'):
        values = getattr(preprocessor, name, None)
        if isinstance(values, Tensor) and values.numel() != backbone.in_channels:
            raise UserError(
                f'data_preprocessor.{name} has {values.numel()} values, but model.backbone has '
                f'in_channels {backbone.in_channels}: give a value for each channel'
            )


def unbuilt(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of weights of the stages and norms that a model's backbone does not build."""
    backbone = own_backbone(model)
    return tuple(f'backbone.{name}' for name in backbone.unbuilt) if backbone else ()


def check_num_classes(model: nn.Module, dataset: Any) -> None:
    """Refuse heads for another number of classes than a built data set has.

    Boxes of panoptic data are those of its ``thing_classes`` alone.
    """
    metainfo = getattr(dataset, 'metainfo', {})
    classes = metainfo.get('classes', ())
    numbers = {len(classes), len(metainfo.get('thing_classes') or classes)}
    for name, head, num_classes in head_classes(model):
        if classes and num_classes not in numbers and not _has_own_targets(name, head):
            raise UserError(
                f'model.{name}.num_classes is {num_classes}, but the data set has '
                f'{len(classes)} classes ({", ".join(map(str, classes[:8]))}'
                f'{", ..." if len(classes) > 8 else ""}): make num_classes of the heads '
                "and the data set's metainfo=dict(classes=(...)) agree"
            )


def check_class_weights(model: nn.Module) -> None:
    """Refuse losses that weigh another number of classes than their heads have, or below 0."""
    heads = {
        name: module.num_classes
        for name, module in model.named_modules()
        if isinstance(getattr(module, 'num_classes', None), int)
    }
    for name, module in model.named_modules():
        weights = getattr(module, 'class_weight', None)
        owner, _, _ = name.rpartition('.')
        while owner and owner not in heads:
            owner, _, _ = owner.rpartition('.')
        if not owner or not isinstance(weights, (list, tuple, Tensor)):
            continue
        num_classes, needed = heads[owner], _num_scores(model.get_submodule(owner), heads[owner])
        key = f'model.{name.replace("loss_module", "loss")}.class_weight'
        if len(weights) != needed:
            background = ', the last for background' if needed > num_classes else ''
            raise UserError(
                f'{key} has {len(weights)} values, but there are {num_classes} classes: '
                f'give it {needed}{background}'
            )
        for index, weight in enumerate(map(float, weights)):
            if not 0 <= weight < math.inf:
                raise UserError(f'{key}[{index}] is {weight}: give it 0 or more')


def check_one_hot_classes(model: nn.Module) -> None:
    """Refuse a preprocessor whose one-hot labels are of other classes than the head's.

    Mixup and CutMix make them, too.
    """
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    expected = getattr(getattr(model, 'head', None), 'num_classes', None)
    given = getattr(preprocessor, 'num_classes', None)
    is_one_hot = getattr(preprocessor, 'to_onehot', False)
    if is_one_hot and isinstance(expected, int) and given != expected:
        raise UserError(
            f'data_preprocessor.num_classes is {given}, but model.head.num_classes {expected}: '
            'set it alike, as it makes labels of so many numbers (to_onehot, Mixup, CutMix)'
        )


def check_ignored(
    model: nn.Module, metrics: Mapping[str, Sequence[Any]], classes: Sequence[str], warn: Warn
) -> None:
    """Refuse heads and metrics of segmentation that ignore different numbers in masks.

    Args:
        warn: Is told if a class is ignored.
    """
    if not hasattr(model, 'decode_head'):
        return
    places: list[tuple[str, Any]] = [
        (f'model.{name}', head) for name, head, _ in head_classes(model)
    ]
    places += [
        (f'{split}_evaluator ({type(metric).__name__})', metric)
        for split, of_split in metrics.items()
        for metric in of_split
    ]
    # Losses of masks ignore nothing: they have None.
    numbers: dict[str, int] = {
        place: part.ignore_index
        for place, part in places
        if getattr(part, 'ignore_index', None) is not None
    }
    if len(set(numbers.values())) > 1:
        listed = ', '.join(f'{number} in {place}' for place, number in numbers.items())
        raise UserError(f'ignore_index is {listed}: set it alike, or leave it out everywhere')
    number = next(iter(numbers.values()), -1)
    if 0 <= number < len(classes):
        warn(
            f"ignore_index={number} ignores the class '{classes[number]}', which is neither "
            'learned nor measured'
        )


def check_single_output(model: nn.Module) -> None:
    """Refuse a head of segmentation with one output whose loss compares several."""
    for name, head, _ in head_classes(model):
        if getattr(head, 'out_channels', None) != 1:
            continue
        for loss in head.modules():
            is_softmax = getattr(loss, 'use_sigmoid', True) is False
            if is_softmax and not getattr(loss, 'use_mask', False):
                raise UserError(
                    f'model.{name} has out_channels=1, whose loss {type(loss).__name__} needs '
                    'use_sigmoid=True: set that, or leave out out_channels'
                )


def check_topk(model: nn.Module) -> None:
    """Refuse heads that count a hit among more classes than there are."""
    for name, head, num_classes in head_classes(model):
        if getattr(head, 'cal_acc', False):
            _check_most(f'model.{name}.topk', head.topk, num_classes)


def metrics_with_data(evaluator: Evaluator, dataset: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each metric of an evaluator with each data set whose images it is given.

    mmdet's ``MultiDatasetsEvaluator`` has one for each part of a concatenated data set.
    """
    parts = getattr(dataset, 'datasets', ())
    pairs: Iterable[tuple[Any, Any]] = product(evaluator.metrics, [dataset])
    if hasattr(evaluator, 'dataset_prefixes'):
        pairs = zip(evaluator.metrics, parts, strict=False)  # check_parts_evaluated is strict
    for metric, part in pairs:
        for _, single in unwrap(part):
            yield metric, single


def check_parts_evaluated(evaluator: Evaluator, dataset: Any, split: str) -> None:
    """Refuse a ``MultiDatasetsEvaluator`` that would leave out a data set or a metric."""
    prefixes = getattr(evaluator, 'dataset_prefixes', None)
    if prefixes is None:
        return
    parts = getattr(dataset, 'datasets', [dataset])
    if not len(evaluator.metrics) == len(prefixes) == len(parts):
        raise UserError(
            f'{split}_evaluator has {len(evaluator.metrics)} metrics and {len(prefixes)} '
            f'dataset_prefixes for {len(parts)} data sets: give one of each for each of '
            f'{split}_dataloader.dataset.datasets'
        )


def check_metric(metric: Any, dataset: Any, split: str) -> None:
    """Refuse a metric of another number of classes than a data set has."""
    classes = getattr(dataset, 'metainfo', {}).get('classes', ())
    if not classes:
        return
    place = f'{split}_evaluator ({type(metric).__name__})'
    _check_most(f'topk of {place}', getattr(metric, 'topk', ()), len(classes))
    num_classes = getattr(metric, 'num_classes', None)
    if isinstance(num_classes, int) and num_classes != len(classes):
        raise UserError(
            f'num_classes of {place} is {num_classes}, but the data set has {len(classes)} '
            'classes: make them agree'
        )


def check_predicts_masks(model: nn.Module, metrics: Mapping[str, Sequence[Any]]) -> None:
    """Refuse to measure masks of a detector of mmdet that has no part for them."""
    for name, module in model.named_modules():
        package = type(module).__module__.partition('.')[0]
        # A part of the user's own may predict masks, whatever its name.
        if 'mask' in name or (package not in DETECTOR_PACKAGES and not name.startswith('backbone')):
            return
    for split, of_split in metrics.items():
        for metric in of_split:
            if 'segm' in (getattr(metric, 'metrics', None) or ()):
                raise UserError(
                    f"metric of {split}_evaluator ({type(metric).__name__}) has 'segm', but "
                    f"{type(model).__name__} predicts no masks: leave it out, as in metric='bbox'"
                )


def check_padding(model: nn.Module, dataset: Any, warn: Warn) -> None:
    """Check to which size a segmentor's training images are padded.

    Args:
        warn: Takes a warning if it is another than the size that the data set crops to.

    Raises:
        UserError: If it has no such size, or two.
    """
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    if not hasattr(preprocessor, 'size') or not hasattr(preprocessor, 'size_divisor'):
        return
    size, divisor = preprocessor.size, preprocessor.size_divisor
    if (size is None) == (divisor is None):
        raise UserError(
            f'data_preprocessor.size is {size} and data_preprocessor.size_divisor {divisor}: '
            'set one of them, as a rule size to the crop_size of training'
        )
    for step in transforms(getattr(dataset, 'pipeline', ())):
        crop = getattr(step, 'crop_size', None)
        if size is not None and isinstance(crop, (tuple, list)) and tuple(crop) != tuple(size):
            warn(
                f'training crops images to {tuple(crop)}, but data_preprocessor.size is '
                f'{tuple(size)}, to which smaller ones are padded: set both to one size'
            )


def check_weights_fit(
    content: Mapping[str, Any],
    weights: Mapping[str, Any],
    source: str,
    backbone_only: bool,
    unneeded: tuple[str, ...] = (),
) -> None:
    """Refuse a checkpoint of another model, and one whose weights are no numbers (NaN).

    Args:
        weights: The model's weights by name.
        backbone_only: Whether it must fill the backbone alone, as heads may be for other classes;
            else it must fill the model exactly.
        unneeded: What names of weights begin with that it may have in addition.
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
    shapes = [f'{name} ({_shape(loaded[name])}, not {_shape(expected[name])})' for name in reshaped]
    problems = [_describe('lacks', lacking), _describe('has other shapes for', shapes)]
    if not backbone_only:
        problems.append(_describe('has in addition', additional))
    if any(problems):
        found = weights_in(content)
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        held, built = recognize(tensors), recognize(weights)
        init_cfg = "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...)"
        way = ''
        if AUTHORS in held:
            way = (
                '; convert it with tools/model_converters/convert_published.py, or give it to '
                f'{init_cfg}'
            )
        elif backbone_only and built.startswith(held.split(' in ')[0]) and tensors:
            way = f'; to start from its backbone alone, give it to {init_cfg} in place of load_from'
        elif not lacking and not additional and 'backbone.' not in ''.join(reshaped):
            way = '; if it is for other classes, train from it with load_from'
        both = f'{held}, as the model is' if held == built else f'{held}, the model {built}'
        raise UserError(
            f"{source} is of another model than the config's: it holds {both}; "
            f'it {", ".join(filter(None, problems))}{way}'
        )
    if no_numbers := sorted(name for name in expected if loaded[name].isnan().any()):
        raise UserError(
            f'{source} holds weights that are no numbers (NaN), as of a training that diverged: '
            f'{list_first(no_numbers)}; give an earlier checkpoint'
        )


def _readers(model: nn.Module, channels: list[int]) -> Iterator[tuple[str, Any, Any]]:
    """Yield what reads the backbone's maps: its name, its ``in_channels`` and their channels."""
    neck = getattr(model, 'neck', None)
    neck_channels = getattr(neck, 'in_channels', None)
    if isinstance(neck_channels, Sequence):
        yield 'neck', list(neck_channels), channels
    if neck is not None and any(hasattr(part, 'in_channels') for part in neck.modules()):
        return
    # A neck without channels, if any, pools the last map.
    width = getattr(getattr(model, 'head', None), 'in_channels', None)
    if isinstance(width, int):
        yield 'head', width, channels[-1]
    for name in SEGMENTING:
        head = getattr(model, name, None)
        head_channels: Any = getattr(head, 'in_channels', None)
        # Heads with queries have no in_index and read all maps.
        index: Any = getattr(head, 'in_index', range(len(channels)))
        if not all(each in range(-len(channels), len(channels)) for each in _listed(index)):
            continue  # it is of the maps of a neck
        read = [channels[each] for each in _listed(index)]
        if isinstance(head_channels, Sequence):
            yield name, list(head_channels), read
        elif isinstance(head_channels, int) and isinstance(index, int):
            yield name, head_channels, read[0]


def _listed(value: Any) -> Sequence[int]:
    return value if isinstance(value, Sequence) else [value]


def head_classes(model: nn.Module) -> Iterator[tuple[str, Any, int]]:
    """Yield name, module and ``num_classes`` of the heads that tell the data's classes apart."""
    if proposes_regions(model):
        return
    for name, module in model.named_modules():
        num_classes = getattr(module, 'num_classes', None)
        # A region proposal head tells objects from background, whatever the classes; a semantic
        # one, as in HTC and panoptic models, the classes of what is no object.
        is_other = 'rpn_head' in name or 'semantic_head' in name
        if 'head' in name and not is_other and isinstance(num_classes, int):
            yield name, module, num_classes


def proposes_regions(model: nn.Module) -> bool:
    """Whether a model is mmdet's ``RPN``, which finds objects without telling their classes."""
    return any(kind.__name__ == 'RPN' for kind in type(model).__mro__)


def _has_own_targets(name: str, head: nn.Module) -> bool:
    """Whether a head beside a segmentor's first learns something else, as edges in STDC."""
    kinds = (kind for kind in type(head).__mro__ if 'loss_by_feat' in vars(kind))
    owner = next((kind.__name__ for kind in kinds), None)
    return name.startswith('auxiliary_head') and owner not in (None, 'BaseDecodeHead')


def _num_scores(head: Any, num_classes: int) -> int:
    """How many classes a head weighs in its loss, with the background if it scores that."""
    layer = getattr(head, 'cls_embed', None) or getattr(head, 'fc_cls', None)
    return getattr(head, 'cls_out_channels', 0) or getattr(layer, 'out_features', num_classes)


def _check_most(place: str, topk: Any, num_classes: int) -> None:
    most = max(topk if isinstance(topk, Sequence) else [topk or 0], default=0)
    if most > num_classes:
        raise UserError(
            f'{place} has {most}, but there are {num_classes} classes: leave out what is larger'
        )


def _is_compared(name: str) -> bool:
    """Whether a weight is compared: all but batch norm's counter, which older checkpoints lack."""
    return not name.endswith('num_batches_tracked')


def _shape(weight: Any) -> str:
    if not isinstance(weight, Tensor):
        return 'no tensor'
    return ' x '.join(map(str, weight.shape)) or 'a number'


def _describe(verb: str, names: Iterable[str]) -> str:
    """Say which names a checkpoint lacks or has, the first of many; nothing if there are none."""
    names = sorted(names)
    return f'{verb} {list_first(names)}' if names else ''
