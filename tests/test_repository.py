"""The repository itself: directions of imports, what Hub files may demand, and that documented commands exist."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from training.arguments import parse_arguments
from training.demo.update_readme import END, RESULTS, START, render


ROOT = Path(__file__).parents[1]
PACKAGES = ("modeling_egmf", "processing_egmf", "training")
HUB_FILES = sorted(path for package in PACKAGES[:2] for path in (ROOT / package).glob("*.py"))
SOURCES = sorted(path for package in (*PACKAGES, "hub_cards") for path in (ROOT / package).rglob("*.py"))
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
)
DEMANDED = {"torch", "numpy", "transformers", "huggingface_hub"}

# What each Hub file may import of ours; a file that is not here is an error, so that nobody forgets.
MIDDLE = {"checkpoints_egmf", "answers_egmf", "experts_egmf", "fusion_egmf", "encoders_egmf"}
MAY_IMPORT = {
    "modeling_egmf": {
        "__init__": {"modeling_egmf", "configuration_egmf", *MIDDLE},
        "modeling_egmf": {"configuration_egmf", *MIDDLE},
        **{name: {"configuration_egmf"} for name in MIDDLE},
        "configuration_egmf": set(),
    },
    "processing_egmf": {
        "__init__": {"pipeline_egmf", "processing_egmf", "tasks_egmf", "media_egmf"},
        "pipeline_egmf": {"tasks_egmf", "media_egmf"},
        "processing_egmf": {"tasks_egmf", "media_egmf", "pipeline_egmf"},  # the last so that it travels along
        "tasks_egmf": set(),
        "media_egmf": set(),
    },
}


def name_of(path):
    return str(path.relative_to(ROOT))


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path):
    """(level, module) of every import, wherever in the file it stands."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module


# ---- imports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", HUB_FILES, ids=name_of)
def test_hub_file_imports_its_siblings_in_order(path):
    allowed = MAY_IMPORT[path.parent.name][path.stem]
    assert {module for level, module in imports_of(path) if level} <= allowed


