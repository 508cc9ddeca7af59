"""The code that a checkpoint carries, beside the installed code, with which every command here loads it.

`from_pretrained(..., trust_remote_code=True)` runs the checkpoint's own copy instead, so that answers may differ if
the two are of different versions.
"""

import ast
import logging
from contextlib import suppress
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_imports

import modeling_egmf
import processing_egmf


logger = logging.getLogger(__name__)

SOURCES = [Path(package.__file__).parent for package in (modeling_egmf, processing_egmf)]

# Which the Auto classes and `pipeline` load.
ENTRY_POINTS = ("configuration_egmf.py", "modeling_egmf.py", "processing_egmf.py", "pipeline_egmf.py")


def warn_of_other_code(checkpoint: str | Path) -> None:
    """Warn once, in one line, if a checkpoint's folder carries code that does something else than the installed one,
    and once if a file of this code is missing.

    A checkpoint on the Hub is not checked: its code is not downloaded.
    """
    installed = {path.name: path for source in SOURCES for path in source.glob("*.py")}
    different = []
    for path in sorted(Path(checkpoint).glob("*_egmf.py")):
        if path.name not in installed or not is_same_code(path, installed[path.name]):
            different.append(path.name)
    if different:
        logger.warning(
            f"{checkpoint} carries another version of {', '.join(different[:3])} ({len(different)} in all) than the "
            "installed code, which is used here: with trust_remote_code=True, its answers may differ. "
            "Save or push the model again to renew its code."
        )
    missing = missing_code(Path(checkpoint))
    if missing:
        logger.warning(
            f"{checkpoint} lacks {', '.join(missing[:3])} ({len(missing)} in all), which its code needs: it loads "
            "here, with the installed code, but not with trust_remote_code=True. "
            "Download it again, or save or push the model again to renew its code."
        )


def missing_code(folder: Path) -> list[str]:
    """Names of code files that others in a checkpoint's folder import, or that are loaded by name, but are not there.

    A folder without any code has none that is missing: `transformers` itself names the file that it looks for.
    """
    paths = list(folder.glob("*_egmf.py"))
    needed = {*ENTRY_POINTS} if paths else set()
    for path in paths:
        # Damaged, and named as other code.
        with suppress(ValueError):
            needed |= {f"{module}.py" for module in get_relative_imports(path)}
    return sorted(name for name in needed if not (folder / name).is_file())


def is_same_code(path: Path, other: Path) -> bool:
    """Whether two files have the same code, whatever their comments, docstrings and line ends."""
    contents = [each.read_bytes() for each in (path, other)]
    if contents[0] == contents[1]:
        return True
    try:
        return code_of(contents[0]) == code_of(contents[1])
    except (SyntaxError, ValueError):
        return False


def code_of(content: bytes) -> str:
    """The syntax tree of a file without its docstrings."""
    tree = ast.parse(content)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree)
