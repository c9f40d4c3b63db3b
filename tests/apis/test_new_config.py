"""A config for data of one's own is written from a folder, and trains."""

import ast
import json
import math
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.configs import CONFIGS, NAMES, load
from helpers.foreign import DIALECTS, write_images, write_json, write_roboflow, write_yolo
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import METRICS, MODELS, DefaultScope
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from mmdat.apis import train
from mmdat.apis.new_config import Draft, _fit_schedule, new_config
from mmdat.checkpoints import reading
from mmdat.checks import before_first_step, config_tree
from mmdat.checks.config_file import read_config
from mmdat.checks.config_tree import replace_values
from mmdat.datasets import ShapesParameters, write_shapes_coco
from mmdat.datasets.shapes.classify import write_shapes_classify
from mmdat.datasets.shapes.segment import write_shapes_segment
from mmdat.errors import UserError
from mmdat.registry import DATASETS

NANO = dict(
    mmdet='mask_rcnn_dat_pp_nano_shapes',
    mmseg='upernet_dat_pp_nano_shapes',
    mmpretrain='dat_pp_nano_shapes',
)
LOADER = dict(num_workers=0, persistent_workers=False)
A_STEP = {
    'train_cfg.val_interval': 9,
    'param_scheduler': [],
    'default_hooks.checkpoint': None,
    'default_hooks.logger.interval': 1,
    'log_level': 'ERROR',
    **{f'train_dataloader.{key}': value for key, value in LOADER.items()},
    **{f'val_dataloader.{key}': value for key, value in LOADER.items()},
}


@pytest.fixture(scope='module')
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[Path, nn.Module]]:
    """Detectors for small images: whether one learns masks -> its config in a flat file, and it."""
    found = {}
    for with_masks in (True, False):
        cfg = load(NANO['mmdet'])
        cfg.model.train_cfg.rcnn.sampler.num = 16
        if not with_masks:
            cfg.model.roi_head.update(mask_roi_extractor=None, mask_head=None)
            cfg.val_evaluator.metric = cfg.test_evaluator.metric = 'bbox'
        for split in ('train', 'val', 'test'):
            loader = cfg[f'{split}_dataloader']
            loader.update(LOADER)
            for step in loader.dataset.pipeline:
                step.pop('with_mask', None) if not with_masks else None
                step.update(scale=(96, 80)) if 'scale' in step else None
        path = tmp_path_factory.mktemp('bases') / 'base.py'
        path.write_text(''.join(f'{key} = {value!r}\n' for key, value in cfg.to_dict().items()))
        replace_values(cfg.model, 'num_classes', 4, 2)
        with DefaultScope.overwrite_default_scope('mmdet'):
            found[with_masks] = path, MODELS.build(cfg.model)
    return found


def nano(scope: str) -> str:
    return str(CONFIGS / f'{NANO[scope]}.py')


def train_a_step(config: Path) -> None:
    unit = next(key for key in Config.fromfile(config).train_cfg if key.startswith('max_'))
    options = {**A_STEP, f'train_cfg.{unit}': 1}
    runner = train(str(config), str(config.parent / 'work'), cfg_options=options)
    assert np.isfinite(runner.message_hub.get_scalar('train/loss').data[0]).all()
    dataset = runner.train_dataloader.dataset
    assert dataset.metainfo['classes'] == Config.fromfile(config).classes
    runner.build_evaluator(runner.cfg.val_evaluator)
    assert len(runner.build_dataloader(runner.cfg.val_dataloader).dataset)


