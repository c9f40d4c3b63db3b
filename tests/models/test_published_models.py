"""Our models compute what the authors' published models compute."""

import copy
import functools

import pytest
import torch
from helpers import golden

from mmdat.checkpoints.shapes import without_values
from mmdat.models import DAT, DATPlusPlus, ScalableViT
from mmdat.ops import prefer_implementation
from mmdat.ops.tiling import LOGITS_PER_TILE

FIXTURES = sorted(path.stem for path in golden.DATA.glob('*.json'))
# The smallest full-sized model of each family runs each time; the others take seconds each.
SLOW = {'dat_s', 'dat_b', 'dat_pp_s', 'dat_pp_b', 'scalablevit_b', 'scalablevit_l'}
NAMED = {
    'dat_nano': (DAT, 'nano'),
    'dat_t': (DAT, 'tiny'),
    'dat_s': (DAT, 'small'),
    'dat_b': (DAT, 'base'),
    'dat_pp_nano': (DATPlusPlus, 'nano'),
    'dat_pp_t': (DATPlusPlus, 'tiny'),
    'dat_pp_s': (DATPlusPlus, 'small'),
    'dat_pp_b': (DATPlusPlus, 'base'),
    'scalablevit_nano': (ScalableViT, 'nano'),
    'scalablevit_s': (ScalableViT, 'small'),
    'scalablevit_b': (ScalableViT, 'base'),
    'scalablevit_l': (ScalableViT, 'large'),
}


@pytest.mark.parametrize(
    'name, implementation',
    [
        # As users run them; of the nano models one for each family.
        *(
            pytest.param(
                name, 'auto', id=f'{name}-auto', marks=pytest.mark.slow if name in SLOW else ()
            )
            for name in FIXTURES
            if 'nano' not in name or name in NAMED
        ),
        *(
            pytest.param(name, implementation, id=f'{name}-{implementation}')
            for name in FIXTURES
            if 'nano' in name
            for implementation in ('dense', 'tiled', 'fused')
        ),
    ],
)
def test_outputs_and_gradients_equal_the_published_models(
    name: str, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if implementation != 'auto':
        monkeypatch.setitem(LOGITS_PER_TILE, 'cpu', 2**12)  # several tiles on small maps
    with prefer_implementation(implementation):
        _check_outputs_and_gradients(name)


def _check_outputs_and_gradients(name: str) -> None:
    fixture = golden.load(name)
    # A nano model is compared several times.
    model = copy.deepcopy(_nano(name)) if 'nano' in name else golden.build_classifier(fixture)
    for dtype, (output_tolerance, gradient_tolerance) in golden.TOLERANCES.items():
        model = model.to(dtype)
        model.zero_grad()
        x = golden.make_input(**fixture['input']).to(dtype).requires_grad_()
        with torch.set_grad_enabled('grads' in fixture):
            outputs = golden.run(model, x)
        for key, recorded in fixture['outputs'].items():
            assert list(outputs[key].shape) == recorded['shape']
            assert golden.difference(key, outputs[key], recorded) < output_tolerance, (key, dtype)
        if 'grads' not in fixture:
            continue
        loss = golden.loss(outputs)
        assert loss.item() == pytest.approx(fixture['loss'], rel=10 * output_tolerance)
        loss.backward()
        gradients = {
            theirs: model.get_parameter(ours).grad
            for ours, theirs in golden.names_in_classifier(model).items()
        }
        gradients = {key: gradient for key, gradient in gradients.items() if gradient is not None}
        gradients['input'] = x.grad
        assert set(gradients) == set(fixture['grads'])
        largest = max(gradient.get('norm', 0) for gradient in fixture['grads'].values())
        for key, recorded in fixture['grads'].items():
            # A gradient that is zero in theory is recorded as noise: compare with the others' size.
            is_noise = recorded.get('norm', largest) < 1e-12 * largest
            error = golden.difference(
                f'grad:{key}', gradients[key], recorded, largest if is_noise else None
            )
            assert error < gradient_tolerance, (key, dtype)


@functools.cache
def _nano(name: str) -> torch.nn.Module:
    return golden.build_classifier(golden.load(name))


@pytest.mark.parametrize('name', NAMED)
def test_a_named_architecture_is_the_one_of_the_published_options(name: str) -> None:
    family, arch = NAMED[name]
    with without_values():
        named = family(arch)
        published = family.from_published(**golden.load(name)['options'])
    assert _shapes(named) == _shapes(published)
    unused = {
        'stride',
        'offset_kernel_size',
        'offset_range',
        'groups',
        'position_bias',
        'window_size',
        'neighborhood_size',
    }
    for ours, theirs in zip(named.settings, published.settings, strict=True):
        differing = {
            field for field, value in vars(ours).items() if getattr(theirs, field) != value
        }
        letters = getattr(ours, 'blocks', '')
        if 'D' in letters:
            unused = {'window_size', 'neighborhood_size'}
        assert differing <= unused


def _shapes(backbone: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in backbone.named_parameters()}
