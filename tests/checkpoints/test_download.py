"""Downloads from a server that does what servers do."""

import codecs
import gzip
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest
import safetensors.torch
import torch

from mmdat.checkpoints import read_checkpoint
from mmdat.checkpoints.download import download
from mmdat.errors import UserError
from mmdat.files import partial_path

CONTENT = {'state_dict': {'bias': torch.arange(5000), 'weight': torch.ones(9)}}


def saved(is_zip: bool = True) -> bytes:
    """What torch.save writes, since PyTorch 1.6 or before."""
    buffer = io.BytesIO()
    torch.save(CONTENT, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with ZipFile(buffer, 'w') as archive:
        for name in names:
            archive.writestr(name, b'text')
    return buffer.getvalue()


FILE = saved()
NO_ZIP = saved(is_zip=False)
TENSORS = safetensors.torch.save(CONTENT['state_dict'])
PART = -(-len(FILE) // 3)
PAGE = b'<!DOCTYPE html><html>This share has expired.</html>'
# What servers answer instead of a checkpoint, with what is said of it.
NO_CHECKPOINTS = {
    'page': (PAGE, 'it is a web page'),
    'page_with_mark': (codecs.BOM_UTF8 + PAGE, 'it is a web page'),
    'page_in_gzip': (gzip.compress(PAGE), 'it is damaged, or not a file of torch.save'),
    'json': (b'{"error": "quota"}', 'it is damaged, or not a file of torch.save'),
    'text': (b'Too many requests', 'it is damaged, or not a file of torch.save'),
    'empty': (b'', 'it is empty'),
    'empty_zip': (zipped(), 'it is damaged, or not a file of torch.save'),
    'other_zip': (zipped('read.me'), 'it is not a file of torch.save'),
    'cut_zip': (FILE[:-1], 'it is damaged'),
    'page.safetensors': (PAGE, 'it is a web page'),
    'cut.safetensors': (TENSORS[:-1], 'it is damaged'),
    'no.safetensors': (FILE, 'it is damaged, or not a file of safetensors'),
}
CHECKPOINTS = {'zip': FILE, 'no_zip': NO_ZIP, 'whole.safetensors': TENSORS}


class Handler(BaseHTTPRequestHandler):
    """Answers as the last part of the address says, and keeps what was asked for."""

    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers['Range']))
        way = self.path.split('/')[-1].split('?')[0]
        if way in CHECKPOINTS or way in NO_CHECKPOINTS:
            body = CHECKPOINTS.get(way) or NO_CHECKPOINTS[way][0]
            return self.answer(200, body, length=None)
        if way == 'has_no_range':
            return self.answer(416, PAGE)
        start = int((self.headers['Range'] or 'bytes=0-')[6:-1])
        if way == 'redirects':
            return self.answer(302, b'', Location='/whole')
        if way == 'is_missing':
            return self.answer(404, PAGE)
        if way == 'is_a_page':
            return self.answer(200, PAGE)
        if way == 'asks_to_sign_in' and len(self.asked) == 2:
            return self.answer(200, PAGE)
        if way == 'begins_anew':
            return self.answer(200, FILE, most=len(FILE) if start else 1000)
        if way == 'says_less':
            return self.answer(200, FILE, length=len(FILE) - 100)
        if way == 'says_more':
            return self.answer(200, FILE, length=len(FILE) + 100)
        if way == 'says_nothing':
            return self.answer(200, FILE, length=None)
        if start >= len(FILE):
            return self.answer(416, b'', **{'Content-Range': f'bytes */{len(FILE)}'})
        first = 0 if start else 1000
        most = dict(breaks_off=PART, ends=first, asks_to_sign_in=first or None).get(way)
        span = {'Content-Range': f'bytes {start}-{len(FILE) - 1}/{len(FILE)}'} if start else {}
        self.answer(206 if start else 200, FILE[start:], most=most, **span)
        return None

    def answer(
        self,
        status: int,
        body: bytes,
        most: int | None = None,
        length: int | None = -1,
        **headers: str,
    ) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header('Content-Length', str(len(body) if length < 0 else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:most])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.asked = []
    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{http.server_port}'
        http.shutdown()


def ranges() -> list[str | None]:
    return [span for _, span in Handler.asked]


@pytest.mark.parametrize(
    'way, asked',
    [
        ('whole', [None]),
        ('redirects', [None, None]),
        ('says_nothing', [None]),
        ('begins_anew', [None, 'bytes=1000-']),
        ('breaks_off', [None, f'bytes={PART}-', f'bytes={2 * PART}-']),
    ],
)
def test_a_file_arrives_whole(
    way: str, asked: list[str | None], server: str, tmp_path: Path
) -> None:
    path = tmp_path / 'new' / 'file.pth'
    download(f'{server}/{way}', path)
    assert path.read_bytes() == FILE
    assert ranges() == asked
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    'way, problem',
    [
        ('is_missing', 'HTTP Error 404: Not Found'),
        ('is_a_page', 'it is a web page'),
        ('has_no_range', 'HTTP Error 416: Requested Range Not Satisfiable'),
        ('says_less', 'it is damaged'),
        ('ends', rf'it ended after 1000 of {len(FILE)} bytes'),
        ('says_more', rf'it ended after {len(FILE)} of {len(FILE) + 100} bytes'),
    ],
)
def test_what_is_not_the_file_is_a_sentence(
    way: str, problem: str, server: str, tmp_path: Path
) -> None:
    path = tmp_path / 'file.pth'
    with pytest.raises(UserError, match=rf'^checkpoint {server}/{way} cannot be .*: {problem}$'):
        download(f'{server}/{way}', path)
    assert not path.exists()


