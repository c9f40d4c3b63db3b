"""What is found where images and videos are named, and how it is read."""

import errno
import functools
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mmdat.datasets.images import SCALED
from mmdat.datasets.inputs import Input, count_frames, find_inputs, read_frames
from mmdat.errors import UserError

FILES = ['a/1.jpg', 'a/2.JPG', 'a/deep/1.png', 'b/1.jpg', 'a/clip.mp4', 'a/notes.txt']
HIDDEN = ['a/.3.jpg', 'a/.cache/4.jpg']


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with empty files of those names."""
    for name in FILES + HIDDEN:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    'arguments, names',
    [
        (['a'], ['1.jpg', '2.JPG', 'clip.mp4', 'deep/1.png']),
        (['a/1.jpg'], ['1.jpg']),
        (['a/1.jpg', 'b/1.jpg'], ['a/1.jpg', 'b/1.jpg']),
        (['a/deep', 'b'], ['a/deep/1.png', 'b/1.jpg']),
        (['a/1.jpg', './a/../a/1.jpg', 'a/1.*'], ['1.jpg']),
        (['a/*'], ['1.jpg', '2.JPG', 'clip.mp4', 'deep/1.png']),
        (['**/1.*'], ['a/1.jpg', 'a/deep/1.png', 'b/1.jpg']),
        (['a/**'], ['1.jpg', '2.JPG', 'clip.mp4', 'deep/1.png']),
        (['**/deep'], ['a/deep/1.png']),
        (['**/?/*.jpg'], ['a/1.jpg', 'b/1.jpg']),
        (['a/notes.txt'], ['notes.txt']),  # named, so that reading it says what is wrong
        (['a/missing.jpg', 'b'], ['a/missing.jpg', 'b/1.jpg']),
        (['0', 'b/1.jpg'], ['camera_0', '1.jpg']),
        (['file://{}/b/1.jpg'], ['1.jpg']),
        (['rtsp://10.0.0.7:554/live'], ['10.0.0.7:554/live']),
        (
            ['http://x.org/p/1.jpg?id=1', 'http://x.org/p/1.jpg?id=2'],
            ['x.org/p/1.jpg', 'x.org/p/1_2.jpg'],
        ),
    ],
)
def test_inputs_are_found_and_named(arguments: list[str], names: list[str], folder: Path) -> None:
    found = find_inputs([argument.format(folder) for argument in arguments])
    assert [item.name for item in found] == names


def test_a_file_named_like_a_pattern_is_a_file(folder: Path) -> None:
    (folder / '[1].jpg').touch()
    assert [item.name for item in find_inputs(['[1].jpg'])] == ['[1].jpg']


@pytest.mark.parametrize(
    'path, is_video',
    [
        ('/a/clip #2.mp4', True),
        ('/a/what?.MOV', True),
        ('/a/x.mp4#1.jpg', False),
        ('http://x.org/x.mp4?id=1', True),
        ('http://x.org/x.jpg?of=x.mp4', False),
        ('rtsp://10.0.0.7/live', True),
    ],
)
def test_videos_are_known_by_their_names(path: str, is_video: bool) -> None:
    assert Input('x', path).is_video is is_video


def test_images_that_are_not_read_are_told(folder: Path) -> None:
    for name in ('x.heic', 'x.DNG'):
        (folder / 'b' / name).write_bytes(b'data')
    cv2.imwrite('x.jpg', np.full((8, 8), 200, np.uint8))
    (folder / 'x.jpg').rename(folder / 'b' / 'x.jfif')
    frames, unreadable = read(['b'])
    assert frames == [('x.jfif', None, None, 200)]
    why = 'this format is not read: convert it to JPEG or PNG'
    assert unreadable == {
        str(folder / 'b/1.jpg'): 'it does not decode',
        str(folder / 'b/x.DNG'): why,
        str(folder / 'b/x.heic'): why,
    }


def test_the_output_is_not_searched(folder: Path) -> None:
    for arguments in (['.'], ['**'], ['**/*.*'], ['*']):
        names = [item.name for item in find_inputs(arguments, leave_out=['a/deep'])]
        assert sorted(names) == ['a/1.jpg', 'a/2.JPG', 'a/clip.mp4', 'b/1.jpg'], arguments


@pytest.mark.parametrize('argument', ['a/deep/1.png', 'a/deep', '.', 'link.png'])
def test_an_input_that_the_output_could_write_over_is_refused(argument: str, folder: Path) -> None:
    (folder / 'link.png').symlink_to('a/deep/1.png')
    with pytest.raises(UserError, match='1.png lies where|link.png lies where'):
        find_inputs([argument], leave_out=['a/deep'])


def test_linked_folders_are_searched_once(folder: Path) -> None:
    (folder / 'a' / 'linked').symlink_to(folder / 'b')
    (folder / 'b' / 'loop').symlink_to(folder / 'a')
    names = [item.name for item in find_inputs(['a'])]
    assert names == ['1.jpg', '2.JPG', 'clip.mp4', 'deep/1.png', 'linked/1.jpg']
    (folder / 'b' / 'second').symlink_to(folder)  # two that lead back: 2 ** 40 paths
    names = [item.name for item in find_inputs(['a/**/1.*'])]
    assert names == ['1.jpg', 'deep/1.png', 'linked/1.jpg']


def test_what_was_predicted_is_no_input(folder: Path) -> None:
    (folder / 'b' / 'pictures').mkdir()
    (folder / 'b' / 'pictures' / '1.jpg').touch()
    assert len(find_inputs(['b'])) == 2
    (folder / 'b' / 'predictions.json').touch()
    assert [item.name for item in find_inputs(['b'])] == ['1.jpg']
    assert len(find_inputs(['b/pictures'])) == 1  # unless it is named


@pytest.mark.parametrize(
    'argument, sentence',
    [
        ('c', 'there is no image or video in c: give images, '),
        ('*.bmp', 'there is no image or video in *.bmp: give images, '),
        ('d/**', 'there is no image or video in d/**: give images, '),
        ('x.jpg', 'there is no {}/x.jpg: give images, '),
        ('\N{SUPERSCRIPT TWO}', 'there is no {}/\N{SUPERSCRIPT TWO}: give images, '),
        ('', 'an input is empty: give images, '),
    ],
)
def test_nothing_to_find_is_a_sentence(argument: str, sentence: str, folder: Path) -> None:
    (folder / 'c').mkdir()
    with pytest.raises(UserError) as error:
        find_inputs([argument])
    assert str(error.value).startswith(sentence.format(folder))


def write_video(path: Path, number: int = 5, rate: float = 12.5) -> None:
    """Write a video of 32 x 48 whose frames become brighter."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), rate, (48, 32))
    for index in range(number):
        writer.write(np.full((32, 48, 3), 40 * index, np.uint8))
    writer.release()


