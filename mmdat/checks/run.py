"""Checks of how a run is started: its flags, its folders, its strategy."""

import os
from pathlib import Path

from mmdat.errors import UserError


def check_writable(option: str, folder: str | Path) -> None:
    """Refuse a folder that can neither be written to nor made."""
    existing = next(
        path for path in (Path(folder).resolve(), *Path(folder).resolve().parents) if path.exists()
    )
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(
            f'{option} {folder} cannot be written to: {existing} '
            + ('is not writable' if existing.is_dir() else 'is not a folder')
        )
