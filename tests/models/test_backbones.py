"""What every backbone promises, whatever its blocks."""

import copy
import logging
import pickle
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.variants import NANO, TRACED, VARIANTS, build
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, PretrainedInit
from packaging.version import Version
from torch import Tensor, nn

from mmdat.errors import UserError
from mmdat.models import DAT, DATPlusPlus, ScalableViT
from mmdat.ops import tiling
from mmdat.registry import MODELS

every_variant = pytest.mark.parametrize('name', VARIANTS)
every_traced_variant = pytest.mark.parametrize(
    'name', [*TRACED, *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS)]
)
every_family = pytest.mark.parametrize('name', NANO)
SIZES = [(1, 1), (1, 75), (33, 2), (61, 90)]


def image(*size: int, batch: int = 1, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0))


def loss(outputs: tuple[Tensor, ...]) -> Tensor:
    return sum((y * torch.cos(torch.arange(y.numel())).view_as(y)).mean() for y in outputs)


def gradients(model: nn.Module, outputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    model.zero_grad()
    loss(outputs).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def difference(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    """Largest difference over largest magnitude of any output."""
    return max(
        float((a - b).detach().abs().max() / b.detach().abs().max())
        for a, b in zip(ours, theirs, strict=True)
    )


def export(model: nn.Module, x: Tensor) -> nn.Module:
    if Version(torch.__version__) < Version('2.5') and not isinstance(model, ScalableViT):
        pytest.skip('PyTorch before 2.5 cannot export code that turns autocast off, as DAT does')
    return torch.export.export(model, (x,)).module()


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        # torch.compile and torch.export warn about themselves.
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        warnings.filterwarnings('ignore', category=FutureWarning)
        warnings.filterwarnings('ignore', 'Guards may run slower on Python 3.13.0')
        torch.manual_seed(0)
        yield


@every_family
def test_outputs_are_contiguous_as_the_roi_align_of_mmcv_needs_them(name: str) -> None:
    assert all(y.is_contiguous() for y in build(name)(image(64, 96)))


@every_variant
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_any_size_gives_finite_maps_and_a_gradient_for_each_parameter(
    name: str, size: tuple[int, int]
) -> None:
    model = build(name)
    size = tuple(max(side, model.smallest_image) for side in size)
    x = image(*size, batch=2).requires_grad_()
    outputs = model(x)
    dims = [settings.embed_dims for settings in model.settings]
    assert [y.shape[:2] for y in outputs] == [(2, width) for width in dims]
    assert all(y.isfinite().all() for y in outputs)
    grads = gradients(model, outputs)
    assert all(grad.isfinite().all() for grad in grads.values())
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


@pytest.mark.parametrize('family', [DATPlusPlus, ScalableViT])
def test_maps_are_channels_last_from_the_first_on(family: type) -> None:
    model, orders = family('nano'), []
    conv = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    conv.register_forward_hook(
        lambda *x: orders.append(x[2].is_contiguous(memory_format=torch.channels_last))
    )
    model(image(64, 96, batch=2))
    assert orders == [True]


@pytest.mark.parametrize('family', [DATPlusPlus, ScalableViT])
def test_vmap_takes_the_images_of_a_batch(family: type) -> None:
    model, images = family('nano').eval(), image(64, 96, batch=2)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'There is a performance drop')  # PyTorch's
        found = torch.func.vmap(lambda image: model(image[None])[-1][0])(images)
        torch.testing.assert_close(found, model(images)[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'family, rounds_up', [(DAT, False), (DATPlusPlus, True), (ScalableViT, True)]
)
def test_strides_are_4_8_16_32(family: type, rounds_up: bool) -> None:
    shapes = [y.shape[2:] for y in family('nano')(image(100, 130))]
    height, width = (100, 130) if rounds_up else (-100, -130)
    for stage, shape in enumerate(shapes):
        stride = 4 * 2**stage
        # -(-x // s) rounds x / s up.
        assert [abs(-(-height // stride)), abs(-(-width // stride))] == list(shape)


def test_an_image_too_small_for_plain_embeddings_is_refused() -> None:
    with pytest.raises(UserError, match='31 x 64 pixels .* at least 32 x 32'):
        DAT('nano')(image(31, 64))
    assert [y.shape[2:] for y in DAT('nano')(image(32, 32))][-1] == (1, 1)


@every_variant
def test_images_of_a_batch_do_not_see_each_other(name: str) -> None:
    model = build(name).eval()
    x = image(40, 56, batch=3)
    alone = [model(image[None]) for image in x]
    assert difference(model(x), tuple(torch.cat(maps) for maps in zip(*alone, strict=True))) < 1e-5


@every_variant
def test_channels_last_gives_the_same(name: str) -> None:
    model = build(name)
    x = image(40, 56)
    expected = model(x)
    grads = gradients(model, expected)
    outputs = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert difference(outputs, expected) < 1e-5
    for key, grad in gradients(model, outputs).items():
        assert (grad - grads[key]).abs().max() <= 1e-4 * grads[key].abs().max() + 1e-8, key


@every_variant
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_autocast_stays_near_float32(name: str, dtype: torch.dtype) -> None:
    model = build(name)
    x = image(40, 56)
    with torch.autocast('cpu', dtype):
        outputs = model(x)
    assert difference(outputs, model(x)) < (0.02 if dtype == torch.bfloat16 else 0.01)
    assert all(grad.isfinite().all() for grad in gradients(model, outputs).values())


@pytest.mark.parametrize('family', [DAT, DATPlusPlus, ScalableViT])
def test_norms_may_stay_in_float32_beside_bfloat16(
    family: type[DAT | DATPlusPlus | ScalableViT],
) -> None:
    model, x = family('nano'), image(40, 56)
    expected = model(x)
    model.bfloat16()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.float()
    outputs = model(x.bfloat16())
    assert {out.dtype for out in outputs} == {torch.bfloat16}
    assert difference(outputs, expected) < 0.05


@pytest.mark.parametrize('family', [DATPlusPlus, ScalableViT])
def test_roundings_of_many_blocks_do_not_add_up(family: type[DATPlusPlus | ScalableViT]) -> None:
    torch.manual_seed(0)
    model, x = family(), image(224, 224)  # each with a stage of 18 or 20 blocks
    model.init_weights()
    with torch.no_grad():
        with torch.autocast('cpu', torch.bfloat16):
            outputs = model(x)
        assert difference(outputs, model(x)) < 0.015


# Rounding moves some keys of DAT++ past a position of the map, where their offsets' gradients jump.
@pytest.mark.parametrize('family', [DAT, ScalableViT])
def test_gradients_of_norms_in_bfloat16_are_those_of_float32(
    family: type[DAT | ScalableViT],
) -> None:
    torch.manual_seed(0)
    model, x = family(arch='nano'), image(224, 320)
    model.init_weights()
    norms = [norm for norm in model.modules() if isinstance(norm, nn.LayerNorm)]
    parameters = [parameter for norm in norms for parameter in norm.parameters()]
    outputs = model(x)
    # Unlike those of a smooth loss, these do not cancel in sums over positions.
    directions = [torch.randn_like(out) for out in outputs]
    expected = torch.autograd.grad(outputs, parameters, directions)
    with torch.autocast('cpu', torch.bfloat16):
        outputs = model(x)
    directions = [x.to(out.dtype) for x, out in zip(directions, outputs, strict=True)]
    for grad, truth in zip(
        torch.autograd.grad(outputs, parameters, directions), expected, strict=True
    ):
        assert (grad - truth).norm() < 0.05 * truth.norm()


@every_variant
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_large_logits_offsets_and_tables_are_finite_in_half_precision(
    name: str, dtype: torch.dtype
) -> None:
    model = build(name)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            *_, owner, kind = key.split('.')
            if owner in ('query', 'key', 'qkv', 'key_value') and kind == 'weight':
                parameter *= 100
            elif kind.endswith('bias_table'):
                parameter.copy_(parameter.sign() * 6.5e4)
            elif '.offsets.3.' in key:
                parameter *= 1e6
    x = image(40, 56)
    with torch.autocast('cpu', dtype):
        mixed = model(x)
    # GradScaler begins with 65,536 and halves it where that is too much, as 256 is for this one:
    # keys that are nearly alike make its gradients jump.
    factor = 16 if (name, dtype) == ('scalablevit', torch.float16) else 256
    (factor * loss(mixed)).backward()
    assert all(y.isfinite().all() for y in (*mixed, *model.to(dtype)(x.to(dtype))))
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@every_variant
def test_copies_and_pickles_compute_the_same(name: str) -> None:
    model = build(name).eval()
    x = image(40, 56)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert difference(other(x), model(x)) == 0


@every_variant
def test_activation_checkpointing_gives_the_same_gradients(name: str) -> None:
    plain, saving = build(name, drop_path_rate=0.3), build(name, drop_path_rate=0.3, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    x = image(40, 56, batch=4)
    results = []
    for model in (plain, saving):
        torch.manual_seed(1)
        results.append(gradients(model, model(x)))
    for key, grad in results[0].items():
        assert (grad - results[1][key]).abs().max() <= 1e-5 * grad.abs().max(), key


@every_traced_variant
def test_torch_compile_takes_the_whole_graph(name: str) -> None:
    model = build(name)
    x = image(72, 104)
    expected = model(x)
    grads = gradients(model, expected)
    torch._dynamo.reset()
    outputs = torch.compile(model, fullgraph=True, backend='eager')(x)
    assert difference(outputs, expected) < 1e-5
    for key, grad in gradients(model, outputs).items():
        assert (grad - grads[key]).abs().max() <= 1e-4 * grads[key].abs().max() + 1e-8, key


@pytest.mark.slow
@every_family
@pytest.mark.parametrize('training', [False, True])
def test_inductor_compiles_what_eager_computes(name: str, training: bool) -> None:
    model = build(name).train(training)
    torch._dynamo.reset()
    # For this size alone: a graph for any takes inductor several times as long.
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    x = image(97, 130)
    with warnings.catch_warnings(), torch.set_grad_enabled(training):
        warnings.simplefilter('ignore')
        outputs, expected = compiled(x), model(x)
    assert difference(outputs, expected) < 1e-4
    if training:
        grads = gradients(model, expected)
        for key, grad in gradients(model, outputs).items():
            assert (grad - grads[key]).abs().max() <= 1e-3 * grads[key].abs().max() + 1e-7, key


@pytest.mark.parametrize(
    'family, arch',
    [
        (DATPlusPlus, dict(blocks='N')),
        # Reasoning about a size takes PyTorch a while in each.
        pytest.param(DATPlusPlus, dict(blocks='D', stride=4), marks=pytest.mark.slow),
        pytest.param(DAT, dict(blocks='LS'), marks=pytest.mark.slow),
        pytest.param(ScalableViT, dict(depth=2, reduction_ratio=4), marks=pytest.mark.slow),
    ],
)
def test_a_graph_for_any_size_serves_a_second_one(family: type, arch: dict[str, Any]) -> None:
    model = family(dict(arch, embed_dims=(16,), num_heads=1), pretrain_img_size=64).eval()
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    # Of about the same size: PyTorch has another convolution for small maps, and compiles anew.
    for size in ((104, 116), (97, 130)):
        x = image(*size)
        with torch.no_grad():
            assert difference(compiled(x), model(x)) < 1e-5
    assert len(graphs) == 1


@every_traced_variant
def test_torch_export_computes_the_same(name: str) -> None:
    model = build(name).eval()
    exported = export(model, image(72, 104))
    x = image(72, 104) + 1
    assert difference(exported(x), model(x)) < 1e-5


def test_maps_of_many_row_blocks_compile_and_export(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = dict(embed_dims=(16,), num_heads=1, blocks='D', stride=4, position_bias='log')
    model = DATPlusPlus(arch, pretrain_img_size=64)
    x = image(40, 56)
    expected = model(x)
    monkeypatch.setattr(tiling, 'LOGITS_PER_BLOCK', 2**13)
    assert difference(model(x), expected) < 1e-5
    torch._dynamo.reset()
    assert difference(torch.compile(model, fullgraph=True, backend='eager')(x), expected) < 1e-5
    assert difference(export(model.eval(), x)(x), expected) < 1e-5


@every_family
@pytest.mark.parametrize('frozen_stages', [0, 2, 3])
def test_frozen_stages_do_not_change(name: str, frozen_stages: int) -> None:
    model = build(name, frozen_stages=frozen_stages).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss(model(image(32, 64, batch=2))).backward()
    optimizer.step()
    frozen = (
        'embeddings.0.',
        *(
            f'{part}.{stage}.'
            for part in ('embeddings', 'stages')
            for stage in range(frozen_stages)
        ),
        *(f'norms.{stage}.' for stage in range(frozen_stages)),
    )
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]) == key.startswith(frozen), key
    assert not any(
        module.training for stage in model.stages[:frozen_stages] for module in stage.modules()
    )


@every_family
def test_drop_path_grows_linearly_and_is_off_in_evaluation(name: str) -> None:
    model = build(name, drop_path_rate=0.6)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.6)
    steps = {round(b - a, 9) for a, b in pairwise(rates)}
    assert len(steps) == 1
    x = image(40, 56, batch=4)
    assert difference(model(x), model(x)) > 0
    model.eval()
    assert difference(model(x), model(x)) == 0


@every_family
def test_out_indices_choose_outputs_and_norms(name: str) -> None:
    model, whole = build(name, out_indices=(1, 3)), build(name)
    model.load_state_dict(whole.state_dict())
    x = image(40, 56)
    assert difference(model(x), whole(x)[1::2]) == 0
    assert set(model.norms) == {'1', '3'}


@every_family
def test_each_trained_parameter_has_a_gradient(name: str) -> None:
    model = build(name, out_indices=(1,), frozen_stages=0, with_cp=True, drop_path_rate=0.5)
    loss(model(image(40, 56))).backward()
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert trained and [key for key, p in trained.items() if p.grad is None] == []


@every_family
def test_stages_after_the_last_output_are_neither_built_nor_run(name: str) -> None:
    whole = build(name, drop_path_rate=0.6)
    model = build(name, drop_path_rate=0.6, out_indices=(1, 0), frozen_stages=2)
    model.load_state_dict(whole.state_dict())
    assert len(model.embeddings) == len(model.stages) == len(model.norms) == 2
    x = image(40, 56)
    assert difference(model.eval()(x), whole.eval()(x)[:2]) == 0
    rates, all_rates = (
        [block.drop_path.drop_prob for stage in backbone.stages for block in stage.blocks]
        for backbone in (model, whole)
    )
    assert rates == all_rates[: len(rates)]
    with pytest.raises(UserError, match='frozen_stages must be from -1 to 2, got 3'):
        build(name, out_indices=(0, 1), frozen_stages=3)
    incomplete = {key: x for key, x in whole.state_dict().items() if not key.startswith('stages.1')}
    with pytest.raises(RuntimeError, match='Missing key'):
        model.load_state_dict(incomplete)


def test_what_is_not_of_the_backbone_is_of_the_last_layer() -> None:
    model = DATPlusPlus('nano')
    for name in ('scale', 'neck.stages.0.blocks.0.x', 'backbone.token', 'backbone.norms.0.weight'):
        assert model.get_layer_depth(name, 'backbone.') == (9, 10)


@every_variant
def test_a_backbone_tells_the_channels_and_strides_of_its_maps(name: str) -> None:
    model = build(name)
    outputs = model(image(64, 96))
    assert list(model.out_channels) == [y.shape[1] for y in outputs]
    assert list(model.out_strides) == [64 // y.shape[2] for y in outputs]
    last = build(name, out_indices=(1,))
    assert (last.out_channels, last.out_strides) == (model.out_channels[1:2], (8,))


@every_family
def test_images_may_have_other_channels_than_three(name: str) -> None:
    model = build(name, in_channels=5)
    grads = gradients(model, model(image(40, 56, channels=5)))
    assert grads['embeddings.0.0.weight'].abs().amax((0, 2, 3)).min() > 0
    with pytest.raises(UserError, match=r'takes images in a batch, .* of shape \(5, 64, 64\)$'):
        model(torch.zeros(5, 64, 64))
    with pytest.raises(UserError, match=r'takes images in a batch, .*, got a ndarray$'):
        model(np.zeros((1, 5, 64, 64), np.float32))
    with pytest.raises(UserError, match='images of 3 channels .* of in_channels 5: make them'):
        model(image(40, 56))


@every_family
def test_a_stage_gives_the_map_before_its_norm(name: str) -> None:
    model = build(name)
    maps = []
    for stage in model.stages:
        stage.register_forward_hook(lambda *args: maps.append(args[-1]))
    outputs = model(image(40, 56))
    normed = tuple(norm(x) for norm, x in zip(model.norms.values(), maps, strict=True))
    assert difference(normed, outputs) == 0


@pytest.mark.parametrize('name', ['DAT', 'DATPlusPlus', 'ScalableViT'])
def test_backbones_are_registered(name: str) -> None:
    model = MODELS.build(dict(type=f'mmdat.{name}', arch='nano', pretrain_img_size=64))
    assert type(model).__name__ == name


@every_variant
def test_a_fresh_model_has_sane_scales_at_every_stage(name: str) -> None:
    model = build(name)
    maps = []
    for stage in model.stages:
        stage.register_forward_hook(lambda *args: maps.append(args[-1]))
    x = image(96, 64, batch=2)
    outputs = model(x)
    for stage, y in enumerate(maps):
        y.retain_grad()
        assert 0.05 < y.std() < 20, f'stage {stage}'
    loss_gradients = gradients(model, outputs)
    norms = [float(y.grad.norm()) for y in maps]
    assert all(norm > 0 for norm in norms) and max(norms) < 1e3 * min(norms)
    assert all(grad.isfinite().all() for grad in loss_gradients.values())


def test_projections_and_tables_start_as_the_papers_say() -> None:
    torch.manual_seed(0)
    model = DATPlusPlus(dict(embed_dims=(64,), blocks='NDLE', num_heads=4))
    blocks = model.stages[0].blocks
    for tensor, std in [
        (blocks[0].attention.qkv.weight, 0.02),
        (blocks[1].attention.query.weight, 0.02),
        (blocks[1].ffn.expand.weight, 0.02),
        (blocks[0].attention.relative_position_bias_table, 0.02),
        (blocks[1].attention.relative_position_bias_table, 0.01),
        (blocks[2].attention.relative_position_bias_table, 0.02),
    ]:
        assert tensor.std().item() == pytest.approx(std, rel=0.15)
    assert not blocks[0].attention.qkv.bias.any()


def test_slide_attention_starts_with_unit_shifts_that_stay() -> None:
    attention = build('local_blocks').stages[0].blocks[1].attention
    x = torch.randn(1, attention.head_dim, 5, 6)
    shifted = attention.shifts(x).unflatten(1, (-1, 9))
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    for tap in range(9):
        y, column = divmod(tap, 3)
        assert torch.equal(shifted[:, :, tap], padded[:, :, y : y + 5, column : column + 6])
    assert not attention.shifts.weight.requires_grad


@pytest.mark.parametrize(
    'family, options, sentence',
    [
        (DAT, dict(arch='tin'), "DAT has no arch 'tin': did you mean 'tiny'"),
        (
            DATPlusPlus,
            dict(arch=dict(embed_dims=(8,), blocks='N', num_heads=1, window_siz=3)),
            "unknown field 'window_siz' in arch: did you mean 'window_size'",
        ),
        (DATPlusPlus, dict(arch=dict(embed_dims=(8,), blocks='N')), "arch has no 'num_heads'"),
        (
            DATPlusPlus,
            dict(arch=dict(embed_dims=8, blocks='N', num_heads=1)),
            "'embed_dims' must be",
        ),
        (
            DATPlusPlus,
            dict(arch=dict(embed_dims=(8, 8), blocks='N', num_heads=(1, 1, 1))),
            "'num_heads' needs a value for each of the 2 stages",
        ),
        (
            DATPlusPlus,
            dict(arch=dict(embed_dims=(8,), blocks='NQ', num_heads=1)),
            "'blocks' has 'NQ'",
        ),
        (
            DATPlusPlus,
            dict(arch=dict(embed_dims=(8,), blocks='N', num_heads=3)),
            'heads must divide',
        ),
        (
            DATPlusPlus,
            dict(arch=dict(embed_dims=(8,), blocks='D', num_heads=2, groups=3)),
            'groups heads',
        ),
        (
            DATPlusPlus,
            dict(arch=dict(embed_dims=(8,), blocks='N', num_heads=1, neighborhood_size=4)),
            "'neighborhood_size' must be odd",
        ),
        (
            DATPlusPlus,
            dict(arch=dict(embed_dims=(8,), blocks='N', num_heads='1')),
            "'num_heads' must be int",
        ),
        (
            DATPlusPlus,
            dict(arch=dict(embed_dims=(8,), blocks='D', num_heads=1, position_bias='tabel')),
            "did you mean 'table'",
        ),
        (
            DATPlusPlus,
            dict(arch=dict(embed_dims=(8,), blocks='D', num_heads=1, pooled_keys=True)),
            "pooled_keys has no position_bias 'table'",
        ),
        (
            DATPlusPlus,
            dict(arch=dict(embed_dims=(8,), blocks='D', num_heads=1, offset_range=-1)),
            'None stands for unbounded offsets',
        ),
        (
            DATPlusPlus,
            dict(arch=dict(embed_dims=(8,), blocks='N', num_heads=1, ffn_ratio=-1)),
            "'ffn_ratio' must be positive",
        ),
        (DAT, dict(arch='nano', pretrain_img_size=16), 'pretrain_img_size must be at least 32'),
        (
            DATPlusPlus,
            dict(arch='nano', out_indices=(4,)),
            'out_indices must be a list of stages from 0 to 3',
        ),
        (DATPlusPlus, dict(arch='nano', in_channels=0), 'in_channels must be the number'),
        (DATPlusPlus, dict(arch='nano', in_channels=True), 'in_channels must be the number'),
        (ScalableViT, dict(arch='nano', in_channels='3'), 'in_channels must be the number'),
        (DATPlusPlus, dict(arch='nano', frozen_stages=5), 'frozen_stages must be from -1 to 4'),
        (DATPlusPlus, dict(arch='nano', frozen_stages=True), 'frozen_stages must be from -1 to 4'),
        (DATPlusPlus, dict(arch='nano', drop_path_rate=1.0), 'drop_path_rate must be'),
        (
            DATPlusPlus,
            dict(arch='nano', with_cp='maybe'),
            "with_cp must be True or False, got 'may",
        ),
        (DATPlusPlus, dict(arch='nano', with_cp=None), 'with_cp must be True or False, got None'),
        (DATPlusPlus, dict(arch='nano', pretrain_img_size=(224, 224)), 'pretrain_img_size must be'),
        (ScalableViT, dict(arch='tiny'), "ScalableViT has no arch 'tiny'"),
        (
            ScalableViT,
            dict(arch=dict(embed_dims=(8,), depth=2, num_heads=4, channel_ratio=0.3)),
            'channel_ratio 0.3 makes 2 of 8 channels',
        ),
    ],
)
def test_a_mistake_in_the_arguments_is_told_in_a_sentence(
    family: type, options: dict, sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        family(**options)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    'init_cfg',
    ['x.pth', dict(checkpoint='x.pth'), dict(type='Pretrained'), [dict(type='Pretrained')]],
)
def test_an_init_cfg_without_type_or_checkpoint_is_refused(init_cfg: Any) -> None:
    with pytest.raises(UserError, match='init_cfg must have a type'):
        DAT('nano', init_cfg=init_cfg).init_weights()


@pytest.mark.parametrize(
    'init_cfg, sentence',
    [
        (dict(checkpoint=None), 'init_cfg.checkpoint must be the path of a file .*, got None'),
        (dict(checkpoint=3), 'init_cfg.checkpoint must be the path of a file .*, got 3'),
        (dict(checkpoint='x.pth', prefix=3), 'init_cfg.prefix must be what names .*, got 3'),
        (dict(checkpoint='x.pth', prefx='a'), "key 'init_cfg.prefx': did you mean 'prefix'"),
        (dict(checkpoint='x.pth', map_locations='a'), "did you mean 'map_location'"),
    ],
)
def test_a_wrong_init_cfg_is_refused(init_cfg: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        DAT('nano', init_cfg=dict(type='Pretrained', **init_cfg)).init_weights()


@pytest.mark.parametrize('kind', ['PretrainedInit', 'mmengine.Pretrained', PretrainedInit])
def test_a_checkpoint_loads_by_each_name_of_its_type(kind: Any, tmp_path: Path) -> None:
    weights = {f'backbone.{name}': value + 1 for name, value in DAT('nano').state_dict().items()}
    torch.save(weights, tmp_path / 'detector.pth')
    given = dict(type=kind, checkpoint=str(tmp_path / 'detector.pth'))
    backbone = DAT('nano', init_cfg=[given, dict(type='Constant', val=7, layer='Conv2d')])
    backbone.init_weights()
    assert backbone.state_dict().keys() == DAT('nano').state_dict().keys()
    for name, value in backbone.named_parameters():
        torch.testing.assert_close(value, weights[f'backbone.{name}'])


def test_the_log_says_where_weights_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, str] = {}

    def tell(module: Any) -> None:
        info = module._params_init_info
        told.update({name: info[value]['init_info'] for name, value in module.named_parameters()})

    monkeypatch.setattr(BaseModule, '_dump_init_info', tell)
    logger = logging.Logger('log')
    monkeypatch.setattr(MMLogger, 'get_current_instance', lambda: logger)
    path = tmp_path / 'trained.pth'
    torch.save(DAT('nano').state_dict(), path)
    backbone = DAT('nano', init_cfg=dict(type='Pretrained', checkpoint=path, layer='Conv2d'))
    copy.deepcopy(backbone).init_weights()
    assert not told  # on a terminal, with lines for each parameter
    logger.addHandler(logging.FileHandler(tmp_path / 'log'))
    backbone.init_weights()
    assert told['embeddings.0.0.weight'] == f'load from {path}'
    assert backbone.init_cfg['type'] == 'Pretrained'
