"""Reports on a test of a detector, a segmentor and a classifier."""

import copy
import json
import pickle
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers.nano import write_nano
from mmdet.datasets import CocoDataset, VOCDataset
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.evaluation import IoUMetric
from PIL import Image
from pycocotools import mask as mask_api

from mmdat.analysis.detections import average_precision, confused_objects
from mmdat.analysis.report import Report, print_report, write_report
from mmdat.analysis.tables import ALL_CLASSES, print_tables, to_markdown
from mmdat.apis.model import build_model
from mmdat.datasets import ShapesDataset, ShapesParameters, write_shapes_coco
from mmdat.datasets.shapes.drawing import METAINFO
from mmdat.errors import UserError

Results = list[dict[str, Any]]

SIZE = 96
NUM_IMAGES = 6
ANNOTATIONS = 'annotations/instances_val.json'


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes_coco(root, ShapesParameters(train=1, val=NUM_IMAGES, size=SIZE))
    dataset = dict(
        type='mmdat.ShapesDataset',
        data_root=str(root),
        data_prefix=dict(img='val/'),
        ann_file=ANNOTATIONS,
        test_mode=True,
    )
    return Config(dict(default_scope='mmdet', test_dataloader=dict(dataset=dataset)))


@pytest.fixture(scope='module')
def dataset(config: Config) -> CocoDataset:
    options = dict(config.test_dataloader.dataset)
    options.pop('type')
    return ShapesDataset(**options)


@pytest.fixture
def perfect(dataset: CocoDataset) -> Results:
    """What DumpDetResults would write for a detector that makes no mistake."""
    truth = json.loads(Path(dataset.ann_file).read_text())
    results = []
    for image in truth['images']:
        found = [item for item in truth['annotations'] if item['image_id'] == image['id']]
        boxes = torch.tensor([item['bbox'] for item in found])
        boxes[:, 2:] += boxes[:, :2]
        results.append(
            dict(
                img_id=image['id'],
                ori_shape=(SIZE, SIZE),
                pred_instances=dict(
                    bboxes=boxes,
                    scores=torch.full((len(found),), 0.9),
                    labels=torch.tensor([item['category_id'] - 1 for item in found]),
                    masks=[item['segmentation'] for item in found],
                ),
            )
        )
    return results


def shifted(results: Results, pixels: int) -> Results:
    results = copy.deepcopy(results)
    for sample in results:
        instances = sample['pred_instances']
        instances['bboxes'] += pixels
        masks = np.roll(mask_api.decode(instances['masks']), pixels, axis=(0, 1))
        instances['masks'] = mask_api.encode(np.asfortranarray(masks))
    return results


def report_on(results: object, config: Config, folder: Path, **options: Any) -> Report:
    (folder / 'results.pkl').write_bytes(pickle.dumps(results))
    return write_report(config, folder / 'results.pkl', **options)


def test_perfect_predictions_have_an_ap_of_one_in_every_class(
    dataset: CocoDataset, perfect: Results
) -> None:
    measured = average_precision(perfect, dataset)
    assert list(measured) == ['bbox', 'segm']
    for rows in measured.values():
        assert list(rows) == [ALL_CLASSES, *METAINFO['classes']]
        for row in rows.values():
            assert row['AP'] == row['AP50'] == row['AP75'] == pytest.approx(1)


def test_figures_are_of_the_named_class_whatever_the_ids(
    dataset: CocoDataset, perfect: Results, tmp_path: Path
) -> None:
    content = json.loads(Path(dataset.ann_file).read_text())
    for number, item in enumerate(content['annotations']):
        item.update(id=number, category_id=9 - item['category_id'])
    for item in content['categories']:
        item['id'] = 9 - item['id']
    (tmp_path / 'other.json').write_text(json.dumps(content))
    other = ShapesDataset(ann_file=str(tmp_path / 'other.json'), test_mode=True)
    for sample in perfect:  # of the first class nothing is found
        instances = sample['pred_instances']
        instances['labels'][instances['labels'] == 0] = 1
    rows = average_precision(perfect, other)['bbox']
    first, _, *others = METAINFO['classes']
    assert rows[first]['AP'] == 0
    assert [rows[name]['AP'] for name in others] == pytest.approx([1] * len(others))


