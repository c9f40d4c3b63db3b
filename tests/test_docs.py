"""Links of README and docs lead somewhere, their figures are measured, their options train."""

import json
import re
from pathlib import Path

import pytest
from helpers import zoo
from helpers.configs import load
from helpers.nano import nano_config

from mmdat.apis import train
from mmdat.checkpoints.published import PUBLISHED

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
OPTIONS = dict(
    re.findall(
        r'^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```',
        (ROOT / 'docs/training_options.md').read_text(),
        re.DOTALL | re.MULTILINE,
    )
)
# Tested on their own: layer-wise decay in tests/engine, graphs need a GPU, slides a segmentor.
ELSEWHERE = {'Layer-wise decay of the learning rate', 'CUDA graphs', 'Tiles of large images'}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
        if '://' in target:
            continue
        name, _, heading = target.partition('#')
        path = page.parent / name if name else page
        assert path.exists(), target
        if heading:
            titles = re.findall(r'^#+ (.+)$', path.read_text(), re.MULTILINE)
            anchors = [re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-') for title in titles]
            assert heading in anchors, target


@pytest.mark.parametrize('page', [*PAGES, ROOT / 'CHANGELOG.md'], ids=lambda page: page.name)
def test_lists_are_lists_on_the_site_too(page: Path) -> None:
    """Where it indents by four and wants an empty line before a list; GitHub takes less."""
    markdown = pytest.importorskip('markdown', reason='mkdocs is not here')
    text = re.sub(r'^:::.*(?:\n +.*)*', '', page.read_text(), flags=re.MULTILINE)  # of mkdocstrings
    text = markdown.markdown(text, extensions=['tables', 'fenced_code'])
    text = re.sub(r'<pre>.*?</pre>', '', text, flags=re.DOTALL)
    assert not re.findall(r'^ *(?:[-*]|\d+\.) .*', text, re.MULTILINE)


def test_readme_has_the_measured_figures_of_the_nine_classifiers() -> None:
    measured = json.loads((ROOT / 'benchmarks/results/zoo_cpu.json').read_text())
    rows = re.findall(
        r'^\| \[(\w+)\]\(configs/\1\.py\) \| .+? \| ([\d.]+) \| ([\d.]+) \|',
        (ROOT / 'README.md').read_text(),
        re.MULTILINE,
    )
    assert {name for name, *_ in rows} == {
        name for name in measured if name.endswith('_in1k') and '_384_' not in name
    }
    for name, parameters, macs in rows:
        assert parameters == f'{measured[name]["parameters"] / 1e6:.1f}'
        assert macs == f'{measured[name]["macs"] / 1e9:.1f}'
    links = re.findall(
        r'^\| \[(\w+)\].*\[theirs\]\((.+)\) \|$', (ROOT / 'README.md').read_text(), re.MULTILINE
    )
    assert dict(links) == {name: PUBLISHED[name].pages[0] for name, *_ in rows if name in PUBLISHED}


def test_readme_predicts_with_the_checkpoint_of_the_demo() -> None:
    checkpoints = re.findall(r'work_dirs/(\w+_shapes)/(\S+)', (ROOT / 'README.md').read_text())
    (epochs,) = {load(name).train_cfg.max_epochs for name, _ in checkpoints}
    assert {file for _, file in checkpoints} == {f'epoch_{epochs}.pth'}


def test_a_classifier_trains_with_all_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.draw_data(tmp_path)
    for variable, value in zoo.environment(tmp_path).items():
        monkeypatch.setenv(variable, value)
    cfg = nano_config('dat_pp_t_in1k')
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=4, by_epoch=False)
    cfg.train_cfg = dict(by_epoch=False, max_iters=4, val_interval=4)
    path = tmp_path / 'base.py'
    cfg.dump(path)
    for option in OPTIONS.keys() - ELSEWHERE:
        base, path = path, tmp_path / f'{option.replace(" ", "_").replace(",", "")}.py'
        lines = OPTIONS[option].replace('[1.0, 2.0, 1.0, 0.5]', '[0.5] * 1000')  # of ImageNet
        path.write_text(f"_base_ = '{base.name}'\n{lines}")
    runner = train(str(path), str(tmp_path / 'run'))
    assert {'EMAHook', 'EarlyStoppingHook', 'FiniteLossHook'} <= {
        type(hook).__name__ for hook in runner.hooks
    }
    assert runner.optim_wrapper.clip_grad_kwargs == dict(max_norm=1.0)
    files = {file.name for file in (tmp_path / 'run').glob('*.pth')}
    assert 'iter_4.pth' in files and any(name.startswith('best_accuracy') for name in files)
    backbone = runner.model.backbone
    assert backbone.stages[0].with_cp
    assert not any(parameter.requires_grad for parameter in backbone.stages[1].parameters())
    # Of four batches one step was taken, on what is not frozen.
    steps = {int(state['step']) for state in runner.optim_wrapper.optimizer.state.values()}
    assert steps == {1}
