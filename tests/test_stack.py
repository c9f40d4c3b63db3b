"""Which packages mmdat accepts below it, and what it does where some are missing."""

import importlib
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from mmdat import stack

OPENMMLAB = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')
MMCV = 'mmcv >= 2.0, < 2.4, != 2.2.* (the toolboxes refuse others)'
# In a process of its own, since this one has imported all of them.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {packages}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Missing())
"""


def run(script: str, without: tuple[str, ...] = ()) -> str:
    """What a script prints in a process that lacks some packages."""
    process = subprocess.run(
        [sys.executable, '-c', WITHOUT.format(packages=without) + script],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.parametrize(
    'name, version',
    [('mmcv', '2.2.0'), ('torch', '2.3.1'), ('mmengine', '1.0.0'), ('mmseg', '1.1.0')],
)
def test_unsupported_version_is_named(
    name: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, 'installed_version', lambda package: version)
    for check in (stack.check_versions, stack.require):
        with pytest.raises(
            ImportError, match=f'mmdat needs {name} >= .*, but {version} is installed'
        ):
            check(name)


def test_missing_package_is_named_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'mmcv', None)
    stack.check_versions('mmcv')
    with pytest.raises(ImportError, match="mmdat needs mmcv >= .* not installed: run 'make setup'"):
        stack.require('mmcv')


@pytest.mark.parametrize('name', ['visualization', 'apis'])
def test_missing_matplotlib_is_named_by_what_draws(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f'mmdat.{name}')
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(ImportError, match="mmdat needs matplotlib >= .*: run 'make setup'"):
        importlib.reload(module)


@pytest.mark.parametrize(
    'version, supported',
    [
        ('2.3.1', False),
        ('2.4', True),
        ('2.4.0a0+git1234', True),
        ('2.11.0+cu130', True),
        ('2.15.9.post1', True),
        ('3.0.0a0+git', False),
        ('3.0.0', False),
    ],
)
def test_versions_count_by_their_release_number(version: str, supported: bool) -> None:
    assert stack.is_supported(version, stack.SUPPORTED['torch'][0]) == supported


def test_an_unsupported_mmcv_is_refused_by_the_import() -> None:
    script = """
import types
sys.modules['mmcv'] = types.SimpleNamespace(__version__='2.2.0')
try:
    import mmdat
except ImportError as error:
    print(error)
"""
    assert f'mmdat needs {MMCV}, but 2.2.0' in run(script)


def test_a_toolbox_that_refuses_its_mmcv_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise AssertionError('MMCV==2.3.6 is used but incompatible.')

    monkeypatch.setattr(importlib, 'import_module', refuse)
    with pytest.raises(ImportError, match="MMCV==2.3.6 is used but incompatible. run 'make setup'"):
        stack.require('mmdet')


def test_without_mmengine_the_import_succeeds_and_the_models_say_what_is_missing() -> None:
    script = """
import importlib
import mmdat
for name in ('models', 'checkpoints', 'registry', 'apis', 'datasets'):
    try:
        importlib.import_module(f'mmdat.{name}')
    except ImportError as error:
        print(error)
"""
    sentences = run(script, without=OPENMMLAB).splitlines()
    wanted = (
        'mmdat needs mmengine >= 0.10, < 1.0 (mmdet refuses later ones), which is not installed'
    )
    assert len(sentences) == 5
    assert all(sentence.startswith(wanted) for sentence in sentences)


def test_with_mmengine_alone_what_needs_no_more_is_there(tmp_path: Path) -> None:
    script = f"""
import json
import mmdat
import torch
from mmengine.registry import DATASETS, HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import CheckpointLoader

def sentence(function, *args):
    try:
        function(*args)
    except Exception as error:
        return str(error)

backbones = {{}}
for name in ('DAT', 'DATPlusPlus', 'ScalableViT'):
    backbone = MODELS.build(dict(type=f'mmdat.{{name}}', arch='nano'))
    backbones[name] = [list(y.shape) for y in backbone(torch.rand(1, 3, 64, 64))]
