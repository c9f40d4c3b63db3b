"""Large images in overlapping tiles, and how the predictions for tiles are merged."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as mask_api
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from .results import Instances, Mask

# Two tiles see the same object where what both can see of it overlaps so much (IoU).
SAME = 0.5
# An object ends at the edge of a tile if it is nearer than this share of the tile, in pixels.
NEAR_EDGE = 0.01
# A cut object is a part of a whole one that has more than this share of its box.
INSIDE = 0.7


class Tile(NamedTuple):
    """A rectangle of an image that is predicted by itself, by its edges in pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the tile, in pixels."""
        return self.bottom - self.top, self.right - self.left

    def crop(self, image: np.ndarray) -> np.ndarray:
        """Cut the tile out of an image, (height, width, 3)."""
        return image[self.top : self.bottom, self.left : self.right]


def tiles(shape: Sequence[int], size: int, overlap: float) -> list[Tile]:
    """Tiles that cover an image, row by row, as mmsegmentation's slide mode has them.

    Args:
        shape: Height and width of the image.
        size: Side of the tiles; of those at the end of a shorter side that side.
        overlap: Share of a tile that the next has too; the last tile may have more.

    Example:
        >>> [tile[:2] for tile in tiles((100, 250), 100, 0.2)]
        [(0, 0), (80, 0), (150, 0)]
    """
    stride = max(1, round(size * (1 - overlap)))
    tops, lefts = (
        sorted({min(start, max(length - size, 0)) for start in range(0, length, stride)})
        for length in shape
    )
    return [
        Tile(left, top, min(left + size, shape[1]), min(top + size, shape[0]))
        for top in tops
        for left in lefts
    ]


def merge_instances(
    parts: Sequence[Instances], places: Sequence[Tile], shape: tuple[int, int]
) -> Instances:
    """Merge the objects that were found in tiles of an image.

    Objects of one class in two tiles are the same if the tiles agree on what both can see. One that
    a tile has whole is taken from there, the one of highest score; of one that is cut by the edges
    of all its tiles the parts are joined. A part that lies in a whole object is left out, whatever
    its class: less of an object is more easily taken for another.

    Args:
        parts: The objects in each tile, in the tile's pixels.
        places: The tiles; one may be the whole image.
        shape: Height and width of the image.
    """
    windows = np.repeat(np.array(places, np.float32), [len(part.boxes) for part in parts], axis=0)
    origins = np.tile(windows[:, :2], 2)
    boxes = np.concatenate([part.boxes for part in parts]) + origins
    scores = np.concatenate([part.scores for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    has_masks = all(part.masks is not None for part in parts)
    masks = [mask for part in parts for mask in part.masks or ()]

    is_whole = ~_are_cut(boxes, windows, shape)
    is_part = _are_parts(boxes, is_whole)
    found: list[np.ndarray] = []  # of each object the parts
    for label in np.unique(labels[~is_part]):
        of_class = np.flatnonzero((labels == label) & ~is_part)
        same = _are_same(boxes[of_class], windows[of_class])
        _, objects = connected_components(same, directed=False)
        ends = np.bincount(objects).cumsum()
        for members in np.split(np.argsort(objects, kind='stable'), ends[:-1]):
            whole = members[is_whole[of_class[members]]]
            groups = _best(whole, scores[of_class], same) if whole.size else [members]
            found += [of_class[group] for group in groups]
    found.sort(key=lambda members: -scores[members].max())
    corners = [np.hstack([boxes[i, :2].min(0), boxes[i, 2:].max(0)]) for i in found]
    return Instances(
        np.array(corners, np.float32).reshape(-1, 4),
        np.array([scores[members].max() for members in found], np.float32),
        np.array([labels[members[0]] for members in found], np.int64),
        [_join([(masks[i], windows[i].astype(int)) for i in members], shape) for members in found]
        if has_masks
        else None,
    )


def average_logits(
    parts: Iterable[Tensor], places: Sequence[Tile], shape: tuple[int, int]
) -> Iterator[Tensor]:
    """Average the logits of overlapping tiles; yield them from top to bottom, in bands of rows.

    A band is as high as tiles of one row are before those of the next begin, so that memory grows
    with the image's width alone.

    Args:
        parts: For each tile Tensor[num_classes, height, width].
        places: The tiles, row by row.
        shape: Height and width of the image.

    Yields:
        Tensor[num_classes, rows, width].
    """
    logits = iter(parts)
    rows = [list(row) for _, row in itertools.groupby(places, key=lambda tile: tile.top)]
    ends = [*(row[0].top for row in rows[1:]), shape[0]]
    above: Tensor | None = None
    for row, end in zip(rows, ends, strict=True):
        top, bottom = row[0].top, row[0].bottom
        sums: Tensor | None = None
        for tile in row:
            part = next(logits)
            if sums is None:
                # The last channel counts the tiles.
                sums = part.new_zeros(len(part) + 1, bottom - top, shape[1])
            sums[:-1, :, tile.left : tile.right] += part
            sums[-1, :, tile.left : tile.right] += 1
        assert sums is not None  # a row has a tile
        if above is not None:
            sums[:, : above.shape[1]] += above
        done, above = sums[:, : end - top], sums[:, end - top :]
        yield done[:-1] / done[-1]


def _are_cut(boxes: np.ndarray, windows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Whether boxes (n, 4) end where their tiles (n, 4) do, but not the image; (n,) bool."""
    sides = windows[:, 2:] - windows[:, :2]
    height, width = shape
    at_edge = np.abs(boxes - windows) <= NEAR_EDGE * np.tile(sides, 2)
    return (at_edge & (windows != (0, 0, width, height))).any(1)


