"""What the files of mmdat import."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def imported_modules(path: Path, in_functions: bool = True) -> set[str]:
    """Absolute names of all modules that a file imports, inside functions too."""
    package = path.relative_to(ROOT).with_suffix('').parts[:-1]
    names = set()
    body = ast.parse(path.read_text())
    for node in ast.walk(body) if in_functions else body.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else ()
            module = '.'.join([*parent, *filter(None, [node.module])])
            for alias in node.names:
                name = f'{module}.{alias.name}'
                file = ROOT.joinpath(*name.split('.'))
                names.add(name if file.is_dir() or file.with_suffix('.py').exists() else module)
    return names
