"""Reading masks of semantic segmentation, some of which may be broken, and packing them."""

import cv2
import numpy as np
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.datasets.transforms import PackSegInputs as MMSegPackSegInputs

from mmdat.checks.images import misfit
from mmdat.checks.masks import cannot_be_read, class_table, decode_mask, values_in
from mmdat.errors import UserError
from mmdat.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadSegmentationMap(LoadAnnotations):
    """mmsegmentation's ``LoadAnnotations`` that names a file with which something is wrong.

    The data set decides whether 0 stands for no class (``reduce_zero_label``), and which class the
    other values are (``label_map``).

    Args:
        kwargs: As for mmsegmentation's transform.

    Raises:
        UserError: If a mask cannot be read, has several channels or values above 255, another size
            than its image, or a value that ``label_map`` does not have.
    """

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        if self.reduce_zero_label not in (None, results['reduce_zero_label']):
            raise UserError(
                'the data set and LoadSegmentationMap disagree on reduce_zero_label: leave it out '
                'of LoadSegmentationMap'
            )
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except OSError as error:
            raise UserError(f'mask {path} {cannot_be_read(error.strerror)}') from None
        values, problem = decode_mask(content, self.imdecode_backend)
        if values is None:
            raise UserError(f'mask {path} {problem}')
        shape = results.get('ori_shape', values.shape)
        if shape != values.shape:
            (height, width), size = shape, values.shape[::-1]
            raise UserError(misfit(results['img_path'], (width, height), size, f'its mask {path}'))
        table = class_table(results)
        if table.min() < 0:
            for value in values_in(values):
                if table[value] < 0:
                    raise UserError(
                        f'mask {path} has the value {value}, which the data set does not know: '
                        'name its class in mask_values, or None for what is ignored'
                    )
        results['gt_seg_map'] = cv2.LUT(values, table.astype(np.uint8))
        results['seg_fields'].append('gt_seg_map')


@TRANSFORMS.register_module()
class PackSegInputs(MMSegPackSegInputs):
    """mmsegmentation's ``PackSegInputs`` that also tells which labels a mask has, in ``labels``.

    They stand in the metainfo of ``gt_sem_seg``, so that a training step need not look for those
    that the head lacks: here a data worker does.
    """

    def transform(self, results: dict) -> dict:
        packed = super().transform(results)
        values = results.get('gt_seg_map')
        if values is not None and values.dtype == np.uint8:
            labels = values_in(values.reshape(-1, values.shape[-1]))  # of volumes, too
            packed['data_samples'].gt_sem_seg.set_metainfo(dict(labels=labels))
        return packed
