"""Write a config for data of one's own: what lies in a folder, and a schedule that fits it."""

import contextlib
import json
import math
import os
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdat import checks
from mmdat.checkpoints.reading import read_checkpoint
from mmdat.checks import config_tree
from mmdat.checks.classes import nearly_equal
from mmdat.checks.config_file import read_config
from mmdat.checks.config_keys import check_scope
from mmdat.checks.folders import find_files
from mmdat.checks.images import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES
from mmdat.checks.mmengine_private import imported_names
from mmdat.checks.run import check_parts, check_share, check_writable
from mmdat.config_bases import PREFIX
from mmdat.datasets.formats import (
    Classified,
    Detection,
    NotRecognizedError,
    Segmented,
    read_classified,
    read_detection,
    read_segmented,
    write_values,
)
from mmdat.errors import UserError

from .config_text import WIDTH, Code, assignment
from .model import load_config

# Keys that a base must have: the new config is computed from them.
PARTS = (
    'train_dataloader.dataset', 'train_dataloader.batch_size', 'val_dataloader.dataset',
    'val_evaluator', 'train_cfg', 'optim_wrapper.optimizer.type', 'optim_wrapper.optimizer.lr',
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]  # of the clone
# A base without masks, for data without.
BOXES_ALONE = 'configs/retinanet_dat_pp_t_coco.py'
# Task, and a base that learns it, for data of another task than the base's.
TASKS = dict(
    mmdet=('detection', 'configs/mask_rcnn_dat_pp_t_coco.py'),
    mmseg=('semantic segmentation', 'configs/upernet_dat_pp_t_ade20k.py'),
    mmpretrain=('classification', 'configs/dat_pp_t_in1k.py'),
)
# Steps that train a small model of a few classes: the fewer images, the more epochs.
LEAST_STEPS = 3000
FEWEST_EPOCHS, MOST_EPOCHS = 12, 100
# Images from which on the schedule of the base stays.
MANY_IMAGES = 20_000
WARM_UP_SHARE = 0.1
VALIDATIONS = 10
MOST_ROWS = 40
PACKED = ('.zip', '.gz', '.tgz', '.tar', '.bz2', '.xz', '.7z', '.rar')
# How a comment is wrapped: a path in it stays whole.
COMMENT: Any = dict(
    initial_indent='# ', subsequent_indent='# ', break_long_words=False, break_on_hyphens=False
)
Found = Detection | Segmented | Classified


@dataclass
class Draft:
    """A config that is being written.

    Attributes:
        values: Key -> value, in order; a key that begins with ``#`` is a comment.
        files: File that is written beside the config -> function that writes it.
    """

    values: dict[str, Any] = field(default_factory=dict)
    files: dict[Path, Callable[[Path], object]] = field(default_factory=dict)

    def comment(self, text: str) -> None:
        """Add a comment, wrapped to the width of a config."""
        self.values['\n'.join(textwrap.wrap(text, WIDTH, **COMMENT))] = None

    def text(self) -> str:
        """Write the config as Python."""
        lines = [
            key if key.startswith('#') else assignment(key, value)
            for key, value in self.values.items()
        ]
        return '\n'.join(lines) + '\n'


