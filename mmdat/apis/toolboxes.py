"""What differs between mmdet, mmsegmentation and mmpretrain when their models are run."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmdet.evaluation import DumpDetResults
from mmengine.config import Config
from mmengine.evaluator import DumpResults

from mmdat.errors import UserError, enumerate_names


class DumpSegments(DumpResults):
    """Predicted classes of pixels without their logits, which take hundreds of times the space."""

    def process(self, data_batch: Any, predictions: Sequence[dict]) -> None:
        """Keep the predictions of a batch."""
        super().process(
            data_batch,
            [
                {name: value for name, value in prediction.items() if name != 'seg_logits'}
                for prediction in predictions
            ],
        )


@dataclass(frozen=True)
class Toolbox:
    """One of them.

    Attributes:
        name: The default scope of its configs.
        shape: Height and width of the images that the papers count arithmetic for.
        data: The data set of the papers.
        root_variable: Environment variable with its folder.
        metric: Of the evaluator, to write the predictions to a file.
        draw: Has a config's test loop draw the predictions into a folder.
    """

    name: str
    shape: tuple[int, int]
    data: str
    root_variable: str
    metric: type[DumpResults]
    draw: Callable[[Config, str], None]


def _draw_detections(cfg: Config, folder: str) -> None:
    _add(cfg, 'DetVisualizationHook', 'DetLocalVisualizer')
    # The hook joins the log's folder and this.
    cfg.default_hooks.visualization.update(draw=True, test_out_dir=folder)


def _draw_segments(cfg: Config, folder: str) -> None:
    _add(cfg, 'SegVisualizationHook', 'SegLocalVisualizer')
    cfg.default_hooks.visualization.update(draw=True, interval=1)
    target = os.path.join(cfg.work_dir, folder)
    # By another name it is another than that of an earlier run in the same process.
    cfg.visualizer.update(save_dir=target, name=target)


def _draw_classes(cfg: Config, folder: str) -> None:
    _add(cfg, 'VisualizationHook', 'UniversalVisualizer')
    cfg.default_hooks.visualization.update(
        enable=True, interval=1, out_dir=os.path.join(cfg.work_dir, folder)
    )


def _add(cfg: Config, hook: str, visualizer: str) -> None:
    """Have a config draw, which need not say how."""
    if not cfg.get('default_hooks'):
        cfg.default_hooks = {}
    cfg.default_hooks.setdefault('visualization', dict(type=hook))
    if not cfg.get('visualizer'):
        cfg.visualizer = dict(type=visualizer, vis_backends=[dict(type='LocalVisBackend')])


TOOLBOXES = {
    toolbox.name: toolbox
    for toolbox in (
        Toolbox('mmdet', (800, 1280), 'COCO', 'COCO_ROOT', DumpDetResults, _draw_detections),
        Toolbox('mmseg', (512, 512), 'ADE20K', 'ADE20K_ROOT', DumpSegments, _draw_segments),
        Toolbox('mmpretrain', (224, 224), 'ImageNet', 'IMAGENET_ROOT', DumpResults, _draw_classes),
    )
}


def toolbox_of(cfg: Config) -> Toolbox:
    """The one that a config is for.

    Raises:
        UserError: If it is for none of them.
    """
    scope = cfg.get('default_scope')
    if scope not in TOOLBOXES:
        raise UserError(
            f'default_scope of config {cfg.filename} is {scope!r}, which is none of '
            f'{enumerate_names(TOOLBOXES)}'
        )
    return TOOLBOXES[scope]
