"""The authors' checkpoints are had by name."""

import errno
import os
import re
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from helpers import golden
from helpers.configs import CONFIGS
from helpers.published import classifier_checkpoint, dense_checkpoint, mask_rcnn
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from torch import nn

from mmdat.checkpoints import conversion, load_published_checkpoint, published, read_checkpoint
from mmdat.checkpoints.published import PUBLISHED, Published
from mmdat.errors import UserError
from mmdat.models import DATPlusPlus

PAGES = ['https://example.org/page', 'https://example.org/other']


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that files are kept in; downloads come from `web` beside it."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    for name in ('mask_rcnn', 'classifier', 'missing'):
        url = (tmp_path / 'web' / f'{name}.pth').as_uri()
        monkeypatch.setitem(PUBLISHED, name, Published('theirs.py', url, PAGES))
    (tmp_path / 'web').mkdir()
    torch.save(dense_checkpoint(mask_rcnn()), tmp_path / 'web' / 'mask_rcnn.pth')
    torch.save(classifier_checkpoint('dat_pp_nano'), tmp_path / 'web' / 'classifier.pth')
    return tmp_path / 'checkpoints'


def test_a_whole_model_is_loaded_by_name(cache: Path) -> None:
    expected = mask_rcnn()
    load_published_checkpoint(expected, cache.parent / 'web' / 'mask_rcnn.pth')
    model = mask_rcnn()
    load_checkpoint(model, 'mmdat://mask_rcnn', map_location='cpu', strict=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name]), name


def test_a_backbone_is_initialized_by_name_as_by_the_file(cache: Path) -> None:
    file = str(cache.parent / 'web' / 'classifier.pth')
    filled = []
    for checkpoint in (file, 'mmdat://classifier'):
        backbone = DATPlusPlus('nano', init_cfg=dict(type='Pretrained', checkpoint=checkpoint))
        for parameter in backbone.parameters():
            nn.init.zeros_(parameter)
        backbone.init_weights()
        filled.append(backbone.state_dict())
    for name, tensor in filled[0].items():
        assert torch.equal(tensor, filled[1][name]), name


def test_a_classifier_is_an_ordinary_checkpoint(cache: Path) -> None:
    model = golden.build_classifier(golden.load('dat_pp_nano'))
    conversion._without_weights.cache_clear()
    with DefaultScope.overwrite_default_scope('mmdet'):  # as in a training of a detector
        state = read_checkpoint('mmdat://classifier')['state_dict']
    assert state.keys() == model.state_dict().keys()


def test_a_file_is_downloaded_once_and_compared_afterwards(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[ZipFile] = []
    test_zip = ZipFile.testzip
    monkeypatch.setattr(
        ZipFile, 'testzip', lambda archive: read.append(archive) or test_zip(archive)
    )
    path = published.fetch('mmdat://classifier')
    assert len(read) == 1, 'its checksums are compared once'
    assert path == cache / 'mmdat_classifier.pth'
    (cache.parent / 'web' / 'classifier.pth').unlink()
    assert published.fetch('mmdat://classifier') == path
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b'x')
    with pytest.raises(UserError, match=rf'{path} has changed .*remove both files'):
        published.fetch('mmdat://classifier')


def test_what_cannot_be_had_names_the_page_and_the_place(cache: Path) -> None:
    for name in ('missing', 'scalablevit_s_in1k'):
        place = cache / f'mmdat_{name}.pth'
        pages = ' or '.join(PUBLISHED[name].pages)
        with pytest.raises(UserError, match=re.escape(f'from {pages} and put it at {place}')):
            published.fetch(f'mmdat://{name}')


def test_a_file_that_was_put_there_by_hand_is_taken_if_it_is_one(cache: Path) -> None:
    cache.mkdir()
    path = cache / 'mmdat_missing.pth'
    path.write_bytes(b'<html>sign in</html>')
    with pytest.raises(UserError, match=rf'{path} is no checkpoint: it is a web page'):
        published.fetch('mmdat://missing')
    torch.save(classifier_checkpoint('dat_pp_nano'), path)
    assert published.fetch('mmdat://missing') == path
    assert read_checkpoint('mmdat://missing')['state_dict']


def test_an_answer_that_is_no_checkpoint_is_asked_for_again(cache: Path) -> None:
    web = cache.parent / 'web' / 'missing.pth'
    web.write_bytes(b'{"error": "quota"}')
    place = f'or not a file of torch.save; try again, or .* put it at {cache}/mmdat_missing.pth'
    with pytest.raises(UserError, match=place):
        read_checkpoint('mmdat://missing')
    assert list(cache.iterdir()) == []
    torch.save(classifier_checkpoint('dat_pp_nano'), web)
    assert read_checkpoint('mmdat://missing')['state_dict']


def test_a_damaged_file_that_was_kept_names_what_to_remove(cache: Path) -> None:
    path = published.fetch('mmdat://classifier')
    path.write_bytes(b'{}')
    published.hash_path(path).unlink()
    published._compare_hash(path)  # as earlier versions kept it
    with pytest.raises(UserError, match=rf'Remove {path} and {path.name}\.sha256 beside it'):
        read_checkpoint('mmdat://classifier')


def test_a_file_in_a_folder_for_reading_alone_is_taken(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    torch.save(classifier_checkpoint('dat_pp_nano'), cache / 'mmdat_missing.pth')

    def refuse(path: Path, content: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, 'write_bytes', refuse)
    for _ in range(2):
        assert published.fetch('mmdat://missing') == cache / 'mmdat_missing.pth'
    assert list(cache.iterdir()) == [cache / 'mmdat_missing.pth']


@pytest.mark.parametrize('name', ['dat_pp_tiny_in1k', 'DAT_PP_T_IN1K', 'dat-pp-t-in1k'])
def test_a_name_that_is_none_is_a_sentence_with_the_nearest(name: str) -> None:
    with pytest.raises(UserError, match=rf"'mmdat://{name}': did you mean 'dat_pp_t_in1k'\?$"):
        read_checkpoint(f'mmdat://{name}')


def test_a_config_without_published_weights_is_not_given_those_of_another() -> None:
    with pytest.raises(UserError, match=r"'mmdat://dat_t_in1k': no weights .* are known$"):
        read_checkpoint('mmdat://dat_t_in1k')


@pytest.mark.parametrize('name', PUBLISHED)
def test_each_name_is_of_a_config_and_has_addresses(name: str) -> None:
    assert (CONFIGS / f'{name}.py').is_file()
    entry = PUBLISHED[name]
    assert all(page.startswith('https://') for page in entry.pages)
    assert entry.file in (None, f'{entry.pages[0]}?dl=1')
