"""Pictures of what a model predicts in a test, in one place for all toolboxes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
from mmengine.hooks import Hook
from mmengine.registry import VISUALIZERS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmdat.checks import config_tree
from mmdat.checks.images import load_image
from mmdat.registry import HOOKS

# Shorter side, in pixels, to which smaller images are enlarged so that a class can be read.
LEGIBLE = 256
# Pictures of images in other formats are PNGs.
KEPT_SUFFIXES = ('.jpg', '.jpeg', '.png')


@HOOKS.register_module()
class DrawPredictionsHook(Hook):
    """Draw each prediction of a test, beside the truth where the toolbox does so.

    The pictures have the names and subfolders of the images, below the folder that all images of
    the test share.

    Args:
        out_dir: Folder for the pictures.
        visualizer: Config of a toolbox's visualizer.
        options: What its method that draws takes besides, such as ``pred_score_thr``.
    """

    def __init__(self, out_dir: str, visualizer: dict[str, Any], **options: Any) -> None:
        self.out_dir = Path(out_dir)
        self.visualizer = VISUALIZERS.build(dict(visualizer, vis_backends=None, name=out_dir))
        self.options = options

    def before_test(self, runner: Runner) -> None:
        dataset = runner.test_dataloader.dataset
        self.visualizer.dataset_meta = config_tree.first_metainfo(dataset.metainfo)
        self.dataset_of = {  # path of an image -> data set, whose loader reads it
            single.get_data_info(index)['img_path']: single
            for _, single in config_tree.unwrap(dataset)
            for index in range(len(single))
        }
        folders = {os.path.dirname(os.path.abspath(path)) for path in self.dataset_of}
        self.shared_folder = os.path.commonpath(folders)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        write_class = getattr(self.visualizer, 'visualize_cls', None)
        draw = write_class or self.visualizer.add_datasample
        for sample in outputs or ():
            image = load_image(self.dataset_of[sample.img_path], sample.img_path)
            scale = LEGIBLE / min(image.shape[:2])
            if write_class and scale > 1:
                image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            out_file = str(self._out_file(sample.img_path))
            draw(name=out_file, image=image, data_sample=sample, out_file=out_file, **self.options)

    def after_test(self, runner: Runner) -> None:
        runner.logger.info(f'Pictures: {self.out_dir.resolve()}')

    def _out_file(self, path: str) -> Path:
        inside = os.path.relpath(os.path.abspath(path), self.shared_folder)
        kept = inside.lower().endswith(KEPT_SUFFIXES)
        return self.out_dir / (inside if kept else f'{inside}.png')
