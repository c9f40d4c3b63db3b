"""Test-time augmentation of instance segmentation; importing this module needs mmdet."""

from typing import Any

import torch
from mmcv.ops import batched_nms
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdat.registry import MODELS

FLIPPED_AXES = {'horizontal': (-1,), 'vertical': (-2,), 'diagonal': (-2, -1)}


@MODELS.register_module()
class InstanceTTAModel(DetTTAModel):
    """Test-time augmentation of mmdet for models that predict masks too.

    The detections of all augmented copies go through one non-maximum suppression; each survivor
    keeps the mask that was predicted with it, flipped back.

    Args:
        tta_cfg: ``nms``, mmcv's config for non-maximum suppression, and ``max_per_img``.
        module: Config of the model.
    """

    def test_step(self, data: dict[str, Any]) -> list[DetDataSample]:
        # Told of flips, cascade heads of mmdet would flip the masks of each stage, and fail.
        for copies in data['data_samples']:
            for sample in copies:
                sample.set_metainfo(dict(is_flipped=sample.flip, flip=False))
        return super().test_step(data)

    def merge_preds(self, data_samples_list: list[list[DetDataSample]]) -> list[DetDataSample]:
        for copies in data_samples_list:
            for sample in copies:
                sample.set_metainfo(dict(flip=sample.get('is_flipped', sample.flip)))
        return super().merge_preds(data_samples_list)

    def _merge_single_sample(self, data_samples: list[DetDataSample]) -> DetDataSample:
        predictions = [sample.pred_instances for sample in data_samples]
        if not any(map(len, predictions)):  # batched_nms fails on nothing
            return data_samples[0]
        metas = [sample.metainfo for sample in data_samples]
        bboxes, scores = self.merge_aug_bboxes(
            [p.bboxes for p in predictions], [p.scores for p in predictions], metas
        )
        labels = torch.cat([p.labels for p in predictions])
        detections, keep = batched_nms(bboxes, scores, labels, self.tta_cfg['nms'])
        detections = detections[: self.tta_cfg['max_per_img']]
        keep = keep[: len(detections)]
        merged = InstanceData(
            bboxes=detections[:, :4], scores=detections[:, 4], labels=labels[keep]
        )
        if 'masks' in predictions[0]:
            masks = torch.cat(
                [
                    p.masks.flip(FLIPPED_AXES[meta['flip_direction']]) if meta['flip'] else p.masks
                    for p, meta in zip(predictions, metas, strict=True)
                ]
            )
            merged.masks = masks[keep]
        result = data_samples[0]
        result.pred_instances = merged
        return result
