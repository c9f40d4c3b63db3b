"""Versions of PyTorch, OpenMMLab's packages and matplotlib that mmdat works with.

People bring their own builds of these packages, so that installing mmdat installs none of them.
"""

import importlib
import os
import re
import sys
import warnings

# Package -> versions that work, and why others do not.
SUPPORTED: dict[str, tuple[str, str]] = {
    'torch': ('>= 2.4, < 3.0', 'mmdat knows none later'),
    'mmengine': ('>= 0.10, < 1.0', 'mmdet refuses later ones'),
    # OpenMMLab's mmdet refuses 2.2; OneDL's builds begin at 2.3, and its mmpretrain refuses 2.4.
    'mmcv': ('>= 2.0, < 2.4, != 2.2.*', 'the toolboxes refuse others'),
    'mmdet': ('>= 3.0, < 4.0', 'mmdat knows none later'),
    'mmseg': ('>= 1.1.1, < 2.0', 'earlier ones test no batches, mmdat knows none later'),
    'mmpretrain': ('>= 1.0, < 2.0', 'mmdat knows none later'),
    'matplotlib': ('>= 3.7, < 4.0', 'mmdat knows none later'),
}
HOW_TO_INSTALL = (
    "run 'make setup' in a clone of mmdat for the tested set, "
    "or see 'Your own environment' in docs/start.md"
)

# What packages warn of about each other and themselves, which a user can do nothing about: how the
# message begins, its category, and a pattern of the place for one that is not of packages alone.
UNAVOIDABLE: list[tuple[str, type[Warning], str]] = [
    # mmengine imports it anew whenever it looks for a package.
    ('pkg_resources is deprecated as an API', UserWarning, ''),
    # mmseg's own heads call it.
    ('``build_loss`` would be deprecated soon', UserWarning, ''),
    # The toolboxes' heads do not say in which order they want the grid.
    ('torch.meshgrid: in an upcoming release', UserWarning, ''),
    # In docstrings of the toolboxes, when Python 3.12 first compiles them.
    ('invalid escape sequence', SyntaxWarning, '.*/site-packages/'),
]


def ignore_unavoidable_warnings() -> None:
    """Keep warnings from users who can do nothing about them, unless they asked for all (-W)."""
    if not sys.warnoptions:
        for message, category, module in UNAVOIDABLE:
            warnings.filterwarnings('ignore', re.escape(message), category, module)


def let_waiting_threads_sleep() -> None:
    """Let PyTorch's threads sleep soon when they wait for each other on a CPU.

    By its default libgomp lets them spin for some milliseconds, which on cores that other programs
    keep busy takes the time that the other threads need: steps last many times as long. 1000 turns
    are what it takes itself where it knows of too many threads. Without effect once PyTorch is
    imported, and where the environment says how to wait.
    """
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ.setdefault('GOMP_SPINCOUNT', '1000')


def require(*packages: str) -> None:
    """Refuse to go on where a package is missing or unsupported.

    Raises:
        ImportError: With one sentence that says what is wrong and what to do.
    """
    check_installed(*packages)
    check_versions(*packages)


def check_installed(*packages: str) -> None:
    """Refuse to go on where a package is missing, whatever the versions of the others."""
    for package in packages:
        if installed_version(package) is None:
            raise ImportError(
                f'mmdat needs {_wanted(package)}, which is not installed: {HOW_TO_INSTALL}'
            )


def check_versions(*packages: str) -> None:
    """Refuse to go on where a package is installed in an unsupported version."""
    for package in packages:
        version = installed_version(package)
        if version is not None and not is_supported(version, SUPPORTED[package][0]):
            raise ImportError(
                f'mmdat needs {_wanted(package)}, but {version} is installed: {HOW_TO_INSTALL}'
            )


def installed_version(package: str) -> str | None:
    """The version that a package gives itself, None if it is not installed."""
    try:
        return importlib.import_module(package).__version__
    except ModuleNotFoundError as error:
        if error.name != package:  # something that the package itself lacks
            raise
        return None
    except AssertionError as error:  # so a toolbox refuses a version of mmcv or mmengine
        raise ImportError(f'{error} {HOW_TO_INSTALL}') from error


def is_supported(version: str, supported: str) -> bool:
    """Whether a version is among the supported ones, by its release number alone.

    A pre-release or local build, as vendors ship them, counts as the release that it is named
    after.

    Example:
        >>> supported = '>= 2.4, < 3.0'
        >>> is_supported('2.11.0+cu130', supported), is_supported('2.4.0a0+git', supported)
        (True, True)
        >>> is_supported('3.0.0a0+git', supported)
        False
    """
    # Here, as mmdat.ops is to need torch alone; mmengine brings the package along.
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    return SpecifierSet(supported).contains(Version(version).base_version)


def _wanted(package: str) -> str:
    supported, reason = SUPPORTED[package]
    return f'{package} {supported} ({reason})'
