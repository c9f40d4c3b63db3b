"""Find things in nested configs and data sets: values, data sets in wrappers, transforms."""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from mmengine.config import Config, ConfigDict


def datasets(cfg: Config, split: str) -> Iterator[tuple[str, ConfigDict]]:
    """Yield the data sets of a data loader, those in wrappers one by one, each with its path.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``; one without a data loader has no data set.

    Example:
        >>> both = dict(type='ConcatDataset', datasets=[dict(type='A'), dict(type='B')])
        >>> cfg = Config(dict(val_dataloader=dict(dataset=both)))
        >>> [(path, dataset.type) for path, dataset in datasets(cfg, 'val')]
        [('val_dataloader.dataset.datasets.0', 'A'), ('val_dataloader.dataset.datasets.1', 'B')]
    """
    dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
    if dataset is not None:
        yield from unwrap(dataset, f'{split}_dataloader.dataset')


def unwrap(dataset: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the data sets that a data set wraps (RepeatDataset, ConcatDataset, ...), or itself.

    Args:
        dataset: A data set, or the dict in a config that it is built from.
        path: Where it stands in a config.

    Yields:
        Path and data set; those of the data set itself if it wraps none.
    """
    parts = {f'{path}.datasets.{i}': x for i, x in enumerate(_part(dataset, 'datasets') or ())}
    inner = _part(dataset, 'dataset')
    if inner is not None:
        parts[f'{path}.dataset'] = inner
    for place, part in parts.items():
        yield from unwrap(part, place)
    if not parts:
        yield path, dataset


def metrics(cfg: Config, split: str) -> Iterator[tuple[str, Any]]:
    """Yield the metrics of an evaluator, which may be one, a list or ``metrics`` of a dict.

    Args:
        split: ``'val'`` or ``'test'``; one without an evaluator has none.

    Example:
        >>> cfg = Config(dict(val_evaluator=[dict(type='CocoMetric'), dict(type='VOCMetric')]))
        >>> [(path, metric.type) for path, metric in metrics(cfg, 'val')]
        [('val_evaluator.0', 'CocoMetric'), ('val_evaluator.1', 'VOCMetric')]
    """
    path, part = f'{split}_evaluator', cfg.get(f'{split}_evaluator') or ()
    if isinstance(part, Mapping) and 'metrics' in part:
        path, part = f'{path}.metrics', part['metrics']
    if isinstance(part, (list, tuple)):
        for index, metric in enumerate(part):
            yield f'{path}.{index}', metric
    else:
        yield path, part


def first_metainfo(metainfo: Any) -> Mapping[str, Any]:
    """Classes and colors of a data set; of concatenated ones with different colors, the first's.

    Args:
        metainfo: That of a data set, or ``dataset_meta`` of a checkpoint. mmdet's ``ConcatDataset``
            has a list of them; others may have none.
    """
    return (metainfo[0] if isinstance(metainfo, list) else metainfo) or {}


def transforms(pipeline: Any) -> Iterator[Any]:
    """Yield the transforms of a pipeline, built or in a config, and those that they hold."""
    if isinstance(pipeline, (list, tuple)):
        for transform in pipeline:
            yield from transforms(transform)
        return
    yield pipeline
    for name in ('transforms', 'subroutines'):  # the latter is mmcv's TestTimeAug
        yield from transforms(list(_part(pipeline, name) or ()))


def class_name(part: Mapping[str, Any] | None) -> str:
    """Name of the class of a part of a config, without its scope; empty if it names none.

    Example:
        >>> class_name(dict(type='mmdat.LoadImageFromFile'))
        'LoadImageFromFile'
    """
    kind = (part or {}).get('type', '')
    return getattr(kind, '__name__', str(kind)).split('.')[-1]


def value_at(value: Any, path: str) -> Any:
    """Look up a dotted path in nested dicts and lists; None where it leads nowhere."""
    for key in path.split('.'):
        value = {str(name): item for name, item in items(value)}.get(key)
    return value


def paths(value: Any, key: str, wanted: Any = None, prefix: str = '') -> Iterator[str]:
    """Yield the dotted paths in nested dicts and lists at which ``key`` stands.

    Args:
        wanted: The value that it must have; any if None.
        prefix: Beginning of all paths.
    """
    for name, item in items(value):
        if name == key and wanted in (None, item):
            yield f'{prefix}{name}'
        yield from paths(item, key, wanted, f'{prefix}{name}.')


def replace_values(value: Any, key: str, old: Any, new: Any) -> None:
    """Set ``key`` to ``new`` wherever it is ``old`` in nested dicts and lists."""
    for _, item in items(value):
        replace_values(item, key, old, new)
    if isinstance(value, MutableMapping) and value.get(key) == old:
        value[key] = new


def items(value: Any) -> Iterable[tuple[Any, Any]]:
    """Keys or indices, and values, of a dict or list in a config; none of what is neither."""
    if isinstance(value, (Mapping, Config)):
        return value.items()
    return enumerate(value) if isinstance(value, (list, tuple)) else ()


def _part(owner: Any, name: str) -> Any:
    """Look up a key of a config, or the attribute of what was built from it; None if absent."""
    return owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)
