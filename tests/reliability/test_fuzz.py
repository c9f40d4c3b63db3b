"""Whatever is given, models compute numbers or our own error says what is wrong."""

import copy
import functools
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.configs import CONFIGS
from hypothesis import event, given
from hypothesis import strategies as st
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

from mmdat.apis.runner import make_resumable, read_run_config
from mmdat.checkpoints import load_pretrained, read_checkpoint
from mmdat.checks import before_loading, before_training
from mmdat.checks.coco import class_names, read_coco
from mmdat.checks.config_file import read_config
from mmdat.checks.exceptions import explained
from mmdat.datasets import CocoDataset, ShapesParameters
from mmdat.datasets.shapes.classify import write_shapes_classify
from mmdat.errors import UserError
from mmdat.models import DAT, DATPlusPlus, ScalableViT

JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 40),
        st.sampled_from([2**31, 2**63, 2**64, -(2**63)]),
        st.floats(),
        st.text('aé0.', max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text('aé0.', max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def each_or_all(values: st.SearchStrategy, stages: int) -> st.SearchStrategy:
    """A value for each stage, or one for all."""
    return st.one_of(values, st.lists(values, min_size=stages, max_size=stages).map(tuple))


@st.composite
def architectures(draw: Callable, family: type) -> dict[str, Any]:
    """Draw a nano architecture with any of the family's fields."""
    stages = draw(st.integers(1, 4))
    heads = draw(st.lists(st.sampled_from([1, 2]), min_size=stages, max_size=stages))
    arch: dict[str, Any] = dict(
        embed_dims=tuple(8 * count * draw(st.integers(1, 2)) for count in heads),
        num_heads=tuple(heads),
    )
    small = st.integers(1, 4)
    fields: dict[str, st.SearchStrategy] = dict(
        window_size=st.integers(1, 9),
        reduction_ratio=small,
        ffn_ratio=st.sampled_from([0.5, 1, 2.5, 4]),
    )
    if family is ScalableViT:
        arch['depth'] = draw(each_or_all(st.integers(1, 2), stages))
        fields |= dict(channel_ratio=st.sampled_from([0.5, 1, 1.25, 2]), qkv_bias=st.booleans())
    else:
        arch['blocks'] = draw(each_or_all(st.text('LSDNPXE', min_size=1, max_size=2), stages))
        fields |= dict(
            groups=st.just(1),
            stride=small,
            offset_kernel_size=st.integers(1, 9),
            offset_range=st.sampled_from([None, 0, 1, 2.5]),
            pooled_keys=st.booleans(),
            position_bias=st.sampled_from(['none', 'table', 'fixed', 'log', 'depthwise']),
            neighborhood_size=st.integers(1, 7),
            conv_ffn=st.booleans(),
            local_perception=st.booleans(),
            layer_scale=st.sampled_from([0.0, 1e-6, 1]),
            conv_embedding=st.booleans(),
        )
    for name in draw(st.lists(st.sampled_from([*fields]), unique=True, max_size=6)):
        arch[name] = draw(each_or_all(fields[name], stages))
    return arch


@st.composite
def arguments(draw: Callable, family: type) -> dict[str, Any]:
    """Draw the arguments of a backbone."""
    arch = draw(architectures(family))
    options = st.fixed_dictionaries(
        {},
        optional=dict(
            out_indices=st.lists(st.integers(0, len(arch['embed_dims']) - 1), max_size=3),
            drop_path_rate=st.floats(0, 0.9),
            frozen_stages=st.integers(-1, 4),
            with_cp=st.booleans(),
            pretrain_img_size=st.integers(1, 128),
            in_channels=st.integers(1, 4),
        ),
    )
    return dict(draw(options), arch=arch)


families = pytest.mark.parametrize('family', [DAT, DATPlusPlus, ScalableViT])


@families
@given(data=st.data())
def test_any_backbone_computes_numbers_from_images_of_any_size(
    family: type, data: st.DataObject
) -> None:
    options = data.draw(arguments(family))
    size = data.draw(st.tuples(st.integers(1, 90), st.integers(1, 90)))
    torch.manual_seed(0)
    try:
        model = family(**options)
        images = torch.randn(2, model.in_channels, *size)
        outputs = model(images)
    except UserError as error:
        event(str(error)[:30])
        return
    event('computed')
    for output, channels, stride in zip(
        outputs, model.out_channels, model.out_strides, strict=True
    ):
        assert output.shape[:2] == (2, channels)
        for side, image_side in zip(output.shape[2:], size, strict=True):
            assert side in (image_side // stride, -(-image_side // stride))
        assert output.isfinite().all()
    if any(output.requires_grad for output in outputs):
        sum(output.sin().sum() for output in outputs).backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@families
@given(data=st.data())
def test_a_backbone_takes_an_argument_or_says_what_is_wrong(
    family: type, data: st.DataObject
) -> None:
    options = data.draw(arguments(family))
    arch = options['arch']
    where = data.draw(st.sampled_from([options, arch]))
    names = [*arch] if where is arch else ['arch', *family.__init__.__code__.co_varnames[2:8]]
    where[data.draw(st.sampled_from(names))] = data.draw(JUNK)
    try:
        model = family(**options)
        model(torch.randn(1, model.in_channels, 40, 40))
    except UserError:
        return


def places(value: Any) -> list[tuple[Any, Any]]:
    """All places in nested dicts and lists, each as the one that holds it and the key or index."""
    found = []
    if isinstance(value, (dict, list)):
        for key in [*value] if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *places(value[key])]
    return found


@st.composite
def mutated(draw: Callable, content: Any) -> Any:
    """Take things out of nested dicts and lists, double them, or put others in their place."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(places(content) or [([0], 0)]))
        match draw(st.sampled_from(['replace', 'replace', 'delete', 'double'])):
            case 'replace':
                holder[key] = draw(JUNK)
            case 'delete':
                del holder[key]
            case 'double' if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case 'double':
                holder[draw(st.sampled_from(['id', 'size', 'counts', 'bbox']))] = holder[key]
    return content


@st.composite
def damaged(draw: Callable, content: bytes) -> bytes:
    """Cut bytes off, take some out, or put others in their place."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        stop = start + draw(st.integers(0, 8))
        match draw(st.sampled_from(['cut', 'replace', 'take out', 'double'])):
            case 'cut':
                content = content[:start]
            case 'replace':
                content = content[:start] + draw(st.binary(max_size=8)) + content[stop:]
            case 'take out':
                content = content[:start] + content[stop:]
            case 'double':
                content = content[:stop] + content[start:]
    return content


ANNOTATIONS = dict(
    images=[dict(id=7, file_name='7.jpg', height=4, width=6), dict(id=8, file_name='8.jpg')],
    categories=[dict(id=5, name='box'), dict(id=6, name='disk', supercategory='thing')],
    annotations=[
        dict(id=1, image_id=7, category_id=5, bbox=[0, 0.5, 2, 2], area=4, iscrowd=0),
        dict(id=2, image_id=7, category_id=6, segmentation=[[0, 0, 3, 0, 3, 3]]),
        dict(id=3, image_id=8, category_id=5, segmentation=dict(size=[4, 6], counts=[8, 3, 13])),
        dict(id=4, image_id=8, category_id=5, bbox=['1', 1, 2, 2], segmentation=[0, 0, 3, 0, 3, 3]),
    ],
)


@given(data=st.data())
def test_annotations_are_read_or_refused_in_a_sentence(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = json.dumps(data.draw(mutated(ANNOTATIONS))).encode()
    if data.draw(st.integers(0, 4)) == 0:
        content = data.draw(damaged(content))
    folder = tmp_path_factory.getbasetemp()
    path = folder / 'fuzzed.json'
    path.write_bytes(content)
    try:
        read = read_coco(str(path), data.draw(st.booleans()), warn=str, size_of=lambda _: (6, 4))
        dataset = CocoDataset(
            ann_file=str(path),
            metainfo=dict(classes=class_names(read)),
            data_root=str(folder),
            pipeline=[],
            serialize_data=False,
        )
    except UserError as error:
        event(str(error)[-30:])
        return
    event('read')
    for index in range(len(dataset)):
        dataset.get_data_info(index)


def pickle_in(archive: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Change the pickle in a checkpoint, with checksums that fit."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, 'w') as new:
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, change(part) if name.endswith('data.pkl') else part)
    return out.getvalue()


CHECKPOINT = dict(
    meta=dict(epoch=1, iter=2, seed=3, mmengine_version='0.10.7'),
    state_dict={'bias': torch.ones(2), 'weight': torch.ones(2, 3).half()},
    optimizer=dict(state={0: dict(step=torch.tensor(1.0))}, param_groups=[dict(lr=0.1)]),
    message_hub=dict(runtime_info=dict(best=0.5)),
    param_schedulers=[dict(last_step=2)],
)


@given(data=st.data())
def test_checkpoints_are_read_or_refused_in_a_sentence(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / 'fuzzed.pth'
    file = io.BytesIO()
    content, is_zip = data.draw(mutated(CHECKPOINT)), data.draw(st.booleans())
    torch.save(content, file, _use_new_zipfile_serialization=is_zip)
    saved = file.getvalue()
    match data.draw(st.sampled_from(['file', 'pickle', 'content'])):
        case 'file':
            saved = data.draw(damaged(saved))
        case 'pickle' if is_zip:
            saved = pickle_in(saved, lambda part: data.draw(damaged(part)))
    path.write_bytes(saved)
    resume = data.draw(st.booleans())
    for read in (
        lambda: before_loading(
            read_checkpoint(str(path), skip_objects=not resume), str(path), resume=resume
        ),
        lambda: load_pretrained(DAT(dict(embed_dims=(8,), num_heads=1, blocks='L')), str(path)),
    ):
        try:
            read()
        except UserError as error:
            event(str(error)[-30:])


@pytest.fixture(scope='module')
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('classify')
    write_shapes_classify(folder / 'data', ShapesParameters(train=4, val=4, size=64, seed=0))
    return folder / 'data'


@given(data=st.data())
def test_options_of_a_config_are_taken_or_refused_in_a_sentence(
    data: st.DataObject, drawn: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv('SHAPES_CLASSIFY_ROOT', str(drawn))
        config = str(CONFIGS / 'dat_pp_nano_shapes.py')
        keys = dotted_keys(config)
        options = data.draw(
            st.dictionaries(
                st.one_of(st.sampled_from(keys), st.sampled_from(keys).map(lambda x: f'{x}.a')),
                JUNK,
                min_size=1,
                max_size=2,
            )
        )
        try:
            cfg = read_run_config(config, str(tmp_path_factory.getbasetemp()), options, 'none')
            before_training(cfg, warn=str)
            make_resumable(cfg, str)
            with explained(cfg), DefaultScope.overwrite_default_scope(cfg.default_scope):
                MODELS.build(cfg.model)
                Runner.build_dataloader(cfg.train_dataloader)
        except UserError as error:
            event(str(error)[:30])


@functools.cache
def dotted_keys(config: str) -> list[str]:
    """Keys of all that is in a config."""
    found = []

    def collect(value: Any, path: str) -> None:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in items:
            found.append(f'{path}{key}')
            if isinstance(part, (Mapping, list)):
                collect(part, f'{found[-1]}.')

    collect(read_config(config), '')
    return found