def new_config(
    base: str,
    data: str,
    out: str,
    *,
    load_from: str | None = None,
    seed: int = 0,
    val_share: float = 0.2,
    zero: str | None = None,
) -> list[str]:
    """Write a config that trains a base on data of one's own, and files beside it that it needs.

    Args:
        base: Path of a config of a detector, segmentor or classifier, or ``mmdat::NAME.py``.
        data: Folder of the data, in which nothing is written; or the annotation file in it.
        out: Path of the config to write.
        load_from: A checkpoint to start from.
        seed: Seed of the choice of images to validate on, if the data does not say which.
        val_share: Share of them.
        zero: Whether 0 in masks is ``'background'``, a class, or ``'ignored'``; found if None.

    Returns:
        Lines that say what was found and decided.

    Raises:
        UserError: If the data is not recognized or does not fit the base, or if a file is in the
            way. Then nothing is written.
    """
    path, folder = Path(out).resolve(), Path(data).expanduser().resolve()
    _check_paths(path, folder, base, out, data)
    check_share('--val-share', val_share, 0.9)
    if val_share == 0:
        raise UserError('--val-share must be above 0: a training validates on some images')
    cfg = read_config(base)
    check_scope(cfg)
    if imported_names(cfg):
        raise UserError(
            f'BASE {base} is in pure Python, which no config with _base_ can build on: give a dump '
            "of it, Config.fromfile(...).dump('dump.py') of mmengine"
        )
    check_parts(cfg, PARTS)
    if cfg.train_cfg.get('max_iters') is None:
        check_parts(cfg, ('train_cfg.max_epochs',))
    draft = Draft()
    write, found = _find(cfg, folder, val_share, seed, zero)
    if pairs := nearly_equal(found.classes):
        found.notes.append(
            f'The data have the classes {pairs}: give both one name if they are one class.'
        )
    title = f'{Path(base).stem} on {found.root}: {found.kind}, {len(found.classes)} classes.'
    draft.comment(' '.join(title.split()))
    draft.values['_base_'] = _base_path(base, path)
    draft.values['classes'] = found.classes
    trained = _count_trained(cfg, found)
    batch = _batch_size(cfg, trained)
    write(draft, cfg, path, found, batch)
    start: dict[str, Any] = dict(load_from=Code('None  # a checkpoint of the base, to start from'))
    if load_from:
        start = _weights(load_from, cfg)
    whole = start.pop('load_from', None)
    draft.values.update(_nested(_class_changes(cfg, len(found.classes)) | start, cfg))
    steps = _fit_schedule(draft, cfg, trained, batch)
    if whole:
        draft.values['load_from'] = whole
    _write_all(draft, path)
    return _summary(found, draft, path, steps, out)


def _check_paths(path: Path, folder: Path, base: str, out: str, data: str) -> None:
    if Path(base).is_dir():
        raise UserError(f'BASE {base} is a folder, not a config: the order is BASE DATA OUT')
    if path.suffix != '.py':
        raise UserError(f'OUT {out} must end in .py')
    if path.exists():
        raise UserError(f'OUT {out} is there already: remove it, or give another name')
    if not folder.exists():
        raise UserError(f'DATA {data} does not exist: give a folder or an annotation file')
    if folder.is_file() and folder.name.lower().endswith(IMAGE_SUFFIXES):
        raise UserError(f'DATA {data} is an image: give its folder')
    if folder.is_file() and folder.name.lower().endswith(PACKED):
        raise UserError(f'DATA {data} is packed: unpack it, and give the folder')
    if folder.is_dir() and not any(find_files(str(folder), ('',))):
        raise UserError(f'DATA {data} holds no files')
    if path.is_relative_to(folder):
        raise UserError(f'OUT {out} lies in {data}, where nothing is written: give another place')
    check_writable('OUT', path.parent)


def _find(
    cfg: Config, data: Path, share: float, seed: int, zero: str | None
) -> tuple[Callable, Found]:
    """Read the folder as the base's task needs it, and choose what writes its part."""
    tasks: dict[str, tuple[Callable, Callable[[], Found]]] = dict(
        mmdet=(_write_detection, lambda: read_detection(data, share, seed)),
        mmseg=(_write_segmented, lambda: read_segmented(data, share, seed, zero)),
        mmpretrain=(_write_classified, lambda: read_classified(data, share, seed)),
    )
    write, read = tasks.pop(cfg.default_scope)
    try:
        return write, read()
    except NotRecognizedError as error:
        for scope, (_, read_other) in tasks.items():
            try:
                found = read_other()
            except UserError:
                continue
            task, example = TASKS[scope]
            if isinstance(found, Detection) and found.without_mask():
                example = BOXES_ALONE
            remedy = f'give a BASE of {task}, such as {example}'
            if isinstance(found, Classified):  # as any folders of images and tables of boxes seem
                raise UserError(f'{error}; or, if each image has one class, {remedy}') from error
            raise UserError(f'{data} holds {found.kind}: {remedy}') from error
        if packed := next(find_files(str(data), PACKED), None):
            raise UserError(f'{error}; or is it in {packed}? Unpack that first') from error
        if unread := next(find_files(str(data), UNREADABLE_SUFFIXES), None):
            raise UserError(
                f'{error}; images such as {unread} are not read: convert them to JPEG or PNG'
            ) from error
        raise


