"""The project's own source files, parsed for the static tests."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


ROOT = Path(__file__).parents[2]
PACKAGES = ("modeling_egmf", "processing_egmf", "training")
HUB_PACKAGES = PACKAGES[:2]

HUB_FILES = sorted(path for package in HUB_PACKAGES for path in (ROOT / package).glob("*.py"))
SOURCES = sorted(path for package in (*PACKAGES, "hub_cards") for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def relative_name(path: Path) -> str:
    """`training/data/dataset.py`"""
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """`training.data.dataset`; a package is named without its `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def syntax_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def import_nodes(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Every import, wherever in the file it stands."""
    return [node for node in ast.walk(syntax_tree(path)) if isinstance(node, ast.Import | ast.ImportFrom)]


def raw_imports(path: Path) -> Iterator[tuple[int, str | None]]:
    """(level, module) of every import."""
    for node in import_nodes(path):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module


def imported_names(path: Path) -> Iterator[tuple[str, str, int]]:
    """(absolute module, name, line) of every `from module import name`; relative imports are resolved."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in import_nodes(path):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            yield module, alias.name, node.lineno


def is_module(name: str) -> bool:
    """Whether a dotted name is a file or package of this repository."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imported_modules(path: Path) -> Iterator[tuple[str, int]]:
    """(absolute module, line) of every import of a module of this repository."""
    for module, name, line in imported_names(path):
        full_name = f"{module}.{name}"
        if is_module(full_name):
            yield full_name, line
        elif is_module(module):
            yield module, line
    for node in import_nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if is_module(alias.name))
