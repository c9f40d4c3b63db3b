"""Tiles of large images, and how what is found in them is merged."""

import tracemalloc

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from pycocotools import mask as mask_api

from mmdat.apis.results import Instances
from mmdat.apis.slicing import Tile, average_logits, merge_instances, tiles


def detect(image: np.ndarray) -> Instances:
    """Find each connected region; the class is its color. A detector that makes no mistakes."""
    found = []
    for color in sorted(set(np.unique(image)) - {0}):
        _, regions, stats, _ = cv2.connectedComponentsWithStats((image == color).astype(np.uint8))
        for index, (x, y, width, height, area) in enumerate(stats[1:], 1):
            mask = mask_api.encode(np.asfortranarray(regions == index, np.uint8))
            found.append(((x, y, x + width, y + height), 0.5 + area / 1e5, color, mask))
    boxes, scores, labels, masks = zip(*found, strict=True) if found else ((),) * 4
    return Instances(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        list(masks),
    )


def as_set(instances: Instances) -> set[tuple]:
    """Class, box and pixels of each object."""
    assert instances.masks is not None
    return {
        (int(label), *box.tolist(), mask_api.decode(mask).tobytes())
        for label, box, mask in zip(instances.labels, instances.boxes, instances.masks, strict=True)
    }


def draw(objects: list[tuple[int, int, int, int, int]]) -> np.ndarray:
    image = np.zeros((300, 500), np.uint8)
    for left, top, right, bottom, color in objects:
        image[top:bottom, left:right] = color
    return image


OBJECTS = {
    'inside one tile': [(10, 10, 40, 30, 1)],
    'inside the overlap of two': [(84, 20, 96, 40, 1)],
    'over the edge, smaller than the overlap': [(70, 10, 88, 30, 1)],
    'over the edge, larger than the overlap': [(50, 10, 130, 50, 1)],
    'over a corner of four tiles': [(50, 60, 140, 130, 2)],
    'larger than a tile': [(20, 10, 310, 60, 1)],
    'larger than two tiles both ways': [(20, 20, 390, 270, 3)],
    'side by side': [(60, 10, 90, 60, 1), (92, 10, 120, 60, 1)],
    'of two classes in one place': [(60, 10, 95, 60, 1), (95, 10, 130, 60, 2)],
    'one in the other': [(10, 10, 190, 90, 1), (70, 40, 95, 60, 2)],
}


@pytest.mark.parametrize('name', OBJECTS)
@pytest.mark.parametrize('with_whole', [True, False])
def test_an_object_in_several_tiles_is_found_once(name: str, with_whole: bool) -> None:
    image = draw(OBJECTS[name])
    places = tiles(image.shape, 100, 0.2)
    if with_whole:
        places.append(Tile(0, 0, 500, 300))
    merged = merge_instances([detect(place.crop(image)) for place in places], places, image.shape)
    assert as_set(merged) == as_set(detect(image))
    assert (np.diff(merged.scores) <= 0).all()


def test_what_the_whole_image_shows_is_not_lost() -> None:
    # A large object that is seen as such in the whole image alone.
    place = Tile(0, 0, 500, 300)
    large = detect(draw([(20, 20, 390, 270, 1)]))
    nothing = detect(np.zeros((100, 100), np.uint8))
    places = tiles((300, 500), 100, 0.2)
    merged = merge_instances([nothing] * len(places) + [large], [*places, place], (300, 500))
    assert as_set(merged) == as_set(large)


def test_a_box_over_two_objects_hides_neither() -> None:
    two = [(10, 10, 70, 60, 1), (90, 10, 150, 60, 1)]
    over_both = detect(draw([(10, 10, 150, 60, 1)]))
    over_both.scores[:] = 0.1
    parts = [detect(draw(two)[:100, :81]), detect(draw(two)[:100, 81:200]), over_both]
    places = [Tile(0, 0, 81, 100), Tile(81, 0, 200, 100), Tile(0, 0, 500, 300)]
    found = merge_instances(parts, places, (300, 500))
    assert sorted(found.boxes[:, 0].tolist()) == [10, 90]