def test_data_that_are_not_in_coco_format_are_refused(perfect: Results) -> None:
    with pytest.raises(
        UserError, match=r'dataset is a VOCDataset, but a report measures data in C'
    ):
        average_precision(perfect, VOCDataset(lazy_init=True))


def test_shifted_predictions_have_less_the_further_the_less(
    dataset: CocoDataset, perfect: Results
) -> None:
    near, far = (average_precision(shifted(perfect, pixels), dataset) for pixels in (2, 6))
    for metric in ('bbox', 'segm'):
        assert 1 > near[metric][ALL_CLASSES]['AP'] > far[metric][ALL_CLASSES]['AP']


def test_figures_are_those_of_mmdet(dataset: CocoDataset, perfect: Results) -> None:
    results = shifted(perfect, 2)
    for index, sample in enumerate(results):
        sample['pred_instances']['scores'] = torch.linspace(
            0.1 * (index % 3), 0.9, len(sample['pred_instances']['labels'])
        )
    measured = average_precision(results, dataset)
    metric = CocoMetric(dataset.ann_file, metric=['bbox', 'segm'])
    metric.dataset_meta = METAINFO
    metric.process({}, copy.deepcopy(results))
    expected = metric.evaluate(len(results))
    names = dict(AP='mAP', AP50='mAP_50', AP75='mAP_75') | {
        f'AP {area}': f'mAP_{area[0]}' for area in ('small', 'medium', 'large')
    }
    for kind, rows in measured.items():
        for column, value in rows[ALL_CLASSES].items():
            theirs = expected[f'coco/{kind}_{names[column]}']
            assert (-1 if value is None else value) == pytest.approx(theirs, abs=6e-4)


def test_an_image_that_was_tested_twice_counts_once(dataset: CocoDataset, perfect: Results) -> None:
    results = shifted(perfect, 2)
    assert average_precision([*results, *results[:3]], dataset) == average_precision(
        results, dataset
    )


def test_a_detector_without_masks_or_findings_is_reported_on_too(
    config: Config, perfect: Results, tmp_path: Path
) -> None:
    for sample in perfect:
        instances = sample['pred_instances']
        del instances['masks']
        instances.update({name: value[:0] for name, value in instances.items()})
    measured = report_on(perfect, config, tmp_path, num_images=1).tables
    assert list(measured) == ['bbox']
    assert measured['bbox'][ALL_CLASSES]['AP'] == 0


def test_objects_are_confused_missed_or_found_where_there_is_none(
    dataset: CocoDataset, perfect: Results
) -> None:
    diagonal = confused_objects(perfect, dataset, 0.5)
    truth = [item['bbox_label'] for i in range(NUM_IMAGES) for item in instances(dataset, i)]
    assert diagonal.tolist() == np.diag(np.bincount(truth, minlength=5)).tolist()
    assert (
        confused_objects(perfect, dataset, 0.95)[:4, 4].tolist() == diagonal.diagonal()[:4].tolist()
    )
    found = perfect[0]['pred_instances']
    first = int(found['labels'][0])
    other = (first + 1) % 4
    found['labels'][0] = other
    # A second, looser box on the same object, and one in a crowd.
    crowd, single = instances(dataset, 1)[0], perfect[1]['pred_instances']
    loose = found['bboxes'][:1] + torch.tensor([0.0, 0, 1, 1])
    inside = torch.tensor([crowd['bbox']]) + torch.tensor([1.0, 1, -1, -1])
    for boxes, extra in ((found, loose), (single, inside)):
        boxes['bboxes'] = torch.cat([boxes['bboxes'], extra])
        boxes['scores'] = torch.cat([boxes['scores'], torch.ones(1)])
        boxes['labels'] = torch.cat([boxes['labels'], torch.tensor([first])])
    dataset = copy.deepcopy(dataset)
    infos = [dataset.get_data_info(index) for index in range(NUM_IMAGES)]
    infos[1]['instances'][0]['ignore_flag'] = 1
    dataset.get_data_info = infos.__getitem__
    change = confused_objects(perfect, dataset, 0.5) - diagonal
    expected = np.zeros_like(diagonal)
    expected[first, first] -= 1
    expected[first, other] += 1
    expected[4, first] += 1
    expected[crowd['bbox_label'], crowd['bbox_label']] -= 1
    assert change.tolist() == expected.tolist()


