"""Write a trained model to a file that runs without mmdat: ONNX, or PyTorch's own format."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModel
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mmdat.checks.config_tree import class_name
from mmdat.checks.exceptions import explained
from mmdat.checks.mmengine_private import in_scope
from mmdat.checks.run import check_writable
from mmdat.deployment.checking import TOLERANCE, Comparison, compare
from mmdat.deployment.features import ExportableFeatures
from mmdat.deployment.heads import ExportableClassifier, ExportableSegmentor
from mmdat.deployment.reference import own_features, own_predictions
from mmdat.deployment.writing import OPSET, Traced, quiet, trace, write
from mmdat.errors import UserError, enumerate_names, reason
from mmdat.version import __version__

from .metainfo import class_names, dataset_of, metainfo_of, pipeline_of, warn_of_other_names
from .model import build_model, load_config, load_weights
from .toolboxes import toolbox_of

FORMATS = ('.onnx', '.pt2')
PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')


def export(
    config: str,
    checkpoint: str,
    out: str,
    check: bool = False,
    cfg_options: dict[str, Any] | None = None,
) -> list[Comparison]:
    """Write the model of a config to a file that takes images of any number and size.

    The file's input ``images`` is float32 (batch, 3, height, width), RGB, 0 to 255; where the
    backbone has other ``in_channels``, it is these channels as the config loads them.

    Args:
        config: Path of the config.
        checkpoint: Path of a checkpoint that fits the config's model.
        out: The file to write; its name ends in ``.onnx`` or ``.pt2``.
        check: Run the file and the model on images of three sizes, and compare.
        cfg_options: Values to put into the config, by dotted key.

    Returns:
        A comparison for each size if ``check``, else none.

    Raises:
        UserError: For a mistake in what was given, or if the file computes something else or, as
            a detector finds nothing, the check compares nothing.
    """
    path = Path(out)
    _check_file(path)
    cfg = load_config(config, cfg_options)
    toolbox = toolbox_of(cfg).name
    with in_scope(toolbox):
        with explained(cfg), quiet():
            model = build_model(cfg).eval().requires_grad_(False)  # nor does what a .pt2 returns
            trained_on = load_weights(model, checkpoint).get('dataset_meta')
            dataset = dataset_of(cfg)
            classes = class_names(metainfo_of(dataset, trained_on), model)
        warn_of_other_names(dataset, trained_on, checkpoint)
        exportable, own = _exportable(model, toolbox)
        smallest = max(
            getattr(model.backbone, 'smallest_image', 32), getattr(exportable, 'smallest_image', 1)
        )
        channels = getattr(model.backbone, 'in_channels', 3)
        meta = dict(
            config=Path(config).name,
            mmdat_version=__version__,
            channels='RGB' if channels == 3 else 'as the config loads them',
            classes=json.dumps(classes, ensure_ascii=False),
        )
        head_cfg = getattr(getattr(model, 'roi_head', None), 'test_cfg', None) or {}
        threshold = head_cfg.get('mask_thr_binary', 0.5)
        if 'mask_thr_binary' in head_cfg:
            meta['mask_threshold'] = json.dumps(threshold)
        steps = _image_steps(cfg)
        if steps is not None:
            meta['test_pipeline'] = json.dumps(steps, default=str)
        try:
            traced = trace(exportable, smallest, channels)
            write(traced, path, meta)
        except RuntimeError as error:  # of torch.export, for what branches on sizes
            raise UserError(
                f'the model of {config} cannot be exported ({reason(error)})'
            ) from error
        print(_describe(path, traced, channels))
        print(_describe_steps(steps))
        if toolbox == 'mmseg' and model.test_cfg.get('mode') == 'slide':
            print('test_cfg has sliding windows: the file takes each window, or the whole image')
        comparisons = compare(own, path, smallest, channels, threshold) if check else []
    if check:
        _print(comparisons)
        if not all(comparison.difference <= TOLERANCE for comparison in comparisons):
            raise UserError(f'{out} and the model differ by more than {TOLERANCE:g}')
        if not any(comparison.num_objects != 0 for comparison in comparisons):
            raise UserError(
                f'{out} is written, but not checked, as the model finds no object in the images '
                'of the check: lower score_thr in model.test_cfg for it'
            )
    return comparisons


def _check_file(path: Path) -> None:
    if path.suffix not in FORMATS:
        raise UserError(f'{path} must end in .onnx, or in .pt2 for torch.export')
    if path.is_dir():
        raise UserError(f'{path} is a folder: give a file')
    check_writable('folder', path.absolute().parent)
    if path.suffix == '.onnx':
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(
                f'ONNX needs {enumerate_names(missing)}: install them with '
                "pip install 'mmdat[export]'"
            )


def _exportable(
    model: BaseModel, toolbox: str
) -> tuple[nn.Module, Callable[[Tensor], tuple[Tensor, ...]]]:
    """Return what is exported, the whole model or its backbone and neck, and what to compare with.

    The one is a module from images to a named tuple, the other the toolbox's own function.
    """
    kinds: dict[str, Callable[[BaseModel], nn.Module]] = dict(
        mmpretrain=ExportableClassifier, mmseg=ExportableSegmentor, mmdet=_exportable_detector
    )
    try:
        return kinds[toolbox](model), own_predictions(model, toolbox)
    except UserError as error:
        features = ExportableFeatures(model)
        print(f'{error}: this file has the backbone and neck alone')
        return features, own_features(model)


def _exportable_detector(model: BaseModel) -> nn.Module:
    from mmdat.deployment.detectors import exportable_detector  # so that others need no mmdet

    return exportable_detector(model)


def _describe(path: Path, traced: Traced, channels: int) -> str:
    """Describe a written file in a line: its size, its input and its outputs."""
    opset = f', opset {OPSET}' if path.suffix == '.onnx' else ''
    size = path.stat().st_size / 1e6
    outputs = ', '.join(traced.outputs)
    return f'{path}: {size:.1f} MB{opset}, images (batch, {channels}, height, width) -> {outputs}'


def _image_steps(cfg: Config) -> list[dict[str, Any]] | None:
    """What a test does to an image between loading and packing; None if the config has no test."""
    try:
        _, *steps = pipeline_of(cfg)
    except UserError:
        return None
    kept = []
    for step in steps:
        kind = class_name(step)
        if not kind.startswith('Pack'):
            defaults = dict(keep_ratio=False) if kind == 'Resize' else {}
            kept.append({**defaults, **step, 'type': kind})
    return kept


def _describe_steps(steps: list[dict[str, Any]] | None) -> str:
    """Describe in a line what is to be done to images before they are given to a file."""
    if steps is None:
        return 'the config has no transforms of a test: resize images as the model was trained'
    calls = [
        f'{step["type"]}({", ".join(f"{k}={v!r}" for k, v in step.items() if k != "type")})'
        for step in steps
    ]
    return f'before the file, as in a test of the config: {", ".join(calls) or "nothing"}'


def _print(comparisons: list[Comparison]) -> None:
    table = Table('images', 'largest difference', 'PyTorch (s)', 'file (s)')
    is_detector = comparisons[0].num_objects is not None
    if is_detector:
        table.add_column('objects')
    for comparison in comparisons:
        row = [
            ' x '.join(map(str, comparison.size)),
            f'{comparison.difference:.1e}',
            f'{comparison.model_seconds:.3f}',
            f'{comparison.file_seconds:.3f}',
        ]
        table.add_row(*row, *[str(comparison.num_objects)] * is_detector)
    Console().print(table)