@pytest.mark.parametrize('program', DIALECTS)
def test_data_of_a_program_is_trained_on(
    program: str, bases: dict[bool, tuple[Path, nn.Module]], tmp_path: Path
) -> None:
    write, with_masks, _ = DIALECTS[program]
    write(tmp_path / 'data')
    base, model = bases[with_masks]
    new_config(str(base), str(tmp_path / 'data'), str(tmp_path / 'mine.py'))
    cfg = Config.fromfile(tmp_path / 'mine.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        train, val = (
            Runner.build_dataloader(cfg[f'{split}_dataloader'], seed=0)
            for split in ('train', 'val')
        )
        before_first_step(model, dict(train=train.dataset, val=val.dataset))
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-6))
        losses = model.train_step(next(iter(train)), optimizer)
        assert math.isfinite(float(losses['loss'].detach()))
        metric = METRICS.build(cfg.val_evaluator)
        metric.dataset_meta = val.dataset.metainfo
        for batch in val:
            with torch.no_grad():
                metric.process(batch, [item.to_dict() for item in model.val_step(batch)])
        assert 'coco/bbox_mAP' in metric.evaluate(len(val.dataset))


def test_masks_in_color_are_written_anew_and_trained_on(tmp_path: Path) -> None:
    """CVAT's "Segmentation mask 1.1": masks in color, which labelmap.txt names."""
    root = tmp_path / 'data'
    colors = np.array([[0, 0, 0], [250, 50, 83], [51, 221, 255]], np.uint8)
    (root / 'ImageSets' / 'Segmentation').mkdir(parents=True)
    names = [f'street {i}' for i in range(4)]
    for name in names:
        labels = np.random.default_rng(len(name)).integers(0, 3, (64, 64))
        for folder, pixels in (
            ('JPEGImages', colors[labels]),
            ('SegmentationClass', colors[labels]),
        ):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f'{name}.png')
    (root / 'ImageSets' / 'Segmentation' / 'default.txt').write_text('\n'.join(names))
    (root / 'labelmap.txt').write_text(
        '# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:250,50,83::\nroad:51,221,255::\n'
    )
    new_config(nano('mmseg'), str(root), str(tmp_path / 'mine.py'))
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.classes == ('background', 'car', 'road')
    assert cfg.data.metainfo.palette == colors.tolist()
    mask = next((tmp_path / 'mine_masks' / 'val').glob('*.png'))
    original = np.asarray(Image.open(root / 'SegmentationClass' / mask.name))
    assert (colors[np.asarray(Image.open(mask))] == original).all()
    train_a_step(tmp_path / 'mine.py')


@pytest.mark.parametrize('lonely', [False, True], ids=['all masks', 'a mask is missing'])
def test_cityscapes_is_trained_on_as_it_lies(lonely: bool, tmp_path: Path) -> None:
    """Without those of its values that are no class (labelIds)."""
    for split, city in (('train', 'aachen'), ('val', 'ulm')):
        for index in range(2):
            name = f'{split}/{city}/{city}_000000_00001{index}'
            image = tmp_path / 'data' / 'leftImg8bit' / f'{name}_leftImg8bit.png'
            image.parent.mkdir(parents=True, exist_ok=True)
            write_images(image.parent, [image.name])
            mask = tmp_path / 'data' / 'gtFine' / f'{name}_gtFine_labelIds.png'
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.resize(np.arange(34, dtype=np.uint8), (80, 96))).save(mask)
    if lonely:
        image = tmp_path / 'data' / 'leftImg8bit' / 'train' / 'aachen'
        write_images(image, ['aachen_000000_000019_leftImg8bit.png'])
    new_config(nano('mmseg'), str(tmp_path / 'data'), str(tmp_path / 'mine.py'))
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert len(cfg.classes) == 19 and cfg.data.mask_values[26] == 'car'
    assert not (tmp_path / 'mine_masks').exists()
    assert (tmp_path / 'mine_train.txt').exists() == lonely
    train_a_step(tmp_path / 'mine.py')


def test_masks_in_color_beside_their_images_are_found(tmp_path: Path) -> None:
    for index in range(4):
        write_images(tmp_path / 'data', [f'{index}.png', f'{index}_mask.png'])
        pixels = np.array([[[0, 0, 0], [9, 8, 7]]], np.uint8).repeat(40, 0).repeat(48, 1)
        Image.fromarray(pixels).save(tmp_path / 'data' / f'{index}_mask.png')
    lines = new_config(nano('mmseg'), str(tmp_path / 'data'), str(tmp_path / 'mine.py'))
    assert any("black in the masks is the class 'background'. If" in line for line in lines)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    # mmsegmentation pads no images of a test, so that those of a batch would need one size.
    assert cfg.val_dataloader.batch_size == cfg.test_dataloader.batch_size == 1
    data = cfg.train_dataloader.dataset
    data.update(pipeline=[])
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert len(DATASETS.build(data)) == 3


