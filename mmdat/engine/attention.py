"""Pictures of where deformable attention looks as a training goes on."""

from dataclasses import replace
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.distributed.fsdp import FullyShardedDataParallel

from mmdat.errors import UserError
from mmdat.models.attentions import DeformableAttention
from mmdat.registry import HOOKS
from mmdat.visualization import draw_deformed_points, record_batch
from mmdat.visualization.mapping import UNCHANGED

from .hooks import unwrap


@HOOKS.register_module()
class AttentionVisualizationHook(Hook):
    """Draw the deformed points of the first images of each validation.

    The pictures go to all backends of the runner's visualizer (files, TensorBoard, ...), as
    ``deformed_points_0.png`` and so on, at the step of the validation's metrics. The backbone runs
    once more for these images.

    Args:
        num_images: Number of images.

    Raises:
        UserError: Before a run, if the model has no deformable attention; in the first validation,
            if it is sharded (FSDP).
    """

    def __init__(self, num_images: int = 3) -> None:
        self.num_images = num_images
        self._drawn = 0

    def before_run(self, runner: Runner) -> None:
        if not any(
            isinstance(module, DeformableAttention) and not module.pooled_keys
            for module in runner.model.modules()
        ):
            raise UserError(
                'AttentionVisualizationHook draws deformable attention, of which the model has '
                'none: remove it from custom_hooks'
            )

    def before_val_epoch(self, runner: Runner) -> None:
        self._drawn = 0
        if isinstance(runner.model, FullyShardedDataParallel):
            raise UserError(
                'AttentionVisualizationHook needs the whole model, which FSDPStrategy shards: '
                'remove it from custom_hooks'
            )

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        wanted = self.num_images - self._drawn
        if wanted <= 0:
            return
        batch = {key: values[:wanted] for key, values in data_batch.items()}
        is_by_iteration = isinstance(runner.train_loop, IterBasedTrainLoop)
        step = runner.iter if is_by_iteration else runner.epoch
        recordings = record_batch(unwrap(runner.model), batch)
        for pixels, recording in zip(batch['inputs'], recordings, strict=True):
            # The image is the first three channels, which are BGR, or the only one.
            channels = pixels[:3].flip(0) if len(pixels) >= 3 else pixels[:1]
            image = channels.permute(1, 2, 0).expand(-1, -1, 3)
            picture = draw_deformed_points(
                np.ascontiguousarray(image.cpu().numpy().astype(np.uint8)),
                replace(recording, mapping=UNCHANGED),
            )
            # MLflow takes the kind of file from the name.
            runner.visualizer.add_image(f'deformed_points_{self._drawn}.png', picture, step)
            self._drawn += 1
