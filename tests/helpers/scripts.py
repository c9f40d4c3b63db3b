"""Scripts of ``tools``, run as a user runs them."""

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'


def run_script(
    name: str, *arguments: object, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script of ``tools``, with this Python as its ``python``."""
    path = os.pathsep.join([str(cwd), str(Path(sys.executable).parent), os.environ['PATH']])
    return subprocess.run(
        [TOOLS / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, 'PATH': path, **variables},
    )


def run_tool(monkeypatch: pytest.MonkeyPatch, tool: str, *arguments: str) -> None:
    """Run a script in Python in this process, by its path in the repository."""
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    runpy.run_path(str(ROOT / tool), run_name='__main__')


def free_port() -> str:
    """Return the number of a port of this machine that nothing uses."""
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return str(server.getsockname()[1])
