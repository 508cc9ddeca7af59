"""Things the code must never do: run data, open connections or write in Hub files, name machine-specific paths."""

import ast
import re

import pytest

from tests.helpers.sources import HUB_FILES, ROOT, SOURCES, relative_name


# ---- Hub files neither open connections nor write ----------------------------------------------------------------

# What is fetched and saved, the libraries fetch and save, with functions such as `from_pretrained`, `save_pretrained`
# and `save_torch_state_dict`.
REACHING = {
    *("aiohttp", "asyncio", "ftplib", "http", "httpx", "multiprocessing", "requests", "shutil", "smtplib", "socket"),
    *("ssl", "subprocess", "tempfile", "urllib", "webbrowser"),
}
WRITING = {
    *("dump", "hf_hub_download", "makedirs", "mkdir", "popen", "remove", "rename", "replace_file", "rmdir", "rmtree"),
    *("save", "save_file", "savez", "snapshot_download", "symlink", "system", "to_file", "tofile", "touch", "unlink"),
    *("urlopen", "urlretrieve", "write", "write_bytes", "write_text", "writelines"),
}

READING = {"av.open", "pillow.Image.open"}  # their first argument is read; there is no mode


def opens_for_writing(call):
    name = ast.unparse(call.func)
    if name.split(".")[-1] != "open" or name in READING:
        return False
    modes = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    return not modes or ast.literal_eval(modes[0]) not in ("r", "rb")


def reaches_out(tree):
    """Line and name of imports of modules for connections or processes, and of calls of functions that write files."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            names = []
        yield from ((node.lineno, name) for name in names if name.split(".")[0] in REACHING)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.split(".")[-1] in WRITING or opens_for_writing(node):
                yield node.lineno, name


def test_hub_files_open_no_connection_and_write_no_file():
    offenders = [
        f"{relative_name(path)}: {name}"
        for path in HUB_FILES
        for _, name in reaches_out(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert offenders == []


@pytest.mark.parametrize(
    "line",
    [
        "import socket",
        "from urllib.request import urlopen",
        "open('a')",
        "open('a', 'w')",
        "open('a', mode='ab')",
        "path.write_text('a')",
        "torch.save(a, 'b')",
        "path.open('x')",
    ],
)
def test_check_of_hub_files_detects(line):
    assert len(list(reaches_out(ast.parse(line)))) == 1


def test_check_of_hub_files_allows_reading():
    assert list(reaches_out(ast.parse("open('a', 'rb')\nimport io"))) == []


# ---- nothing runs what it reads -----------------------------------------------------------------------------------

FORBIDDEN_CALLS = {
    *("eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "joblib.load", "marshal.loads"),
    *("os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "subprocess.getoutput"),
}


def runs_what_it_reads(tree):
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        unsafe_load = name == "torch.load" and options.get("weights_only") != "True"
        unsafe_option = options.get("shell") == "True" or options.get("allow_pickle") == "True"
        if name in FORBIDDEN_CALLS or unsafe_load or unsafe_option:
            yield f"line {node.lineno}: {ast.unparse(node)[:80]}"


def test_no_data_is_executed():
    offenders = [
        f"{relative_name(path)}, {offence}"
        for path in SOURCES
        for offence in runs_what_it_reads(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert offenders == []


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')",
        "pickle.load(f)",
        "run('ls', shell=True)",
        "torch.load(f)",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_check_of_executed_data_detects(line):
    assert len(list(runs_what_it_reads(ast.parse(line)))) == 1


# ---- nothing of one machine ---------------------------------------------------------------------------------------


def test_no_machine_specific_paths():
    texts = [
        *SOURCES,
        *ROOT.glob("*.md"),
        ROOT / "Makefile",
        *(ROOT / "training").rglob("*.yaml"),
        *(ROOT / "training").rglob("*.md"),
        *(ROOT / "hub_cards").rglob("*.md"),
    ]
    pattern = re.compile(r"(?<![\w.])/(root|home|Users|work)/\w")
    assert [relative_name(path) for path in texts if pattern.search(path.read_text(encoding="utf-8"))] == []
