#!/usr/bin/env python
"""Write docs/model_zoo.md and configs/metafile.yml: what was measured, what authors report."""

import json
from pathlib import Path
from typing import Any

import yaml

from mmdat.checkpoints.published import PUBLISHED

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / 'benchmarks' / 'results'
CONFIGS = DOCS.parent / 'configs'
MEASURED = RESULTS / 'zoo_cpu.json'
DEMOS = RESULTS / 'demos.json'

# Reported in the papers (arXiv): DAT++ 2309.01430, ScalableViT 2203.10790, DAT 2201.00520.
REPORTED = {
    'retinanet_dat_pp_t': '46.8',
    'retinanet_dat_pp_t_3x': '49.2',
    'retinanet_dat_pp_s': '48.3',
    'retinanet_dat_pp_s_3x': '50.2',
    'mask_rcnn_dat_pp_t': '48.7 / 43.7',
    'mask_rcnn_dat_pp_t_3x': '50.5 / 45.1',
    'mask_rcnn_dat_pp_s': '49.8 / 44.5',
    'mask_rcnn_dat_pp_s_3x': '51.2 / 45.7',
    'cascade_mask_rcnn_dat_pp_t': '52.2 / 45.0',
    'cascade_mask_rcnn_dat_pp_t_3x': '53.0 / 46.0',
    'cascade_mask_rcnn_dat_pp_s_3x': '54.2 / 46.9',
    'cascade_mask_rcnn_dat_pp_b_3x': '54.5 / 47.0',
    'retinanet_scalablevit_s': '45.2',
    'retinanet_scalablevit_s_3x': '47.8',
    'retinanet_scalablevit_b': '45.8',
    'retinanet_scalablevit_b_3x': '48.0',
    'retinanet_scalablevit_l': '46.8',
    'mask_rcnn_scalablevit_s': '45.8 / 41.7',
    'mask_rcnn_scalablevit_s_3x': '48.7 / 43.6',
    'mask_rcnn_scalablevit_b': '46.6 / 42.1',
    'mask_rcnn_scalablevit_b_3x': '48.9 / 43.6',
    'mask_rcnn_scalablevit_l': '47.6 / 42.9',
    'semantic_fpn_dat_pp_t': '48.4 / 48.8',
    'semantic_fpn_dat_pp_s': '49.9 / 50.7',
    'semantic_fpn_dat_pp_b': '50.4 / 51.1',
    'upernet_dat_pp_t': '49.4 / 50.3',
    'upernet_dat_pp_s': '50.5 / 51.2',
    'upernet_dat_pp_b': '51.0 / 51.5',
    'semantic_fpn_scalablevit_s': '44.9',
    'semantic_fpn_scalablevit_b': '48.4',
    'semantic_fpn_scalablevit_l': '49.4',
    'upernet_scalablevit_s': '48.5 / 49.4',
    'upernet_scalablevit_b': '49.5 / 50.4',
    'upernet_scalablevit_l': '49.7 / 50.7',
    'dat_t': '82.0',
    'dat_s': '83.7',
    'dat_b': '84.0',
    'dat_b_384': '84.8',
    'dat_pp_t': '83.9',
    'dat_pp_s': '84.6',
    'dat_pp_b': '84.9',
    'dat_pp_b_384': '85.9',
    'scalablevit_s': '83.1',
    'scalablevit_b': '84.1',
    'scalablevit_l': '84.4',
}
# Suffix of the configs, data set, task, and metrics that are reported.
TASKS = (
    ('coco', 'COCO', 'detection and instance segmentation', 'box AP / mask AP'),
    ('ade20k', 'ADE20K', 'semantic segmentation', 'mIoU / with multi-scale and flip'),
    ('in1k', 'ImageNet-1k', 'classification', 'top-1'),
)
# Part of a config's name, the family of its backbone, and the paper.
FAMILIES = (
    ('_dat_pp_', 'DAT++', 'https://arxiv.org/abs/2309.01430'),
    ('_dat_', 'DAT', 'https://arxiv.org/abs/2201.00520'),
    ('_scalablevit_', 'ScalableViT', 'https://arxiv.org/abs/2203.10790'),
)
INTRODUCTION = """# Model zoo

`tools/train.py configs/NAME.py` trains a model with the papers' recipe, `tools/test.py` evaluates
it. We have trained none of them on COCO, ADE20K or ImageNet: **the accuracies below are the
authors', from their own training**. Parameters, multiply-accumulates (MACs, the products of
queries and keys and of weights and values among them) and memory are ours, counted for one image
of the given size by `tests/helpers/zoo.py --costs`; `make test-zoo` takes a training step and a
test step with each config.

Memory, in the cards `Inference Memory (GB)`, is what the tensors of that forward pass take at once
in float32, weights and image among them (GB = 10^9 bytes): counted, without what operators take as
they compute and allocators keep. OpenMMLab's `Training Memory (GB)` is another figure, measured on
GPUs; `tools/analysis_tools/benchmark.py --train` measures yours.

The papers' figures that we have do not cover all pairs (none of DAT on COCO and ADE20K, no drop
path of ScalableViT there, no DAT++-B with other heads than Cascade). There the config takes the
rate of the backbone's ImageNet recipe and the 1x schedule, or what the same backbone has with
another head; all backbones take DAT++'s learning rate in Semantic FPN. Weights are random unless
you give them: `--cfg-options model.backbone.init_cfg.type=Pretrained
model.backbone.init_cfg.checkpoint=FILE`.

Where a row links weights, the authors publish them, trained with their config of the name shown:
`mmdat://CONFIG`, such as `mmdat://dat_pp_t_in1k`, is that file, for `init_cfg` (its backbone), for
`load_from` and as CHECKPOINT of the tools (all of it). The links could not be tried here;
`tools/model_converters/check_published.py` says whether a file fits.

`swin`, `pvt`, `r50` and `vit` are baselines from the toolboxes, under the same recipe. All but
`vit`, whose weights mmsegmentation converts from timm's, name the ImageNet weights that they start
from: give ours some too where you compare. `nonlocal` has a block in each residual block of the
third stage, where mmdet's plugins place them; the usual comparison has one.
"""
CARDS = """\
# Written by docs/model_zoo.py. Parameters, MACs and Inference Memory (what tensors take at most in
# float32, counted; both of one image of the given size) are ours, metrics the authors', from their
# own training. Checkpoint is what the authors published, by name: init_cfg takes its backbone,
# load_from and the tools the whole model.
"""
SYNTHETIC = """
## Synthetic data

Nano models, trained on drawings of shapes and tested on others (`make demo`, 2026-11-25, PyTorch
2.11, CPU):

| config | result | training |
|---|---|---|
"""
SCALABLEVIT = """
## ScalableViT's cost, ours and the paper's

| config | parameters (M) | the paper's | MACs (G) | the paper's |
|---|---|---|---|---|
"""
# Millions of parameters, and MACs in G at the image sizes of the tables.
PUBLISHED_COST = {
    'retinanet_scalablevit_s_coco': (36.4, 238),
    'retinanet_scalablevit_b_coco': (85.6, 330),
    'retinanet_scalablevit_l_coco': (112.6, 457),
    'mask_rcnn_scalablevit_s_coco': (46.3, 256),
    'mask_rcnn_scalablevit_b_coco': (94.9, 349),
    'mask_rcnn_scalablevit_l_coco': (121.4, 477),
    'upernet_scalablevit_s_ade20k': (56.5, 931),
    'upernet_scalablevit_b_ade20k': (107.0, 1029),
    'upernet_scalablevit_l_ade20k': (135.5, 1162),
    'semantic_fpn_scalablevit_s_ade20k': (30.4, 174),
    'semantic_fpn_scalablevit_b_ade20k': (79.0, 270),
    'semantic_fpn_scalablevit_l_ade20k': (105.5, 402),
}
NOTES = """
The paper's MACs leave out the products of attention, as common counters do, and seem to count the
projection of the windows' padding to queries, keys and values, where ours pads what is projected.
So counted, ours are within 1 G of the paper's with B and L: for Mask R-CNN with B, 402 G less 57 G
of products and with 3 G of padding. With S ours have 1 to 2 G and 0.4 million parameters fewer; the
reason is not known, as the backbone equals the authors' code, parameter by parameter and output by
output. `make test` holds all of this.

## What else is known of our own

- [parity.md](parity.md) compares outputs and numbers of parameters with the authors' models.
- MACs of the DAT and DAT++ classifiers are within 1% (0.1 G at 224) of the published ones: the
  published ones may count norms and activations, ours are products alone.
- Speed and memory: [speed.md](speed.md).
"""


