"""The page in Chromium: choosing, clicking, sliding, refusing, and two people at once."""

import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import nano
from helpers.configs import load

from mmdat.apis.predictor import Predictor
from mmdat.apis.view import serve
from mmdat.apis.viewer import Viewer

CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason='there is no chromium on PATH: install one'),
]
NAMES = ('retinanet_dat_t_coco', 'dat_pp_t_in1k')


@pytest.fixture(scope='module')
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp('models')
    models = {name: Predictor(*nano.write_nano(name, folder)) for name in NAMES}
    examples = [str(draw(folder / f'{name}.png', name)) for name in ('red', 'blue')]
    with serve(Viewer(models), examples) as address:
        yield address


COLORS = dict(red=(0, 0, 200), blue=(200, 0, 0), green=(0, 200, 0))


def draw(path: Path, color: str) -> Path:
    """Write an image that is mostly of a color."""
    image = np.full((300, 400, 3), COLORS[color], np.uint8)
    cv2.circle(image, (120, 150), 60, (255, 255, 255), -1)
    cv2.imwrite(str(path), image)
    return path


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield started
        started.close()


class Page:
    """The page of one person, who is new."""

    def __init__(self, browser: Any, url: str) -> None:
        self.tab = browser.new_context(viewport=dict(width=1280, height=900)).new_page()
        self.tab.set_default_timeout(60_000)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.tab.on('request', lambda request: self.requests.append(request.url))
        self.tab.on('pageerror', lambda error: self.errors.append(str(error)))
        self.tab.goto(url)
        self.tab.wait_for_selector('#examples img')

    def source(self, name: str) -> str | None:
        picture = self.tab.locator(f'#{name} img')
        return picture.get_attribute('src') if picture.count() else None

    def changed(self, name: str, before: str | None) -> str:
        """Wait until a picture is another than before."""
        self.tab.wait_for_function(
            '([name, before]) => (document.querySelector(`#${name} img`)?.src ?? null) != before',
            arg=[name, before],
        )
        source = self.source(name)
        assert source
        return source

    def upload(self, path: Path) -> None:
        self.tab.set_input_files('#file input[type=file]', str(path))

    def click(self, x: float, y: float) -> None:
        """Click on the picture, at a share of its width and height."""
        picture = self.tab.locator('#picture img')
        box = picture.bounding_box()
        picture.click(position=dict(x=x * box['width'], y=y * box['height']))

    def color(self, name: str) -> str:
        """The color that a picture mostly is of."""
        data = self.tab.request.get(self.source(name)).body()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        mean = image.mean((0, 1))
        return max(COLORS, key=lambda color: float(mean @ np.array(COLORS[color])))


def test_one_sees_and_asks(browser: Any, url: str) -> None:
    page = Page(browser, url)
    page.tab.locator('#examples button').first.click()
    picture, attention = page.changed('picture', None), page.changed('attention', None)
    assert page.color('picture') == page.color('attention') == 'red'
    page.click(0.25, 0.75)
    attention = page.changed('attention', attention)
    assert page.source('picture') == picture
    for name, key in (('stage', 'ArrowRight'), ('head', 'End'), ('stage', 'ArrowLeft')):
        page.tab.locator(f'#{name} input[type=range]').press(key)
        attention = page.changed('attention', attention)
    head = page.tab.locator('#head input[type=range]')
    assert head.get_attribute('max') == head.input_value() == '4'  # of the 8 of the last stage
    typed = page.tab.locator('#head input[type=number]')
    typed.fill('99')
    typed.press('Tab')
    page.tab.wait_for_timeout(2000)
    assert typed.input_value() == '4' and not page.tab.locator('.toast-body').count()
    page.tab.get_by_label(NAMES[1]).click()
    page.changed('picture', picture)
    page.changed('attention', attention)

    assert not page.errors
    assert all(request.startswith((url, 'data:', 'blob:')) for request in page.requests)


def test_what_is_no_image_is_told_and_the_next_is_shown(
    browser: Any, url: str, tmp_path: Path
) -> None:
    page = Page(browser, url)
    (tmp_path / 'a<b>.png').write_text('no image')
    page.upload(tmp_path / 'a<b>.png')
    page.tab.wait_for_selector('#message .error')
    assert 'cannot be read: it is no image' in page.tab.inner_text('#message')
    assert page.source('picture') is None
    page.upload(draw(tmp_path / 'green.png', 'green'))
    page.changed('picture', None)
    page.changed('attention', None)
    assert page.tab.inner_text('#message').startswith('green.png')
    assert page.color('picture') == page.color('attention') == 'green'


@pytest.mark.parametrize('arch', ['nano', 'tiny'])
def test_a_click_answers_within_a_second(browser: Any, tmp_path: Path, arch: str) -> None:
    """A detector with inputs of 800 x 1067 pixels, and an image of 800 x 600."""
    cfg = load('retinanet_dat_pp_t_coco')
    if arch == 'nano':
        cfg.model.backbone.arch = arch
        cfg.model.neck.in_channels = nano.FOUR_MAPS[1:]
    cv2.imwrite(
        str(tmp_path / 'noise.png'), np.random.default_rng(0).integers(0, 256, (600, 800, 3))
    )
    model = Predictor(*nano.write_model(cfg, arch, tmp_path), score_thr=0.9)
    with serve(Viewer({arch: model}), [str(tmp_path / 'noise.png')]) as url:
        page = Page(browser, url)
        page.tab.set_default_timeout(900_000)
        page.tab.locator('#examples button').first.click()
        attention = page.changed('attention', None)
        waits, busy = [], []
        for x in (0.1, 0.3, 0.5, 0.7, 0.9):
            start, used = time.monotonic(), time.process_time()
            page.click(x, 0.4)
            attention = page.changed('attention', attention)
            waits.append(time.monotonic() - start)
            busy.append(time.process_time() - used)
    median = statistics.median(busy)
    print(f'{arch}: a click takes {statistics.median(waits):.2f} s, {median:.2f} s of a core')
    assert median < 1, busy  # which other work on the machine does not change


def test_two_people_see_their_own_images(browser: Any, url: str) -> None:
    pages = [Page(browser, url), Page(browser, url)]
    for index, page in enumerate(pages):
        page.tab.locator('#examples button').nth(index).click()
    before = [(page.changed('picture', None), page.changed('attention', None))[1] for page in pages]
    for page in pages:
        page.click(0.8, 0.2)
    for page, attention in zip(pages, before, strict=True):
        page.changed('attention', attention)
    for name in ('picture', 'attention'):
        assert [page.color(name) for page in pages] == ['red', 'blue']
