"""The kernels in C++ are built once for each state of their sources, and loaded if they fit."""

from pathlib import Path

import pytest

from mmdat.ops import build


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source of a library of its own."""
    monkeypatch.setattr(build, 'SOURCES', tmp_path)
    source = tmp_path / 'kernels.cpp'
    source.write_text('extern "C" int answer() { return 42; }')
    return source


@pytest.mark.skipif(build.library_path() is None, reason='the processor has no AVX2')
def test_a_library_is_built_for_its_sources_alone(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build.load() is None
    library = build.build()
    kernels = build.load()
    assert kernels is not None and kernels.answer() == 42
    monkeypatch.setenv('CXX', 'no-compiler')  # is needed no more
    assert build.build() == library
    assert [*source.parent.glob('*.so*')] == [library]
    source.write_text('extern "C" int answer() { return 43; }')
    assert build.load() is None
    with pytest.raises(SystemExit, match='cannot be built: .*no-compiler.*All works without them'):
        build.build()


def test_a_library_of_other_processors_is_not_loaded(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, 'processor', lambda: 'avx2')
    path = build.library_path()
    assert path is not None
    path.write_text('no library')
    monkeypatch.setattr(build, 'processor', lambda: 'avx512')
    assert build.load() is None
    monkeypatch.setattr(build, 'processor', lambda: None)
    assert build.load() is None
    with pytest.raises(SystemExit, match='need a processor with AVX2'):
        build.build()
