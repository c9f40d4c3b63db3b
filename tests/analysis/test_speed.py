"""Speed and memory of the model of a config."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmdat.analysis.model import build_model, load_config
from mmdat.analysis.speed import measure_speed, print_speed
from mmdat.errors import UserError

CONFIGS = Path(__file__).parents[2] / 'configs'
WIDTHS = [16, 32, 64, 128]


def nano(name: str) -> Config:
    options = {
        'mmdet': {'model.neck.in_channels': WIDTHS},
        'mmseg': {'model.neck.in_channels': WIDTHS, 'model.data_preprocessor.size': (64, 96)},
        'mmpretrain': {'model.head.in_channels': WIDTHS[-1]},
    }
    cfg = load_config(CONFIGS / f'{name}.py', {'model.backbone.arch': 'nano'})
    cfg.merge_from_dict(options[cfg.default_scope])
    return cfg


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize(
    'name', ['retinanet_dat_t_coco', 'semantic_fpn_dat_pp_t_ade20k', 'scalablevit_s_in1k']
)
def test_a_model_of_each_toolbox_is_timed(
    name: str, train: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    speed = measure_speed(nano(name), (64, 96), 2, device='cpu', train=train, repeats=3, warmup=1)
    assert len(speed.seconds) == 3
    assert speed.images_per_second == pytest.approx(2 / sorted(speed.seconds)[1])
    assert speed.peak_memory >= 0
    print_speed(speed)
    printed = capsys.readouterr().out
    assert '2 x 64 x 96, 3 runs' in printed
    assert f'torch {torch.__version__}' in printed.splitlines()[-1]


def test_a_checkpoint_must_fill_the_model(config: Path, tmp_path: Path) -> None:
    cfg = load_config(config)
    checkpoint = tmp_path / 'some.pth'
    weights = build_model(cfg).state_dict()
    torch.save(weights, checkpoint)
    measure_speed(cfg, (64,), checkpoint=str(checkpoint), device='cpu', repeats=1, warmup=0)
    del weights['rpn_head.rpn_conv.weight']
    torch.save(weights, checkpoint)
    with pytest.raises(UserError, match=r"some.pth is of another model than the config's"):
        measure_speed(cfg, (64,), checkpoint=str(checkpoint), device='cpu')


@pytest.mark.parametrize(
    'options, sentence',
    [
        (dict(batch_size=0), '--batch-size must be at least 1, got 0'),
        (dict(repeats=0), '--repeat-num must be at least 1, got 0'),
        (dict(warmup=-1), '--num-warmup must be at least 0, got -1'),
        (dict(shape=(0, 5)), '--shape takes a height and a width'),
        (dict(device='gpu'), '--device gpu is no device'),
        (dict(device='cuda:99'), '--device cuda:99 is not here'),
        (dict(device='meta'), '--device meta is not here'),
        (dict(device='cpu', amp=True), '--amp needs a GPU'),
        (dict(device='cpu', checkpoint='missing.pth'), 'missing.pth'),
    ],
)
def test_a_mistake_ends_in_one_sentence(options: dict, sentence: str, config: Path) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        measure_speed(load_config(config), **options)
    assert '\n' not in str(caught.value)


def test_an_image_that_is_too_small_ends_in_one_sentence() -> None:
    cfg = load_config(CONFIGS / 'dino_dat_pp_t_coco.py', {'model.backbone.arch': 'nano'})
    cfg.model.neck.in_channels = WIDTHS[1:]
    with pytest.raises(UserError, match=r'does not run on images of 8 x 8 \(.*\): give another'):
        measure_speed(cfg, (8,), device='cpu', repeats=1)
