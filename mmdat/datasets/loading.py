"""Reading images, some of which may be broken."""

import os
import zlib
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile

from mmdat.checks import log_warning
from mmdat.checks.images import DECODES_NOT, UNREADABLE, misfit
from mmdat.errors import UserError
from mmdat.registry import TRANSFORMS

# Stop once so many more images were broken than fine: with 40% broken this happens at random with
# probability (0.4 / 0.6)^20 = 0.03%.
CLEAR_MARGIN = 20
# Counters, one for the images of a hash: enough that few images seen before giving up share one.
NUM_SLOTS = 1 << 16


@TRANSFORMS.register_module()
class LoadImageFromArray(BaseTransform):
    """Take an image in memory where a test reads a file.

    Args:
        to_float32: Convert it to float32.
    """

    def __init__(self, to_float32: bool = False) -> None:
        self.to_float32 = to_float32

    def transform(self, results: dict) -> dict:
        image = results['img']
        size = image.shape[:2]
        if self.to_float32:
            image = image.astype(np.float32)
        return {**results, 'img': image, 'img_path': None, 'img_shape': size, 'ori_shape': size}


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that can do without an image that cannot be read.

    Args:
        skip_broken: Warn once, count and return None, so that the data set picks another image;
            for training. If False, or if most images are broken, a broken image is an error.
        kwargs: As for mmcv's transform.

    Raises:
        UserError: If an image cannot be read and is not skipped, or has another size than its
            annotation says; names the file.
    """

    def __init__(self, skip_broken: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.skip_broken = skip_broken
        # How often reading succeeded and failed, by hashed path; in shared memory, so that worker
        # processes and the main one see all. Without a lock: at worst a count is one too low.
        self._counts = torch.zeros(2, NUM_SLOTS, dtype=torch.int32).share_memory_()

    @property
    def num_broken(self) -> int:
        """How many images could not be read so far, over all worker processes."""
        return int(self._counts[1].count_nonzero())

    def transform(self, results: dict) -> dict | None:
        path = results['img_path']
        read, failed = self._counts[:, zlib.crc32(os.fsencode(path)) % NUM_SLOTS]
        try:
            loaded = super().transform(results)
        except (AssertionError, OSError, ValueError, cv2.error) as error:
            failed += 1
            reason = error.strerror if isinstance(error, OSError) else DECODES_NOT
            if not self.skip_broken:
                raise UserError(UNREADABLE.format(path, reason)) from None
            if self._most_are_broken():
                fine, broken = self._counts.count_nonzero(dim=1).tolist()
                raise UserError(
                    f'{broken} of the first {fine + broken} images cannot be read, the '
                    f'last is {path} ({reason}): check the image folder'
                ) from None
            if failed == 1:
                log_warning(f'Skipped an image that cannot be read ({reason}): {path}')
            return None
        read += 1
        height, width = loaded['ori_shape']
        size = results.get('width') or width, results.get('height') or height
        if size != (width, height):
            raise UserError(misfit(path, (width, height), size, 'its annotation'))
        return loaded

    def _most_are_broken(self) -> bool:
        """Tell whether to give up: an epoch of broken images would never end."""
        fine, broken = self._counts.count_nonzero(dim=1).tolist()
        # After 3 tries per image seen, nearly all have been seen, so a bare majority decides.
        if self._counts.sum() >= max(CLEAR_MARGIN, 3 * (fine + broken)):
            return broken > fine
        return broken - fine >= CLEAR_MARGIN