path = {str(tmp_path / 'file.pth')!r}
torch.save(backbone.state_dict(), path)
init_cfg = dict(type='Pretrained', checkpoint=path)
other = MODELS.build(dict(type='mmdat.ScalableViT', arch='nano', init_cfg=init_cfg))
other.init_weights()
print(json.dumps(dict(
    backbones=backbones,
    equal=all(torch.equal(p, q) for p, q in zip(other.parameters(), backbone.parameters())),
    others=[
        HOOKS.get('CheckpointHook').__name__,
        DATASETS.get('ConcatDataset').__name__,
        HOOKS.get('mmdat.CheckFitHook').__name__,
        OPTIM_WRAPPER_CONSTRUCTORS.get('mmdat.BackboneDecayConstructor').__name__,
    ],
    missing=sentence(DATASETS.get, 'mmdat.CocoDataset'),
    apis=sentence(__import__, 'mmdat.apis'),
    loads=[
        sentence(CheckpointLoader.load_checkpoint, source)
        for source in ('nowhere.pth', 'torchvision://nowhere', 'http://127.0.0.1:1/a.pth')
    ],
)))
"""
    got = json.loads(run(script, without=OPENMMLAB[1:]).splitlines()[-1])
    maps = [[1, 16, 16, 16], [1, 32, 8, 8], [1, 64, 4, 4], [1, 128, 2, 2]]
    assert got['backbones'] == dict(DAT=maps, DATPlusPlus=maps, ScalableViT=maps)
    assert got['equal']
    assert got['others'] == [
        'CheckpointHook',
        'ConcatDataset',
        'CheckFitHook',
        'BackboneDecayConstructor',
    ]
    wanted = f'mmdat needs {MMCV}, which is not installed'
    assert got['missing'].startswith(wanted)
    assert got['apis'].startswith(wanted)
    # mmengine reads checkpoints with mmdat's loader, which does not run code in them.
    assert 'there is no checkpoint' in got['loads'][0]
    assert 'is not in that model zoo' in got['loads'][1]
    assert 'cannot be downloaded' in got['loads'][2]


@pytest.mark.slow
def test_a_backbone_extracts_features_with_mmengine_alone(tmp_path: Path) -> None:
    """The blocks of the page run, the last on the checkpoint of a detector that was trained."""
    page = (Path(__file__).parents[1] / 'docs' / 'feature_extractor.md').read_text()
    page = page.replace("'tiny'", "'nano'")
    pyramid, load = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    file = re.findall(r"checkpoint = '(.+)'", load)[0]
    script = f"""
import os
{pyramid}
os.chdir({str(tmp_path)!r})
trained = DATPlusPlus('nano').state_dict()
weights = {{f'backbone.{{name}}': tensor for name, tensor in trained.items()}}
weights['roi_head.fc.weight'] = torch.zeros(1)
os.makedirs(os.path.dirname({file!r}))
torch.save(dict(meta={{}}, state_dict=weights), {file!r})
{load}
own = backbone.state_dict()
print(all(torch.equal(own[name], trained[name]) for name in own))
"""
    shapes, *_, equal = run(script, without=OPENMMLAB[1:]).splitlines()
    assert shapes == '{8: (1, 256, 60, 80), 16: (1, 256, 30, 40), 32: (1, 256, 15, 20)}'
    assert equal == 'True'


@pytest.mark.parametrize(
    'message, category, module, is_seen',
    [
        ('pkg_resources is deprecated as an API. See ...', UserWarning, 'mmengine', False),
        ('another package is deprecated', UserWarning, 'mmengine', True),
        ("invalid escape sequence '\\d'", SyntaxWarning, '/env/site-packages/mmdet/a', False),
        ("invalid escape sequence '\\d'", SyntaxWarning, '/home/me/my_config', True),
    ],
)
def test_warnings_that_a_user_can_do_nothing_about_are_not_seen(
    message: str,
    category: type[Warning],
    module: str,
    is_seen: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for options, seen in ([], is_seen), (['default'], True):
        monkeypatch.setattr(sys, 'warnoptions', options)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            stack.ignore_unavoidable_warnings()
            warnings.warn_explicit(message, category, f'{module}.py', 1, module)
        assert bool(caught) == seen


def test_waiting_threads_sleep_soon() -> None:
    ours = ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    said = subprocess.run(
        [sys.executable, '-c', 'import mmdat'],
        env=environment | {'OMP_DISPLAY_ENV': 'verbose'},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    if 'GOMP_SPINCOUNT' not in said:
        pytest.skip('this PyTorch runs its threads by another library than libgomp')
    assert "GOMP_SPINCOUNT = '1000'" in said


@pytest.mark.parametrize(
    'given', [{'GOMP_SPINCOUNT': '70'}, {'OMP_WAIT_POLICY': 'active'}], ids=str
)
def test_how_threads_wait_is_left_as_the_environment_says(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, 'environ', dict(given))
    stack.let_waiting_threads_sleep()
    assert os.environ == given