def instances(dataset: CocoDataset, index: int) -> list[dict[str, Any]]:
    return dataset.get_data_info(index)['instances']


def test_pictures_and_tables_are_written_and_their_paths_printed_last(
    config: Config, perfect: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = report_on(perfect, config, tmp_path, out_dir=tmp_path / 'new' / 'folder', num_images=1)
    truth, prediction = np.split(cv2.imread(str(report.pictures)), 2, axis=1)
    assert truth[60:500].std() > 10
    # Equal but for the scores that are written beside the names.
    assert np.mean(np.abs(truth[60:500] - prediction[60:500].astype(int)) > 40) < 0.1
    assert json.loads(report.figures.read_text()) == report.tables
    table = report.table.read_text()
    assert '| all classes | 100.0 | 100.0 | 100.0 |' in table
    assert all(f'| {name} | 100.0 |' in table for name in METAINFO['classes'])
    print_report(report)
    *_, pictures, table, page = capsys.readouterr().out.splitlines()
    assert pictures.endswith(str(report.pictures))
    assert table.endswith(str(report.table))
    assert page == f'Report: {report.page}'


def test_images_are_drawn_as_the_data_set_loads_them(
    config: Config, perfect: Results, tmp_path: Path
) -> None:
    content = json.loads(Path(config.test_dataloader.dataset.data_root, ANNOTATIONS).read_text())
    content['images'] = [dict(content['images'][0], file_name='0.png', width=2 * SIZE)]
    content['annotations'] = content['annotations'][:1]
    del content['annotations'][0]['segmentation']
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned, which the annotations know nothing of
    Image.new('RGB', (2 * SIZE, SIZE)).save(tmp_path / '0.png', exif=exif)
    (tmp_path / 'one.json').write_text(json.dumps(content))
    loader = dict(type='LoadImageFromFile', color_type='color_ignore_orientation')
    one = copy.deepcopy(config)
    one.test_dataloader.dataset.update(
        data_prefix=dict(img=str(tmp_path)), ann_file=str(tmp_path / 'one.json'), pipeline=[loader]
    )
    perfect[0].update(ori_shape=(SIZE, 2 * SIZE))
    del perfect[0]['pred_instances']['masks']
    truth = cv2.imread(str(report_on(perfect[:1], one, tmp_path, num_images=1).pictures))
    assert truth[60, 400].max() == 0 and truth[400, 60].min() == 255  # wide, white below


def test_the_page_has_pictures_of_all_the_test_set(
    config: Config, perfect: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmdat.analysis.report.MOST_PICTURES', 2)
    pages = []
    monkeypatch.setattr(
        'mmdat.analysis.report.write_page', lambda path, **content: pages.append(content)
    )
    report = report_on(perfect, config, tmp_path, num_images=NUM_IMAGES)
    first, last = pages[0]['pictures']
    grid = cv2.imread(str(report.pictures))[..., ::-1]
    height, width = first.shape[:2]
    assert np.array_equal(first, grid[:height, :width])
    assert np.array_equal(last, grid[-height:, -width:])


def test_names_with_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    names = (ALL_CLASSES, 'screw[m]', 'a[/b]', 'a|b', ':car:', 'x' * 100 + 'y')
    tables = dict(accuracy={name: dict(accuracy=0.5) for name in names})
    print_tables(tables)
    printed = capsys.readouterr().out
    assert all(f' {name} ' in printed for name in names[:-1]) and 'xy ' in printed
    assert '| a\\|b | 50.0 |' in to_markdown(tables)


def test_missing_results_are_told_in_a_sentence(config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'there are no results at .*none\.pkl: write them with'):
        write_report(config, tmp_path / 'none.pkl')


@pytest.mark.parametrize('content', [b'', b'not a pickle', b'\x80\x04K'])
def test_a_file_that_is_no_pickle_is_refused(
    config: Config, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / 'results.pkl').write_bytes(content)
    with pytest.raises(UserError, match=r'results\.pkl is not a pickle of results'):
        write_report(config, tmp_path / 'results.pkl')


@pytest.mark.parametrize(
    'results',
    [[], {}, [1], [dict(img_id=1)], [dict(img_id=1, ori_shape=(1, 1), pred_instances=dict())]],
)
def test_a_pickle_of_something_else_is_refused(
    config: Config, tmp_path: Path, results: object
) -> None:
    with pytest.raises(UserError, match=r'results\.pkl holds no results of a detector: give'):
        report_on(results, config, tmp_path)


def test_results_of_another_data_set_are_refused(
    config: Config, perfect: Results, tmp_path: Path
) -> None:
    match = 'belongs to another data set than .*instances_val.json'
    with pytest.raises(UserError, match=match):
        report_on(perfect[:-1], config, tmp_path)
    other_size = copy.deepcopy(perfect)
    other_size[0]['ori_shape'] = (480, 640)
    with pytest.raises(UserError, match=match):
        report_on(other_size, config, tmp_path)
    perfect[0]['classes'] = METAINFO['classes']
    assert report_on(perfect, config, tmp_path).tables
    perfect[0]['classes'] = METAINFO['classes'][::-1]
    match = f'number 0 is {METAINFO["classes"][-1]!r} in the one and {METAINFO["classes"][0]!r} in'
    with pytest.raises(UserError, match=match):
        report_on(perfect, config, tmp_path)
    del perfect[0]['classes']
    perfect[0]['pred_instances']['labels'][0] = 79
    with pytest.raises(UserError, match='class number 79'):
        report_on(perfect, config, tmp_path)


def test_a_number_of_pictures_below_one_is_refused(
    config: Config, perfect: Results, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match='--num-images must be at least 1, got 0'):
        report_on(perfect, config, tmp_path, num_images=0)


def test_a_wrapped_data_set_is_refused(config: Config, perfect: Results, tmp_path: Path) -> None:
    both = dict(type='ConcatDataset', datasets=[config.test_dataloader.dataset] * 2)
    wrapped = Config(dict(default_scope='mmdet', test_dataloader=dict(dataset=both)))
    with pytest.raises(UserError, match='dataset is a ConcatDataset: give a config with the data'):
        report_on(perfect, wrapped, tmp_path)


def test_a_threshold_that_no_score_can_have_is_refused(
    config: Config, perfect: Results, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match='--score-thr must be a number from 0 to 1, got 1.5'):
        report_on(perfect, config, tmp_path, score_thr=1.5)


def test_the_page_says_from_which_score_on_objects_are_counted(
    config: Config, perfect: Results, tmp_path: Path
) -> None:
    page = report_on(perfect, config, tmp_path, score_thr=0.7).page.read_text()
    assert 'by boxes with a score of 0.7 or more that overlap with an IoU of 0.5 or more' in page


def test_a_checkpoint_of_another_model_is_told_before_anything_is_written(
    config: Config, perfect: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = write_nano('retinanet_dat_t_coco', tmp_path)
    _, other = write_nano('mask_rcnn_scalablevit_s_coco', tmp_path)
    cfg = Config.fromfile(path)
    cfg.test_dataloader.dataset = config.test_dataloader.dataset
    with pytest.raises(UserError, match=f'{other} is of another model'):
        report_on(perfect, cfg, tmp_path, out_dir=tmp_path / 'report', checkpoint=other)
    assert not (tmp_path / 'report').exists()
    # One that nobody named, as the last of a training that diverged, ends no report.
    (tmp_path / 'last_checkpoint').write_text(str(other))
    told: list[str] = []
    monkeypatch.setattr('mmdat.analysis.report.log_warning', told.append)
    report = report_on(perfect, cfg, tmp_path)
    assert 'attention looks' not in report.page.read_text()
    assert f'does not show where attention looks: {other} is of an' in told[0]


def test_wrong_config_or_folder_is_told_in_a_sentence(
    config: Config, perfect: Results, tmp_path: Path
) -> None:
    (tmp_path / 'results.pkl').write_bytes(pickle.dumps(perfect))
    (tmp_path / 'broken.py').write_text('model = dict(')
    for name, sentence in [
        ('missing.py', 'missing.py does not exist'),
        ('broken.py', 'broken.py is not valid Python'),
    ]:
        with pytest.raises(UserError, match=sentence):
            write_report(tmp_path / name, tmp_path / 'results.pkl')
    with pytest.raises(UserError, match=r'--out-dir .*/broken.py cannot be written to'):
        write_report(config, tmp_path / 'results.pkl', tmp_path / 'broken.py')


@pytest.mark.parametrize(
    'text, sentence',
    [
        ('', 'config .*some.py has no test_dataloader.dataset: add one'),
        ('test_dataloader = dict()', 'has no test_dataloader.dataset: add one'),
        (
            "test_dataloader = dict(dataset=dict(type='mmdat.ShapeDataset'))",
            "unknown test_dataloader.dataset.type='mmdat.ShapeDataset'",
        ),
        ('test_dataloder = dict()', "unknown key 'test_dataloder' in config .*some.py"),
    ],
)
def test_a_config_without_test_data_to_build_is_refused(
    text: str, sentence: str, perfect: Results, tmp_path: Path
) -> None:
    (tmp_path / 'results.pkl').write_bytes(pickle.dumps(perfect))
    (tmp_path / 'some.py').write_text(f"default_scope = 'mmdet'\nmodel = dict(type='X')\n{text}")
    with pytest.raises(UserError, match=sentence):
        write_report(tmp_path / 'some.py', tmp_path / 'results.pkl')


PACK = dict(type='PackInputs')
CLASSES = ('ground', 'disk', 'unseen')


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Three images, in folders for segmentation and, by their name, of classification."""
    for folder in ('ground', 'disk'):
        (tmp_path / 'images' / folder).mkdir(parents=True)
    paths = [tmp_path / 'images' / name for name in ('disk/0.jpg', 'disk/1.jpg', 'ground/2.jpg')]
    for path in paths:
        cv2.imwrite(str(path), np.full((40, 60, 3), 90, np.uint8))
    return list(map(str, paths))


def segmented(paths: list[str]) -> Results:
    """Segments of which some are right; the class of some pixels is ignored."""
    rng = np.random.default_rng(0)
    results = []
    for path in paths:
        truth = torch.from_numpy(rng.integers(2, size=(1, 40, 60)))
        found = torch.where(torch.from_numpy(rng.random((1, 40, 60))) < 0.2, 1 - truth, truth)
        truth[:, :5] = 255
        results.append(
            dict(
                img_path=path,
                ori_shape=(40, 60),
                pred_sem_seg=dict(data=found),
                gt_sem_seg=dict(data=truth),
            )
        )
    return results


def config_for(scope: str, root: Path) -> Config:
    kind = dict(mmseg='BaseSegDataset', mmpretrain='CustomDataset')[scope]
    dataset = dict(type=kind, data_root=str(root), metainfo=dict(classes=CLASSES))
    dataset['data_prefix'] = dict(img_path='images') if scope == 'mmseg' else 'images'
    return Config(dict(default_scope=scope, test_dataloader=dict(dataset=dataset)))


def test_a_segmentor_is_reported_on(images: list[str], tmp_path: Path) -> None:
    results = segmented(images)
    report = report_on(results, config_for('mmseg', tmp_path), tmp_path, num_images=3)
    rows = report.tables['iou']
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, results)
    expected = metric.evaluate(3)
    assert 100 * rows[ALL_CLASSES]['IoU'] == pytest.approx(expected['mIoU'], abs=0.01)
    assert 100 * rows[ALL_CLASSES]['accuracy'] == pytest.approx(expected['mAcc'], abs=0.01)
    assert rows['unseen'] == {'IoU': None, 'accuracy': None, 'share of pixels': 0.0}
    assert json.loads((tmp_path / 'iou.json').read_text()) == report.tables
    assert '| disk | ' in (tmp_path / 'iou.md').read_text()
    truth, prediction, *_ = np.split(cv2.imread(str(report.pictures)), 4, axis=1)
    assert truth[40:300].std() > 10 and (truth[40:300] != prediction[40:300]).any()
    sure = [
        (sample['gt_sem_seg']['data'] == truth) & (sample['pred_sem_seg']['data'] == found)
        for truth, found in ((0, 0), (0, 1))
        for sample in results
    ]
    counts = [int(sum(part.sum() for part in parts)) for parts in (sure[:3], sure[3:])]
    for count in counts:
        assert f'<td title="{count}"' in report.page.read_text()
    assert 'There is no log of a training' in report.page.read_text()


def test_a_classifier_is_reported_on(images: list[str], tmp_path: Path) -> None:
    (tmp_path / 'val.txt').write_text('disk/0.jpg 1\ndisk/1.jpg 1\nground/2.jpg 0\n')
    config = config_for('mmpretrain', tmp_path)
    config.test_dataloader.dataset.ann_file = str(tmp_path / 'val.txt')
    results = [
        dict(
            img_path=path,
            gt_label=torch.tensor([truth]),
            pred_label=torch.tensor([found]),
            pred_score=torch.eye(3)[found],
        )
        for path, truth, found in zip(images, (1, 1, 0), (1, 0, 0), strict=True)
    ]
    report = report_on(results, config, tmp_path, num_images=3)
    rows = report.tables['accuracy']
    for name, row in {
        ALL_CLASSES: (pytest.approx(2 / 3), 0.75, 1.0),
        'ground': (1.0, 0.5, 1 / 3),
        'disk': (0.5, 1.0, 2 / 3),
        'unseen': (None, None, 0.0),
    }.items():
        columns = 'accuracy', 'precision', 'share of images'
        assert rows[name] == dict(zip(columns, row, strict=True))
    assert '| disk | 50.0 | 100.0 | 66.7 |' in (tmp_path / 'accuracy.md').read_text()
    results[0]['gt_label'] = torch.tensor([1, 2])
    with pytest.raises(UserError, match='holds no results of a classifier of one class an image'):
        report_on(results, config, tmp_path)
    red = cv2.imread(str(report.pictures)).astype(int)
    red = (red[..., 2] - red[..., 1] > 100).any(axis=0)
    assert np.split(red[: 3 * (len(red) // 3)], 3)[1].any(), 'the wrong one is red'
    assert not red[: len(red) // 3].any()


def test_the_page_needs_no_other_file_and_escapes_what_it_names(
    images: list[str], tmp_path: Path
) -> None:
    classes = ['<b>big & 大</b>', *(f'class {i}' for i in range(1, 30))]
    config = config_for('mmpretrain', tmp_path)
    (tmp_path / 'val.txt').write_text(''.join(f'{path} 0\n' for path in images))
    config.test_dataloader.dataset.update(
        ann_file=str(tmp_path / 'val.txt'),
        data_prefix='',
        metainfo=dict(classes=classes),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=64), PACK],
    )
    config.model = dict(
        type='ImageClassifier',
        backbone=dict(type='mmdat.DATPlusPlus', arch='nano', out_indices=(3,)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=30, in_channels=128),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        torch.save(build_model(config).state_dict(), tmp_path / 'weights.pth')
    (tmp_path / 'last_checkpoint').write_text('/before/it/was/copied/weights.pth')
    scores = dict(gt_label=torch.tensor([0]), pred_score=torch.eye(30)[29])
    results = [dict(scores, img_path=path, pred_label=torch.tensor([29])) for path in images]
    log = tmp_path / 'run' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 1, "lr": 0.1, "iter": 1, "step": 1}\n')
    report = report_on(results, config, tmp_path, num_images=3, command='a "b" <c>')
    page = report.page.read_text()
    assert '&lt;b&gt;big &amp; 大&lt;/b&gt;' in page and '<b>' not in page
    assert 'a &#34;b&#34; &lt;c&gt;' in page and f'torch {torch.__version__}' in page
    assert page.count('src="data:image/png;base64,') == 2, 'loss and learning rate'
    pictures, points = page.split('<h2>Where deformable attention looks')
    assert f'weights of {tmp_path}/weights.pth' in points
    for part in (pictures, points):
        assert part.count('src="data:image/jpeg;base64,') == 3
    assert not re.findall(r'(?:src|href)="(?!data:)|url\(|http', re.sub('base64,[^"]*', '', page))
    matrix = page.split('<h2>Confusion matrix')[1].split('<h2>')[0]
    assert 'The 20 of 30 classes' in matrix and matrix.count('<tr>') == 21
    assert (
        '<td title="3" style="background: rgba(0, 114, 178, 1.00); color: #fff">100</td>' in matrix
    )


@pytest.mark.parametrize(
    'scope, writer', [('mmseg', 'a segmentor'), ('mmpretrain', 'a classifier')]
)
def test_results_of_another_task_are_refused(
    scope: str, writer: str, perfect: Results, images: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f'results.pkl holds no results of {writer}'):
        report_on(perfect, config_for(scope, tmp_path), tmp_path)


def test_segments_of_other_images_are_refused(images: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'another data set than .*images: 2 of its 2 images are'):
        report_on(segmented(images[:2]), config_for('mmseg', tmp_path), tmp_path)
