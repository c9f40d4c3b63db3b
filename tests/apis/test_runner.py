"""mmengine loads checkpoints as mmdat does: without running code that is in them."""

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from mmengine.runner import CheckpointLoader

import mmdat.apis  # noqa: F401  registers the loader
from mmdat.checkpoints import read_weights
from mmdat.errors import UserError


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server of the files in ``tmp_path``."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'cache'))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        Thread(target=httpd.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()


def test_code_in_a_checkpoint_from_a_url_is_not_run(server: str, tmp_path: Path) -> None:
    torch.save(dict(a=torch.ones(2), b=Attack(tmp_path / 'run')), tmp_path / 'evil.pth')
    for load in (CheckpointLoader.load_checkpoint, read_weights):
        with contextlib.suppress(UserError):
            load(f'{server}/evil.pth')
        assert not (tmp_path / 'run').exists()


def test_checkpoint_is_downloaded_once_and_refused_where_it_is_missing(
    server: str, tmp_path: Path
) -> None:
    torch.save(dict(a=torch.ones(2)), tmp_path / 'good.pth')
    for _ in range(2):
        assert read_weights(f'{server}/good.pth')['a'].sum() == 2
        (tmp_path / 'good.pth').unlink(missing_ok=True)
    with pytest.raises(UserError, match=r'missing.pth cannot be downloaded: .*404'):
        read_weights(f'{server}/missing.pth')
