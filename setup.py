"""Package mmdat the OpenMMLab way: torch and the mm* packages are the user's own builds."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def version() -> str:
    namespace: dict[str, str] = {}
    exec((ROOT / 'mmdat' / 'version.py').read_text(), namespace)
    return namespace['__version__']


def pins(name: str) -> list[str]:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


setup(
    name='mmdat',
    version=version(),
    description='DAT, DAT++ and ScalableViT backbones for OpenMMLab',
    packages=find_packages(include=['mmdat', 'mmdat.*']),
    python_requires='>=3.10,<3.13',
    install_requires=['numpy', 'packaging', 'pycocotools', 'rich'],
    extras_require={
        'openmmlab': [*pins('torch'), *pins('mmcv'), *pins('stack')],
        'dev': pins('dev'),
    },
)
