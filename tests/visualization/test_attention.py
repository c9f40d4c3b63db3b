"""Pictures of attention show the points where they are."""

import numpy as np
import pytest
import torch
from helpers.variants import build

from mmdat.errors import UserError
from mmdat.visualization import (
    ImageMapping,
    Recording,
    draw_deformed_points,
    draw_models,
    draw_offsets,
    draw_query,
    record_attention,
)

HEIGHT, WIDTH, LEFT = 480, 600, 8  # of the image, and its place in a picture
GROUNDS = {'dark': 20, 'bright': 235}


def looking_at(x: float, y: float) -> Recording:
    """A recording of an image that a network got flipped at half its size; all keys at a pixel."""
    backbone = build('log_bias')
    module = backbone.stages[1].blocks[0].attention
    mapping = ImageMapping((-0.5, 0.5), (WIDTH / 2, 0))
    position = mapping.to_input([x, y]).flip(0) / 8 - 0.5
    location = position / torch.tensor([HEIGHT / 16 - 1, (WIDTH / 2 + 4) / 8 - 1]) * 2 - 1
    module.sampling_locations = lambda query: location.float().expand(1, 2, 15, 19, 2)
    with record_attention(backbone) as recordings, torch.no_grad():
        backbone(torch.randn(1, 3, HEIGHT // 2, WIDTH // 2 + 4))  # padded
    return Recording(recordings[0].blocks[1:2], mapping)


def colored(picture: np.ndarray) -> np.ndarray:
    """(n, 2): x and y of the pixels of the image that are not gray, from its corner."""
    top = int(np.flatnonzero((picture[:, WIDTH // 2] != 255).any(-1))[0])
    inside = picture[top : top + HEIGHT, LEFT : LEFT + WIDTH].astype(int)
    y, x = np.nonzero(np.ptp(inside, axis=2) > 20)
    return np.stack((x, y), 1)


@pytest.mark.parametrize('ground', GROUNDS)
def test_points_are_drawn_where_they_are(ground: str) -> None:
    image = np.full((HEIGHT, WIDTH, 3), GROUNDS[ground], np.uint8)
    recording = looking_at(400, 130)
    if ground == 'dark':
        found = colored(draw_deformed_points(image, recording))
        assert len(found) > 20 and np.abs(found.mean(0) + 0.5 - [400, 130]).max() < 1
        arrows = colored(draw_offsets(image, recording))
        assert np.ptp(arrows, axis=0).min() > 350  # from all over the image
    found = colored(draw_query(image, recording, (100, 300)))
    star, keys = found[found[:, 0] < 250], found[found[:, 0] >= 250]
    assert np.abs(star.mean(0) - [100, 300]).max() < 2
    assert np.abs(keys.mean(0) + 0.5 - [400, 130]).max() < 1


def test_pictures_of_small_images_are_legible_and_of_large_ones_whole() -> None:
    with record_attention(backbone := build('dat')) as recordings, torch.no_grad():
        backbone(torch.randn(1, 3, 48, 64))
    image = np.zeros((48, 64, 3), np.uint8)
    for picture, columns in (
        (draw_query(image, recordings[0], (63.9, 0)), 2),
        (draw_query(image, recordings[0], (0, 47.9), recordings[0].blocks[:1], head=0), 1),
        (draw_models(image, {'a': recordings[0], 'b': recordings[0]}, (9, 9), stage=2), 2),
    ):
        assert picture.dtype == np.uint8 and picture.shape[1] == columns * (480 + 8) + 8
    with pytest.raises(UserError, match='query 64,0 lies outside the image of 64 x 48 pixels'):
        draw_query(image, recordings[0], (64, 0))
    with pytest.raises(UserError, match='no head 2 in stage 1, block 2: window: it has 1'):
        draw_query(image, recordings[0], (1, 0), head=1)


def test_a_query_in_the_corner_of_a_narrow_image_is_seen() -> None:
    with record_attention(backbone := build('dat')) as recordings, torch.no_grad():
        backbone(torch.randn(1, 3, 320, 32))
    image = np.zeros((320, 32, 3), np.uint8)
    picture = draw_query(image, recordings[0], (0, 0), recordings[0].blocks[:1])
    assert picture.shape[1] > 320  # room for the title
    star = (np.abs(picture.astype(int) - (0xD5, 0x5E, 0x00)).max(-1) < 9).sum()
    inside = draw_query(image, recordings[0], (16, 160), recordings[0].blocks[:1])
    assert star == pytest.approx(
        (np.abs(inside.astype(int) - (0xD5, 0x5E, 0)).max(-1) < 9).sum(), rel=0.2
    )
