"""What is checked before a run: each mistake is refused before anything is built."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdat import checks
from mmdat.apis.model import load_config
from mmdat.errors import UserError

RUNNABLE = """
default_scope = 'mmdet'
model = dict(type='X')
train_dataloader = dict(dataset=dict(type='X'))
train_cfg = dict(max_epochs=1)
optim_wrapper = dict(type='OptimWrapper')
val_dataloader = dict(dataset=dict(type='X'))
test_dataloader = dict(dataset=dict(type='X'))
test_cfg = dict()
test_evaluator = dict(type='CocoMetric')
"""
# Text to add to a config -> the sentence that refuses it, whatever is done with the config.
MISTAKES = [
    ("default_scope = 'mmocr'", "default_scope of config .* is 'mmocr'"),
    ('train_dataloder = 1', "unknown key 'train_dataloder' in config .*: did you mean 'train_d"),
    ('env_cfg = []', r'env_cfg must be a dict, got \[\]'),
]
MISTAKES_IN_RUNS = [
    *MISTAKES,
    (f'work_dir = {str(Path(__file__, "below"))!r}', 'work dir .* cannot be written to'),
    ("launcher = 'slrum'", "launcher 'slrum' is none: did you mean 'slurm'"),
]
MISTAKES_IN_TRAINING = [
    *MISTAKES_IN_RUNS,
    *[(f'{part} = None', f'has no {part}') for part in ('train_cfg', 'optim_wrapper')],
    ('train_dataloader = None', 'has no train_dataloader: add one'),
    ("train_dataloader['dataset']['data_root'] = 'no'", 'data root no of train_dataloader does no'),
    ("val_dataloader['dataset']['data_root'] = 'no'", 'data root no of val_dataloader does not'),
    ("runner_type = 'X'", "runner_type 'X' is no runner"),
]
MISTAKES_IN_TESTING = [
    *MISTAKES_IN_RUNS,
    *[(f'{part} = None', f'has no {part}') for part in ('test_cfg', 'test_evaluator')],
    ('test_dataloader = None', 'has no test_dataloader: add one'),
    ("test_dataloader['dataset']['data_root'] = 'no'", 'data root no of test_dataloader does not'),
]


@pytest.fixture
def config_with(tmp_path: Path) -> Callable[[str], Config]:
    """What reads a config that can be run but for the text that is added to it."""

    def read(text: str) -> Config:
        path = tmp_path / 'config.py'
        places = f'work_dir = {str(tmp_path / "work")!r}\nlauncher = "none"\n'
        path.write_text(f'{RUNNABLE}{places}{text}')
        return Config.fromfile(path)

    return read


@pytest.mark.parametrize('text, sentence', MISTAKES_IN_TRAINING)
def test_training_is_refused(
    text: str, sentence: str, config_with: Callable[[str], Config]
) -> None:
    checks.before_training(config_with(''))
    with pytest.raises(UserError, match=sentence):
        checks.before_training(config_with(text))


@pytest.mark.parametrize('text, sentence', MISTAKES_IN_TESTING)
def test_testing_is_refused(text: str, sentence: str, config_with: Callable[[str], Config]) -> None:
    checks.before_testing(config_with(''))
    with pytest.raises(UserError, match=sentence):
        checks.before_testing(config_with(text))


def test_a_wrong_file_for_predictions_is_refused(config_with: Callable[[str], Config]) -> None:
    with pytest.raises(UserError, match='--out a.txt must end in .pkl'):
        checks.before_testing(config_with(''), out='a.txt')


@pytest.mark.parametrize('text, sentence', MISTAKES)
def test_a_config_to_look_at_is_refused(
    text: str, sentence: str, config_with: Callable[[str], Config]
) -> None:
    load_config(config_with('').filename)
    with pytest.raises(UserError, match=sentence):
        load_config(config_with(text).filename)