def read(arguments: list[str]) -> tuple[list[tuple], dict[str, str]]:
    """Name, number, rate and brightness of each frame, and why others were not read."""
    unreadable: dict[str, str] = {}
    frames = [
        (frame.name, frame.number, frame.rate, round(float(frame.image.mean()), -1))
        for frame in read_frames(find_inputs(arguments), unreadable.__setitem__)
    ]
    return frames, unreadable


def test_a_path_that_is_not_in_utf8_is_told(tmp_path: Path) -> None:
    for name in (b'\xe9.png', b'\xe9.mp4'):
        Path(os.fsdecode(bytes(tmp_path) + b'/' + name)).touch()
    inputs = find_inputs(tmp_path)
    assert count_frames(inputs) == 2
    unreadable: dict[str, str] = {}
    assert not list(read_frames(inputs, unreadable.__setitem__))
    assert list(unreadable.values()) == ['its path is not in UTF-8: rename it'] * 2


@pytest.mark.parametrize('argument', ['.', '*/?.jpg', '**/*.jpg', 't*/**/*.jpg'])
def test_a_folder_that_may_not_be_searched_is_told(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ('ours/x.jpg', 'theirs/x.jpg', 'there/x.jpg'):
        (tmp_path / name).parent.mkdir()
        Image.new('RGB', (4, 4)).save(tmp_path / name)
    scan = os.scandir

    def scan_ours(path: str) -> Any:
        if str(path).endswith('theirs'):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scan(path)

    monkeypatch.setattr(os, 'scandir', scan_ours)
    monkeypatch.setattr(os, 'access', lambda path, mode: not str(path).endswith('theirs'))
    told: dict[str, str] = {}
    frames = read_frames(find_inputs(f'{tmp_path}/{argument}'), told.__setitem__)
    names = [frame.name for frame in frames]
    assert names == ['ours/x.jpg', 'there/x.jpg'][argument[0] == 't' :]
    assert told == {str(tmp_path / 'theirs'): 'this folder may not be searched'}


def test_a_folder_of_which_names_are_known_needs_no_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'theirs' / 'open').mkdir(parents=True)
    Image.new('RGB', (4, 4)).save(tmp_path / 'theirs' / 'open' / 'x.jpg')
    monkeypatch.setattr(
        os, 'access', lambda path, mode: not (mode & os.R_OK and str(path).endswith('theirs'))
    )
    found = find_inputs(f'{tmp_path}/*/open/*.jpg')
    assert [item.name for item in found] == ['theirs/open/x.jpg']


