#!/usr/bin/env python
"""Convert an exported detector to float16 and int8, and evaluate the three files by ONNX Runtime.

``benchmarks/exported_precision.py CONFIG MODEL.onnx``, see ``docs/export.md``.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DATASETS, EVALUATOR, DefaultScope
from mmengine.structures import InstanceData
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from mmdat.checks.config_file import read_config
from mmdat.deployment.checking import load
from mmdat.deployment.masks import paste_masks


def to_float16(source: Path) -> Path:
    """Convert weights and all operators that ONNX Runtime has in float16; inputs stay float32."""
    target = source.with_name(f'{source.stem}_fp16.onnx')
    model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    onnx.save(model, target)
    return target


def to_int8(source: Path) -> Path:
    """Convert the weights of matrix products to int8; the other factor is quantized at run time."""
    target = source.with_name(f'{source.stem}_int8.onnx')
    quantize_dynamic(
        source, target, weight_type=QuantType.QInt8, op_types_to_quantize=['MatMul', 'Gemm']
    )
    return target


def evaluate(cfg: Config, file: Path) -> tuple[dict[str, float], float]:
    """Metrics of a file on the config's test data, and its median seconds an image."""
    run = load(file)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    evaluator = EVALUATOR.build(dict(type='Evaluator', metrics=cfg.test_evaluator))
    evaluator.dataset_meta = dataset.metainfo
    seconds = []
    for item in dataset:
        images = item['inputs'].flip(0)[None].float().numpy()  # loaded as BGR
        start = time.perf_counter()
        outputs = run(images)
        seconds.append(time.perf_counter() - start)
        evaluator.process([prediction(outputs, item['data_samples']).to_dict()])
    return evaluator.evaluate(len(dataset)), float(np.median(seconds))


def prediction(outputs: list[np.ndarray], sample: DetDataSample) -> DetDataSample:
    """The outputs for one image as a data sample of mmdet, in the original image's size."""
    boxes, scores, labels, masks = (output[0][outputs[1][0] >= 0] for output in outputs)
    boxes = boxes / np.tile(sample.scale_factor, 2)
    sample.pred_instances = InstanceData(
        bboxes=torch.from_numpy(boxes),
        scores=torch.from_numpy(scores),
        labels=torch.from_numpy(labels),
        masks=torch.from_numpy(paste_masks(masks, boxes, sample.ori_shape[:2])),
    )
    return sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of a detector with masks')
    parser.add_argument('model', type=Path, help='what tools/deployment/export.py made of it')
    args = parser.parse_args()
    cfg = read_config(args.config)
    print('| file | MB | box AP | mask AP | ms an image |\n|---|---|---|---|---|')
    with DefaultScope.overwrite_default_scope('mmdet'):
        for file in (args.model, to_float16(args.model), to_int8(args.model)):
            metrics, seconds = evaluate(cfg, file)
            numbers = [metrics[f'coco/{kind}_mAP'] for kind in ('bbox', 'segm')]
            size = file.stat().st_size / 1e6
            boxes, masks = (f'{100 * number:.1f}' for number in numbers)
            print(f'| {file.name} | {size:.1f} | {boxes} | {masks} | {1000 * seconds:.0f} |')


if __name__ == '__main__':
    main()
