"""Pictures of a model's input: images after the pipeline, with their annotations."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, VISUALIZERS
from mmengine.structures import BaseDataElement, InstanceData
from mmengine.visualization import Visualizer
from torch import Tensor

from mmdat.apis.toolboxes import in_toolbox, toolbox_of, visualizer_of
from mmdat.checks import config_tree
from mmdat.checks.images import evenly_spaced, to_rgb
from mmdat.checks.run import check_display, check_least, check_parts, check_writable

# Opacity of segmentation maps, so that the image is seen below.
ALPHA = 0.5


def browse_dataset(
    cfg: Config,
    output_dir: str | Path | None = None,
    *,
    show: bool = False,
    number: int = 10,
    split: str = 'train',
    interval: float = 2.0,
) -> list[Path]:
    """Draw the input of a config's model with the visualizer of its toolbox.

    The images are spaced evenly over the data set. Augmentation is random, as in training.

    Args:
        cfg: The config, of mmdet, mmsegmentation or mmpretrain.
        output_dir: Folder for the pictures, made if it is not there; None to write none.
        show: Show them in a window, which needs a display.
        number: Number of pictures; that of the images if there are fewer.
        split: ``'train'`` or ``'val'``.
        interval: Seconds that a picture is shown.

    Returns:
        The files, ``<index>_<name of the image>.jpg``, with the branch behind the name if the
        pipeline has several.

    Raises:
        UserError: For a mistake in the config, the data or what else was given.
    """
    check_least('--number', number, 1)
    check_display(show, output_dir)
    if output_dir is not None:
        check_writable('--output-dir', output_dir)
    check_parts(cfg, (f'{split}_dataloader.dataset',))
    with in_toolbox(cfg):
        dataset = DATASETS.build(_dataset_of(cfg, split))
        visualizer = _build_visualizer(cfg)
        visualizer.dataset_meta = config_tree.first_metainfo(dataset.metainfo)
        draw = getattr(visualizer, 'visualize_cls', None) or visualizer.add_datasample
        files = []
        for index in evenly_spaced(number, len(dataset)):
            for branch, inputs, sample in _branches(dataset[index]):
                stem = Path(sample.get('img_path', 'image')).stem
                name = f'{index}_{stem}{branch and "_"}{branch}.jpg'
                out_file = None if output_dir is None else Path(output_dir, name)
                if 'gt_instances' in sample:
                    _convert_for_drawing(sample.gt_instances)
                draw(
                    name=name,
                    image=to_rgb(inputs.numpy().transpose(1, 2, 0)),
                    data_sample=sample.numpy(),
                    draw_pred=False,
                    show=show,
                    wait_time=interval,
                    out_file=None if out_file is None else str(out_file),
                )
                if out_file is not None:
                    files.append(out_file)
    return files


def _branches(item: dict[str, Any]) -> Iterator[tuple[str, Tensor, BaseDataElement]]:
    """Yield name, image and annotations of each branch (mmdet's MultiBranch); else one, unnamed."""
    inputs, samples = item['inputs'], item['data_samples']
    if not isinstance(inputs, dict):
        inputs, samples = {'': inputs}, {'': samples}
    for branch, image in inputs.items():
        yield branch, image, samples[branch]


def _dataset_of(cfg: Config, split: str) -> dict[str, Any]:
    """The data set of a split, with annotations loaded before the image is resized.

    Pipelines for evaluation load them afterwards, so that they stay in the size of the file.
    """
    cfg = copy.deepcopy(cfg)
    for _, dataset in config_tree.datasets(cfg, split):
        if 'pipeline' in dataset:
            dataset.pipeline = sorted(
                dataset.pipeline,
                key=lambda step: not config_tree.class_name(step).startswith('Load'),
            )
    return cfg[f'{split}_dataloader'].dataset


def _build_visualizer(cfg: Config) -> Visualizer:
    options = visualizer_of(cfg)
    if toolbox_of(cfg).name == 'mmseg':
        options.setdefault('alpha', ALPHA)
    return VISUALIZERS.build(dict(options, vis_backends=None, name=f'browse {cfg.filename}'))


def _convert_for_drawing(instances: InstanceData) -> None:
    """Convert boxes and masks, in place, to the types that mmdet's visualizer draws."""
    from mmdet.models.utils import mask2ndarray
    from mmdet.structures.bbox import BaseBoxes

    if isinstance(instances.get('bboxes'), BaseBoxes):
        instances.bboxes = instances.bboxes.tensor
    if 'masks' in instances:
        instances.masks = mask2ndarray(instances.masks).astype(bool)
