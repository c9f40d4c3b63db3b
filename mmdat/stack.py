"""Which versions of the packages below mmdat it works with, checked when mmdat is imported.

The one tested set is pinned in ``requirements/``; people bring their own builds, so that
``setup.py`` installs none of them.
"""
import importlib
import re

# package -> (first version that works, first that does not or None, why)
SUPPORTED: dict[str, tuple[str, str | None, str]] = {
    'torch': ('2.4', '2.14', 'later ones refuse to compile mmcv'),
    'mmengine': ('0.10', '1.0', 'mmdet refuses later ones'),
    'mmcv': ('2.0', '2.2', 'mmdet refuses later ones'),
}
HOW_TO_INSTALL = ("run 'make setup' in a clone of mmdat for the tested set, "
                  "or see 'Your own environment' in its README")


def check_stack() -> None:
    """Refuse to go on where a needed package is missing or unsupported.

    Raises:
        ImportError: With one sentence that says what is wrong and what to do.
    """
    for name, (first, end, reason) in SUPPORTED.items():
        wanted = f'{name} >= {first}' + (f', < {end} ({reason})' if end else '')
        try:
            version = importlib.import_module(name).__version__
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise ImportError(f'mmdat needs {wanted}, which is not installed: '
                              f'{HOW_TO_INSTALL}') from None
        if not is_supported(version, first, end):
            raise ImportError(f'mmdat needs {wanted}, but {version} is installed: '
                              f'{HOW_TO_INSTALL}')


def is_supported(version: str, first: str, end: str | None) -> bool:
    """Whether ``first <= version < end``, by release numbers alone.

    Example:
        >>> is_supported('2.11.0+cu130', '2.4', '2.14'), is_supported('2.14.0', '2.4', '2.14')
        (True, False)
    """
    return _release(first) <= _release(version) and (end is None
                                                     or _release(version) < _release(end))


def _release(version: str) -> list[int]:
    match = re.match(r'\d+(\.\d+)*', version)
    assert match is not None, version
    return [int(part) for part in match[0].split('.')]
