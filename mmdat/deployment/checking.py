"""Whether an exported file computes what the model does."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

# (batch, height, width)
SIZES = ((1, 224, 288), (2, 193, 257), (1, 127, 95))
TOLERANCE = 1e-4

Outputs = Sequence[np.ndarray]


class Comparison(NamedTuple):
    """What a file and the model made of the same images.

    Attributes:
        size: (batch, height, width) of the images.
        difference: Largest difference of an output, relative to its largest value.
        model_seconds: Time of the model in PyTorch.
        file_seconds: Time of the file.
    """

    size: tuple[int, int, int]
    difference: float
    model_seconds: float
    file_seconds: float


def compare(model: nn.Module, path: Path, smallest: int) -> list[Comparison]:
    """Run a model and its exported file on images of several sizes.

    Args:
        model: Takes Tensor[batch, 3, height, width] and returns a named tuple.
        path: The file, ``.onnx`` or ``.pt2``.
        smallest: Smallest height and width that the file is for.
    """
    run = load(path)
    generator = torch.Generator().manual_seed(0)
    comparisons = []
    for batch, *sides in SIZES:
        height, width = (max(side, smallest) for side in sides)
        images = 255 * torch.rand(batch, 3, height, width, generator=generator)

        def run_model(images: torch.Tensor = images) -> Outputs:
            with torch.no_grad():
                return [output.numpy() for output in model(images)]

        expected, model_seconds = _timed(run_model)
        found, file_seconds = _timed(lambda images=images: run(images.numpy()))
        comparisons.append(
            Comparison(
                (batch, height, width),
                largest_difference(expected, found),
                model_seconds,
                file_seconds,
            )
        )
    return comparisons


def load(path: Path) -> Callable[[np.ndarray], Outputs]:
    """A function from images to outputs that runs a file on the CPU, by ONNX Runtime or PyTorch."""
    if path.suffix == '.pt2':
        program = torch.export.load(path).module()
        return lambda images: [output.numpy() for output in program(torch.from_numpy(images))]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    return lambda images: session.run(None, {'images': images})


def largest_difference(expected: Outputs, found: Outputs) -> float:
    """The largest difference of floating-point outputs, relative to the largest value of each."""
    differences = [
        np.abs(ours - theirs).max() / max(np.abs(ours).max(), np.finfo(ours.dtype).tiny)
        if ours.shape == theirs.shape
        else np.inf
        for ours, theirs in zip(expected, found, strict=True)
        if ours.dtype.kind == 'f'
    ]
    return float(np.max(differences))  # not a number if there is one


def _timed(run: Callable[[], Outputs]) -> tuple[Outputs, float]:
    """What the second of two runs returns, and its seconds."""
    run()
    start = time.perf_counter()
    outputs = run()
    return outputs, time.perf_counter() - start
