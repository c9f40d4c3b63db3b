#!/usr/bin/env python
"""Draw gallery/*.jpg, what the demo's detector sees: ``docs/gallery.py CHECKPOINT``.

The images are drawings of shapes. Where ../shared/data has photos, pictures of three are written to
gallery/photos/, which is not committed.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.models.backbones import PyramidVisionTransformerV2, SwinTransformer
from mmengine.structures import InstanceData
from pycocotools import mask as mask_api
from torch import nn

from mmdat.apis.predictor import Predictor
from mmdat.datasets.shapes.drawing import Scene, draw_scene
from mmdat.visualization import (
    Recording,
    arrange,
    compare_objects,
    draw_deformed_points,
    draw_models,
    draw_offsets,
    draw_query,
    record_attention,
)

DOCS = Path(__file__).resolve().parent
CONFIG = DOCS.parent / 'configs' / 'mask_rcnn_dat_pp_nano_shapes.py'
PHOTOS = DOCS.parents[1] / 'shared' / 'data' / 'tinycoco' / 'val2017'
SIDE = 480  # of a drawing in pixels
JPEG_QUALITY = 62


def main(checkpoint: str) -> None:
    """Draw the pictures with the weights of a checkpoint of the demo."""
    predictor = Predictor(CONFIG, checkpoint, score_thr=0.5)
    scenes = [draw_scene(np.random.default_rng(seed), SIDE) for seed in (2, 3)]
    write('predictions', arrange([compare(predictor, scene) for scene in scenes]))
    draw_attention(predictor, scenes[0].image, 'gallery')
    for photo in sorted(PHOTOS.glob('*.jpg'))[:3]:
        draw_attention(predictor, cv2.imread(str(photo)), f'gallery/photos/{photo.stem}')


def draw_attention(predictor: Predictor, image: np.ndarray, folder: str) -> None:
    """Draw what there is to see in an image, (height, width, 3) BGR."""
    rgb = np.ascontiguousarray(image[..., ::-1])
    height, width = rgb.shape[:2]
    query = 0.42 * width, 0.55 * height
    recording = predictor.record_attention(image)
    stages = [recording.last('deformable', stage) for stage in range(4)]
    write('points', draw_deformed_points(rgb, recording, stages), folder)
    write('offsets', draw_offsets(rgb, recording, stages), folder)
    write('query', draw_query(rgb, recording, query), folder)
    write('window', draw_query(rgb, recording, query, [recording.last('neighborhood', 1)]), folder)
    torch.manual_seed(0)
    models = {
        'DAT++': recording,
        'Swin (untrained)': record(SwinTransformer(embed_dims=24, num_heads=(1, 2, 4, 8)), rgb),
        'PVT v2 (untrained)': record(PyramidVisionTransformerV2(embed_dims=16), rgb),
    }
    write('models', draw_models(rgb, models, query, stage=2), folder)


def record(backbone: nn.Module, image: np.ndarray) -> Recording:
    """Record a backbone that is given the image itself."""
    backbone.eval()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 128 - 1
    with record_attention(backbone) as recordings, torch.no_grad():
        backbone(pixels)
    return recordings[0]


def compare(predictor: Predictor, scene: Scene) -> np.ndarray:
    """The figures of a drawing beside those that the detector finds."""
    found = predictor([scene.image])[0]['instances']
    masks = np.array([figure.mask for figure in scene.instances])
    boxes = [cv2.boundingRect(mask.astype(np.uint8)) for mask in masks]
    return compare_objects(
        'drawing',
        np.ascontiguousarray(scene.image[..., ::-1]),
        InstanceData(
            bboxes=torch.tensor([(x, y, x + w, y + h) for x, y, w, h in boxes]),
            labels=torch.tensor([figure.label for figure in scene.instances]),
            masks=masks,
        ),
        InstanceData(
            bboxes=torch.from_numpy(found.boxes),
            scores=torch.from_numpy(found.scores),
            labels=torch.from_numpy(found.labels),
            masks=mask_api.decode(found.masks).transpose(2, 0, 1),
        ),
        predictor.classes,
    )


def write(name: str, picture: np.ndarray, folder: str = 'gallery') -> None:
    """Write a picture, (height, width, 3) RGB."""
    path = DOCS / folder / f'{name}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))


if __name__ == '__main__':
    main(*sys.argv[1:])
