"""The page in the browser: answers, refusals, and that it gives away no file."""

import copy
import http.client
import io
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
import torch
from helpers import nano
from PIL import Image

from mmdat.apis import view as view_module
from mmdat.apis import viewer as viewer_module
from mmdat.apis.predictor import Predictor
from mmdat.apis.view import serve, view
from mmdat.apis.viewer import Scene, Viewer
from mmdat.errors import UserError

DETECTOR, CLASSIFIER = 'mask_rcnn_scalablevit_s_coco', 'dat_pp_t_in1k'


@pytest.fixture(scope='module')
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    folder = tmp_path_factory.mktemp('models')
    return {name: nano.write_nano(name, folder) for name in (DETECTOR, CLASSIFIER)}


@pytest.fixture(scope='module')
def viewer(models: dict[str, tuple[str, str]]) -> Viewer:
    return Viewer(
        {
            DETECTOR: Predictor(*models[DETECTOR], score_thr=0.001),
            CLASSIFIER: Predictor(*models[CLASSIFIER]),
        }
    )


def scene(seed: int, height: int = 48, width: int = 64) -> Scene:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Scene('it', image, (32.5, 24.5))


def test_what_is_asked_changes_the_picture(viewer: Viewer) -> None:
    at = scene(0)
    places = [(1, 1, 0), (3, 1, 0), (3, 1, 1), (3, 2, 0)]
    drawn = [viewer.attention(at, CLASSIFIER, *place) for place in places]
    assert len({picture.tobytes() for picture in drawn}) == len(places)
    before = drawn[1]
    at.query = (3.5, 40.5)
    assert not np.array_equal(viewer.attention(at, CLASSIFIER, 3, 1, 0), before)
    assert not np.array_equal(viewer.attention(at, DETECTOR, 3, 1, 0), before)
    assert viewer.limit(CLASSIFIER, 9, 99, 99) == (4, 2, 8)
    assert viewer.limit(CLASSIFIER, None, -3, 0.9) == (1, 1, 1)  # as typed


def test_an_image_is_predicted_and_recorded_in_one_pass(viewer: Viewer, tmp_path: Path) -> None:
    segmentor = Predictor(*nano.write_nano('semantic_fpn_scalablevit_s_ade20k', tmp_path))
    image = scene(4, 50, 90).image
    for mode, predictor in (
        *(('whole', model) for model in (*viewer.models.values(), segmentor)),
        ('slide', segmentor),
    ):
        if mode == 'slide':
            predictor._model.test_cfg.update(mode=mode, crop_size=(48, 48), stride=(32, 32))
        (expected,), recording = predictor([image]), predictor.record_attention(image)
        passes: list[Any] = []
        handle = predictor._model.backbone.register_forward_hook(lambda *it, n=passes: n.append(it))
        output, recorded = predictor.predict_and_record(image)
        handle.remove()
        assert (len(passes) == 1) == (mode == 'whole')
        assert recorded.mapping == recording.mapping
        for block, other in zip(recorded.blocks, recording.blocks, strict=True):
            assert block.name == other.name and torch.equal(block.features, other.features)
        (found,), (name,) = output.values(), output
        if name == 'instances':
            assert found.masks == expected[name].masks
            found, expected[name] = found.boxes, expected[name].boxes
        assert np.array_equal(found, expected[name])


def test_a_stage_of_a_single_block_is_shown(viewer: Viewer) -> None:
    viewer = copy.copy(viewer)
    viewer.heads = {CLASSIFIER: {3: [8]}}
    viewer.models = {CLASSIFIER: viewer.models[CLASSIFIER]}
    page = view_module.build_page(viewer, [])
    sliders = [block for block in page.blocks.values() if block.get_block_name() == 'slider']
    assert [block.value for block in sliders[1:]] == [4, 1, 0]


def test_the_threshold_leaves_objects_out(viewer: Viewer) -> None:
    at = scene(0)
    all_drawn, all_told = viewer.picture(at, DETECTOR, 0.001)
    none_drawn, none_told = viewer.picture(at, DETECTOR, 1)
    assert none_told.startswith(': 0 objects') and not all_told.startswith(': 0 objects')
    assert all_drawn.shape == none_drawn.shape == (540, 720, 3)  # enlarged
    assert not np.array_equal(all_drawn, none_drawn)
    assert viewer.picture(at, CLASSIFIER, 1)[1] == ''
    assert at.recording is not None and at.recording[0] == CLASSIFIER  # in the same pass