def test_images_by_class_are_trained_on(tmp_path: Path) -> None:
    for name, count in (('cat', 4), ('dog', 3), ('.ipynb_checkpoints', 1)):
        (tmp_path / 'pets' / name).mkdir(parents=True)
        for index in range(count):
            image = np.random.default_rng(index).integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(image).save(tmp_path / 'pets' / name / f'my {index}.JPG', 'jpeg')
    lines = new_config(nano('mmpretrain'), str(tmp_path / 'pets'), str(tmp_path / 'mine.py'))
    held_back = (tmp_path / 'mine_val.txt').read_text().splitlines()
    assert len(held_back) == 1 and held_back[0].split('\t')[1] in ('cat', 'dog')
    assert len((tmp_path / 'mine_train.txt').read_text().splitlines()) == 6
    assert any('1 image, chosen with the seed 0, is held back' in line for line in lines)
    train_a_step(tmp_path / 'mine.py')


# One config of each set of bases: others differ from it in their backbone alone.
FAMILIES = {
    ast.get_source_segment(text, ast.parse(text).body[0]): name
    for name in NAMES
    for text in [(CONFIGS / f'{name}.py').read_text()]
}


@pytest.fixture(scope='module')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data of each toolbox's task."""
    root, size = tmp_path_factory.mktemp('shapes'), ShapesParameters(train=8, val=4, size=64)
    write_shapes_coco(root / 'mmdet', size)
    write_shapes_segment(root / 'mmseg', size)
    write_shapes_classify(root / 'mmpretrain', size)
    return {scope: root / scope for scope in NANO}


@pytest.mark.parametrize('name', sorted(FAMILIES.values()))
def test_all_parts_fit_the_data(name: str, shapes: dict[str, Path], tmp_path: Path) -> None:
    scope = load(name).default_scope
    new_config(str(CONFIGS / f'{name}.py'), str(shapes[scope]), str(tmp_path / 'mine.py'))
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert not list(tmp_path.glob('*.json'))  # the files of the folder do
    num_classes = len(cfg.classes)
    for key in ('num_classes', 'num_things_classes'):
        for part in ('model', 'data_preprocessor'):
            for path in config_tree.paths(cfg.get(part), key):
                assert config_tree.value_at(cfg[part], path) == num_classes, path
    for path in config_tree.paths(cfg.model, 'class_weight'):
        weight = config_tree.value_at(cfg.model, path)
        assert not isinstance(weight, list) or len(weight) == num_classes + 1, path
    for split in ('train', 'val', 'test'):
        ((_, dataset),) = config_tree.datasets(cfg, split)
        assert dataset.metainfo.classes == cfg.classes and dataset.pipeline
        assert dataset.type.startswith('mmdat.')
    if scope == 'mmdet':
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            assert Path(evaluator.ann_file) == shapes[scope] / 'annotations/instances_val.json'
    total = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
    assert total % cfg.train_cfg.val_interval == 0
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval
    schedulers = cfg.param_scheduler
    last = schedulers[-1]
    assert last.get('end', last.get('T_max', total)) == total
    assert all(value < total for value in last.get('milestones', []))
    steps = total if 'max_iters' in cfg.train_cfg else total * 8 // cfg.train_dataloader.batch_size
    for warm_up in schedulers[:-1]:
        unit = total if warm_up.by_epoch else steps
        assert 0 < warm_up.end <= unit / 10
        assert last.get('begin', 0) in (0, warm_up.end)


