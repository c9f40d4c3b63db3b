"""Pictures of predictions beside the ground truth."""

from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmdat.visualization import arrange, compare_objects
from mmdat.visualization.comparison import MARGIN, SCORE_THRESHOLD, SIDE, TITLE_HEIGHT

CLASSES = ('circle', 'square')
GRAY = 200
EMPTY = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))


def found(
    score: float = 0.9, shape: tuple[int, int] = (40, 60), masks: bool = True
) -> dict[str, Any]:
    """A gray image with a square, found with a score."""
    mask = np.zeros((1, *shape), dtype=bool)
    mask[0, 10:20, 10:30] = True
    ground_truth = InstanceData(bboxes=torch.tensor([[10.0, 10, 30, 20]]), labels=torch.tensor([1]))
    prediction = InstanceData(
        bboxes=ground_truth.bboxes, labels=ground_truth.labels, scores=torch.tensor([score])
    )
    if masks:
        ground_truth.masks = prediction.masks = mask
    image = np.full((*shape, 3), GRAY, dtype=np.uint8)
    return dict(image=image, truth=ground_truth, prediction=prediction)


def pictures(
    image: np.ndarray, score_thr: float = SCORE_THRESHOLD, **instances: InstanceData
) -> tuple[np.ndarray, np.ndarray]:
    """The ground truth and the prediction as they are drawn, without titles and margins."""
    drawn = compare_objects('1.jpg', image, **instances, classes=CLASSES, score_thr=score_thr)
    middle = drawn.shape[1] // 2
    height, width = (round(side * SIDE / max(image.shape)) for side in image.shape[:2])
    rows = slice(TITLE_HEIGHT, TITLE_HEIGHT + height)
    return drawn[rows, :width], drawn[rows, middle : middle + width]


@pytest.mark.parametrize('masks', [True, False])
def test_ground_truth_is_drawn_left_and_the_prediction_right(masks: bool) -> None:
    blank, drawn = pictures(**found(masks=masks) | dict(truth=EMPTY))
    assert (blank == GRAY).all()
    assert np.ptp(drawn) > 100
    full, _ = pictures(**found(masks=masks))
    assert np.ptp(full) > 100


def test_predictions_below_the_threshold_are_not_drawn() -> None:
    _, faint = pictures(**found(score=0.4))
    _, clear = pictures(**found(score=0.6))
    assert (faint == GRAY).all()
    assert np.ptp(clear) > 100
    _, lower = pictures(**found(score=0.4), score_thr=0.3)
    assert np.ptp(lower) > 100


@pytest.mark.parametrize('count, rows, columns', [(1, 1, 1), (2, 1, 2), (3, 2, 2), (5, 3, 2)])
def test_any_number_of_pictures_of_any_shape_makes_a_full_grid(
    count: int, rows: int, columns: int
) -> None:
    shapes = [(40, 60), (60, 40), (50, 50), (30, 90), (64, 64)]
    grid = arrange(
        [compare_objects('', **found(shape=shape), classes=CLASSES) for shape in shapes[:count]]
    )
    assert grid.dtype == np.uint8
    height, width = SIDE + TITLE_HEIGHT + MARGIN, 2 * (SIDE + MARGIN)
    assert grid.shape == (rows * height, columns * width, 3)


def test_an_image_without_objects_is_drawn() -> None:
    nothing = InstanceData(**EMPTY, masks=np.zeros((0, 32, 32), dtype=bool))
    image = np.full((32, 32, 3), GRAY, dtype=np.uint8)
    prediction = InstanceData(**nothing, scores=torch.zeros(0))
    for picture in pictures(image, truth=nothing, prediction=prediction):
        assert (picture == GRAY).all()
