"""What mkdocs.yml needs beside plugins: pages at their places in the repository, and docstrings.

Pages keep their paths, so that a link works on the site as it does in the repository.
"""

import re
from pathlib import Path
from typing import Any

from griffe import Extension
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Pages, and what they link to.
PATTERNS = (
    '*.md',
    'LICENSE',
    'CITATION.cff',
    'docs/*.md',
    'docs/*.css',
    'docs/*.jpg',
    'docs/*.png',
    'docs/gallery/*.jpg',
    'configs/*.py',
    'examples/*',
    'benchmarks/results/*',
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the site's files from the whole repository, beside those of the theme."""
    found = [path for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))]
    return Files(
        [file for file in files if file.generated_by or file.src_dir != config.docs_dir]
        + [
            File(path.relative_to(ROOT).as_posix(), str(ROOT), config.site_dir, True)
            for path in found
        ]
    )


class Markup(Extension):
    """Turn the few marks of reStructuredText in docstrings into Markdown."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of a module, class or function."""
        if obj.docstring:
            # A section of this name is code, of which the text is not read as Markdown.
            text = re.sub(r'^Example:$', 'Examples:', obj.docstring.value, flags=re.MULTILINE)
            text = re.sub(r':\w+:`~?([^`]+)`', r'`\1`', text)
            text = re.sub(r'\.\. math::\s*(.+)', r'$$\1$$', text)
            obj.docstring.value = text.replace('``', '`')