def _base_path(base: str, out: Path) -> str:
    """Path of the base, relative where both lie in the clone; a name of mmdat's stays."""
    if base.startswith(PREFIX):
        return base
    path = Path(base).resolve()
    if path.is_relative_to(ROOT) and out.is_relative_to(ROOT):
        return os.path.relpath(path, out.parent)
    return str(path)


# What the three tasks need


def _write_detection(draft: Draft, cfg: Config, path: Path, found: Detection, batch: int) -> None:
    needs_masks = any(
        step.get('with_mask')
        for _, dataset in config_tree.datasets(cfg, 'train')
        for step in config_tree.transforms(dataset.get('pipeline') or [])
    )
    if needs_masks and (count := found.without_mask()):
        total = sum(len(split.content['annotations']) for split in found.splits.values())
        raise UserError(
            f'{cfg.filename} learns masks, but {count} of {total} objects in {found.root} have a '
            f'box alone: give a BASE that learns boxes, such as {BOXES_ALONE}'
            + (', or outline these objects, or take them out' if count < total else '')
        )
    draft.values['data'] = _data('mmdat.CocoDataset', f'{found.root}/')
    sides = [min(item['width'], item['height']) for item in found.images('train')]
    files = {}
    datasets: dict[str, dict[str, Any]] = {}
    for name, split in found.splits.items():
        files[name] = str(found.root / (split.file or ''))
        datasets[name] = dict(ann_file=split.file, data_prefix=dict(img=split.prefix))
        if split.file is None:
            text = json.dumps(split.content, ensure_ascii=False)
            files[name] = datasets[name]['ann_file'] = _add_file(draft, path, f'{name}.json', text)
    least = max(
        (dataset.get('filter_cfg') or {}).get('min_size', 0)
        for _, dataset in config_tree.datasets(cfg, 'train')
    )
    if min(sides) < least:
        datasets['train']['filter_cfg'] = dict(min_size=1)
        found.notes.append(
            f'{sum(side < least for side in sides)} images have a side below {least} pixels: '
            'filter_cfg keeps them.'
        )
    _add_loaders(draft, cfg, datasets, batch)
    for name in ('val', 'test'):
        if name in files:
            draft.values[f'{name}_evaluator'] = dict(ann_file=files[name])
    _share_with_test(draft, 'evaluator')


