"""Our models compute what the authors' published models compute."""
import golden
import pytest
import torch

from mmdat.models import DATPlusPlus

ARCHS = {'dat_pp_nano': 'nano', 'dat_pp_nano_96x160': 'nano', 'dat_pp_t': 'tiny'}


def build(fixture: dict) -> golden.PublishedClassifier:
    backbone = DATPlusPlus(arch=ARCHS[fixture['name']])
    return golden.PublishedClassifier(backbone, fixture['manifest'])


@pytest.mark.parametrize('dtype', golden.TOLERANCES, ids=str)
@pytest.mark.parametrize('name', ARCHS)
def test_outputs_and_gradients_equal_the_published_models(name: str, dtype: torch.dtype) -> None:
    fixture = golden.load(name)
    model = build(fixture).to(dtype)
    x = golden.make_input(**fixture['input']).to(dtype).requires_grad_()
    outputs = model(x)
    output_tolerance, gradient_tolerance = golden.TOLERANCES[dtype]
    for key, recorded in fixture['outputs'].items():
        assert list(outputs[key].shape) == recorded['shape']
        assert golden.difference(key, outputs[key], recorded) < output_tolerance, key
    if 'grads' not in fixture:
        return
    loss = golden.loss(outputs)
    assert loss.item() == pytest.approx(fixture['loss'], rel=10 * output_tolerance)
    loss.backward()
    largest = max(gradient.get('norm', 0) for gradient in fixture['grads'].values())
    gradients = {theirs: model.get_parameter(ours).grad
                 for ours, theirs in model.published_names.items()} | {'input': x.grad}
    assert set(gradients) == set(fixture['grads'])
    for key, recorded in fixture['grads'].items():
        # A gradient that is zero in theory is recorded as noise: compare it with the others' size.
        is_noise = recorded.get('norm', largest) < 1e-12 * largest
        error = golden.difference(f'grad:{key}', gradients[key], recorded,
                                  largest if is_noise else None)
        assert error < gradient_tolerance, key


def test_parameter_count_of_dat_pp_t_is_the_published_one() -> None:
    model = build(golden.load('dat_pp_t'))
    norms = sum(p.numel() for p in model.backbone.norms.parameters())
    assert sum(p.numel() for p in model.parameters()) - norms == 23_962_876
