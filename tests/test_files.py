"""A folder that a process writes to is its own as long as it lives."""

import errno
import fcntl
import os
from pathlib import Path

import pytest
from helpers.forks import end, start

from mmdat.errors import UserError
from mmdat.files import alone_in


def test_a_folder_is_for_one_process_and_free_when_it_ends(tmp_path: Path) -> None:
    def enter() -> None:
        with alone_in(tmp_path):
            pass

    def be_refused() -> None:
        with pytest.raises(UserError, match=f'another training is writing to {tmp_path}: give'):
            enter()

    log = tmp_path / 'log'
    tmp_path /= 'work'
    with alone_in(tmp_path):
        end(start(be_refused, log), log)
    end(start(enter, log), log)


def test_a_folder_on_a_disk_without_locks_is_open_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, 'lockf', lock)
    with alone_in(tmp_path), alone_in(tmp_path):
        pass
