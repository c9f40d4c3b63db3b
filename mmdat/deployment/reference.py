"""What the toolboxes' own models predict, in the form of exported ones, to compare files with."""

from collections.abc import Callable

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor

from .outputs import Boxes, Detections, Scores, Segments
from .preprocessing import in_loaded_order

Outputs = tuple[Tensor, ...]


def own_predictions(model: BaseModel, toolbox: str) -> Callable[[Tensor], Outputs]:
    """A function from images, as an exported file takes them, to what the model predicts.

    It returns what the modules for export do, but the masks of a detector's boxes are booleans
    (batch, n, height, width), and n is the number of boxes of the image that has most.

    Args:
        model: Of mmpretrain, mmsegmentation or mmdet; segmentors take the whole image.
    """
    predict = dict(mmpretrain=_classify, mmseg=_segment, mmdet=_detect)[toolbox]
    return lambda images: predict(model, images)


def own_features(model: BaseModel) -> Callable[[Tensor], Outputs]:
    """A function from images to the maps of a model's backbone and neck."""

    def run(images: Tensor) -> Outputs:
        samples = [BaseDataElement(metainfo=_info(images)) for _ in images]
        data = dict(inputs=list(in_loaded_order(images)), data_samples=samples)
        return tuple(model.extract_feat(model.data_preprocessor(data)['inputs']))

    return run


def _classify(model: BaseModel, images: Tensor) -> Outputs:
    results = model.test_step(dict(inputs=list(in_loaded_order(images))))
    return Scores(torch.stack([result.pred_score for result in results]))


def _segment(model: BaseModel, images: Tensor) -> Outputs:
    from mmseg.structures import SegDataSample

    height, width = images.shape[2:]
    samples = [SegDataSample(metainfo=_info(images)) for _ in images]
    data = dict(inputs=list(in_loaded_order(images)), data_samples=samples)
    data = model.data_preprocessor(data)
    samples = data['data_samples']
    test_cfg = model.test_cfg
    model.test_cfg = ConfigDict(test_cfg, mode='whole')
    try:
        logits = model.inference(data['inputs'], [sample.metainfo for sample in samples])
    finally:
        model.test_cfg = test_cfg
    results = model.postprocess_result(logits, samples)
    classes = torch.cat([result.pred_sem_seg.data for result in results])
    return Segments(logits[:, :, :height, :width], classes.long())


def _detect(model: BaseModel, images: Tensor) -> Outputs:
    from mmdet.structures import DetDataSample

    samples = [DetDataSample(metainfo=_info(images)) for _ in images]
    data = dict(inputs=list(in_loaded_order(images)), data_samples=samples)
    results = [sample.pred_instances for sample in model.test_step(data)]
    most = max(map(len, results))
    columns = []
    for name, missing in dict(bboxes=0.0, scores=-1.0, labels=-1, masks=False).items():
        if name in results[0]:
            rows = [result[name] for result in results]
            filled = rows[0].new_full((len(rows), most, *rows[0].shape[1:]), missing)
            for target, values in zip(filled, rows, strict=True):
                target[: len(values)] = values
            columns.append(filled)
    return Boxes(*columns) if len(columns) == 3 else Detections(*columns)


def _info(images: Tensor) -> dict[str, tuple]:
    size = tuple(images.shape[2:])
    return dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
