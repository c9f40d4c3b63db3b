"""Where deformable attention looks in images of a data set."""

from collections.abc import Sequence

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate

from mmdat.apis.model import build_model, load_weights
from mmdat.checks.images import load_image
from mmdat.errors import UserError
from mmdat.visualization import draw_deformed_points, record_batch


def draw_points(
    cfg: Config, checkpoint: str, dataset: BaseDataset, indices: Sequence[int]
) -> list[np.ndarray]:
    """Draw the deformed points of a model's last deformable block over images.

    Args:
        cfg: Config of the model.
        checkpoint: A file or URL with its weights.
        dataset: Has the images.
        indices: The images.

    Returns:
        A picture for each image, (height, width, 3), RGB uint8; none if the model has no deformable
        attention.

    Raises:
        UserError: If the checkpoint cannot be read, or is of another model.
    """
    model = build_model(cfg).eval()
    load_weights(model, checkpoint)
    pictures = []
    for index in indices:
        item = dataset[index]
        image = load_image(dataset, item['data_samples'].img_path)
        try:
            recording = record_batch(model, pseudo_collate([item]))[0]
            pictures.append(draw_deformed_points(image, recording))
        except UserError:  # another backbone, or one without such blocks
            return []
    return pictures