def _write_segmented(draft: Draft, cfg: Config, path: Path, found: Segmented, batch: int) -> None:
    data = _data('mmdat.SegmentationDataset', str(found.root))
    if found.palette:
        data['metainfo']['palette'] = [list(color) for color in found.palette]
    if found.values:
        data['mask_values'] = found.values
        draft.comment('Value in the masks -> class.')
    else:
        data['reduce_zero_label'] = found.zero_is_nothing and not found.rewritten
        draft.comment(_question(found))
    draft.values['data'] = data
    datasets: dict[str, dict[str, Any]] = {}
    for name, split in found.splits.items():
        datasets[name] = dict(data_prefix=dict(img_path=split.images, seg_map_path=split.masks))
        if split.suffix and not found.rewritten:
            datasets[name]['seg_map_suffix'] = split.suffix
            if split.image_suffix:
                datasets[name]['img_suffix'] = split.image_suffix
        if split.listed:
            end = '' if found.rewritten else split.image_suffix
            stems = (image.removesuffix(end or os.path.splitext(image)[1]) for image in split.pairs)
            text = ''.join(f'{stem}\n' for stem in stems)
            datasets[name]['ann_file'] = _add_file(draft, path, f'{name}.txt', text)
        if found.rewritten:
            masks = path.with_name(f'{path.stem}_masks') / name
            datasets[name]['data_prefix']['seg_map_path'] = str(masks)
            for image, mask in split.pairs.items():
                draft.files[(masks / image).with_suffix('.png')] = partial(
                    write_values,
                    found.root / split.masks / mask,
                    meaning=found.rewritten,
                    classes=found.classes,
                )
    _add_loaders(draft, cfg, datasets, batch)


def _question(found: Segmented) -> str:
    """Ask whether it is right what 0 in the masks was taken for."""
    zero = 'black' if found.rewritten and found.palette and not found.zero_is_clear else '0'
    if found.zero_is_nothing:
        meaning = f'0 in the masks is no class, and 1 is {found.classes[0]!r}'
        other = 'If 0 is a class too, write this anew with --zero background.'
    else:
        meaning = f'{zero} in the masks is the class {found.classes[0]!r}'
        other = f'If {zero} is where nothing is known, write this anew with --zero ignored.'
    return f'{meaning}.' if found.zero_is_clear else f'{meaning}. {other}'


def _add_file(draft: Draft, path: Path, end: str, text: str) -> str:
    """Add a file beside the config, and return its path."""
    target = path.with_name(f'{path.stem}_{end}')
    draft.files[target] = partial(Path.write_text, data=text, encoding='utf-8')
    return str(target)


def _write_classified(draft: Draft, cfg: Config, path: Path, found: Classified, batch: int) -> None:
    draft.values['data'] = _data('mmdat.ClassificationDataset', str(found.root))
    datasets: dict[str, dict[str, Any]] = {}
    for name, split in found.splits.items():
        datasets[name] = dict(data_prefix=split.folder or '')
        if split.folder is None:
            lines = (f'{image}\t{found.classes[label]}\n' for image, label in split.labels.items())
            datasets[name]['ann_file'] = _add_file(draft, path, f'{name}.txt', ''.join(lines))
    _add_loaders(draft, cfg, datasets, batch)
    topk = config_tree.value_at(cfg, 'val_evaluator.topk') or (1,)
    fitting = tuple(k for k in topk if k < len(found.classes))
    if fitting != tuple(topk):
        draft.values['val_evaluator'] = dict(topk=fitting)
        _share_with_test(draft, 'evaluator')


def _data(kind: str, root: str) -> dict[str, Any]:
    """What the data sets of all splits share."""
    return dict(type=kind, data_root=root, metainfo=dict(classes=Code('classes')))


def _add_loaders(draft: Draft, cfg: Config, datasets: dict[str, dict], batch: int) -> None:
    """Add a data loader for each split, with its data set."""
    for split in datasets:
        if split == 'test':
            check_parts(cfg, ('test_dataloader.dataset', 'test_evaluator'))
        places = list(config_tree.datasets(cfg, split))
        if len(places) != 1:
            raise UserError(
                f'{cfg.filename} joins {len(places)} data sets in {split}_dataloader: give a BASE '
                'with one'
            )
        (place, old), new = places[0], datasets[split]
        prefix = old.get('data_prefix')
        if isinstance(prefix, dict) and prefix.keys() - new['data_prefix'].keys():
            new['data_prefix'] = dict(_delete_=True, **new['data_prefix'])
        if old.get('ann_file') and 'ann_file' not in new:
            new['ann_file'] = ''
        if 'split' in old:  # ImageNet's, which other data sets do not know
            new = dict(_delete_=True, pipeline=Code(f'_base_.{place}.pipeline'), **new)
        value: Any = {**new, '**': Code('data')}
        for key in reversed(place.split('.')[1:]):
            value = {key: value}
        if split == 'train':
            value = dict(batch_size=batch, **value)
        elif cfg.default_scope == 'mmseg' and cfg[f'{split}_dataloader'].get('batch_size', 1) > 1:
            value = dict(batch_size=1, **value)  # images of any size, which are not padded there
        draft.values[f'{split}_dataloader'] = value
    _share_with_test(draft, 'dataloader')