@pytest.mark.parametrize("path", HUB_FILES, ids=name_of)
def test_hub_file_imports_none_of_our_packages(path):
    assert not {module for level, module in imports_of(path) if not level and module.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("path", HUB_FILES, ids=name_of)
def test_hub_file_imports_relatively_in_one_form(path):
    """The loader of remote code finds `from .stem import Name` with a regular expression, also inside a docstring."""
    found = {(level, module) for level, module in imports_of(path) if level}
    assert all(level == 1 and module and "." not in module for level, module in found)
    assert set(get_relative_imports(path)) == {module for _, module in found}


@pytest.mark.parametrize("path", HUB_FILES, ids=name_of)
def test_hub_file_demands_little(path):
    outside = {name.split(".")[0] for name in get_imports(path)}
    assert outside - set(sys.stdlib_module_names) <= DEMANDED


@pytest.mark.parametrize("path", HUB_FILES, ids=name_of)
def test_top_level_imports_are_few(path):
    found = set()
    for node in tree_of(path).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    assert found - set(sys.stdlib_module_names) <= DEMANDED


def test_hub_files_have_names_of_their_own():
    names = Counter(path.name for path in HUB_FILES if path.name != "__init__.py")
    assert names
    assert [name for name, count in names.items() if count > 1] == []


def test_model_and_processor_meet_in_training_alone():
    meeting = [
        path
        for path in SOURCES
        if {"modeling_egmf", "processing_egmf"}
        <= {(module or "").split(".")[0] for level, module in imports_of(path) if not level}
    ]
    assert meeting
    assert {path.relative_to(ROOT).parts[0] for path in meeting} <= {"training", "hub_cards"}


def test_nothing_is_named_like_a_library():
    imported = {module.split(".")[0] for path in SOURCES for level, module in imports_of(path) if not level}
    libraries = imported - {*PACKAGES, "hub_cards"}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    files = {path.stem for path in ROOT.glob("*.py")} | {path.stem for path in (ROOT / "tests").glob("*.py")}
    assert "torch" in libraries
    assert not libraries & (folders | files)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_importing_does_no_work(path):
    """At the top of a module: docstring, imports, definitions, assignments, and a call of `main` behind its guard."""
    plain = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for place, node in enumerate(tree_of(path).body):
        if isinstance(node, plain) or (
            place == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            continue
        assert isinstance(node, ast.If), f"line {node.lineno}: {ast.unparse(node)[:80]}"
        test = ast.unparse(node.test)
        assert test in ("TYPE_CHECKING", "__name__ == '__main__'"), f"line {node.lineno}: if {test}"
        if "main" in test:
            assert [ast.unparse(step) for step in node.body] in (["main()"], ["sys.exit(main())"])


# What a stranger's machine runs may neither reach out nor leave anything behind; what is fetched and saved, the
# library's own `from_pretrained` and `save_pretrained` fetch and save.
REACHING = {
    "aiohttp",
    "asyncio",
    "ftplib",
    "http",
    "httpx",
    "multiprocessing",
    "requests",
    "shutil",
    "smtplib",
    "socket",
}
REACHING |= {"ssl", "subprocess", "tempfile", "urllib", "webbrowser"}
WRITING = {
    "dump",
    "hf_hub_download",
    "makedirs",
    "mkdir",
    "remove",
    "rename",
    "replace_file",
    "rmdir",
    "rmtree",
    "save",
}
WRITING |= {
    "save_file",
    "savez",
    "snapshot_download",
    "symlink",
    "system",
    "popen",
    "to_file",
    "tofile",
    "touch",
    "unlink",
}
WRITING |= {"urlopen", "urlretrieve", "write", "write_bytes", "write_text", "writelines"}


def reaches_out(path):
    """Lines that import what opens connections or processes, or call what writes files."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            yield from (f"line {node.lineno}: {name}" for name in modules if name.split(".")[0] in REACHING)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            modes = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]
            opens = called.split(".")[-1] == "open" and called != "av.open"
            if called.split(".")[-1] in WRITING or (
                opens and not (modes and ast.literal_eval(modes[0]) in ("r", "rb"))
            ):
                yield f"line {node.lineno}: {called}"


MAX_LINES = 2_500


def hub_lines():
    return [line for path in HUB_FILES for line in path.read_text(encoding="utf-8").splitlines()]


def test_hub_code_can_be_read_before_it_is_trusted():
    assert len(hub_lines()) < MAX_LINES


@pytest.mark.parametrize("path", HUB_FILES, ids=name_of)
def test_hub_file_opens_no_connection_and_writes_no_file(path):
    assert list(reaches_out(path)) == []


def test_the_check_of_hub_files_finds_what_it_looks_for(tmp_path):
    path = tmp_path / "bad.py"
    for line in (
        "import socket",
        "from urllib.request import urlopen",
        "open('a')",
        "open('a', 'w')",
        "open('a', mode='ab')",
        "path.write_text('a')",
        "torch.save(a, 'b')",
        "path.open('x')",
    ):
        path.write_text(line)
        assert len(list(reaches_out(path))) == 1, line
    path.write_text("open('a', 'rb')\nimport io")
    assert list(reaches_out(path)) == []


IMPORT_ALL = """
import os, pathlib, random, socket, sys
import accelerate, av, datasets, matplotlib, numpy, peft, scipy.stats, sklearn.metrics, torch, transformers

def refuse(*arguments, **options):
    raise RuntimeError("a connection was opened")

socket.socket.connect = refuse
def state():
    return (dict(os.environ), os.getcwd(), list(sys.argv), random.getstate(), torch.get_rng_state().tolist(),
            numpy.random.get_state()[1].tolist(), torch.get_num_threads(), torch.get_default_dtype(),
            torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(), sorted(pathlib.Path().iterdir()),
            str(dict.get(matplotlib.rcParams, "backend")))
before = state()
for name in sys.argv[1:]:
    __import__(name)
    for index, (old, new) in enumerate(zip(before, state())):
        assert old == new, (name, index)
"""


def test_every_module_is_imported_without_side_effects(tmp_path):
    command = [sys.executable, "-c", IMPORT_ALL, *MODULES]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    (tmp_path / "work").mkdir()
    done = subprocess.run(command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == ""


# ---- what must not be in the source --------------------------------------------------------------------------

FORBIDDEN_CALLS = {
    "eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "joblib.load", "marshal.loads",
    "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.load", "subprocess.getoutput",
}  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_runs_what_it_reads(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            called, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            where = f"line {node.lineno}: {ast.unparse(node)[:80]}"
            if called == "torch.load":
                assert options.get("weights_only") == "True", where
            else:
                assert called not in FORBIDDEN_CALLS, where
            assert options.get("shell") != "True", where
            assert options.get("allow_pickle") != "True", where


def test_the_check_above_finds_what_it_looks_for(tmp_path):
    path = tmp_path / "bad.py"
    for line in (
        "eval('1')",
        "pickle.load(f)",
        "run('ls', shell=True)",
        "torch.load(f)",
        "np.load(f, allow_pickle=True)",
    ):
        path.write_text(line)
        with pytest.raises(AssertionError):
            test_nothing_runs_what_it_reads(path)


@pytest.mark.parametrize(
    "path",
    sorted(
        path
        for path in [
            *SOURCES,
            *ROOT.glob("*.md"),
            ROOT / "Makefile",
            *(ROOT / "training").rglob("*.yaml"),
            *(ROOT / "hub_cards").rglob("*.md"),
        ]
        if path.is_file()
    ),
    ids=name_of,
)
def test_no_path_of_one_machine(path):
    assert not re.search(r"(?<![\w.])/(root|home|Users|work)/\w", path.read_text(encoding="utf-8"))


# ---- the figures of the README ----------------------------------------------------------------------------------


def test_figures_of_the_readme_are_those_of_the_results():
    """And where there are no results, there are no figures."""
    files = [RESULTS / "demo.json", RESULTS / "speed.json"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count(START) == text.count(END) == 1
    found = text[text.index(START) + len(START) : text.index(END)].strip("\n")
    if files[0].is_file():
        assert found == render(*(json.loads(path.read_text(encoding="utf-8")) for path in files))
    else:
        assert not re.search(r"\||\d\.\d", found)


# ---- documented commands -------------------------------------------------------------------------------------


def targets():
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def code_of(text):
    """Fenced blocks, and what stands between backticks, of a Markdown text; line continuations joined."""
    fenced = re.findall(r"^```.*?$(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(fenced + re.findall(r"`([^`]+)`", rest)).replace("\\\n", " ")


def python_commands(text):
    """(module, options) of every `python -m module ...` and `accelerate launch ... -m module ...`."""
    for module, rest in re.findall(r"(?:python3?|accelerate launch)[^\n]*? -m ([\w.]+)([^\n]*)", text):
        yield module, re.findall(r"--([a-z][\w-]*)", rest)


def exists(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def options_of(module):
    source = Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")
    return set(re.findall(r"\"--([\w-]+)\"", source))


def test_make_targets_exist():
    assert {"demo", "test", "test-slow", "test-gpu", "style", "quality", "help"} <= targets()


def test_phony_targets_are_defined():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = {name for line in re.findall(r"^\.PHONY:(.*)$", text, re.MULTILINE) for name in line.split()}
    assert phony
    assert phony <= targets()


def test_makefile_calls_what_exists():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    modules = set(re.findall(r"(?:python3?|PYTHON\)) -m ([a-z][\w.]*)", text))
    assert any(module.startswith("training.") for module in modules)
    assert [module for module in modules if not exists(module)] == []
    assert (ROOT / "constraints.txt").is_file()


def test_readme_is_written():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text) > 2000
    assert list(python_commands(code_of(text)))
    assert re.search(r"\bmake [a-z]", code_of(text))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_documented_targets_exist(name):
    code = code_of((ROOT / name).read_text(encoding="utf-8"))
    named = set(re.findall(r"(?:^|&& |; |\$ )make ([a-z][\w-]*)", code, re.MULTILINE))
    assert named
    assert named <= targets()


def documented_commands():
    texts = {path: code_of(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("*.md"))}
    for path in SOURCES:
        texts[path] = (ast.get_docstring(tree_of(path)) or "").replace("\\\n", " ")
    return [(name_of(path), *command) for path, text in texts.items() for command in python_commands(text)]


@pytest.mark.parametrize(("where", "module", "options"), documented_commands())
def test_documented_commands_exist(where, module, options):
    assert exists(module), where
    if module.startswith("training.") and module != "training.train":
        assert set(options) <= options_of(module), where


def test_documented_training_options_are_known(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    known = set(re.findall(r"--([a-z]\w*)", capsys.readouterr().out))
    used = {option for _, module, options in documented_commands() for option in options if module == "training.train"}
    assert "config" in used
    assert used <= known


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_linked_files_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = {
        link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link and link[0] != "#"
    }
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert text
