import numpy as np
import pytest

from mmdat.datasets.shapes.drawing import (
    DISTRACTORS,
    FIGURES,
    METAINFO,
    MIN_VISIBLE_FRACTION,
    Scene,
    _Canvas,
    draw_scene,
)

SIZE = 128


def draw(count: int, seed: int = 0, **options) -> list[Scene]:
    return [
        draw_scene(np.random.default_rng((seed, index)), SIZE, **options) for index in range(count)
    ]


@pytest.fixture(scope='module')
def scenes() -> list[Scene]:
    return draw(120)


def test_same_seed_same_drawing_and_another_seed_another():
    first, again, other = draw(1)[0], draw(1)[0], draw(1, seed=1)[0]
    assert np.array_equal(first.image, again.image)
    assert [i.label for i in first.instances] == [i.label for i in again.instances]
    assert all(
        np.array_equal(a.mask, b.mask)
        for a, b in zip(first.instances, again.instances, strict=True)
    )
    assert not np.array_equal(first.image, other.image)


def test_every_class_has_a_figure_and_is_drawn(scenes):
    assert tuple(FIGURES) == METAINFO['classes']
    counts = np.bincount([i.label for scene in scenes for i in scene.instances])
    assert len(counts) == len(METAINFO['classes']) >= 4
    assert counts.min() > 0.7 * counts.mean()


def test_every_drawing_has_figures_that_can_be_seen_and_do_not_share_a_pixel(scenes):
    for scene in scenes:
        assert scene.image.shape == (SIZE, SIZE, 3)
        assert scene.image.dtype == np.uint8
        assert scene.instances
        assert all(instance.mask.any() for instance in scene.instances)
        assert sum(instance.mask.astype(int) for instance in scene.instances).max() == 1


def test_rings_have_holes_and_other_figures_have_none():
    for scene in draw(40, num_figures=(1, 1), num_distractors=(0, 0)):
        instance = scene.instances[0]
        y, x = np.nonzero(instance.mask)
        center_is_covered = instance.mask[round(y.mean()), round(x.mean())]
        touches_border = min(y.min(), x.min()) == 0 or max(y.max(), x.max()) == SIZE - 1
        if not touches_border:
            assert center_is_covered == (METAINFO['classes'][instance.label] != 'ring')


def test_figures_are_hidden_in_part_but_most_of_each_stays_visible():
    visible = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        canvas = _Canvas(rng, SIZE)
        for _ in range(20):
            canvas.place(FIGURES['ring'](rng), SIZE / 3, label=0)
        visible += [
            instance.mask.sum() / area
            for instance, area in zip(canvas.finish().instances, canvas.areas, strict=True)
        ]
    assert MIN_VISIBLE_FRACTION <= min(visible) < MIN_VISIBLE_FRACTION + 0.1
    assert np.mean(np.array(visible) < 1) > 0.5


def test_distractors_hide_figures_and_are_no_figures():
    rng = np.random.default_rng(0)
    canvas = _Canvas(rng, SIZE)
    canvas.place(FIGURES['square'](rng), 2 * SIZE, label=0)
    before = canvas.finish().instances[0].mask.sum()
    for _ in range(10):
        canvas.place(DISTRACTORS[0](rng), SIZE / 3, label=None)
    [instance] = canvas.finish().instances
    assert instance.mask.sum() < before


def test_scales_span_a_factor_of_four(scenes):
    sides = [
        max(np.ptp(axis) + 1 for axis in np.nonzero(instance.mask))
        for scene in scenes
        for instance in scene.instances
    ]
    small, large = np.percentile(sides, [2, 98])
    assert large / small >= 4


def test_color_does_not_tell_the_class(scenes):
    """A nearest-centroid rule on mean colors, fitted to half of the figures, is at chance."""
    colors = np.array(
        [scene.image[i.mask].mean(axis=0) for scene in scenes for i in scene.instances]
    )
    labels = np.array([i.label for scene in scenes for i in scene.instances])
    half = len(labels) // 2
    centroids = np.stack(
        [
            colors[:half][labels[:half] == label].mean(axis=0)
            for label in range(len(METAINFO['classes']))
        ]
    )
    guesses = np.linalg.norm(colors[half:, None] - centroids, axis=2).argmin(axis=1)
    accuracy = np.mean(guesses == labels[half:])
    assert accuracy < 1 / len(METAINFO['classes']) + 0.1


def test_a_single_figure_can_be_drawn_for_classification():
    for scene in draw(20, num_figures=(1, 1), diameters=(0.5, 0.8)):
        assert len(scene.instances) == 1