@pytest.mark.parametrize(
    'images, batch, length, rate',
    [(8, 2, 100, 3.5e-5), (250, 2, 24, 3.5e-5), (118_287, 2, 12, 3.5e-5)],
)
def test_few_images_are_seen_more_often(images: int, batch: int, length: int, rate: float) -> None:
    draft = Draft()
    _fit_schedule(draft, load('mask_rcnn_dat_pp_t_coco'), images, batch)
    assert draft.values['train_cfg']['max_epochs'] == length
    assert draft.values['optim_wrapper']['optimizer']['lr'] == rate


def test_weights_of_a_backbone_go_into_the_backbone(tmp_path: Path) -> None:
    write_roboflow(tmp_path / 'data')
    for name, key in (
        ('whole', 'backbone.patch_proj.0.weight'),
        ('authors', 'patch_proj.0.weight'),
    ):
        checkpoint = tmp_path / f'{name}.pth'
        torch.save(dict(state_dict={key: torch.zeros(1)}), checkpoint)
        new_config(
            nano('mmdet'),
            str(tmp_path / 'data'),
            str(tmp_path / f'{name}.py'),
            load_from=str(checkpoint),
        )
    whole, authors = (Config.fromfile(tmp_path / f'{name}.py') for name in ('whole', 'authors'))
    assert whole.load_from == str(tmp_path / 'whole.pth')
    assert authors.load_from is None
    assert authors.model.backbone.init_cfg.checkpoint == str(tmp_path / 'authors.pth')


def test_weights_that_have_an_address_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_roboflow(tmp_path / 'data')
    torch.save(dict(state_dict={'backbone.patch_proj.0.weight': torch.zeros(1)}), tmp_path / 'x')
    monkeypatch.setattr(reading, '_download', lambda url: tmp_path / 'x')
    url = 'https://example.org/whole.pth'
    new_config(nano('mmdet'), str(tmp_path / 'data'), str(tmp_path / 'mine.py'), load_from=url)
    assert Config.fromfile(tmp_path / 'mine.py').load_from == url


def test_a_config_in_the_clone_names_its_base_relative_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_roboflow(tmp_path / 'data')
    base = tmp_path / 'clone' / 'configs' / 'base.py'
    base.parent.mkdir(parents=True)
    base.write_text(f"_base_ = '{nano('mmdet')}'\n")
    monkeypatch.setattr('mmdat.apis.new_config.ROOT', tmp_path / 'clone')
    (tmp_path / 'clone' / 'mine').mkdir()
    out = tmp_path / 'clone' / 'mine' / 'parts.py'
    new_config(str(base), str(tmp_path / 'data'), str(out))
    assert "_base_ = '../configs/base.py'" in out.read_text()
    Config.fromfile(out)


def test_a_config_names_a_base_of_mmdat_as_it_was_named(tmp_path: Path) -> None:
    write_roboflow(tmp_path / 'data')
    base = f'mmdat::{NANO["mmdet"]}.py'
    new_config(base, str(tmp_path / 'data'), str(tmp_path / 'mine.py'))
    assert f"_base_ = '{base}'" in (tmp_path / 'mine.py').read_text()


def write_nothing(root: Path) -> None:
    write_json(root / 'notes.json', {'a': 1})


def write_packed(root: Path) -> None:
    (root / 'train.json.gz').touch()


def write_unreadable(root: Path) -> None:
    for name in ('a.psd', 'b.jpg'):
        (root / name).touch()


def write_yolo_of_pixels(root: Path) -> None:
    write_yolo(root)
    label = next((root / 'train' / 'labels').iterdir())
    label.write_text('0 40 30 20 10\n')


def write_lost_image(root: Path) -> None:
    write_roboflow(root)
    next((root / 'valid').glob('*.jpg')).unlink()


def write_two_files(root: Path) -> None:
    write_roboflow(root)
    content = json.loads((root / 'train' / '_annotations.coco.json').read_text())
    write_json(root / 'train' / 'old.json', content)


