"""Speed and memory of a config's model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.memory import touch_new_memory
from mmengine.config import Config
from mmengine.model import BaseModel

from mmdat.analysis import speed
from mmdat.analysis.measure import Times
from mmdat.analysis.speed import Speed, measure_speed, print_speed
from mmdat.apis.model import build_model, load_config
from mmdat.errors import UserError

CONFIGS = Path(__file__).parents[2] / 'configs'
WIDTHS = [16, 32, 64, 128]
APPETITE = 2**26  # bytes


def nano(name: str) -> Config:
    """A config with the smallest backbone."""
    options = {
        'mmdet': {'model.neck.in_channels': WIDTHS[1:]},  # RetinaNet's
        'mmseg': {'model.neck.in_channels': WIDTHS, 'model.data_preprocessor.size': (64, 96)},
        'mmpretrain': {'model.head.in_channels': WIDTHS[-1]},
    }
    cfg = load_config(CONFIGS / f'{name}.py', {'model.backbone.arch': 'nano'})
    cfg.merge_from_dict(options[cfg.default_scope])
    return cfg


@pytest.fixture(scope='module')
def classifier() -> Config:
    return nano('scalablevit_s_in1k')


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize(
    'name', ['retinanet_dat_t_coco', 'semantic_fpn_dat_pp_t_ade20k', 'scalablevit_s_in1k']
)
def test_a_model_of_each_toolbox_is_timed(name: str, train: bool) -> None:
    measured = measure_speed(
        nano(name), (64, 96), 2, device='cpu', train=train, repeats=2, warmup=0
    )
    assert measured.shape == (64, 96)
    assert len(measured.times.seconds) == 2


def test_the_peak_of_memory_is_that_of_the_runs(
    classifier: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def eat(*_: Any) -> None:
        touch_new_memory(APPETITE)

    def build_hungry_model(cfg: Config) -> BaseModel:
        model = build_model(cfg)
        model.backbone.register_forward_pre_hook(eat)
        return model

    monkeypatch.setattr(speed, 'build_model', build_hungry_model)
    measured = measure_speed(classifier, (64, 96), device='cpu', repeats=1, warmup=0)
    assert 0.95 * APPETITE < measured.peak_memory < 2 * APPETITE


def test_the_table_says_what_was_run_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    measured = Speed(2, (64, 96), Times([1.0, 4.0, 0.5]), 3 * 10**9, 'Measured on a desk.')
    print_speed(measured)
    printed = capsys.readouterr().out
    assert '2 x 64 x 96, 3 runs' in printed
    row = next(line for line in printed.splitlines() if ' to ' in line)
    assert [cell.strip() for cell in row.split('│')[1:-1]] == ['2.00', '0.500 to 4.000', '3.00']
    assert printed.splitlines()[-1] == 'Measured on a desk.'


def test_a_checkpoint_must_fill_the_model(config: Path, tmp_path: Path) -> None:
    cfg = load_config(config)
    checkpoint = tmp_path / 'some.pth'
    weights = build_model(cfg).state_dict()
    torch.save(weights, checkpoint)
    measure_speed(cfg, (64,), checkpoint=str(checkpoint), device='cpu', repeats=1, warmup=0)
    del weights['rpn_head.rpn_conv.weight']
    torch.save(weights, checkpoint)
    with pytest.raises(UserError, match=r"some.pth is of another model than the config's"):
        measure_speed(cfg, (64,), checkpoint=str(checkpoint), device='cpu', repeats=1, warmup=0)


@pytest.mark.parametrize('content, kind', [({1: 2}, 'dict'), ([torch.ones(1)], 'list')])
def test_a_checkpoint_without_weights_is_refused(
    content: Any, kind: str, classifier: Config, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / 'some.pth')
    with pytest.raises(UserError, match=f'some.pth holds no weights by name, but a {kind}'):
        measure_speed(classifier, checkpoint=str(tmp_path / 'some.pth'), device='cpu')


@pytest.mark.parametrize('train', [False, True])
def test_mixed_precision_is_measured_on_a_cpu(
    train: bool, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes: list[torch.dtype] = []

    def build_recorded_model(cfg: Config) -> BaseModel:
        model = build_model(cfg)
        model.backbone.register_forward_hook(lambda *parts: dtypes.append(parts[2][0].dtype))
        return model

    monkeypatch.setattr(speed, 'build_model', build_recorded_model)
    options = dict(device='cpu', repeats=1, warmup=0)
    measure_speed(load_config(config), (64,), train=train, amp=True, **options)
    measure_speed(load_config(config), (64,), train=train, **options)
    assert dtypes == [torch.bfloat16, torch.float32]


def test_a_training_step_needs_an_optimizer(classifier: Config) -> None:
    cfg = Config(dict(classifier, optim_wrapper=dict()))
    with pytest.raises(UserError, match=r'has no optim_wrapper.optimizer: add one'):
        measure_speed(cfg, device='cpu', train=True)


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
        (dict(device='cpu', checkpoint='missing.pth'), 'missing.pth'),
    ],
)
def test_a_mistake_ends_in_one_sentence(
    options: dict[str, Any], sentence: str, classifier: Config
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        measure_speed(classifier, **options)
    assert '\n' not in str(caught.value)


def test_an_image_that_is_too_small_ends_in_one_sentence() -> None:
    cfg = load_config(CONFIGS / 'dino_dat_pp_t_coco.py', {'model.backbone.arch': 'nano'})
    cfg.model.neck.in_channels = WIDTHS[1:]
    with pytest.raises(UserError, match=r'does not run on images of 8 x 8 \(.*\): give another'):
        measure_speed(cfg, (8,), device='cpu', repeats=1)