def _share_with_test(draft: Draft, part: str) -> None:
    """Test as in validation if there is no test data."""
    if f'test_{part}' not in draft.values:
        value = draft.values.pop(f'val_{part}')
        draft.values[f'val_{part} = test_{part}'] = value


# What goes by the number of classes


def _class_changes(cfg: Config, num_classes: int) -> dict[str, Any]:
    """Dotted key -> new value, of all parts of the model that count classes."""
    changes: dict[str, Any] = {}
    for root in ('model', 'data_preprocessor'):
        places = partial(config_tree.paths, cfg.get(root), prefix=f'{root}.')
        for path in (*places('num_classes'), *places('num_things_classes')):
            if 'rpn_head' not in path:  # tells objects from background
                changes[path] = num_classes
        for path in places('class_weight'):
            old = config_tree.value_at(cfg, path)
            if not isinstance(old, (list, tuple)):
                continue
            # Mask2Former and DETR weigh "no object" after the classes.
            whole = len(set(old[:-1])) == 1 and old[0] == 1.0
            changes[path] = [1.0] * num_classes + [old[-1]] if whole else None
        for path in places('seg_pad_val'):
            if config_tree.value_at(cfg, path) != 255:  # a class of the base's data
                changes[path] = 255
        for path in places('topk'):
            old = config_tree.value_at(cfg, path)
            ks = tuple(old) if isinstance(old, (list, tuple)) else (old,)
            if max(ks) >= num_classes:
                changes[path] = tuple(k for k in ks if k < num_classes)
    return changes


def _nested(changes: Mapping[str, Any], cfg: Config) -> dict[str, Any]:
    """Nest dotted keys; lists, in which a config cannot change an item, are written by items."""
    tree: dict[str, Any] = {}
    for path, value in changes.items():
        *parents, last = path.split('.')
        place = tree
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    return {key: _replace_lists(value, cfg, key) for key, value in tree.items()}


def _replace_lists(value: Any, cfg: Config, path: str) -> Any:
    if not isinstance(value, dict):
        return value
    old = config_tree.value_at(cfg, path)
    if not isinstance(old, (list, tuple)):
        return {key: _replace_lists(item, cfg, f'{path}.{key}') for key, item in value.items()}
    first = next(iter(value.values()))
    flat = all(not isinstance(item, dict) for item in first.values())
    if flat and len(value) == len(old) and all(item == first for item in value.values()):
        changed = ', '.join(f'{key}={item!r}' for key, item in first.items())
        return Code(f'[dict(head, {changed}) for head in _base_.{path}]')
    raise UserError(
        f'{cfg.filename} has the list {path}, whose items count classes in parts of their own: '
        'give a BASE with a dict there'
    )


def _weights(load_from: str, cfg: Config) -> dict[str, Any]:
    """Start from an OpenMMLab checkpoint, or let the backbone start from one of the authors."""
    source = load_from if '://' in load_from else str(Path(load_from).expanduser().resolve())
    content = read_checkpoint(source, skip_objects=True)
    checks.before_loading(content, source, resume=False)
    state = content.get('state_dict', content)
    if any(name.removeprefix('module.').startswith('backbone.') for name in state):
        return dict(load_from=source)
    pretrained: dict[str, Any] = dict(type='Pretrained', checkpoint=source)
    if (cfg.model.backbone.get('init_cfg') or {}).keys() - pretrained.keys():
        pretrained = dict(_delete_=True, **pretrained)
    return {'model.backbone.init_cfg': pretrained}


