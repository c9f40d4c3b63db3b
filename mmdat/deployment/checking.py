"""Whether an exported file computes what the model does."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from .masks import paste_masks
from .outputs import Boxes, Detections
from .writing import quiet

# (batch, height, width)
SIZES = ((1, 224, 288), (2, 193, 257), (1, 127, 95))
TOLERANCE = 1e-4
MATCHING = 0.5  # in pixels: boxes with a coordinate that differs by more are not the same

Outputs = Sequence[np.ndarray]


class Comparison(NamedTuple):
    """What a file and the model made of the same images.

    Attributes:
        size: (batch, height, width) of the images.
        difference: Largest difference of an output, see :func:`largest_difference`.
        model_seconds: Time of the model in PyTorch.
        file_seconds: Time of the file.
        num_objects: How many objects the model finds; None if it is no detector.
    """

    size: tuple[int, int, int]
    difference: float
    model_seconds: float
    file_seconds: float
    num_objects: int | None = None


def compare(
    model: Callable[[torch.Tensor], Any],
    path: Path,
    smallest: int,
    channels: int = 3,
    mask_threshold: float = 0.5,
) -> list[Comparison]:
    """Run a model and its exported file on images of several sizes.

    Args:
        model: Takes Tensor[batch, channels, height, width] and returns a tuple of tensors; masks
            of detections are of the image's size.
        smallest: Smallest height and width that the file is for.
        mask_threshold: The least probability of a pixel in the model's masks.
    """
    run = load(path)
    generator = torch.Generator().manual_seed(0)
    comparisons = []
    for batch, *sides in SIZES:
        height, width = (max(side, smallest, 16) for side in sides)
        # Squares of one color, in which a detector finds something.
        squares = torch.rand(batch, channels, height // 16, width // 16, generator=generator)
        images = F.interpolate(255 * squares, (height, width), mode='nearest')
        expected, model_seconds = _timed(partial(_run_model, model), images)
        found, file_seconds = _timed(run, images.numpy())
        num_objects = None
        if isinstance(expected, Boxes | Detections):
            num_objects = int((expected[1] >= 0).sum())
            found = _with_masks_of_images(found, images, mask_threshold)
            difference = difference_of_objects(expected, found)
        else:
            difference = largest_difference(expected, found)
        size = (batch, height, width)
        comparisons.append(Comparison(size, difference, model_seconds, file_seconds, num_objects))
    return comparisons


def load(path: Path) -> Callable[[np.ndarray], Outputs]:
    """A function from images to outputs that runs a file on the CPU, by ONNX Runtime or PyTorch."""
    if path.suffix == '.pt2':
        with quiet():  # PyTorch warns of the buffer that it reads the file into
            program = torch.export.load(path).module()

        def run(images: np.ndarray) -> Outputs:
            with torch.no_grad():
                outputs = program(torch.from_numpy(images))
            return [output.numpy() for output in outputs.values()]

        return run
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    return lambda images: session.run(None, {'images': images})


def largest_difference(expected: Outputs, found: Outputs) -> float:
    """The largest difference of outputs; infinite if shapes differ.

    That of numbers is relative to the largest of an output, that of classes the share of pixels
    in which they differ: rounding turns those few whose best two logits are all but equal.
    """
    differences = [_difference(*pair) for pair in zip(expected, found, strict=True)]
    return float(np.max(differences))  # not a number if there is one


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:
        return np.inf
    if ours.dtype.kind != 'f':
        return float((ours != theirs).mean())
    largest = max(np.abs(ours).max(), np.finfo(ours.dtype).tiny)
    return float(np.abs(ours - theirs).max() / largest)


def difference_of_objects(expected: Outputs, found: Outputs) -> float:
    """Like :func:`largest_difference`, of matched objects; infinite if not all have a match."""
    agreement = compare_detections(expected, found)
    if not agreement.same:
        return np.inf
    boxes = agreement.box_difference / max(1.0, float(np.abs(expected[0]).max()))
    return max(boxes, agreement.score_difference, agreement.mask_difference)


def _with_masks_of_images(found: Outputs, images: torch.Tensor, threshold: float) -> Outputs:
    """Detections with the masks put into the images, if there are any."""
    boxes, scores, labels, *masks = found
    for grids in masks:
        size = (images.shape[2], images.shape[3])
        pasted = [paste_masks(*pair, size, threshold) for pair in zip(grids, boxes, strict=True)]
        return [boxes, scores, labels, np.stack(pasted)]
    return found


def _run_model(model: Callable[[torch.Tensor], Any], images: torch.Tensor) -> Outputs:
    with torch.no_grad():
        outputs = model(images)
    arrays: Any = [output.numpy() for output in outputs]
    return type(outputs)(*arrays) if hasattr(outputs, '_fields') else arrays


def _timed(run: Callable[[Any], Outputs], images: Any) -> tuple[Outputs, float]:
    """What the second of two runs returns, and its seconds."""
    run(images)
    start = time.perf_counter()
    outputs = run(images)
    return outputs, time.perf_counter() - start


@dataclass(frozen=True)
class Agreement:
    """What two lists of detections have in common.

    Attributes:
        expected: How many objects the reference finds.
        found: How many the other finds.
        matched: How many of both have one label, and boxes that differ by less than ``MATCHING``.
        box_difference: The largest difference of a coordinate of matched boxes, in pixels.
        score_difference: The largest difference of matched scores.
        mask_difference: The largest difference of matched masks' probabilities, or the largest
            share of pixels in which masks of booleans differ.
    """

    expected: int
    found: int
    matched: int
    box_difference: float
    score_difference: float
    mask_difference: float

    @property
    def same(self) -> bool:
        """Whether each object of one is an object of the other."""
        return self.expected == self.found == self.matched


def compare_detections(reference: Outputs, other: Outputs) -> Agreement:
    """Compare the outputs of two detectors for one batch.

    Args:
        reference: Boxes (batch, n, 4), scores and labels (batch, n) and, for models with masks,
            masks (batch, n, h, w); scores are -1 where there is no box.
        other: The same of the other detector.

    Example:
        >>> boxes, scores = np.array([[[0.0, 0, 8, 8], [4, 4, 9, 9]]]), np.array([[0.75, 0.5]])
        >>> labels = np.array([[1, 0]])
        >>> one = boxes, scores, labels
        >>> other = boxes[:, ::-1], scores[:, ::-1] + 0.125, labels[:, ::-1]
        >>> print(compare_detections(one, other).matched, compare_detections(one, other).same)
        2 True
    """
    largest = [0.0] * len(reference)
    matched = 0
    for image in range(len(reference[1])):
        expected, found = (
            [values[image][outputs[1][image] >= 0] for values in outputs]
            for outputs in (reference, other)
        )
        distances = np.abs(expected[0][:, None] - found[0]).max(axis=-1)
        distances[expected[2][:, None] != found[2]] = np.inf
        for i, nearest in enumerate(distances):  # a view: boxes that are taken drop out
            if nearest.min(initial=np.inf) < MATCHING:
                j = int(nearest.argmin())
                distances[:, j] = np.inf
                matched += 1
                for k, (x, y) in enumerate(zip(expected, found, strict=True)):
                    error = np.abs(x[i].astype(float) - y[j])
                    error = error.mean() if x.dtype == bool else error.max()
                    largest[k] = max(largest[k], float(error))
    boxes, scores, _, *masks = largest
    return Agreement(
        expected=int((reference[1] >= 0).sum()),
        found=int((other[1] >= 0).sum()),
        matched=matched,
        box_difference=boxes,
        score_difference=scores,
        mask_difference=max(masks, default=0.0),
    )
