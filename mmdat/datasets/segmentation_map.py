"""Reading masks of semantic segmentation, some of which may be broken."""

from mmseg.datasets.transforms import LoadAnnotations

from mmdat.errors import UserError
from mmdat.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadSegmentationMap(LoadAnnotations):
    """mmsegmentation's ``LoadAnnotations`` that names a file which it cannot read.

    The data set decides whether 0 stands for no class (``reduce_zero_label``).

    Args:
        kwargs: As for mmsegmentation's transform.

    Raises:
        UserError: If a map of classes cannot be read.
    """

    def transform(self, results: dict) -> dict:
        try:
            return super().transform(results)
        except (OSError, ValueError) as error:  # PIL raises either, or an OSError of its own
            reason = getattr(error, 'strerror', None) or 'it does not decode'
            raise UserError(
                f'mask {results["seg_map_path"]} cannot be read ({reason}): mend it, '
                'or take its image out of the data set'
            ) from None