def test_two_at_once_get_their_own_answers(viewer: Viewer) -> None:
    scenes = scene(1), scene(2)
    alone = [answers(viewer, scene(seed)) for seed in (1, 2)]
    together: dict[int, list[bytes]] = {}

    def ask(index: int) -> None:
        together[index] = answers(viewer, scenes[index])

    threads = [threading.Thread(target=ask, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[0], together[1]] == alone
    assert alone[0] != alone[1]


def answers(viewer: Viewer, at: Scene) -> list[bytes]:
    drawn = viewer.picture(at, DETECTOR, 0.001)[0], viewer.attention(at, DETECTOR, 3, 1, 0)
    return [picture.tobytes() for picture in drawn]


def test_few_recordings_are_kept(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_module, 'MOST_RECORDINGS', 2)
    scenes = [scene(seed) for seed in range(4)]
    for at in scenes:
        viewer.attention(at, CLASSIFIER, 4, 1, 0)
    assert [at.recording is None for at in scenes] == [True, True, False, False]
    viewer.attention(scenes[0], CLASSIFIER, 4, 1, 0)  # is recorded again
    assert [at.recording is None for at in scenes] == [False, True, True, False]


def huge_png(side: int) -> bytes:
    """A PNG file of few bytes that says that it has so many pixels a side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I', len(data)) + kind + data + checksum

    header = struct.pack('>IIBBBBB', side, side, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data) + chunk(b'IEND', b'')
    )


def encoded(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


@pytest.mark.parametrize(
    ('data', 'told'),
    [
        (b'', 'it is no image'),
        (b'no image', 'it is no image'),
        (encoded('.png', scene(0).image)[:3000], 'it does not decode'),
        (encoded('.jpg', scene(0).image)[:1500], 'it does not decode'),
        (huge_png(50_000), 'it has 50000 x 50000 pixels, and 50,000,000 are the most'),
    ],
    ids=['empty', 'text', 'broken PNG', 'broken JPEG', 'bomb'],
)
def test_what_is_no_image_is_told(viewer: Viewer, tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / 'picture.png'
    path.write_bytes(data)
    with pytest.raises(UserError, match=f'^picture.png cannot be read: {told}'):
        viewer.read(str(path))


def test_images_of_all_kinds_are_read(viewer: Viewer, tmp_path: Path) -> None:
    gray = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    Image.merge('LA', [Image.fromarray(gray)] * 2).save(tmp_path / 'gray.png')
    cv2.imwrite(str(tmp_path / 'deep.png'), gray.astype(np.uint16) * 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gray).save(tmp_path / 'turned.jpg', exif=exif)
    cv2.imwrite(str(tmp_path / 'large.jpg'), np.zeros((100, 4096), np.uint8))
    read = {path.stem: viewer.read(str(path)) for path in tmp_path.iterdir()}
    assert {name: at.image.shape for name, at in read.items()} == dict(
        gray=(48, 64, 3), deep=(48, 64, 3), turned=(64, 48, 3), large=(50, 2048, 3)
    )
    assert read['gray'].name == 'gray.png'
    assert 'more than 8 bits are scaled' in read['deep'].name
    assert read['large'].name == 'large.jpg; reduced from 4096 x 100 to 2048 x 50 pixels'


def test_the_page_needs_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mmdat\[view\]'$"):
        view([('config.py', 'checkpoint.pth')])


def test_an_example_that_cannot_be_read_is_left_out(
    models: dict[str, tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'broken.png').write_bytes(b'no image')
    cv2.imwrite(str(tmp_path / 'thin.png'), np.zeros((3, 4000, 3), np.uint8))
    served = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(view_module, 'serve', served)
    with pytest.raises(KeyboardInterrupt):
        view([models[CLASSIFIER]], tmp_path)
    (example,) = served.call_args.args[1]
    assert example == str(tmp_path / 'thin.png')
    assert view_module._thumbnail(example).size == (160, 1)


def test_the_examples_are_of_all_folders(
    models: dict[str, tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f'{folder}/{number}.png' for folder in 'abc' for number in range(9)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((3, 4, 3), np.uint8))
    served = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(view_module, 'serve', served)
    with pytest.raises(KeyboardInterrupt):
        view([models[CLASSIFIER]], tmp_path)
    expected = [names[index] for index in (0, 3, 6, 9, 12, 14, 17, 20, 23, 26)]
    assert served.call_args.args[1] == [str(tmp_path / name) for name in expected]


@pytest.fixture(scope='module')
def address(
    viewer: Viewer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str, str]]:
    """Host and port of the page, and the path of its one example."""
    example = tmp_path_factory.mktemp('examples') / 'example.png'
    cv2.imwrite(str(example), scene(0).image)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv('GRADIO_ALLOWED_PATHS', '/')
        monkeypatch.setenv('GRADIO_SHARE', 'True')
        with serve(viewer, [str(example)]) as url:
            yield urlsplit(url).netloc, str(example), url


def ask(netloc: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(netloc, timeout=20)
    connection.request('GET' if body is None else 'POST', path, body, headers)
    response = connection.getresponse()
    return response.status, response.read()


@pytest.mark.slow
def test_no_file_is_given_away(
    address: tuple[str, str, str], models: dict[str, tuple[str, str]]
) -> None:
    netloc, example, _ = address
    up = '/..' * 12
    encoded_up = '/%2e%2e' * 12
    for path in ('/etc/passwd', *models[DETECTOR], example, str(Path(__file__).resolve())):
        for route in (
            f'/gradio_api/file={path}',
            f'/gradio_api/file=file://{path}',
            f'/gradio_api/file={up[1:]}{path}',
            f'/gradio_api/file/{path}',
            f'/file={path}',
            f'/gradio_api/proxy=file://{path}',
            *(f'/{root}{way}{path}' for root in ROOTS for way in (up, encoded_up, '/')),
        ):
            status, _ = ask(netloc, route)
            assert 400 <= status < 500, route


ROOTS = (
    'static',
    'assets',
    'svelte',
    'gradio_api/custom_component/gradio-image/client/component',
    'gradio_api/stream/a/1',
)


@pytest.mark.slow
def test_the_page_shows_its_examples_and_no_interface(address: tuple[str, str, str]) -> None:
    netloc, *_ = address
    config = json.loads(ask(netloc, '/config')[1])
    (gallery,) = (
        part['props'] for part in config['components'] if part['props'].get('elem_id') == 'examples'
    )
    (thumbnail,) = gallery['value']
    status, data = ask(netloc, urlsplit(thumbnail['image']['url']).path)
    assert status == 200 and Image.open(io.BytesIO(data)).size == (64, 48)
    for route in ('/docs', '/openapi.json', '/gradio_api/openapi.json', '/monitoring'):
        assert ask(netloc, route)[0] != 200 or b'/predict' not in ask(netloc, route)[1], route
    assert json.loads(ask(netloc, '/gradio_api/info')[1]) == dict(
        named_endpoints={}, unnamed_endpoints={}
    )


@pytest.mark.slow
def test_other_sites_are_not_let_in(address: tuple[str, str, str]) -> None:
    assert ask(address[0], '/', Host='example.com')[0] == 400


@pytest.mark.slow
def test_another_address_lets_in_those_who_name_it(viewer: Viewer) -> None:
    with serve(viewer, host='127.0.0.2') as url:
        netloc = urlsplit(url).netloc
        assert netloc.startswith('127.0.0.2:')
        assert ask(netloc, '/')[0] == 200
        assert ask(netloc, '/', Host='localhost')[0] == 200
        assert ask(netloc, '/', Host='example.com')[0] == 400


def upload(netloc: str, data: bytes) -> tuple[int, bytes]:
    head = b'Content-Disposition: form-data; name="files"; filename="a.png"'
    form = b'--x\r\n%s\r\n\r\n%s\r\n--x--\r\n' % (head, data)
    kind = {'Content-Type': 'multipart/form-data; boundary=x'}
    return ask(netloc, '/gradio_api/upload', form, **kind)


@pytest.mark.slow
def test_what_is_uploaded_has_a_limit(address: tuple[str, str, str]) -> None:
    assert upload(address[0], bytes(33 << 20))[0] == 413


@pytest.mark.slow
def test_a_file_of_the_machine_is_no_upload(address: tuple[str, str, str]) -> None:
    netloc, example, _ = address
    config = json.loads(ask(netloc, '/config')[1])
    event = next(
        event
        for event in config['dependencies']
        if 'upload' in {way for _, way in event['targets']}
    )
    inputs = [part['props'].get('value') for part in components(config, event['inputs'])]
    (uploaded,) = json.loads(upload(netloc, Path(example).read_bytes())[1])
    for path, is_allowed in ((uploaded, True), (example, False), ('/etc/passwd', False)):
        inputs[0] = dict(path=path, meta=dict(_type='gradio.FileData'))
        body = json.dumps(dict(data=inputs, fn_index=event['id'], session_hash=path))
        kind = {'Content-Type': 'application/json'}
        assert ask(netloc, '/gradio_api/queue/join', body.encode(), **kind)[0] == 200
        events = ask(netloc, f'/gradio_api/queue/data?session_hash={path}')[1].decode()
        assert ('"success":false' not in events) == is_allowed, path
        assert '"success":true' in events or not is_allowed


def components(config: dict[str, Any], numbers: list[int]) -> list[dict[str, Any]]:
    by_number = {part['id']: part for part in config['components']}
    return [by_number[number] for number in numbers]


def test_an_address_of_another_machine_is_told() -> None:
    viewer: Any = None
    with (
        pytest.raises(UserError, match='^203.0.113.1 is no address of this machine'),
        serve(viewer, host='203.0.113.1'),
    ):
        pass


@pytest.mark.parametrize('port', [0, 65536])
def test_what_is_no_port_is_told(port: int) -> None:
    viewer: Any = None
    with (
        pytest.raises(UserError, match=f'^--port must be from 1 to 65535, got {port}$'),
        serve(viewer, port=port),
    ):
        pass


@pytest.mark.slow
def test_a_port_that_is_taken_is_told(address: tuple[str, str, str], viewer: Viewer) -> None:
    port = int(address[0].split(':')[1])
    with (
        pytest.raises(UserError, match=f'port {port} of 127.0.0.1 cannot be had'),
        serve(viewer, port=port),
    ):
        pass