def test_a_part_that_is_taken_for_another_class_is_left_out() -> None:
    # Of the box, the tile on the left sees a part and calls it 2; the disk in it is whole in both.
    disk = (84, 20, 94, 40, 3)
    parts = [
        detect(draw([(60, 10, 150, 60, 2), disk])[:100, :100]),
        detect(draw([(60, 10, 150, 60, 1), disk])[:100, 50:200]),
    ]
    places = [Tile(0, 0, 100, 100), Tile(50, 0, 200, 100)]
    merged = merge_instances(parts, places, (300, 500))
    assert as_set(merged) == as_set(detect(draw([(60, 10, 150, 60, 1), disk])))
    # Where no tile sees it whole, the part is all that there is.
    alone = merge_instances(parts[:1], places[:1], (300, 500))
    assert sorted(alone.labels) == [2, 3]


def test_joined_masks_are_encoded_as_pycocotools_does() -> None:
    image = np.random.default_rng(0).integers(2, size=(60, 90), dtype=np.uint8)
    image[:, 50:70] = 1  # whole columns, whose runs go on in the next
    place = Tile(0, 0, 90, 60)
    for parts in ([place], tiles(image.shape, 40, 0.2), [Tile(40, 0, 90, 60)]):
        whole = np.zeros_like(image, order='F')
        found = []
        for part in parts:
            whole[part.top : part.bottom, part.left : part.right] = part.crop(image)
            box = np.array([[0, 0, part.right - part.left, part.bottom - part.top]], np.float32)
            mask = mask_api.encode(np.asfortranarray(part.crop(image)))
            found.append(Instances(box, np.ones(1, np.float32), np.zeros(1, np.int64), [mask]))
        (merged,) = merge_instances(found, parts, image.shape).masks or ()
        assert merged == mask_api.encode(whole)


def test_memory_grows_with_the_number_of_objects_alone() -> None:
    places = tiles((2500, 2500), 640, 0.2)
    rng = np.random.default_rng(0)
    parts = []
    for _ in places:
        corners = rng.uniform(0, 600, (40, 2))
        boxes = np.hstack([corners, corners + 20]).astype(np.float32)
        parts.append(Instances(boxes, np.ones(40, np.float32), np.zeros(40, np.int64)))
    tracemalloc.start()
    found = merge_instances(parts, places, (2500, 2500))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.boxes) > 900
    assert most < 5e6  # boxes for all pairs would take 16e6


def test_nothing_found_is_nothing_merged() -> None:
    nothing = detect(np.zeros((100, 100), np.uint8))
    places = tiles((100, 180), 100, 0.2)
    merged = merge_instances([nothing] * 2, places, (100, 180))
    assert merged.boxes.shape == (0, 4) and merged.masks == []


class Smooth(EncoderDecoder):
    """A segmentor whose logits depend on where a pixel is in what it is shown."""

    def __init__(self, size: int, overlap: float) -> None:
        torch.nn.Module.__init__(self)
        stride = round(size * (1 - overlap))
        self.test_cfg = ConfigDict(mode='slide', crop_size=(size, size), stride=(stride, stride))
        self.out_channels = 3

    def encode_decode(self, inputs: torch.Tensor, batch_img_metas: object) -> torch.Tensor:
        ramp = (
            torch.linspace(0, 1, inputs.shape[-1]) + torch.linspace(0, 1, inputs.shape[-2])[:, None]
        )
        return inputs * torch.stack([ramp, 1 - ramp, ramp**2])


@pytest.mark.parametrize('shape', [(100, 100), (60, 170), (230, 90), (211, 333)])
@pytest.mark.parametrize('size, overlap', [(100, 0.2), (64, 0.0), (64, 0.75)])
def test_segments_are_averaged_as_in_mmsegs_slide_mode(
    shape: tuple[int, int], size: int, overlap: float
) -> None:
    image = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    model = Smooth(size, overlap)
    expected = model.slide_inference(image, [{}])[0]
    places = tiles(shape, size, overlap)
    parts = (
        model.encode_decode(image[..., top:bottom, left:right], [])[0]
        for left, top, right, bottom in places
    )
    found = torch.cat(list(average_logits(parts, places, shape)), dim=1)
    torch.testing.assert_close(found, expected)


def test_tiles_cover_an_image_with_the_overlap() -> None:
    places = tiles((210, 330), 100, 0.25)
    assert {tile.top for tile in places} == {0, 75, 110}
    assert {tile.left for tile in places} == {0, 75, 150, 225, 230}
    covered = np.zeros((210, 330), bool)
    for tile in places:
        tile.crop(covered)[:] = True
    assert covered.all()
