"""Pictures of predictions, and fonts for the names of classes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib.font_manager import findfont

from mmdat.visualization import fonts
from mmdat.visualization.predictions import (
    distinct_colors,
    draw_classes_of_pixels,
    draw_instances,
    draw_text,
)

GRAY = np.full((120, 200, 3), 128, np.uint8)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def is_near(picture: np.ndarray, color: tuple[int, ...]) -> np.ndarray:
    return (np.abs(picture.astype(int) - color) < 40).all(-1)


def test_classes_without_colors_get_bright_ones_that_differ() -> None:
    colors = np.array(distinct_colors(30))
    assert (colors.max(-1) > 150).all()
    apart = np.abs(colors[:, None] - colors).sum(-1) + 1000 * np.eye(30, dtype=int)
    assert apart[:10, :10].min() > 70 and apart.min() > 40
    assert distinct_colors(3) == [tuple(color) for color in colors[:3].tolist()]


def test_boxes_masks_and_names_are_where_the_objects_are() -> None:
    mask = np.zeros((120, 200), bool)
    mask[60:80, 40:90] = True
    before = GRAY.copy()
    picture = draw_instances(GRAY, np.array([[30.0, 50, 100, 100]]), ['disk 0.87'], [RED], [mask])
    assert picture.shape == GRAY.shape and (before == GRAY).all()
    assert is_near(picture[50, 30:100], RED).all() and is_near(picture[50:100, 30], RED).all()
    assert (picture[61:79, 41:89] == np.array([185, 70, 70])).all()  # red over gray
    changed = (picture != GRAY).any(-1)
    changed[50:101, 30:101] = False
    rows, columns = np.nonzero(changed)  # the name, above the box
    assert rows.max() < 50 and rows.min() > 30 and columns.min() == 30


def test_a_name_at_the_edge_stays_in_the_picture() -> None:
    boxes = np.array([[190.0, 2, 199, 20], [0, 0, 5, 5]])
    picture = draw_instances(GRAY, boxes, ['a long name 0.50', 'b'], [BLUE, RED])
    assert is_near(picture, BLUE)[:20].sum() > 500


def test_names_that_would_overlap_move_apart() -> None:
    boxes = np.array([[60.0, 40, 100, 70], [63, 43, 103, 73], [60, 46, 100, 76]])
    colors = [RED, BLUE, (0, 255, 0)]
    together = draw_instances(GRAY, boxes, ['disk 0.87'] * 3, colors)
    for box, color in zip(boxes, colors, strict=True):
        alone = draw_instances(GRAY, box[None], ['disk 0.87'], [color])
        assert is_near(together, color).sum() > 0.8 * is_near(alone, color).sum()


@pytest.mark.parametrize(
    'color, ink', [((150, 210, 230), 0), ((0, 200, 0), 0), ((0, 90, 60), 255), (BLUE, 255)]
)
def test_a_name_is_written_in_what_stands_out(color: tuple[int, ...], ink: int) -> None:
    picture = draw_instances(GRAY, np.array([[30.0, 50, 90, 90]]), ['disk'], [color])
    assert (picture == ink).all(-1).any() and not (picture == 255 - ink).all(-1).any()


def test_classes_of_pixels_are_colored_and_large_ones_named() -> None:
    class_map = np.zeros((120, 200), np.uint8)
    class_map[:, 100:] = 1
    class_map[0, 0] = 2
    class_map[0, 199] = 255
    picture = draw_classes_of_pixels(GRAY, class_map, ['left', 'right', 'tiny'], [RED, BLUE, RED])
    assert (picture[5, 20] == [185, 70, 70]).all() and (picture[5, 180] == [70, 70, 185]).all()
    for color, columns in ((RED, slice(0, 100)), (BLUE, slice(100, 200))):
        rows = np.nonzero(is_near(picture[:, columns], color))[0]
        assert rows.size and 45 < rows.mean() < 75, 'a name in the middle'
    assert not is_near(picture[:10, :30], RED).any(), 'no name for a pixel'
    assert (picture[0, 199] == GRAY[0, 199]).all(), 'of no class'


def test_lines_are_written_one_below_the_other() -> None:
    one, two = (draw_text(GRAY, text) for text in ('0.91 disk', '0.91 disk\n0.05 ring'))
    heights = [np.nonzero(is_near(picture, (0, 0, 0)))[0].max() for picture in (one, two)]
    assert heights[1] > 1.6 * heights[0]


def test_lines_leave_most_of_a_small_image_to_be_seen() -> None:
    lines = '\n'.join(['0.91 hexagon'] * 5)
    small = np.full((64, 48, 3), 128, np.uint8)
    picture = draw_text(small, lines)
    assert picture.shape == (224, 168, 3)
    assert (picture == 128).all(-1).mean() > 0.8
    assert (picture == draw_text(np.full(picture.shape, 128, np.uint8), lines)).all()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Install a font that draws a character as an A, in place of the fonts of this machine."""
    files: list[str] = []
    monkeypatch.setattr(fonts, 'findSystemFonts', lambda: files)

    def forget() -> None:
        fonts._best_file.cache_clear()

    def add(character: str) -> None:
        font = TTFont(findfont('DejaVu Sans'))
        for table in font['cmap'].tables:
            table.cmap = {ord(character): 'A'}
        files.append(str(tmp_path / f'{ord(character)}.ttf'))
        font.save(files[-1])
        forget()

    forget()
    yield add
    forget()


def test_a_font_that_has_the_characters_is_found(install: Callable[[str], None]) -> None:
    names = ['disk', 'диск', '人', '人 2']
    assert 'the characters 人 of names' in fonts.lack_of_fonts(names)
    missing = draw_text(GRAY, '人')
    install('人')
    assert not fonts.lack_of_fonts(names[:3])
    drawn, letter = draw_text(GRAY, '人'), draw_text(GRAY, 'A')
    np.testing.assert_array_equal(drawn, letter)
    assert (missing.shape != drawn.shape) or (missing != drawn).any()
    assert cv2.countNonZero(drawn[..., 0]) > 0


def test_memory_does_not_grow_with_what_is_written() -> None:
    # A picture's scores make new texts without end, and a font takes 0.3 MB.
    texts = [f'{score / 1000:.3f} disk' for score in range(1000)]
    assert len({id(fonts.font_for(text, 12)) for text in texts}) == 1
