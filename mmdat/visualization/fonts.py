"""Fonts that have the characters of class names in any script."""

import functools
import unicodedata
from collections.abc import Iterable

from matplotlib.font_manager import FontEntry, fontManager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

# The one that comes with matplotlib, for Latin, Greek, Cyrillic, Arabic and others.
DEFAULT = 'DejaVu Sans'


@functools.cache
def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that has the characters of a text, or as many as any font here.

    Args:
        text: The text.
        size: Height in pixels.
    """
    return ImageFont.truetype(_best_file(frozenset(text)), size)


def missing_characters(texts: Iterable[str]) -> str:
    """The characters of texts that are in no font for them, sorted."""
    missing = {
        char
        for text in texts
        for char in _characters(text) - _characters_in(_best_file(frozenset(text)))
    }
    return ''.join(sorted(missing))


@functools.cache
def _best_file(characters: frozenset[str]) -> str:
    wanted = _characters(characters)
    files = [entry.fname for entry in sorted(fontManager.ttflist, key=_order)]
    return min(files, key=lambda file: len(wanted - _characters_in(file)))  # the first of equals


def _order(entry: FontEntry) -> tuple[bool, bool, str]:
    upright = entry.style == 'normal' and entry.weight in (400, 'normal', 'regular', 'book')
    return entry.name != DEFAULT, not upright, entry.fname


@functools.cache
def _characters_in(file: str) -> frozenset[str]:
    return frozenset(map(chr, FT2Font(file).get_charmap()))


def _characters(text: Iterable[str]) -> frozenset[str]:
    """Characters of a text that are drawn: no spaces, no control characters."""
    return frozenset(char for char in text if unicodedata.category(char)[0] not in 'ZC')