# What goes by the number of images


def _count_trained(cfg: Config, found: Found) -> int:
    """Count the images that are trained on; filter_cfg may leave out those without objects."""
    count = len(found.images('train'))
    leaves_out = any(
        (dataset.get('filter_cfg') or {}).get('filter_empty_gt')
        for _, dataset in config_tree.datasets(cfg, 'train')
    )
    empty = found.empty('train') if isinstance(found, Detection) and leaves_out else 0
    if empty:
        found.notes.append(
            f'{empty} of {count} images of train have no object: filter_cfg leaves them out.'
        )
    return count - empty


def _batch_size(cfg: Config, images: int) -> int:
    """Images a step: the base's, or as many as leave ten steps an epoch, but at least 2."""
    fitting = 2 ** int(math.log2(max(2, images // 10)))
    return min(cfg.train_dataloader.batch_size, fitting)


def _fit_schedule(draft: Draft, cfg: Config, images: int, batch: int) -> str:
    """Add learning rate, length, schedulers and intervals; return them in a sentence."""
    by_epoch = cfg.train_cfg.get('max_iters') is None
    total = cfg.train_cfg.max_epochs if by_epoch else cfg.train_cfg.max_iters
    steps = -(-images // batch)
    epochs = min(max(-(-LEAST_STEPS // steps), FEWEST_EPOCHS), MOST_EPOCHS)
    length = epochs if by_epoch else max(VALIDATIONS, epochs * steps // VALIDATIONS * VALIDATIONS)
    if images >= MANY_IMAGES:
        length = total
    interval = max(1, length // VALIDATIONS)
    base_batch = (cfg.get('auto_scale_lr') or {}).get('base_batch_size', batch)
    optimizer = cfg.optim_wrapper.optimizer
    # Adam's step does not grow with the gradient: its rate goes by the root of the batch size.
    root = 'Adam' in optimizer.type
    ratio = math.sqrt(batch / base_batch) if root else batch / base_batch
    rate = float(f'{optimizer.lr * ratio:.2g}')
    if batch != base_batch:
        rule = 'the root of ' if root else ''
        draft.comment(
            f'The rate goes by {rule}the images a step: {optimizer.lr:g} are for {base_batch}.'
        )
        draft.values['optim_wrapper'] = dict(optimizer=dict(lr=rate))
        draft.values['auto_scale_lr'] = dict(base_batch_size=batch)
    unit = 'epochs' if by_epoch else 'steps'
    sentence = f'{length} {unit}; {images} images at {batch} a step are {steps} steps an epoch.'
    draft.comment(sentence)
    loop: dict[str, Any] = {'max_epochs' if by_epoch else 'max_iters': length}
    loop['val_interval'] = interval
    if cfg.train_cfg.get('dynamic_intervals'):
        loop['dynamic_intervals'] = None
    draft.values['train_cfg'] = loop
    all_steps = length * steps if by_epoch else length
    schedulers = cfg.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    if schedulers:
        draft.values['param_scheduler'] = list(
            _fit_schedulers(schedulers, length / total, all_steps, by_epoch, ratio)
        )
    checkpoint = dict(interval=interval)
    draft.values['default_hooks'] = dict(
        checkpoint=checkpoint, logger=dict(interval=min(50, max(1, steps // 2)))
    )
    return f'{sentence[0].upper()}{sentence[1:]} Learning rate {rate:g}.'


def _fit_schedulers(
    schedulers: list[dict[str, Any]], ratio: float, all_steps: int, by_epoch: bool, lr_ratio: float
) -> Iterator[dict[str, Any]]:
    """Yield the schedulers of a base for another length of training.

    Args:
        ratio: New length over the base's.
        lr_ratio: New learning rate over the base's.
    """
    # A warm-up counts steps even where the training counts epochs. A scheduler that begins where
    # a warm-up of the base ends begins where the new one ends.
    most = max(1, int(all_steps * WARM_UP_SHARE))
    warm = {
        item['end']: min(item['end'], most)
        for item in schedulers
        if item['type'] == 'LinearLR' and not item.get('by_epoch', True) and 'end' in item
    }

    def fit(value: int, in_steps: bool) -> int:
        if in_steps and value in warm:
            return warm[value]
        if not value or (in_steps and by_epoch):
            return value
        return max(1, round(value * ratio))

    for item in schedulers:
        in_steps = not item.get('by_epoch', True)
        new = {key: value for key, value in item.items() if key != '_scope_'}
        for key in ('begin', 'end', 'T_max'):
            if key in new:
                new[key] = fit(new[key], in_steps)
        if 'milestones' in new:
            new['milestones'] = [fit(value, in_steps) for value in new['milestones']]
        if new.get('eta_min'):
            new['eta_min'] = float(f'{new["eta_min"] * lr_ratio:.2g}')
        yield new


# Files and summary


def _write_all(draft: Draft, path: Path) -> None:
    """Write the config and the files beside it: all, or none if one cannot be written."""
    if there := [file for file in draft.files if file.exists()]:
        raise UserError(
            f'{", ".join(map(str, there))} {"is" if len(there) == 1 else "are"} there already: '
            'remove what is no longer needed, or give OUT another name'
        )
    written: list[Path] = []
    made: list[Path] = []
    config = {path: lambda path: path.write_text(draft.text(), encoding='utf-8')}
    try:
        for target, write in {**draft.files, **config}.items():
            made += [folder for folder in target.parents if not folder.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            written.append(target)
            write(target)
        load_config(path)
    except BaseException as error:
        for target in written:
            target.unlink(missing_ok=True)
        for folder in sorted(made, reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise UserError(f'{error.filename or path} cannot be written: {error}') from error
        if isinstance(error, UnicodeEncodeError):
            name = error.object[: error.end].splitlines()[-1][-80:]
            raise UserError(
                f'a name of a file or folder is not in UTF-8, {name!a} at its beginning: rename it'
            ) from error
        raise


def _summary(found: Found, draft: Draft, path: Path, steps: str, out: str) -> list[str]:
    splits = [split for split in ('train', 'val', 'test') if split in found.splits]
    lines = [f'{found.root}: {found.kind}, {len(found.classes)} classes']
    width = max(len('images'), *(len(name) for name in found.classes[:MOST_ROWS]))
    lines.append(f'  {"":{width}}' + ''.join(f'{split:>9}' for split in splits))
    sizes = [len(found.images(split)) for split in splits]
    lines.append(f'  {"images":{width}}' + ''.join(f'{size:9}' for size in sizes))
    if isinstance(found, Segmented):
        listed = ', '.join(found.classes[:MOST_ROWS])
        lines.append(f'  classes: {listed}')
    else:
        counts = [found.objects(split) for split in splits]
        lines += [
            f'  {name:{width}}' + ''.join(f'{count[name]:9}' for count in counts)
            for name in found.classes[:MOST_ROWS]
        ]
    if len(found.classes) > MOST_ROWS:
        lines.append(f'  and {len(found.classes) - MOST_ROWS} more classes')
    if isinstance(found, Segmented) and not (
        found.values or (found.rewritten and found.zero_is_clear)
    ):
        lines.append(_question(found))
    lines += found.notes
    lines.append(steps)
    beside = sorted({str(file) for file in draft.files if file.parent == path.parent})
    if isinstance(found, Segmented) and found.rewritten:
        beside.append(str(path.with_name(f'{path.stem}_masks')))
    lines.append(f'Written: {", ".join([out, *beside])}')
    name = shlex.quote(out)
    lines.append(f'Next: mmdat check-data {name}, then mmdat train {name}')
    return lines