def page(measured: dict[str, dict[str, Any]]) -> str:
    """Lay out the page as Markdown."""
    parts = [INTRODUCTION]
    for suffix, dataset, task, accuracy in TASKS:
        rows = {name: cost for name, cost in measured.items() if name.endswith(f'_{suffix}')}
        parts += [
            '',
            f'## {dataset}: {task}',
            '',
            '| config | parameters (M) | MACs (G) | memory (GB) | at | '
            f'{accuracy}, reported | weights |',
            '|---|---|---|---|---|---|---|',
        ]
        for name, cost in sorted(rows.items()):
            height, width = cost['shape']
            parts.append(
                f'| [{name}](../configs/{name}.py) | {cost["parameters"] / 1e6:.1f} | '
                f'{cost["macs"] / 1e9:.1f} | {_gigabytes(cost):.3f} | {height} x {width} | '
                f'{REPORTED.get(name.removesuffix(f"_{suffix}"), "")} | {_link(name)} |'
            )
    demos = json.loads(DEMOS.read_text())
    demo_rows = [
        f'| [{name}](../configs/{name}.py) | {demo["result"]} | {demo["training"]} |'
        for name, demo in demos.items()
    ]
    costs = [
        f'| {name} | {measured[name]["parameters"] / 1e6:.1f} | {parameters} | '
        f'{measured[name]["macs"] / 1e9:.0f} | {macs} |'
        for name, (parameters, macs) in PUBLISHED_COST.items()
    ]
    parts += [SYNTHETIC + '\n'.join(demo_rows), SCALABLEVIT + '\n'.join(costs)]
    return '\n'.join(parts) + '\n' + NOTES


