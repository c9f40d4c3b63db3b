"""Traced models in files: ONNX, or PyTorch's own format."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mmdat.files import whole_file

OPSET = 20
# The sizes of images, in their order; maps of another size have names of their own for theirs.
DYNAMIC = ('batch', 'height', 'width')


class Traced(NamedTuple):
    """A model as a graph that holds for images of any size.

    Attributes:
        program: The graph.
        outputs: Names of its outputs.
        image_sized: Names of those that are as high and wide as the images.
    """

    program: ExportedProgram
    outputs: tuple[str, ...]
    image_sized: tuple[str, ...]


def trace(model: nn.Module, smallest: int, channels: int = 3) -> Traced:
    """Trace a model that takes images and returns a named tuple.

    Args:
        model: Takes Tensor[batch, channels, height, width].
        smallest: Smallest height and width that the graph is for.
    """
    side = max(64, smallest + 1)
    images = torch.rand(2, channels, side, side + 32) * 255
    dynamic = {0: Dim('batch', min=1)}
    dynamic |= {i: Dim(name, min=smallest) for i, name in ((2, 'height'), (3, 'width'))}
    with torch.no_grad(), quiet():
        outputs = model(images)._asdict()
        program = torch.export.export(
            _Named(model).eval(), (images,), dynamic_shapes=(dynamic,), strict=False
        )
    size = images.shape[2:]
    image_sized = tuple(name for name, value in outputs.items() if value.shape[-2:] == size)
    return Traced(program, tuple(outputs), image_sized)


class _Named(nn.Module):
    """A model that returns a dict, since a file of PyTorch holds no named tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.model(images)._asdict()


def write(traced: Traced, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a traced model, whole or not at all, in the format that the name ends in.

    Args:
        metadata: Texts to store in it, by name.

    Raises:
        UserError: If it cannot be written.
    """
    with whole_file(path) as file, quiet():
        if path.suffix == '.onnx':
            _write_onnx(traced, file, metadata)
        else:
            extra = {'metadata.json': json.dumps(dict(metadata))}
            data = io.BytesIO()  # where a disk is full, PyTorch's own writer can end the process
            torch.export.save(traced.program, data, extra_files=extra)
            file.write_bytes(data.getbuffer())


def _write_onnx(traced: Traced, path: Path, metadata: Mapping[str, str]) -> None:
    program = torch.onnx.export(
        traced.program,
        input_names=['images'],
        output_names=list(traced.outputs),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model
    model.metadata_props.update(metadata)
    for value in (*model.graph.inputs, *model.graph.outputs):
        _name_sizes(value, is_image=value.name in ('images', *traced.image_sized))
    program.save(path, external_data=False)


def _name_sizes(value: Any, is_image: bool) -> None:
    """Call the sizes that are not fixed batch, height and width, by its own name if no image's."""
    import onnx_ir

    batch, *sides = DYNAMIC
    names = iter([batch, *(side if is_image else f'{value.name}_{side}' for side in sides)])
    value.shape = onnx_ir.Shape(
        [size if isinstance(size, int) else next(names) for size in value.shape]
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters print, log and warn of from the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)
