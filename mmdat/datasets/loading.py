"""Reading images, some of which may be broken."""
import logging
from typing import Any

import cv2
import torch
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from mmdat.errors import UserError
from mmdat.registry import TRANSFORMS

# An epoch of broken images would never end: give up once this many were tried in a process and
# more than half of them were broken.
TRIES_BEFORE_GIVING_UP = 8
MAX_WORKERS = 256


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that can do without an image that cannot be read.

    Args:
        skip_broken: Warn, count and return None, so that the data set picks another image; for
            training. If False, or if most images are broken, a broken image is an error.
        kwargs: As for mmcv's transform.

    Raises:
        UserError: If an image cannot be read and is not skipped; names the file.
    """

    def __init__(self, skip_broken: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.skip_broken = skip_broken
        # (tried, broken) of each worker process; shared memory, so that the main process sees
        # them, and a row a worker, so that they need no lock.
        self._counts = torch.zeros(MAX_WORKERS, 2, dtype=torch.int64).share_memory_()

    @property
    def num_broken(self) -> int:
        """How often an image could not be read so far, over all worker processes."""
        return int(self._counts[:, 1].sum())

    def transform(self, results: dict) -> dict | None:
        worker = get_worker_info()
        counts = self._counts[worker.id % MAX_WORKERS if worker else 0]
        counts[0] += 1
        try:
            return super().transform(results)
        except (AssertionError, OSError, ValueError, cv2.error) as error:
            counts[1] += 1
            path = results['img_path']
            reason = 'it does not decode' if not isinstance(error, OSError) else error.strerror
            if not self.skip_broken:
                raise UserError(f'image {path} cannot be read ({reason}): mend it, or take it out '
                                'of the annotation file') from None
            tried, broken = counts.tolist()
            if tried >= TRIES_BEFORE_GIVING_UP and 2 * broken > tried:
                raise UserError(f'{broken} of the first {tried} images cannot be read, the last '
                                f'is {path} ({reason}): check the image folder') from None
            print_log(f'Skipped an image that cannot be read ({reason}): {path}', 'current',
                      logging.WARNING)
            return None
