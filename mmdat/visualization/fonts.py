"""Fonts that have the characters of class names in any script."""

import functools
import unicodedata
from collections.abc import Iterable, Iterator

from matplotlib.font_manager import findfont, findSystemFonts
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

# It comes with matplotlib, for Latin, Greek, Cyrillic, Arabic and others.
DEFAULT = 'DejaVu Sans'


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font, of a size in pixels, that has the characters of a text, or as many as any here."""
    return _font(_best_file(_drawn(text)), size)


@functools.lru_cache(32)  # a font takes 0.3 MB, and images may be of many sizes
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


def lack_of_fonts(texts: Iterable[str]) -> str:
    """A sentence that names the characters of texts that the fonts for them lack; or nothing."""
    missing = {
        char
        for characters in map(_drawn, texts)
        for char in characters - _characters_in(_best_file(characters))
    }
    if not missing:
        return ''
    return (
        f'no font here has the characters {"".join(sorted(missing))} of names: install one, such '
        'as fonts-noto-cjk for Chinese, Japanese and Korean, fonts-noto-core for others'
    )


@functools.lru_cache(1024)  # texts have scores in them, and so are endlessly many
def _best_file(characters: frozenset[str]) -> str:
    """The first font file with all characters, or that with most of them."""
    best, fewest = '', len(characters) + 1
    for file in _files():
        lacking = len(characters - _characters_in(file))
        if lacking < fewest:
            best, fewest = file, lacking
        if lacking == 0:
            break
    return best


def _files() -> Iterator[str]:
    yield findfont(DEFAULT)
    # The machine's as they are now; matplotlib's own list may be older than a font.
    yield from sorted(findSystemFonts())


@functools.cache
def _characters_in(file: str) -> frozenset[str]:
    """Characters that a font draws in any size: none if it has pictures of them, as for emoji."""
    font = FT2Font(file)
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()


def _drawn(text: str) -> frozenset[str]:
    """Characters of a text that are drawn: no spaces, no control characters."""
    return frozenset(char for char in text if unicodedata.category(char)[0] not in 'ZC')
