"""Run the steps of docker/Dockerfile where there is no Docker: in a clean Debian root, as root.

    python3 docker/check_in_chroot.py ROOT [COMMAND ...]

makes ROOT with debootstrap, runs the Dockerfile's steps in it and then COMMAND (by default the
image's own). This machine's PIP_* variables are passed on.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
BASE = 'debian:bookworm-slim'  # what debootstrap makes
PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
CERTIFICATES = '/etc/ssl/pip.crt'


class Root:
    """A folder with a Debian in it, and what the Dockerfile's instructions set so far."""

    def __init__(self, path: Path):
        self.path = path
        self.user = 'root'
        self.folder = '/'
        self.arguments: dict[str, str] = {}
        self.entrypoint: list[str] = []
        self.command: list[str] = []

    def run(self, command: list[str], **options: object) -> None:
        home = '/root' if self.user == 'root' else f'/home/{self.user}'
        variables = {'HOME': home, 'PATH': PATH, **pip_settings(), **self.arguments}
        environment = ['env', '-i', '-C', self.folder, *map('='.join, variables.items())]
        subprocess.run(
            ['chroot', self.path, 'runuser', '-u', self.user, '--', *environment, *command],
            check=True,
            **options,
        )

    def instruct(self, instruction: str, rest: str) -> None:
        if instruction == 'RUN':
            self.run(['sh', '-c', rest])
        elif instruction == 'USER':
            self.user = rest
        elif instruction == 'WORKDIR':
            self.folder = rest
        elif instruction == 'ARG':
            name, _, default = rest.partition('=')
            self.arguments[name] = os.environ.get(name, ''.join(shlex.split(default)))
        elif instruction == 'COPY':
            self.copy([word for word in rest.split() if not word.startswith('--')])
        elif instruction == 'ENTRYPOINT':
            self.entrypoint = json.loads(rest)
        elif instruction == 'CMD':
            self.command = json.loads(rest)
        elif (instruction, rest) != ('FROM', BASE):
            raise SystemExit(f'{instruction} {rest}: this script does not know how to do that.')

    def copy(self, paths: list[str]) -> None:
        *sources, target = paths
        for source in sources:
            path = CHECKOUT / source
            folder = path if path.is_dir() else path.parent
            names = os.listdir(path) if path.is_dir() else [path.name]
            ignore = ['--anchored', f'--exclude-from={CHECKOUT / ".dockerignore"}']
            pack = ['tar', '-C', folder, *ignore, '-c', *names]
            archive = subprocess.run(pack, check=True, stdout=subprocess.PIPE).stdout
            self.run(['sh', '-c', f'mkdir -p {target} && tar -C {target} -x'], input=archive)


def pip_settings() -> dict[str, str]:
    settings = {name: value for name, value in os.environ.items() if name.startswith('PIP_')}
    return {**settings, 'PIP_CERT': CERTIFICATES} if 'PIP_CERT' in settings else settings


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    text = re.sub(r'^\s*#.*\n', '', dockerfile.read_text(), flags=re.MULTILINE)
    lines = re.sub(r'\\\n\s*', '', text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line]


def main() -> None:
    root = Root(Path(sys.argv[1]).resolve())
    if not (root.path / 'etc/debian_version').exists():
        subprocess.run(['debootstrap', '--variant=minbase', 'bookworm', root.path], check=True)
    shutil.copy('/etc/resolv.conf', root.path / 'etc')
    if 'PIP_CERT' in os.environ:
        shutil.copy(os.environ['PIP_CERT'], f'{root.path}{CERTIFICATES}')
    mounts = [root.path / name for name in ('proc', 'dev')]
    for mount in mounts:
        subprocess.run(['mount', '--rbind', f'/{mount.name}', mount], check=True)
    try:
        for instruction, rest in instructions(CHECKOUT / 'docker' / 'Dockerfile'):
            print(f'--- {instruction} {rest}', flush=True)
            root.instruct(instruction, rest)
        command = [*root.entrypoint, *(sys.argv[2:] or root.command)]
        print(f'--- {shlex.join(command)}', flush=True)
        root.run(command)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f'It ended with exit status {error.returncode}.') from None
    finally:
        for mount in mounts:
            subprocess.run(['umount', '--recursive', '--lazy', mount], check=True)


if __name__ == '__main__':
    main()
