"""What differs between mmdet, mmsegmentation and mmpretrain when their models are run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import DumpResults

from mmdat.checks.config_keys import check_scope
from mmdat.checks.exceptions import explained
from mmdat.checks.mmengine_private import in_scope
from mmdat.registry import METRICS


@METRICS.register_module()
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
        metric: The type of the metric that writes the predictions to a file.
        visualizer: The type that draws the predictions where a config names none.
    """

    name: str
    shape: tuple[int, int]
    metric: str
    visualizer: str


TOOLBOXES = {
    toolbox.name: toolbox
    for toolbox in (
        Toolbox('mmdet', (800, 1280), 'mmdet.DumpDetResults', 'DetLocalVisualizer'),
        Toolbox('mmseg', (512, 512), 'mmdat.DumpSegments', 'SegLocalVisualizer'),
        Toolbox('mmpretrain', (224, 224), 'DumpResults', 'UniversalVisualizer'),
    )
}


def toolbox_of(cfg: Config) -> Toolbox:
    """The toolbox that a config is for.

    Raises:
        UserError: If it is for none of them, or for one that is not installed.
    """
    check_scope(cfg)
    return TOOLBOXES[cfg.default_scope]


@contextmanager
def in_toolbox(cfg: Config) -> Iterator[None]:
    """Build parts of a config as its toolbox does; what is wrong with them is a UserError."""
    with in_scope(toolbox_of(cfg).name), explained(cfg):
        yield


def visualizer_of(cfg: Config) -> dict[str, Any]:
    """The visualizer that a config names, or else that of its toolbox."""
    return dict(cfg.get('visualizer') or dict(type=toolbox_of(cfg).visualizer))