def write_annotations(root: Path, **changes: Any) -> None:
    """One image and one annotation, with changes of it."""
    write_images(root, ['a.jpg'])
    item = dict(id=3, image_id=1, category_id=1, bbox=[1, 2, 30, 40])
    content = dict(
        images=[dict(id=1, file_name='a.jpg', width=96, height=80)],
        annotations=[{**item, **changes}] if changes else [],
        categories=[dict(id=1, name='bolt')],
    )
    write_json(root / 'a.json', content)


def write_voc_without_box(root: Path, box: str = '') -> None:
    write_images(root, ['a.jpg', 'b.jpg'])
    for name in 'ab':
        text = f'<annotation><filename>{name}.jpg</filename><object><name>nut</name>{box}</object>'
        (root / f'{name}.xml').write_text(f'{text}</annotation>')


BOX_OF_NAN = '<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>nan</xmax><ymax>4</ymax></bndbox>'


@pytest.mark.parametrize(
    'write, sentence',
    [
        (partial(write_annotations, image_id=7), r'the item with id 3 has the image_id 7, which'),
        (partial(write_annotations, category_id=7), r'with id 3 has the category_id 7, which'),
        (write_annotations, r'such as a.json, have no annotations'),
        (write_voc_without_box, r"a.xml has an object 'nut' without a box"),
        (partial(write_voc_without_box, box=BOX_OF_NAN), r"an object 'nut' without a box"),
        (write_yolo, r'learns masks, but 6 of 6 objects in .* have a box alone: give a BASE'),
        (write_nothing, r'holds no boxes or masks of objects in a known format'),
        (write_yolo_of_pixels, r"in line 1 '0 40 30 20 10', which is not a class from 0 to 1"),
        (write_lost_image, r'1 of 2 images of .*_annotations.coco.json are not below'),
        (write_two_files, r'give the one to use as DATA'),
        (write_unreadable, r'; images such as .*a\.psd are not read: convert them to JPEG or PNG'),
        (write_packed, r'or is it in .*train.json.gz\? Unpack that first'),
        (
            partial(write_annotations, bbox=[60, 50, 90, 75], area='1'),
            r'data/[a-z.]+json is not in COCO format: 1 of the 1 boxes reach beyond their image',
        ),
    ],
)
def test_data_that_does_not_do_leaves_nothing_behind(
    write: Any, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / 'data').mkdir()
    write(tmp_path / 'data')
    with pytest.raises(UserError, match=sentence):
        new_config(nano('mmdet'), str(tmp_path / 'data'), str(tmp_path / 'mine.py'))
    assert [path.name for path in tmp_path.iterdir()] == ['data']


def write_masks_of_pixels(root: Path) -> None:
    for folder in ('images', 'masks'):
        (root / folder).mkdir()
        for name in '12':
            pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
            Image.fromarray(pixels).save(root / folder / f'{name}.png')


def write_folders_of_classes(root: Path) -> None:
    for name in ('cat', 'dog'):
        write_images(root / name, ['1.png', '2.png'])


def write_table_of_boxes(root: Path) -> None:
    write_images(root, ['1.png', '2.png'])
    (root / 'train.csv').write_text('file,class,xmin\n1.png,cat,2\n1.png,cat,6\n2.png,dog,3\n')


def test_names_that_no_list_can_hold_leave_nothing_behind(tmp_path: Path) -> None:
    write_folders_of_classes(tmp_path / 'data')
    write_images(tmp_path / 'data' / 'cat', [os.fsdecode(b'caf\xe9.png')])
    with pytest.raises(UserError, match=r"in UTF-8, 'cat/caf\\udce9' at its beginning: rename it"):
        new_config(nano('mmpretrain'), str(tmp_path / 'data'), str(tmp_path / 'mine.py'))
    assert [path.name for path in tmp_path.iterdir()] == ['data']


