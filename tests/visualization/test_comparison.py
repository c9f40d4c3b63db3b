from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmdat.visualization import Comparison, draw_grid

CLASSES = ('circle', 'square')


def comparison(
    title: str = '1.jpg', score: float = 0.9, shape: tuple[int, int] = (40, 60), masks: bool = True
) -> Comparison:
    mask = np.zeros((1, *shape), dtype=bool)
    mask[0, 10:20, 10:30] = True
    truth = InstanceData(bboxes=torch.tensor([[10.0, 10, 30, 20]]), labels=torch.tensor([1]))
    prediction = InstanceData(
        bboxes=truth.bboxes, labels=truth.labels, scores=torch.tensor([score])
    )
    if masks:
        truth.masks = prediction.masks = mask
    return Comparison(title, np.full((*shape, 3), 200, dtype=np.uint8), truth, prediction)


def halves(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The truth and the prediction of a grid of one pair, without their titles."""
    middle = grid.shape[1] // 2
    return grid[40:, :middle], grid[40:, middle:]


@pytest.mark.parametrize('masks', [True, False])
def test_truth_is_drawn_left_and_the_prediction_right(masks):
    both = comparison(masks=masks)
    nothing = both.truth[torch.zeros(1, dtype=torch.bool)]
    blank, drawn = halves(draw_grid([replace(both, truth=nothing)], CLASSES))
    assert np.ptp(blank[:300, :480]) == 0
    assert np.ptp(drawn[:300, :480]) > 100
    full, _ = halves(draw_grid([both], CLASSES))
    assert np.ptp(full[:300, :480]) > 100


def test_predictions_below_the_threshold_are_not_drawn():
    _, faint = halves(draw_grid([comparison(score=0.4)], CLASSES))
    _, clear = halves(draw_grid([comparison(score=0.6)], CLASSES))
    assert np.ptp(faint[:300, :480]) == 0
    assert np.ptp(clear[:300, :480]) > 100


@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_any_number_of_pictures_of_any_shape_makes_a_full_grid(count):
    shapes = [(40, 60), (60, 40), (50, 50), (30, 90), (64, 64)]
    pairs = [comparison(shape=shape) for shape in shapes[:count]]
    grid = draw_grid(pairs, CLASSES)
    pair = draw_grid(pairs[:1], CLASSES)
    rows, columns = (1, count) if count < 2 else (-(-count // 2), 2)
    assert grid.dtype == np.uint8
    assert grid.shape == (rows * pair.shape[0], columns * pair.shape[1], 3)


def test_an_image_without_objects_is_drawn():
    empty = InstanceData(
        bboxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.long),
        masks=np.zeros((0, 32, 32), dtype=bool),
    )
    nothing = InstanceData(**empty, scores=torch.zeros(0))
    image = np.full((32, 32, 3), 90, dtype=np.uint8)
    truth, prediction = halves(draw_grid([Comparison('x', image, empty, nothing)], CLASSES))
    assert np.array_equal(truth[:400, :400], prediction[:400, :400])
