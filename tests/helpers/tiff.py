"""TIFF with more channels than colors, as of satellites, which Pillow and OpenCV do not write."""

import struct
from pathlib import Path

import numpy as np

SHORT, LONG = 3, 4


def write_bands(path: Path, bands: np.ndarray, color: bool) -> None:
    """Write (height, width, channels), of which the first three are colors or just the first one.

    Args:
        bands: Of uint8 or uint16.
    """
    height, width, count = bands.shape
    bits = 8 * bands.itemsize
    lists = {258: [bits] * count, 338: [0] * (count - (3 if color else 1))}  # bits, extra samples
    numbers = {256: width, 257: height, 259: 1, 262: 1 + color, 273: 8, 277: count, 278: height}
    tags = {**lists, **{tag: [value] for tag, value in numbers.items()}, 279: [bands.nbytes]}
    start = 8 + bands.nbytes
    behind = start + 2 + 12 * len(tags) + 4
    directory, values = struct.pack('<H', len(tags)), b''
    for tag, items in sorted(tags.items()):
        kind, letter = (SHORT, 'H') if tag in lists else (LONG, 'I')
        packed = struct.pack(f'<{len(items)}{letter}', *items)
        if len(packed) > 4:
            packed, values = struct.pack('<I', behind + len(values)), values + packed
        directory += struct.pack('<HHI4s', tag, kind, len(items), packed)
    head = b'II*\0' + struct.pack('<I', start)
    path.write_bytes(head + bands.tobytes() + directory + bytes(4) + values)