@pytest.mark.parametrize('way', NO_CHECKPOINTS)
def test_an_answer_that_is_no_checkpoint_is_not_kept(way: str, server: str, tmp_path: Path) -> None:
    path = tmp_path / Path(way).with_suffix(Path(way).suffix or '.pth')
    for _ in range(2):
        with pytest.raises(UserError, match=f'cannot be downloaded: {NO_CHECKPOINTS[way][1]}$'):
            download(f'{server}/{way}', path)
        assert list(tmp_path.iterdir()) == []
    assert ranges() == [None, None]


@pytest.mark.parametrize('way', CHECKPOINTS)
def test_each_kind_of_checkpoint_is_taken(way: str, server: str, tmp_path: Path) -> None:
    path = tmp_path / Path(way).with_suffix(Path(way).suffix or '.pth')
    download(f'{server}/{way}', path)
    assert path.read_bytes() == CHECKPOINTS[way]
    content = read_checkpoint(str(path))
    assert content.get('state_dict', content)['bias'].sum() == 4999 * 2500


@pytest.mark.parametrize('end', [20_000, -1])
def test_an_old_file_that_is_cut_is_refused_where_it_is_read(end: int, tmp_path: Path) -> None:
    (tmp_path / 'file.pth').write_bytes(NO_ZIP[:end])
    with pytest.raises(UserError, match='cannot be loaded as a checkpoint: it is damaged'):
        read_checkpoint(str(tmp_path / 'file.pth'))


def test_a_page_in_between_leaves_what_was_brought(server: str, tmp_path: Path) -> None:
    path = tmp_path / 'file.pth'
    with pytest.raises(UserError, match='it is a web page'):
        download(f'{server}/asks_to_sign_in', path)
    assert partial_path(path).read_bytes() == FILE[:1000]
    download(f'{server}/asks_to_sign_in', path)
    assert ranges() == [None, 'bytes=1000-', 'bytes=1000-']
    assert path.read_bytes() == FILE


def test_a_server_that_takes_no_range_leaves_what_was_brought(server: str, tmp_path: Path) -> None:
    path = tmp_path / 'file.pth'
    partial_path(path).write_bytes(FILE[:1000])
    with pytest.raises(UserError, match='HTTP Error 416'):
        download(f'{server}/has_no_range', path)
    assert ranges() == ['bytes=1000-', None]
    assert partial_path(path).read_bytes() == FILE[:1000]


def test_a_download_goes_on_where_another_process_ended(server: str, tmp_path: Path) -> None:
    path = tmp_path / 'file.pth'
    with pytest.raises(UserError, match='it ended after 1000 of'):
        download(f'{server}/ends', path)
    download(f'{server}/whole', path)
    assert ranges()[-1] == 'bytes=1000-'
    assert path.read_bytes() == FILE


@pytest.mark.parametrize('extra', [b'', b'of another file'])
def test_a_part_that_is_complete_or_too_long_becomes_the_file(
    extra: bytes, server: str, tmp_path: Path
) -> None:
    path = tmp_path / 'file.pth'
    partial_path(path).write_bytes(FILE + extra)
    download(f'{server}/whole', path)
    assert len(ranges()) == (2 if extra else 1)
    assert path.read_bytes() == FILE


def test_processes_that_want_the_same_file_download_it_once(server: str, tmp_path: Path) -> None:
    path = tmp_path / 'file.pth'
    threads = [
        threading.Thread(target=download, args=(f'{server}/breaks_off', path)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ranges().count(None) == 1
    assert path.read_bytes() == FILE
    assert list(tmp_path.iterdir()) == [path]


def test_processes_that_wait_for_what_is_not_the_file_say_so(server: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        tries = [
            threads.submit(download, f'{server}/is_a_page', tmp_path / 'file.pth') for _ in range(4)
        ]
    for each in tries:
        with pytest.raises(UserError, match='it is a web page'):
            each.result()
    assert list(tmp_path.iterdir()) == []


def test_nobody_at_an_address_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'cannot be downloaded: .*Connection refused'):
        download('http://127.0.0.1:1/file.pth', tmp_path / 'file.pth')


def test_a_checkpoint_at_an_address_is_read(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    for _ in range(2):
        content = read_checkpoint(f'{server}/breaks_off')
        assert content['state_dict']['bias'].sum() == 4999 * 2500
    assert ranges().count(None) == 1


def test_a_file_from_the_web_that_was_damaged_later_is_named(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    read_checkpoint(f'{server}/whole')
    (path,) = (tmp_path / 'checkpoints').iterdir()
    path.write_bytes(FILE[:1000])
    with pytest.raises(UserError, match=rf'whole cannot be loaded.*damaged\. Remove {path}, and'):
        read_checkpoint(f'{server}/whole')
