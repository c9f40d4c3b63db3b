"""Predictions beside the ground truth, in a grid of pictures drawn with MMEngine's visualizer."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from mmdet.structures.mask import bitmap_to_polygon
from mmdet.visualization.palette import get_palette
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer

PAIRS_PER_ROW = 2
# Predictions below it are not drawn.
SCORE_THRESHOLD = 0.5
# In pixels: the longer side of a picture, the space right of and below it, and that for its title.
SIDE = 480
MARGIN = 12
TITLE_HEIGHT = 36

Palette = Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class Comparison:
    """The ground truth and the prediction for an image.

    Attributes:
        title: Written above the ground truth.
        image: (height, width, 3), RGB uint8.
        ground_truth: InstanceData with ``bboxes`` (n, 4) as (x1, y1, x2, y2) in pixels, ``labels``
            (n,) and, if there are any, ``masks`` (n, height, width).
        prediction: The same with ``scores`` (n,).
    """

    title: str
    image: np.ndarray
    ground_truth: InstanceData
    prediction: InstanceData


def draw_comparisons(
    comparisons: Sequence[Comparison], classes: Sequence[str], palette: Palette | None = None
) -> np.ndarray:
    """Draw pairs of pictures, ground truth left and prediction right, two pairs in a row.

    Args:
        comparisons: The pairs, at least one.
        classes: Names of the classes.
        palette: An RGB color for each class, some colors if None.

    Returns:
        (height, width, 3), RGB uint8.
    """
    palette = palette or get_palette('random', len(classes))
    visualizer = Visualizer()
    pairs = []
    for pair in comparisons:
        prediction = pair.prediction[pair.prediction.scores >= SCORE_THRESHOLD]
        cells = [
            _draw_cell(title, _draw_picture(visualizer, pair.image, instances, classes, palette))
            for title, instances in (
                (f'{pair.title}: truth', pair.ground_truth),
                (f'prediction, score >= {SCORE_THRESHOLD:g}', prediction),
            )
        ]
        pairs.append(np.hstack(cells))
    columns = min(PAIRS_PER_ROW, len(pairs))
    pairs += [np.full_like(pairs[0], 255)] * (-len(pairs) % columns)
    rows = [np.hstack(pairs[first : first + columns]) for first in range(0, len(pairs), columns)]
    return np.vstack(rows)


def _draw_cell(title: str, picture: np.ndarray) -> np.ndarray:
    """Place a picture below its title on white."""
    cell = np.full((SIDE + TITLE_HEIGHT + MARGIN, SIDE + MARGIN, 3), 255, dtype=np.uint8)
    height, width = picture.shape[:2]
    cell[TITLE_HEIGHT : TITLE_HEIGHT + height, :width] = picture
    baseline = (2, TITLE_HEIGHT - 12)
    gray = (30, 30, 30)
    cv2.putText(cell, title, baseline, cv2.FONT_HERSHEY_SIMPLEX, 0.65, gray, 1, cv2.LINE_AA)
    return cell


def _draw_picture(
    visualizer: Visualizer,
    image: np.ndarray,
    instances: InstanceData,
    classes: Sequence[str],
    palette: Palette,
) -> np.ndarray:
    """Draw masks, boxes, names and scores on an image, enlarged so that they can be read."""
    scale = SIDE / max(image.shape[:2])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    visualizer.set_image(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC))
    if len(instances) == 0:
        return visualizer.get_image()
    colors = [tuple(palette[label]) for label in instances.labels.tolist()]
    if 'masks' in instances:
        masks = [
            cv2.resize(mask.astype(np.float32), (width, height)) >= 0.5 for mask in instances.masks
        ]
        visualizer.draw_binary_masks(np.array(masks), colors, alphas=0.45)
        for mask, color in zip(masks, colors, strict=True):
            visualizer.draw_polygons(bitmap_to_polygon(mask)[0], edge_colors=color, line_widths=2)
    # The visualizer would enlarge its canvas for a box that crosses the edge.
    limits = torch.tensor([width - 1, height - 1] * 2)
    boxes = torch.minimum((instances.bboxes * scale).clamp(min=0), limits)
    visualizer.draw_bboxes(boxes, edge_colors=colors, line_widths=1)
    for index, (box, color) in enumerate(zip(boxes.tolist(), colors, strict=True)):
        name = classes[instances.labels[index]]
        if 'scores' in instances:
            name += f' {instances.scores[index]:.2f}'
        visualizer.draw_texts(
            name,
            np.array(box[:2]),
            font_sizes=9,
            colors='white',
            vertical_alignments='top',
            bboxes=dict(facecolor=np.array(color) / 255, edgecolor='none', pad=1, alpha=0.9),
        )
    return visualizer.get_image()