def _are_parts(boxes: np.ndarray, is_whole: np.ndarray) -> np.ndarray:
    """Whether boxes (n, 4) that are not whole, (n,) bool, lie in one that is; (n,) bool."""
    whole, areas = boxes[is_whole], _areas(boxes)
    parts = np.zeros(len(boxes), bool)
    for index in np.flatnonzero(~is_whole):  # one by one: all pairs could fill the memory
        common = _areas(_intersect(boxes[index], whole))
        parts[index] = (common > INSIDE * areas[index]).any()
    return parts


def _are_same(boxes: np.ndarray, windows: np.ndarray) -> csr_array:
    """Whether what two tiles both can see of two objects is the same; (n, n) bool, sparse.

    Args:
        boxes: (n, 4), the objects.
        windows: (n, 4), the tile of each.
    """
    order = np.argsort(boxes[:, 0])
    boxes, windows = boxes[order], windows[order]
    ends = np.searchsorted(boxes[:, 0], boxes[:, 2])  # boxes from there on begin right of it
    pairs = [np.zeros((2, 0), np.int64)]
    for index, end in enumerate(ends):
        others = np.arange(index + 1, end)
        both = _intersect(windows[index], windows[others])
        first, second = _intersect(boxes[index], both), _intersect(boxes[others], both)
        common = _areas(_intersect(first, second))
        agree = common > SAME * (_areas(first) + _areas(second) - common)
        agree &= (windows[others] != windows[index]).any(1)
        pairs.append(np.stack(np.broadcast_arrays(index, others[agree])))
    first, second = order[np.hstack(pairs)]
    same = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(boxes),) * 2)
    return (same + same.T).tocsr()


def _best(indices: np.ndarray, scores: np.ndarray, same: csr_array) -> list[np.ndarray]:
    """Of objects that are the same keep the one of highest score; of each the index, in an array.

    Not all that are connected are the same: a box over two objects is connected with both.
    """
    kept: dict[int, np.ndarray] = {}
    for index in indices[np.argsort(-scores[indices], kind='stable')].tolist():
        equals = same.indices[same.indptr[index] : same.indptr[index + 1]]
        if kept.keys().isdisjoint(equals.tolist()):
            kept[index] = np.array([index])
    return list(kept.values())


def _intersect(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])],
        axis=-1,
    )


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1)


def _join(parts: Sequence[tuple[Mask, np.ndarray]], shape: tuple[int, int]) -> Mask:
    """Join masks of tiles, each with its tile, into one of the image.

    Only the tiles are decoded, and the image's runs computed: it may be a thousand times as large.
    """
    if parts[0][0]['size'] == list(shape):
        return parts[0][0]  # found in the whole image, and so of one part
    masks, places = zip(*parts, strict=True)
    windows = np.stack(places)
    origin = windows[:, :2].min(0)
    width, height = windows[:, 2:].max(0) - origin
    joined = np.zeros((width, height + 2), np.int8)  # columns, with a row above and one below
    windows -= np.tile(origin, 2)
    for mask, (left, top, right, bottom) in zip(masks, windows, strict=True):
        joined[left:right, top + 1 : bottom + 1] |= mask_api.decode(mask).T.view(np.int8)
    columns, rows = np.nonzero(np.diff(joined, axis=1))
    edges = (columns + origin[0]) * shape[0] + rows + origin[1]
    # A run that ends where another begins goes on in the next column.
    edges, times = np.unique(edges[edges < shape[0] * shape[1]], return_counts=True)
    counts = np.diff(edges[times == 1], prepend=0, append=shape[0] * shape[1])
    return mask_api.frPyObjects({'counts': counts.tolist(), 'size': list(shape)}, *shape)