@pytest.mark.parametrize(
    'write, bases, sentence',
    [
        (write_roboflow, 'mmseg mmpretrain', r'COCO JSON: .* such as configs/mask_rcnn_dat_pp_t'),
        (write_yolo, 'mmseg mmpretrain', r'YOLO: .* such as configs/retinanet_dat'),
        (write_masks_of_pixels, 'mmdet mmpretrain', r'masks: .* such as configs/upernet_dat_pp_t'),
    ],
)
def test_data_of_another_task_names_a_base_for_it(
    write: Any, bases: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / 'data').mkdir()
    write(tmp_path / 'data')
    for scope in bases.split():
        with pytest.raises(UserError, match=f'holds .*{sentence}'):
            new_config(nano(scope), str(tmp_path / 'data'), str(tmp_path / 'mine.py'))


@pytest.mark.parametrize('write', [write_folders_of_classes, write_table_of_boxes])
def test_what_seems_to_have_classes_may_be_of_a_program(write: Any, tmp_path: Path) -> None:
    """Images of other tasks lie in several folders, too, and tables of boxes name classes."""
    (tmp_path / 'data').mkdir()
    write(tmp_path / 'data')
    (tmp_path / 'data/export.json').write_text('[{"label": [{"rectanglelabels": ["a"]}]}]')
    for scope, sentence in (
        ('mmdet', 'export.json is of Label Studio: export the data as COCO there'),
        ('mmseg', 'no pairs of an image and a mask: give a folder with .* up to the suffix'),
    ):
        with pytest.raises(UserError, match=f'{sentence}; or, if each image has one class, give'):
            new_config(nano(scope), str(tmp_path / 'data'), str(tmp_path / 'mine.py'))


@pytest.mark.parametrize(
    'base, data, sentence',
    [
        ('full', 'base.py', r'BASE .*full is a folder, not a config: the order is BASE DATA OUT'),
        ('base.py', 'nowhere', r'nowhere does not exist: give a folder or an annotation file'),
        ('base.py', 'empty', r'empty holds no files'),
        ('base.py', 'full/a.PNG', r'a.PNG is an image: give its folder'),
        ('base.py', 'full/a.ZIP', r'a.ZIP is packed: unpack it, and give the folder'),
    ],
)
def test_arguments_that_are_mixed_up_are_told(
    base: str, data: str, sentence: str, tmp_path: Path
) -> None:
    write_images(tmp_path / 'full', ['a.PNG'])
    (tmp_path / 'full' / 'a.ZIP').touch()
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'base.py').touch()
    with pytest.raises(UserError, match=sentence):
        new_config(str(tmp_path / base), str(tmp_path / data), str(tmp_path / 'out' / 'mine.py'))


def test_a_base_in_pure_python_is_refused_but_not_its_dump(tmp_path: Path) -> None:
    write_roboflow(tmp_path / 'data')
    dump, pure, out = (tmp_path / f'{name}.py' for name in ('dump', 'pure', 'mine'))
    Config.fromfile(nano('mmdet')).dump(dump)
    named = "type='MaskRCNN'"
    assert named in dump.read_text()
    imported = dump.read_text().replace(named, 'type=MaskRCNN')
    pure.write_text(f'from mmdet.models import MaskRCNN\n{imported}')
    with pytest.raises(UserError, match=r'pure.py is in pure Python, which no config with _base_'):
        new_config(str(pure), str(tmp_path / 'data'), str(out))
    Config.fromfile(pure).dump(dump)
    new_config(str(dump), str(tmp_path / 'data'), str(out))
    assert read_config(out).model.type == 'MaskRCNN'


@pytest.mark.parametrize(
    'part',
    [
        'train_dataloader',
        'train_dataloader.batch_size',
        'train_cfg',
        'train_cfg.max_epochs',
        'optim_wrapper',
        'optim_wrapper.optimizer.lr',
        'val_dataloader',
        'val_evaluator',
        'test_dataloader',
        'test_evaluator',
    ],
)
def test_a_base_without_a_part_is_refused(part: str, tmp_path: Path) -> None:
    cfg = load(NANO['mmpretrain'])
    *parents, last = part.split('.')
    parent = config_tree.value_at(cfg, '.'.join(parents)) if parents else cfg
    parent.pop(last)
    base = tmp_path / 'base.py'
    cfg.dump(base)
    for split in ('train', 'val', 'test'):
        write_folders_of_classes(tmp_path / 'data' / split)
    out = tmp_path / 'mine.py'
    with pytest.raises(UserError, match=rf'base.py has no {part}(\.\w+)*: add one'):
        new_config(str(base), str(tmp_path / 'data'), str(out))
    assert not out.exists()


