"""What differs between mmdet, mmsegmentation and mmpretrain when their models are run."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmdet.evaluation import DumpDetResults
from mmengine.config import Config
from mmengine.evaluator import DumpResults

from mmdat.checks.config_keys import check_scope


class DumpSegments(DumpResults):
    """Write predicted classes of pixels, but no logits, which take hundreds of times the space."""

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
    """What running a model of a toolbox needs to know.

    Attributes:
        name: The default scope of its configs.
        shape: Height and width of the images that the papers count arithmetic for.
        metric: The metric that writes the predictions to a file.
        draw: Has a config's test loop draw the predictions into a folder.
    """

    name: str
    shape: tuple[int, int]
    metric: type[DumpResults]
    draw: Callable[[Config, str], None]


def _let_draw_detections(cfg: Config, folder: str) -> None:
    _ensure_visualization(cfg, 'DetVisualizationHook', 'DetLocalVisualizer', folder)
    # The hook puts the folder into that of the log.
    cfg.default_hooks.visualization.update(draw=True, test_out_dir=folder)


def _let_draw_segments(cfg: Config, folder: str) -> None:
    _ensure_visualization(cfg, 'SegVisualizationHook', 'SegLocalVisualizer', folder)
    cfg.default_hooks.visualization.update(draw=True, interval=1)
    cfg.visualizer.save_dir = os.path.join(cfg.work_dir, folder)


def _let_draw_classes(cfg: Config, folder: str) -> None:
    _ensure_visualization(cfg, 'VisualizationHook', 'UniversalVisualizer', folder)
    cfg.default_hooks.visualization.update(
        enable=True, interval=1, out_dir=os.path.join(cfg.work_dir, folder)
    )


def _ensure_visualization(cfg: Config, hook: str, visualizer: str, folder: str) -> None:
    """Add the hook and the visualizer that draw to a config that lacks them."""
    if not cfg.get('default_hooks'):
        cfg.default_hooks = {}
    cfg.default_hooks.setdefault('visualization', dict(type=hook))
    if not cfg.get('visualizer'):
        cfg.visualizer = dict(type=visualizer, vis_backends=[dict(type='LocalVisBackend')])
    # Visualizers are known by name: that of an earlier run in this process would draw elsewhere,
    # or not at all.
    cfg.visualizer.name = os.path.join(cfg.work_dir, folder)


TOOLBOXES = {
    toolbox.name: toolbox
    for toolbox in (
        Toolbox('mmdet', (800, 1280), DumpDetResults, _let_draw_detections),
        Toolbox('mmseg', (512, 512), DumpSegments, _let_draw_segments),
        Toolbox('mmpretrain', (224, 224), DumpResults, _let_draw_classes),
    )
}


def toolbox_of(cfg: Config) -> Toolbox:
    """The toolbox that a config is for.

    Raises:
        UserError: If it is for none of them.
    """
    check_scope(cfg)
    return TOOLBOXES[cfg.default_scope]
