"""Images, folders and videos are predicted by each head, and written without loss."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import nano
from helpers.disk import full_disk
from mmcv.transforms import Compose
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from mmdat.apis import predict, write_predictions
from mmdat.apis import predictor as predictor_module
from mmdat.apis.metainfo import (
    annotations_of,
    category_ids,
    color_type_of,
    image_ids,
    metainfo_of,
    pipeline_of,
)
from mmdat.apis.model import build_model
from mmdat.apis.predict import Summary, print_summary
from mmdat.apis.prediction_files import PredictionFiles
from mmdat.apis.predictor import Predictor, _raise_thresholds
from mmdat.apis.results import Prediction
from mmdat.errors import UserError

CLASSIFIER, DETECTOR, SEGMENTOR = (
    'dat_t_in1k',
    'mask_rcnn_scalablevit_s_coco',
    'semantic_fpn_scalablevit_s_ade20k',
)
Model = tuple[str, str]


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Config and checkpoint of a nano model with random weights, by name; no data lies on disk."""
    folder = tmp_path_factory.mktemp('models')
    written: dict[str, Model] = {}

    def write(name: str) -> Model:
        if name not in written:
            written[name] = nano.write_nano(name, folder)
        return written[name]

    return write


def draw(path: Path, seed: int = 0, shape: tuple[int, int] = (48, 64)) -> Path:
    """Write a random image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    cv2.imwrite(str(path), rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    return path


def entries(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / 'predictions.json').read_text())


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


@pytest.mark.parametrize('name', nano.HEADS)
def test_each_head_predicts_a_batch_of_images_of_two_sizes(
    name: str, model: Callable[[str], Model], tmp_path: Path
) -> None:
    shapes = [(48, 64), (64, 48), (48, 64)]
    paths = [draw(tmp_path / f'{i}.png', i, shape) for i, shape in enumerate(shapes)]
    results = list(predict(*model(name), paths, score_thr=0.0, batch_size=3))
    assert [result.name for result in results] == ['0.png', '1.png', '2.png']
    if name == DETECTOR:  # padding to the other images would change it
        (alone,) = predict(*model(name), paths[1], score_thr=0.0)
        np.testing.assert_allclose(results[1].instances.scores, alone.instances.scores, atol=1e-6)
    for result, path, shape in zip(results, paths, shapes, strict=True):
        np.testing.assert_array_equal(result.image, cv2.imread(str(path))[..., ::-1])
        cv2.circle(result.image, (9, 9), 4, (255, 0, 0))  # which no flipped view of an array lets
        if name in nano.CLASSIFIERS:
            assert result.class_scores.shape == (1000,)
            assert result.class_scores.sum() == pytest.approx(1, abs=1e-4)
        elif name in nano.SEGMENTORS:
            assert result.class_map.shape == shape and result.class_map.dtype == np.uint8
        else:
            assert len(result.instances.boxes) == len(result.instances.labels) > 0
            assert (np.diff(result.instances.scores) <= 0).all()
            assert (result.instances.boxes <= [*shape[::-1]] * 2).all()
            if 'mask' in name:
                masks = mask_api.decode(result.instances.masks)
                assert masks.shape == (*shape, len(result.instances.boxes))


@pytest.mark.parametrize('name', [DETECTOR, SEGMENTOR, 'mask2former_dat_pp_t_ade20k'])
def test_a_model_predicts_tiles(name: str, model: Callable[[str], Model], tmp_path: Path) -> None:
    path = draw(tmp_path / 'x.png', shape=(70, 100))
    (result,) = predict(*model(name), path, slice_size=64, score_thr=0.0, batch_size=2)
    (whole,) = predict(*model(name), path, slice_size=100, score_thr=0.0)
    if name == DETECTOR:
        assert len(result.instances.boxes) > len(whole.instances.boxes)
        assert mask_api.decode(result.instances.masks).shape[:2] == (70, 100)
    else:
        assert result.class_map.shape == whole.class_map.shape == (70, 100)
        if name == SEGMENTOR:  # the other sees one class everywhere
            assert (result.class_map != whole.class_map).any()


@pytest.mark.parametrize('name', [DETECTOR, 'retinanet_dat_t_coco'])
def test_objects_in_a_very_large_image_are_the_same(
    name: str, model: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    predictor = Predictor(*model(name), score_thr=0.0)
    if name == DETECTOR:  # masks that fill the boxes; those of random weights are all edges
        logits = predictor._model.roi_head.mask_head.conv_logits
        torch.nn.init.zeros_(logits.weight)
        torch.nn.init.ones_(logits.bias)
    (expected,) = predictor([image])
    drawn = []
    encode = predictor_module.encode_mask

    def record(mask: np.ndarray, shape: tuple[int, int]) -> Any:
        drawn.append(mask.shape)
        return encode(mask, shape)

    monkeypatch.setattr(predictor_module, 'encode_mask', record)
    monkeypatch.setattr(predictor_module, 'MOST_MASK_PIXELS', 50 * 71)
    (found,) = predictor([image])
    found, expected = found['instances'], expected['instances']
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    if expected.masks is not None:
        assert set(drawn) == {(49, 71)}
        masks, truth = mask_api.decode(found.masks), mask_api.decode(expected.masks)
        assert masks.shape == truth.shape == (70, 100, len(expected.scores))
        assert (masks & truth).sum() > 0.85 * (masks | truth).sum() > 0


def test_segments_are_those_of_the_toolbox(model: Callable[[str], Model], tmp_path: Path) -> None:
    from mmseg.apis import inference_model, init_model

    path = draw(tmp_path / 'x.png', shape=(75, 100))
    segmentor = init_model(*model(SEGMENTOR), device='cpu')
    expected = inference_model(segmentor, str(path)).pred_sem_seg.data[0].numpy()
    (result,) = predict(*model(SEGMENTOR), path)
    assert (result.class_map == expected).mean() > 0.999  # but for ties
    assert len(np.unique(expected)) > 1


def test_detections_are_written_in_cocos_format(
    model: Callable[[str], Model], tmp_path: Path
) -> None:
    draw(tmp_path / 'in' / 'a' / '1.jpg')
    draw(tmp_path / 'in' / 'b' / '1.jpg', 1)
    config, checkpoint = model(DETECTOR)
    out = tmp_path / 'out'
    # Another test of this process may have data for the config, whose images have numbers.
    nowhere = {'test_dataloader.dataset.data_root': 'nowhere'}
    options = dict(score_thr=0.0, cfg_options=nowhere)
    summary = write_predictions(config, checkpoint, tmp_path / 'in', out, **options)
    assert summary.images == 2 and summary.unreadable == {}
    assert files(out) == ['pictures/a/1.jpg', 'pictures/b/1.jpg', 'predictions.json']
    assert summary.paths == [out / 'predictions.json', out / 'pictures']

    results = list(predict(config, checkpoint, tmp_path / 'in', **options))
    written = entries(out)
    assert len(written) == sum(len(result.instances.boxes) for result in results)
    coco = [category['id'] for category in COCO_CATEGORIES]
    for image_id, result in enumerate(results, 1):
        of_image = [entry for entry in written if entry['image_id'] == image_id]
        for index, entry in enumerate(of_image):
            x, y, width, height = entry['bbox']
            label = int(result.instances.labels[index])
            np.testing.assert_allclose(
                [x, y, x + width, y + height], result.instances.boxes[index], atol=0.02
            )
            assert entry['file_name'] == result.name
            assert entry['category_name'] == result.classes[label]
            assert entry['category_id'] == coco[label]
            assert entry['score'] == pytest.approx(float(result.instances.scores[index]))
            mask = mask_api.decode(entry['segmentation'])
            np.testing.assert_array_equal(mask, mask_api.decode(result.instances.masks[index]))
    # COCO's own tools take it.
    truth = COCO()
    truth.dataset = dict(
        images=[dict(id=1), dict(id=2)], annotations=[], categories=COCO_CATEGORIES
    )
    truth.createIndex()
    assert len(truth.loadRes(written).anns) == len(written)


def test_images_of_the_data_have_their_numbers(
    model: Callable[[str], Model], tmp_path: Path
) -> None:
    for name in ('a.png', 'b.png', 'c.png'):
        draw(tmp_path / name)
    config, checkpoint = model(DETECTOR)
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.update(
        data_root=str(tmp_path), ann_file='x.json', data_prefix=dict(img='')
    )
    content = dict(images=[dict(id=40, file_name='b.png'), dict(id=8, file_name='c.png')])
    (tmp_path / 'x.json').write_text(json.dumps(content))
    out = tmp_path / 'out'
    write_predictions(cfg, checkpoint, tmp_path, out, score_thr=0.0, pictures=False)
    ids = {entry['file_name']: entry['image_id'] for entry in entries(out)}
    assert ids == {'a.png': 41, 'b.png': 40, 'c.png': 8}


# The numbers of COCO's 80 classes, with gaps.
COCO_CATEGORIES = [
    dict(id=number)
    for number in range(1, 91)
    if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
]


def test_categories_and_images_have_the_numbers_of_the_data(tmp_path: Path) -> None:
    content = dict(
        categories=[dict(id=9, name='disk'), dict(id=5, name='box')],
        images=[dict(id=7, file_name='a/1.jpg')],
    )
    (tmp_path / 'x.json').write_text(json.dumps(content))
    dataset = dict(data_root=str(tmp_path), ann_file='x.json', data_prefix=dict(img='val/'))
    annotations = annotations_of(dataset)
    assert category_ids(annotations, ('box', 'disk')) == [5, 9]
    assert category_ids(annotations, ('box', 'ring')) == [1, 2]
    assert image_ids(dataset, annotations) == {str(tmp_path / 'val/a/1.jpg'): 7}
    (tmp_path / 'x.json').write_text('[]')
    assert annotations_of(dataset) == {} and image_ids(dataset, {}) == {}
    assert category_ids({}, ('box', 'disk')) == [1, 2]


def test_the_threshold_holds_for_results_entries_and_pictures(
    model: Callable[[str], Model], tmp_path: Path
) -> None:
    path = draw(tmp_path / 'x.png')
    config, checkpoint = model(DETECTOR)
    (everything,) = predict(config, checkpoint, path, score_thr=0.0)
    threshold = float(np.median(everything.instances.scores))
    (result,) = predict(config, checkpoint, path, score_thr=threshold)
    assert 0 < len(result.instances.scores) < len(everything.instances.scores)
    assert result.instances.scores.min() >= threshold
    write_predictions(config, checkpoint, path, tmp_path / 'out', score_thr=1.0)
    assert entries(tmp_path / 'out') == []
    np.testing.assert_array_equal(
        cv2.imread(str(tmp_path / 'out/pictures/x.png')), cv2.imread(str(path))
    )


def test_masks_have_the_classes_in_the_size_of_the_images(
    model: Callable[[str], Model], tmp_path: Path
) -> None:
    draw(tmp_path / 'in' / 'x.jpg', shape=(50, 90))
    draw(tmp_path / 'in' / 'x.png', shape=(30, 40))
    draw(tmp_path / 'in' / 'x.bmp', shape=(30, 40))
    config, checkpoint = model(SEGMENTOR)
    out = tmp_path / 'out'
    write_predictions(config, checkpoint, tmp_path / 'in', out)
    assert files(out) == [
        *('masks/x.bmp.png', 'masks/x.jpg.png', 'masks/x.png'),
        *('pictures/x.bmp.png', 'pictures/x.jpg', 'pictures/x.png', 'predictions.json'),
    ]
    written = {entry['file_name']: entry for entry in entries(out)}
    for result in predict(config, checkpoint, tmp_path / 'in'):
        entry = written[result.name]
        mask = Image.open(out / entry['mask'])
        np.testing.assert_array_equal(np.asarray(mask), result.class_map)
        color = mask.getpalette()[3 * int(result.class_map[0, 0]) :][:3]
        assert mask.mode == 'P' and color == list(mask.convert('RGB').getpixel((0, 0)))
        shares = [item['share'] for item in entry['classes']]
        assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
        for item in entry['classes']:
            share = (result.class_map == item['category_id']).mean()
            assert item['share'] == pytest.approx(share)
            assert item['category_name'] == result.classes[item['category_id']]


def test_more_classes_than_a_byte_holds_are_written_with_two(
    model: Callable[[str], Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_map = np.arange(300, dtype=np.uint16).reshape(15, 20)
    monkeypatch.setattr(Predictor, '__call__', lambda *_: [dict(class_map=class_map)])
    draw(tmp_path / 'x.png', shape=(15, 20))
    config, checkpoint = model(CLASSIFIER)  # with names for 1000 classes
    write_predictions(config, checkpoint, tmp_path / 'x.png', tmp_path / 'out', pictures=False)
    mask = cv2.imread(str(tmp_path / 'out/masks/x.png'), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, class_map)


def test_five_classes_are_told_of_an_image(model: Callable[[str], Model], tmp_path: Path) -> None:
    path = draw(tmp_path / 'x.png')
    config, checkpoint = model(CLASSIFIER)
    write_predictions(config, checkpoint, path, tmp_path / 'out', pictures=False)
    (result,) = predict(config, checkpoint, path)
    (entry,) = entries(tmp_path / 'out')
    best = np.argsort(-result.class_scores)[:5].tolist()
    assert [item['category_id'] for item in entry['classes']] == best
    assert [item['category_name'] for item in entry['classes']] == [result.classes[i] for i in best]
    assert result.classes[0] == 'tench, Tinca tinca'
    assert files(tmp_path / 'out') == ['predictions.json']


def write_video(path: Path, shape: tuple[int, int] = (48, 64), rate: float = 12.5) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), rate, shape[::-1])
    for index in range(5):
        writer.write(np.full((*shape, 3), 40 * index, np.uint8))
    writer.release()


def test_a_video_gives_a_video(model: Callable[[str], Model], tmp_path: Path) -> None:
    write_video(tmp_path / 'in.avi')
    draw(tmp_path / 'in.png')
    config, checkpoint = model(SEGMENTOR)
    out = tmp_path / 'out'
    inputs = [tmp_path / 'in.avi', tmp_path / 'in.png']
    summary = write_predictions(config, checkpoint, inputs, out, batch_size=4)
    assert summary.images == 6
    masks = [f'masks/in.avi/00000{index}.png' for index in range(5)]
    assert files(out) == [
        *masks,
        'masks/in.png',
        'pictures/in.mp4',
        'pictures/in.png',
        'predictions.json',
    ]
    written = entries(out)
    assert [entry.get('frame') for entry in written] == [0, 1, 2, 3, 4, None]
    assert [entry['mask'] for entry in written[:5]] == masks
    video = cv2.VideoCapture(str(out / 'pictures/in.mp4'))
    assert video.get(cv2.CAP_PROP_FPS) == 12.5
    frames = [video.read()[1] for _ in range(5)]
    assert frames[4].shape == (48, 64, 3) and not video.read()[0]
    assert frames[4].mean() > frames[0].mean() + 40


def test_what_cannot_be_read_is_left_out_and_told(
    model: Callable[[str], Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(3):
        draw(tmp_path / 'in' / f'{index}.png', index)
    broken = tmp_path / 'in' / '[red].png'  # which is no color of the message
    broken.write_text('no image')
    for seed in (0, 1):
        image = np.random.default_rng(seed).integers(0, 4096, (48, 64)).astype(np.uint16)
        cv2.imwrite(str(tmp_path / 'in' / f'deep{seed}.png'), image)
    config, checkpoint = model(CLASSIFIER)
    summary = write_predictions(config, checkpoint, tmp_path / 'in', tmp_path / 'out')
    assert summary.unreadable == {str(broken): 'it does not decode'} and summary.images == 5
    assert len(entries(tmp_path / 'out')) == 5
    told = ''.join(capsys.readouterr().err.split('\n'))
    assert f'{broken} cannot be read: it does not decode' in told
    assert told.count('images of more than 8 bits are scaled') == 1
    assert len(list(predict(config, checkpoint, tmp_path / 'in'))) == 5


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_what_was_predicted_before_an_error_is_kept_whole(
    error: type[BaseException],
    model: Callable[[str], Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_video(tmp_path / 'in.mp4')
    calls = iter(range(3))
    original = Predictor.__call__

    def stop(self: Predictor, images: list[np.ndarray]) -> Any:
        if next(calls) == 2:
            raise error
        return original(self, images)

    monkeypatch.setattr(Predictor, '__call__', stop)
    config, checkpoint = model(CLASSIFIER)
    out = tmp_path / 'out'
    with pytest.raises(error):
        write_predictions(config, checkpoint, tmp_path / 'in.mp4', out)
    assert files(out) == ['pictures/in.mp4', 'predictions.json']
    assert [entry['frame'] for entry in entries(out)] == [0, 1]
    assert cv2.VideoCapture(str(out / 'pictures/in.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == 2
    assert f'Predictions: {out}/predictions.json' in capsys.readouterr().out

    written = (out / 'predictions.json').read_text()
    monkeypatch.setattr(Predictor, '__call__', lambda *_: [][0])
    with pytest.raises(IndexError):  # before the first prediction: an earlier run's file stays
        write_predictions(config, checkpoint, tmp_path / 'in.mp4', out)
    assert files(out) == ['pictures/in.mp4', 'predictions.json']
    assert (out / 'predictions.json').read_text() == written


def test_a_folder_for_videos_whose_name_is_not_in_utf_8_is_refused(tmp_path: Path) -> None:
    out = tmp_path / 'out\udcff'  # OpenCV would end the process without a word
    draw(tmp_path / 'x.png')
    with pytest.raises(UserError, match=r'^--out-dir .* is not in UTF-8, as videos need it'):
        write_predictions('x.py', 'x.pth', [tmp_path / 'x.png', tmp_path / 'x.mp4'], out)
    assert not out.exists()


def test_a_folder_in_the_place_of_the_results_is_refused_before_the_first_image(
    model: Callable[[str], Model], tmp_path: Path
) -> None:
    config, checkpoint = model(CLASSIFIER)
    (tmp_path / 'out/predictions.json').mkdir(parents=True)
    with pytest.raises(UserError, match=r'out/predictions\.json is a folder, .* move it away'):
        write_predictions(config, checkpoint, draw(tmp_path / 'x.png'), tmp_path / 'out')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['predictions.json']


@pytest.mark.parametrize('count, most', [(3, 1000), (40, 4000), (3, 100)])
def test_a_full_disk_keeps_the_entries_that_are_whole(
    count: int, most: int, model: Callable[[str], Model], tmp_path: Path
) -> None:
    config, checkpoint = model(CLASSIFIER)
    (prediction,) = predict(config, checkpoint, draw(tmp_path / 'x.png'))
    written = PredictionFiles(tmp_path / 'out', Predictor(config, checkpoint), pictures=False)
    with (
        full_disk(most),
        pytest.raises(UserError, match=r'predictions\.json cannot be written: File too large'),
        written,
    ):
        for _ in range(count):  # 40 are more than the file's buffer holds
            written.write(prediction)
    assert written.paths == ([] if most == 100 else [tmp_path / 'out/predictions.json'])
    assert files(tmp_path / 'out') == [path.name for path in written.paths]
    if written.paths:
        ids = [entry['image_id'] for entry in entries(tmp_path / 'out')]
        assert 0 < len(ids) < count and ids == [*range(1, len(ids) + 1)]
        assert written.num_images in (len(ids), len(ids) + 1)  # the last made room for the end


@pytest.mark.parametrize('most, length', [(3000, 700), (8192, 700), (3000, 9000)])
def test_an_entry_that_was_written_in_part_is_left_out(
    most: int, length: int, model: Callable[[str], Model], tmp_path: Path
) -> None:
    config, checkpoint = model(CLASSIFIER)
    (prediction,) = predict(config, checkpoint, draw(tmp_path / 'x.png'))
    written = PredictionFiles(tmp_path / 'out', Predictor(config, checkpoint), pictures=False)
    full = pytest.raises(UserError, match='cannot be written: File too large')
    with full, written, full_disk(most):  # when the file is ended, there is space again
        for _ in range(100):
            written.write(replace(prediction, name=length * 'x'))
    if length > most:
        assert files(tmp_path / 'out') == []
        return
    ids = [entry['image_id'] for entry in entries(tmp_path / 'out')]
    assert ids == [*range(1, written.num_images + 1)] and ids


def test_a_video_that_the_memory_is_too_small_for_is_told_of_once(
    model: Callable[[str], Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED')

    write_video(tmp_path / 'in.mp4')
    monkeypatch.setattr(Predictor, '__call__', fail)
    summary = write_predictions(*model(CLASSIFIER), tmp_path / 'in.mp4', tmp_path / 'out')
    assert list(summary.unreadable) == [str(tmp_path / 'in.mp4')] and summary.images == 0
    assert capsys.readouterr().err.count('do not fit into the memory') == 1


@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB'),
    ],
)
def test_an_image_that_the_memory_is_too_small_for_is_skipped(
    error: Exception, model: Callable[[str], Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Predictor.__call__

    def run(self: Predictor, images: list[np.ndarray]) -> Any:
        if max(map(len, images)) > 64:
            raise error
        return original(self, images)

    monkeypatch.setattr(Predictor, '__call__', run)
    for name, side in dict(a=32, b=96, c=48).items():
        draw(tmp_path / f'in/{name}.png', shape=(side, 40))
    summary = write_predictions(*model(SEGMENTOR), tmp_path / 'in', tmp_path / 'out', batch_size=3)
    assert [entry['file_name'] for entry in entries(tmp_path / 'out')] == ['a.png', 'c.png']
    assert summary.unreadable == {
        str(tmp_path / 'in/b.png'): '40 x 96 pixels do not fit into the memory with this model: '
        'predict tiles of it with --slice'
    }


@pytest.mark.parametrize(
    'options, sentence',
    [
        (dict(score_thr=1.5), '--score-thr must be a number from 0 to 1, got 1.5'),
        (dict(score_thr='0.5'), "--score-thr must be a number from 0 to 1, got '0.5'"),
        (dict(batch_size=0), '--batch-size must be at least 1, got 0'),
        (dict(batch_size=2.0), '--batch-size must be a whole number, got 2.0'),
        (dict(batch_size='2'), "--batch-size must be a whole number, got '2'"),
        (dict(slice_size=8), '--slice must be at least 32, got 8'),
        (dict(overlap=0.95), '--overlap must be a number from 0 to 0.9, got 0.95'),
        (dict(device='cuda:7'), '--device cuda:7 is not here'),
        (dict(slice_size=64), '--slice is not for classifiers'),
        (dict(cfg_options={'modle.head': 1}), "unknown key 'modle.head'"),
    ],
)
def test_a_bad_option_is_a_sentence(
    options: dict[str, Any], sentence: str, model: Callable[[str], Model], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        predict(*model(CLASSIFIER), draw(tmp_path / 'x.png'), **options)
    assert sentence in str(error.value)


def test_options_change_a_copy_of_a_config_in_memory(model: Callable[[str], Model]) -> None:
    path, checkpoint = model(DETECTOR)
    cfg = Config.fromfile(path)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    without_file = Config(cfg.to_dict()), Config.fromstring(cfg.pretty_text, '.py')
    for config in (path, cfg, *without_file):
        options = dict(score_thr=0.0, cfg_options={'model.test_cfg.rcnn.max_per_img': 1})
        (found,) = Predictor(config, checkpoint, **options)([image])
        assert len(found['instances'].boxes) == 1
    assert cfg.model.test_cfg.rcnn.max_per_img > 1


@pytest.mark.parametrize(
    'name, options, sentences',
    [
        (DETECTOR, dict(overlap=0.3), ['--overlap has no effect without --slice']),
        (CLASSIFIER, dict(score_thr=0.3), ['--score-thr has no effect: it is for detectors']),
        (SEGMENTOR, dict(overlap=0.2, slice_size=64), []),
        (DETECTOR, dict(score_thr=0.3), []),
        (DETECTOR, dict(cfg_options={'model.test_cfg.rcnn.score_thr': 0.4}), []),
        (
            DETECTOR,
            dict(score_thr=0.3, cfg_options={'model.test_cfg.rcnn.score_thr': 0.4}),
            [
                'objects from a score of 0.3 on are asked for, but score_thr=0.4 in model.test_cfg '
                'leaves out those below: lower it in the config'
            ],
        ),
    ],
)
def test_an_option_without_effect_is_told(
    name: str,
    options: dict[str, Any],
    sentences: list[str],
    model: Callable[[str], Model],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr('mmdat.checks.log_warning', told.append)
    config, checkpoint = model(name)
    Predictor(Path(config), Path(checkpoint), **options)
    assert told == sentences


def test_thresholds_of_all_kinds_of_heads_are_raised_and_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr('mmdat.checks.log_warning', told.append)
    for names in (['mask_head'], ['bbox_head', 'mask_head']):  # as in SOLO, and in YOLACT
        heads = {name: SimpleNamespace(test_cfg=ConfigDict(score_thr=0.1)) for name in names}
        model: Any = SimpleNamespace(**heads)
        _raise_thresholds(model, 0.05, is_given=True)
        assert len(told) == 1 and 'score_thr=0.1' in told.pop()
        _raise_thresholds(model, 0.3, is_given=True)
        assert all(0.29 < head.test_cfg.score_thr < 0.3 for head in heads.values()) and not told


def test_a_config_cannot_rename_the_classes_of_a_checkpoint_in_silence(
    model: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr('mmdat.checks.log_warning', told.append)
    config, checkpoint = model(DETECTOR)
    cfg = Config.fromfile(config)
    names = Predictor(cfg, checkpoint).classes
    cfg.test_dataloader.dataset.metainfo = dict(classes=('human', *names[1:]))
    assert not told and Predictor(cfg, checkpoint).classes == names
    assert len(told) == 1 and f"{checkpoint}, whose names are taken: 'human -> person'" in told[0]


@pytest.mark.parametrize(
    'image, got',
    [
        (torch.zeros(3, 64, 64), 'got Tensor'),
        ('photo.jpg', 'got str'),
        (None, 'got NoneType'),  # as cv2.imread gives for what it cannot read
        (np.zeros((64, 64, 3)), r'got float64 of shape \(64, 64, 3\)'),
        (np.zeros((64, 64), np.uint8), r'got uint8 of shape \(64, 64\)'),
        (np.zeros((64, 64, 4), np.uint8), r'got uint8 of shape \(64, 64, 4\)'),
        (np.zeros((0, 64, 3), np.uint8), r'got uint8 of shape \(0, 64, 3\)'),
    ],
)
def test_what_is_no_image_in_memory_is_refused(
    image: Any, got: str, model: Callable[[str], Model]
) -> None:
    predictor = Predictor(*model(DETECTOR))
    for use in (lambda x: predictor([x]), predictor.record_attention, predictor.predict_and_record):
        with pytest.raises(UserError, match=f'^an image is a NumPy array of uint8, .* {got}$'):
            use(image)


@pytest.mark.parametrize(
    'images', [np.zeros((64, 64, 3), np.uint8), Image.new('RGB', (64, 64)), None, iter([])]
)
def test_an_image_without_its_list_is_refused(images: Any, model: Callable[[str], Model]) -> None:
    with pytest.raises(UserError, match=r'in a list, also a single one: give \[image\], got '):
        Predictor(*model(DETECTOR))(images)


def test_images_may_be_loaded_as_they_are_asked_for(model: Callable[[str], Model]) -> None:
    class Lazy:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> np.ndarray:
            return ([np.zeros((64, 64, 3), np.uint8)] * 2)[index]

    assert len(Predictor(*model(DETECTOR))(Lazy())) == 2


@pytest.mark.parametrize('inputs', [np.zeros((4, 4, 3), np.uint8), [np.zeros((4, 4, 3))], 0])
def test_what_is_no_path_is_a_sentence(inputs: Any) -> None:
    with pytest.raises(UserError, match='got (ndarray|int): mmdat.apis.predictor.Predictor'):
        predict('x.py', 'x.pth', inputs)


def gray_config(path: str) -> Config:
    """A config whose model takes gray images."""
    cfg = Config.fromfile(path)
    cfg.model.backbone.in_channels = 1
    cfg.model.data_preprocessor = dict(mean=[127.0], std=[50.0], num_classes=1000)
    cfg.test_dataloader.dataset.pipeline[0].color_type = 'grayscale'
    return cfg


def test_a_model_of_gray_images_is_predicted(model: Callable[[str], Model], tmp_path: Path) -> None:
    cfg = gray_config(model(CLASSIFIER)[0])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        classifier = build_model(cfg).eval()
        classifier.init_weights()
        torch.save(classifier.state_dict(), tmp_path / 'gray.pth')
        cv2.imwrite(
            str(tmp_path / 'x.png'),
            np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8),
        )
        transforms = Compose(cfg.test_dataloader.dataset.pipeline)
        sample = transforms(dict(img_path=str(tmp_path / 'x.png'), gt_label=0))
        assert sample['inputs'].shape[0] == 1
        batch = dict(inputs=sample['inputs'][None], data_samples=[sample['data_samples']])
        with torch.no_grad():
            expected = classifier.test_step(batch)[0].pred_score
    (result,) = predict(cfg, tmp_path / 'gray.pth', tmp_path / 'x.png')
    np.testing.assert_allclose(result.class_scores, expected, rtol=1e-4)
    assert result.image.shape == (64, 64, 3)


def test_images_that_cannot_be_loaded_as_in_training_are_a_sentence(
    model: Callable[[str], Model],
) -> None:
    cfg = gray_config(model(CLASSIFIER)[0])
    assert color_type_of(cfg) == 'grayscale'
    loader = cfg.test_dataloader.dataset.pipeline[0]
    loader.color_type = 'unchanged'
    with pytest.raises(UserError, match=r"in_channels is 1, but .* with 3, as of color_type='unch"):
        color_type_of(cfg)
    loader.type = 'LoadBands'
    with pytest.raises(UserError, match='the transform LoadBands of the test in .* of its own kin'):
        color_type_of(cfg)
    cfg.test_dataloader.dataset.pipeline.pop(0)
    with pytest.raises(UserError, match='have no LoadImageFromFile, whose place'):
        color_type_of(cfg)


def test_a_checkpoint_of_another_model_is_a_sentence(
    model: Callable[[str], Model], tmp_path: Path
) -> None:
    config, _ = model(CLASSIFIER)
    _, checkpoint = model(DETECTOR)
    with pytest.raises(UserError, match="is of another model than the config's: .*; it lacks"):
        predict(config, checkpoint, draw(tmp_path / 'x.png'))


def write_scores(folder: Path, *frames: tuple[str, int | None, float, np.ndarray]) -> Any:
    """Write what a classifier says of frames, by their name, number, rate and image."""
    predictor: Any = SimpleNamespace(classes=('a', 'b'), palette=[], image_ids={'known': 'K-7'})
    scores = np.array([0.5, 0.5], np.float32)
    with PredictionFiles(folder, predictor) as out:
        for name, number, rate, image in frames:
            out.write(Prediction(name, name, number, rate, image, 'ab', class_scores=scores))
    return out


def test_images_are_counted_beside_ids_that_are_text(tmp_path: Path) -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    write_scores(tmp_path, ('known', None, 0, image), ('new', None, 0, image))
    assert [entry['image_id'] for entry in entries(tmp_path)] == ['K-7', 1]


def test_a_video_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    wide = np.zeros((2, 9000, 3), np.uint8)  # MPEG-4 has room for less
    image = np.zeros((20, 20, 3), np.uint8)
    out = write_scores(
        tmp_path,
        ('1.png', None, 0, image),
        *(('2.avi', frame, 25.0, wide) for frame in range(2)),
        ('3.png', None, 0, image),
    )
    names = [entry['file_name'] for entry in entries(tmp_path)]
    assert names == ['1.png', '2.avi', '2.avi', '3.png']
    assert files(tmp_path) == ['pictures/1.png', 'pictures/3.png', 'predictions.json']
    with pytest.raises(UserError, match=r'^videos that OpenCV does not write: 1 \(.*2.mp4\)$'):
        print_summary(Summary(4, 1.0, {}, out.paths, out.unwritten))


@pytest.mark.parametrize(
    'rate, written', [(240.2143, 240.21), (29.97, 29.97), (90000.0, 65535.0), (0.001, 0.01)]
)
def test_a_video_of_any_size_and_rate_is_whole(rate: float, written: float, tmp_path: Path) -> None:
    image = np.full((247, 265, 3), 200, np.uint8)
    write_scores(tmp_path, *(('x.avi', frame, rate, image) for frame in range(3)))
    video = cv2.VideoCapture(str(tmp_path / 'pictures/x.mp4'))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(written)
    frames = [video.read()[1] for _ in range(3)]
    assert frames[2].shape == (248, 266, 3) and not video.read()[0]
    assert abs(frames[2][-2:, -2:].mean() - 200) < 5


def test_a_video_takes_no_other_videos_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = (0, 25.0, np.zeros((20, 20, 3), np.uint8))
    write_scores(tmp_path, *((name, *frame) for name in ('x.avi', 'x.mov')))
    assert files(tmp_path / 'pictures') == ['x.mov.mp4', 'x.mp4']
    Path('y.mp4').touch()
    write_scores(tmp_path / 'out', *((name, *frame) for name in ('y.avi', 'y.mp4')))
    assert files(tmp_path / 'out' / 'pictures') == ['y.avi.mp4', 'y.mp4']
    write_scores(tmp_path / 'again', ('y.avi', *frame))
    assert files(tmp_path / 'again' / 'pictures') == ['y.avi.mp4']


def test_a_picture_too_wide_for_jpeg_is_a_png(tmp_path: Path) -> None:
    image = np.zeros((20, 65501, 3), np.uint8)
    write_scores(tmp_path, ('x.jpg', None, 0, image))
    assert cv2.imread(str(tmp_path / 'pictures/x.png')).shape == image.shape


def test_the_transforms_are_those_of_a_test(model: Callable[[str], Model]) -> None:
    path, _ = model(DETECTOR)
    cfg = Config.fromfile(path)
    expected = pipeline_of(cfg)
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    for split in ('test', 'val'):
        cfg.pop(f'{split}_dataloader')
    assert pipeline_of(cfg) == expected
    cfg.pop('test_pipeline')  # what is left is for training
    with pytest.raises(UserError, match='has no transforms for a test: add test_dataloader or'):
        pipeline_of(cfg)
    assert metainfo_of({}, None) == dict(palette=[])


def test_the_output_may_lie_among_the_inputs_but_not_over_them(
    model: Callable[[str], Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / 'a' / '1.png')
    for _ in range(2):
        summary = write_predictions(*model(CLASSIFIER), tmp_path, tmp_path)
        assert summary.images == 1
        told = capsys.readouterr().err
        assert files(tmp_path) == ['a/1.png', 'pictures/a/1.png', 'predictions.json']
    assert f'{tmp_path} holds files of an earlier run' in told
    before = (tmp_path / 'pictures/a/1.png').read_bytes()
    with pytest.raises(UserError, match='could be written over: give another --out-dir'):
        write_predictions(*model(CLASSIFIER), tmp_path / 'pictures', tmp_path)
    assert (tmp_path / 'pictures/a/1.png').read_bytes() == before


def test_a_file_in_place_of_the_output_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / 'out').touch()
    with pytest.raises(UserError, match=r'--out-dir .*out cannot be written to'):
        write_predictions('x.py', 'x.pth', draw(tmp_path / 'x.png'), tmp_path / 'out')


@pytest.mark.parametrize('num_classes, mode', [(3, 'P'), (300, 'I;16')])
def test_a_mask_holds_as_many_classes_as_there_are(
    num_classes: int, mode: str, tmp_path: Path
) -> None:
    names = [f'class {i}' for i in range(num_classes)]
    palette = [(i % 256, 0, 0) for i in range(num_classes)]
    predictor: Any = SimpleNamespace(classes=names, palette=palette, image_ids={})
    class_map = np.full((2, 3), num_classes - 1, np.uint8 if num_classes <= 256 else np.uint16)
    image = np.zeros((2, 3, 3), np.uint8)
    with PredictionFiles(tmp_path, predictor, pictures=False) as out:
        out.write(Prediction('x.png', 'x.png', None, None, image, names, class_map=class_map))
    with Image.open(tmp_path / 'masks' / 'x.png') as mask:
        assert mask.mode == mode
        np.testing.assert_array_equal(np.asarray(mask), class_map)
    (entry,) = json.loads((tmp_path / 'predictions.json').read_text())
    assert entry['classes'] == [
        dict(category_id=num_classes - 1, category_name=names[-1], share=1.0)
    ]


def test_a_classifier_of_few_classes_tells_all(tmp_path: Path) -> None:
    predictor: Any = SimpleNamespace(classes=('a', 'b', 'c'), palette=[], image_ids={})
    scores = np.array([0.2, 0.7, 0.1], np.float32)
    image = np.zeros((40, 60, 3), np.uint8)
    prediction = Prediction(
        'x.png', 'x.png', None, None, image, predictor.classes, class_scores=scores
    )
    with PredictionFiles(tmp_path, predictor) as out:
        out.write(prediction)
    (entry,) = json.loads((tmp_path / 'predictions.json').read_text())
    assert [found['category_name'] for found in entry['classes']] == ['b', 'a', 'c']
    assert (tmp_path / 'pictures' / 'x.png').exists()