@pytest.mark.parametrize(
    'out, sentence',
    [
        ('there.py', r'OUT .*there.py is there already'),
        ('mine.txt', r'OUT .*mine.txt must end in .py'),
        ('data/mine.py', r'where nothing is written'),
        ('used.py', r'used_train.json is there already'),
    ],
)
def test_nothing_is_overwritten(out: str, sentence: str, tmp_path: Path) -> None:
    write_roboflow(tmp_path / 'data')
    for name in ('there.py', 'used_train.json'):
        (tmp_path / name).write_text('mine')
    with pytest.raises(UserError, match=sentence):
        new_config(nano('mmdet'), str(tmp_path / 'data'), str(tmp_path / out))
    assert (tmp_path / 'there.py').read_text() == (tmp_path / 'used_train.json').read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'data',
        'there.py',
        'used_train.json',
    ]


def test_all_files_in_the_way_are_named_at_once(tmp_path: Path) -> None:
    write_annotations(tmp_path / 'data', id=0)
    write_images(tmp_path / 'data', ['b.jpg'])
    content = json.loads((tmp_path / 'data' / 'a.json').read_text())
    content['images'].append(dict(id=2, file_name='b.jpg', width=96, height=80))
    content['annotations'][0]['segmentation'] = [[1, 2, 31, 2, 31, 42]]
    content['annotations'].append(dict(content['annotations'][0], id=1, image_id=2))
    write_json(tmp_path / 'data' / 'a.json', content)
    for name in ('mine_train.json', 'mine_val.json'):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r'mine_train.json, .*mine_val.json are there already'):
        new_config(nano('mmdet'), str(tmp_path / 'data'), str(tmp_path / 'mine.py'))


def test_images_without_objects_and_classes_alike_are_told(tmp_path: Path) -> None:
    write_roboflow(tmp_path / 'data')
    path = tmp_path / 'data' / 'train' / '_annotations.coco.json'
    content = json.loads(path.read_text())
    names = [f'empty {i}.jpg' for i in range(9)]
    write_images(path.parent, names)
    content['images'] += [
        dict(id=100 + i, file_name=name, width=96, height=80) for i, name in enumerate(names)
    ]
    content['categories'] += [dict(id=9, name='Bolt'), dict(id=10, name='nut ')]
    write_json(path, content)
    lines = new_config(nano('mmdet'), str(tmp_path / 'data'), str(tmp_path / 'mine.py'))
    told = [line for line in lines if line.startswith('The data have the classes')]
    assert told == [
        "The data have the classes 'bolt' and 'Bolt', which differ in case or blanks alone, and 1 "
        'more such pairs: give both one name if they are one class.'
    ]
    assert any(re.search(r'; 2 images at 2 a step are 1 steps an epoch', line) for line in lines)
    assert any(re.match('9 of 11 images of train have no object', line) for line in lines)


def test_no_share_to_validate_on_is_refused(tmp_path: Path) -> None:
    write_roboflow(tmp_path / 'data')
    with pytest.raises(UserError, match='--val-share must be above 0'):
        new_config(nano('mmdet'), str(tmp_path / 'data'), str(tmp_path / 'mine.py'), val_share=0)


def test_files_of_a_failed_try_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_roboflow(tmp_path / 'data')

    def fail(path: Path) -> None:
        raise UserError('too bad')

    monkeypatch.setattr('mmdat.apis.new_config.load_config', fail)
    with pytest.raises(UserError, match='too bad'):
        new_config(nano('mmdet'), str(tmp_path / 'data'), str(tmp_path / 'new' / 'mine.py'))
    assert [path.name for path in tmp_path.iterdir()] == ['data']