def metafile(measured: dict[str, dict[str, Any]]) -> str:
    """Lay out the model cards that mim reads, one for each config."""
    collections = [dict(Name=family, Paper=url) for _, family, url in FAMILIES]
    names = sorted(path.stem for path in CONFIGS.glob('*.py'))
    models = [_card(name, measured[name]) for name in names]
    content = dict(Collections=[*collections, dict(Name='Baselines')], Models=models)
    return CARDS + yaml.dump(content, sort_keys=False, default_flow_style=None, width=99)


def _card(name: str, cost: dict[str, Any]) -> dict[str, Any]:
    """Describe a config."""
    families = (family for part, family, _ in FAMILIES if part in f'_{name}')
    card = {'Name': name, 'In Collection': next(families, 'Baselines')}
    card['Config'] = f'configs/{name}.py'
    metadata: dict[str, Any] = {
        'Parameters': cost['parameters'],
        'MACs': cost['macs'],
        'Image Size': ' x '.join(map(str, cost['shape'])),
        'Inference Memory (GB)': _gigabytes(cost),
    }
    published = PUBLISHED.get(name)
    if published is not None:
        metadata['Checkpoint'] = f'mmdat://{name}'
        metadata["Authors' Config"] = published.config
        metadata["Authors' Page"] = published.pages[0]
    card['Metadata'] = metadata
    suffix = name.rpartition('_')[2]
    for ending, dataset, task, accuracy in TASKS:
        reported = REPORTED.get(name.removesuffix(f'_{suffix}'))
        if ending == suffix:
            metadata['Training Data'] = dataset
        if ending == suffix and reported:
            values = map(float, reported.split(' / '))
            metrics = {
                f'{metric}, reported by the authors': value
                for metric, value in zip(accuracy.split(' / '), values, strict=False)
            }
            card['Results'] = [dict(Task=task, Dataset=dataset, Metrics=metrics)]
    if published is not None and published.file is not None:
        card['Weights'] = f'{published.file}#/{name}.pth'  # mim names the file by what follows /
    return card


def _gigabytes(cost: dict[str, Any]) -> float:
    """Memory of a config."""
    return round(cost['peak_memory'] / 1e9, 3)


def _link(name: str) -> str:
    published = PUBLISHED.get(name)
    return f'[{published.config}]({published.pages[0]})' if published else ''


if __name__ == '__main__':
    costs = json.loads(MEASURED.read_text())
    (DOCS / 'model_zoo.md').write_text(page(costs))
    (CONFIGS / 'metafile.yml').write_text(metafile(costs))