def test_a_video_is_read_frame_by_frame_and_what_is_broken_is_told(tmp_path: Path) -> None:
    write_video(tmp_path / 'clip.mp4')
    cv2.imwrite(str(tmp_path / 'gray.png'), np.full((8, 8), 200, np.uint8))
    (tmp_path / 'broken.mp4').write_text('no video')
    (tmp_path / 'broken.jpg').write_text('no image')
    frames, unreadable = read([str(tmp_path)])
    assert frames == [
        *(('clip.mp4', index, 12.5, 40 * index) for index in range(5)),
        ('gray.png', None, None, 200),
    ]
    assert unreadable == {
        str(tmp_path / 'broken.jpg'): 'it does not decode',
        str(tmp_path / 'broken.mp4'): 'no frame of a video can be read',
    }


def test_frames_are_counted_where_that_can_be(tmp_path: Path) -> None:
    write_video(tmp_path / 'clip.mp4')
    cv2.imwrite(str(tmp_path / 'gray.png'), np.zeros((8, 8), np.uint8))
    (tmp_path / 'broken.mp4').touch()
    inputs = find_inputs([tmp_path])
    assert count_frames(inputs) == 7
    assert count_frames([*inputs, Input('camera_0', '0')]) is None
    assert count_frames([*inputs, Input('x', 'rtsp://10.0.0.7/live')]) is None


def test_what_holds_for_many_images_is_told_once(tmp_path: Path) -> None:
    for name in 'ab':
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.zeros((8, 8), np.uint16))
    told: list[str] = []
    assert len(list(read_frames(find_inputs(tmp_path), {}.__setitem__, told.append))) == 2
    assert told == [SCALED]


def test_a_video_that_ends_early_is_told(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(
        str(tmp_path / 'x.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 25, (320, 320)
    )
    for seed in range(10):
        writer.write(np.random.default_rng(seed).integers(0, 256, (320, 320, 3), dtype=np.uint8))
    writer.release()
    path = str(tmp_path / 'cut.avi')
    content = (tmp_path / 'x.avi').read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])
    told: list[str] = []
    frames = list(read_frames([Input('cut.avi', path)], {}.__setitem__, told.append))
    assert 0 < len(frames) < 10
    assert told == [f'{path} ends after {len(frames)} of the 10 frames that it tells of']
    list(read_frames([Input('x.avi', str(tmp_path / 'x.avi'))], {}.__setitem__, told.append))
    assert len(told) == 1


def test_a_camera_that_is_not_there_is_told_without_noise(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert read(['77']) == ([], {'77': 'there is no such camera, or it is in use'})
    assert capfd.readouterr() == ('', '')


def test_a_camera_is_opened_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []

    class Camera:
        def __init__(self, source: object) -> None:
            opened.append(source)
            self.left = 3

        def get(self, _: int) -> float:
            return 0.0  # as of a camera that tells no rate

        def read(self) -> tuple[bool, np.ndarray]:
            self.left -= 1
            return self.left >= 0, np.zeros((4, 4, 3), np.uint8)

        def release(self) -> None:
            opened.append('released')

    monkeypatch.setattr(cv2, 'VideoCapture', Camera)
    frames, _ = read(['7'])
    assert frames == [('camera_7', index, 25.0, 0) for index in range(3)]
    assert opened == [7, 'released']


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of a server of the files in ``tmp_path``."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(tmp_path))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{http.server_port}'
        http.shutdown()


def test_images_and_videos_are_read_from_the_web(tmp_path: Path, server: str) -> None:
    write_video(tmp_path / 'clip.mp4', number=2)
    cv2.imwrite(str(tmp_path / 'gray.png'), np.full((8, 8), 200, np.uint8))
    (tmp_path / 'page.jpg').write_text('<html>')
    names = ('gray.png?size=8', 'clip.mp4', 'missing.jpg', 'page.jpg')
    frames, unreadable = read([*(f'{server}/{name}' for name in names), 'smoke://signal/1.jpg'])
    host = server.removeprefix('http://')
    assert frames == [
        (f'{host}/gray.png', None, None, 200),
        (f'{host}/clip.mp4', 0, 12.5, 0),
        (f'{host}/clip.mp4', 1, 12.5, 40),
    ]
    assert unreadable == {
        f'{server}/missing.jpg': 'it cannot be fetched: HTTP Error 404: File not found',
        f'{server}/page.jpg': 'it does not decode',
        'smoke://signal/1.jpg': 'there is no such kind of URL',
    }
