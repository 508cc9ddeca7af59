"""Documentation: commands, options, targets and links exist, and figures match the results files."""

import ast
import dataclasses
import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.sources import ROOT, SOURCES, imported_modules, relative_name, syntax_tree
from training.arguments import parse_arguments
from training.cli import COMMANDS
from training.demo.update_readme import render_blocks
from training.evaluation.tables import markers
from training.options import DatasetArguments


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "training").glob("**/*.md"), *(ROOT / "hub_cards").glob("**/*.md")])
# Results and logs name commands of their time; templates are filled before they are read.
RESULT_PAGES = [path for path in PAGES if path.parent.name == "results" and path.name != "README.md"]
COMMAND_PAGES = [
    path for path in PAGES if path not in RESULT_PAGES and path.parent.name != "templates" and path.name != "LOG.md"
]


# ---- figures ------------------------------------------------------------------------------------------------------


def test_figures_of_the_pages_match_the_results():
    for page, blocks in render_blocks().items():
        text = (ROOT / page).read_text(encoding="utf-8")
        for name, block in blocks.items():
            start, end = markers(name)
            assert text.count(start) == text.count(end) == 1, page
            assert text[text.index(start) + len(start) : text.index(end)].strip("\n") == block, f"{page}: {name}"


# ---- commands -----------------------------------------------------------------------------------------------------


def make_targets():
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def code_of(text):
    """Fenced blocks and code spans of a Markdown text; continued lines are joined."""
    fenced = re.findall(r"^```.*?$(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(fenced + re.findall(r"`([^`]+)`", rest)).replace("\\\n", " ")


def named_commands(text):
    """(module, options) of every `python -m module`, `accelerate launch ... -m module` and `egmf command`."""
    for module, rest in re.findall(r"(?:python3?|accelerate launch)[^\n]*? -m ([\w.]+)(?!\S)([^\n]*)", text):
        yield module, options_in(rest)
    for command, rest in re.findall(r"(?:^|[`\s])egmf ([a-z][\w-]*)([^\n]*)", text):
        corpus = re.match(r" ([a-z]\w*)", rest)
        if command != "convert":
            yield f"training.{COMMANDS[command][0]}" if command in COMMANDS else command, options_in(rest)
        elif corpus is not None:
            yield f"training.converters.{corpus[1]}", options_in(rest)


def options_in(command):
    """Names of the options of one command, without a comment after it."""
    return re.findall(r"--([a-z][\w-]*)", command.partition(" #")[0])


def documented_commands():
    texts = {path: code_of(path.read_text(encoding="utf-8")) for path in COMMAND_PAGES}
    for path in SOURCES:
        texts[path] = (ast.get_docstring(syntax_tree(path)) or "").replace("\\\n", " ")
    return [(relative_name(path), *command) for path, text in texts.items() for command in named_commands(text)]


def source_of(module):
    try:
        specification = importlib.util.find_spec(module)
        if specification is not None and specification.submodule_search_locations:
            specification = importlib.util.find_spec(f"{module}.__main__") or specification
    except ModuleNotFoundError:
        return None
    return None if specification is None else Path(specification.origin)


@cache
def options_of(module):
    """Option names that a command or what it imports defines."""
    waiting = [source_of(module)]
    seen = set()
    takes_datasets = waiting[0] is not None and "add_dataset_options(" in waiting[0].read_text(encoding="utf-8")
    options = {field.name for field in dataclasses.fields(DatasetArguments)} if takes_datasets else set()
    while waiting:
        path = waiting.pop()
        if path is None or path in seen or not path.is_relative_to(ROOT / "training"):
            continue
        seen.add(path)
        options |= set(re.findall(r"\"--([\w-]+)\"", path.read_text(encoding="utf-8")))
        waiting += [source_of(name) for name, _ in imported_modules(path)]
    return options


def test_documented_commands_exist():
    commands = documented_commands()
    assert commands
    assert [(page, module) for page, module, _ in commands if source_of(module) is None] == []


def test_documented_options_exist():
    offenders = [
        f"{page}: {module} --{option}"
        for page, module, options in documented_commands()
        if module.startswith("training.") and module != "training.train"
        for option in options
        if option not in options_of(module)
    ]
    assert offenders == []


def test_documented_training_options_are_known(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--help_all"])
    known = set(re.findall(r"--([a-z]\w*)", capsys.readouterr().out))
    used = {option for _, module, options in documented_commands() for option in options if module == "training.train"}
    assert "config" in used
    assert used <= known


# ---- targets of make ----------------------------------------------------------------------------------------------


def test_make_targets_exist():
    expected = {"demo", "test", "test-unit", "test-slow", "test-gpu", "style", "quality", "help"}
    assert expected <= make_targets()


def test_phony_targets_are_defined():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = {name for line in re.findall(r"^\.PHONY:(.*)$", text, re.MULTILINE) for name in line.split()}
    assert phony
    assert phony <= make_targets()


def test_makefile_calls_modules_that_exist():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    modules = set(re.findall(r"(?:python3?|PYTHON\)) -m ([a-z][\w.]*)", text))
    assert any(module.startswith("training.") for module in modules)
    assert [module for module in modules if source_of(module) is None] == []
    assert (ROOT / "constraints.txt").is_file()


def test_documented_targets_exist():
    for page in COMMAND_PAGES:
        code = code_of(page.read_text(encoding="utf-8"))
        named = set(re.findall(r"(?:^|&& |; |\$ )make ([a-z][\w-]*)", code, re.MULTILINE))
        assert named or page not in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"), page
        assert named <= make_targets(), page


# ---- links --------------------------------------------------------------------------------------------------------


def test_linked_files_exist():
    offenders = []
    for page in (page for page in PAGES if page.parent.name != "templates"):
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            target = link.split("#")[0]
            outside = "://" in link or link.startswith("#") or "{" in link
            if not outside and not (page.parent / target).exists():
                offenders.append(f"{relative_name(page)}: {link}")
    assert offenders == []


def anchors(page):
    """The ids that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_linked_headings_exist():
    offenders = []
    for page in (page for page in PAGES if page.parent.name != "templates"):
        for target, anchor in re.findall(r"\]\(([^)\s#:{]*)#([\w-]+)\)", page.read_text(encoding="utf-8")):
            linked = page.parent / target if target else page
            if linked.suffix == ".md" and anchor not in anchors(linked):
                offenders.append(f"{relative_name(page)}: {target}#{anchor}")
    assert offenders == []


# ---- the log ------------------------------------------------------------------------------------------------------

DECISION = r"\*\*(Kept|Not kept|Superseded|Open|Finding)\*\*"


def test_entries_of_the_log_begin_with_a_decision_and_are_in_its_index():
    index = (ROOT / "training/LOG.md").read_text(encoding="utf-8")
    pages = sorted((ROOT / "training/log").glob("*.md"))
    entries = [(page, entry) for page in pages for entry in page.read_text(encoding="utf-8").split("\n## ")[1:]]
    assert len(entries) > 50
    offenders = []
    for page, entry in entries:
        heading, _, body = entry.partition("\n")
        decision = re.match(DECISION, body.lstrip())
        row = f"| {decision[0]} | [{heading}](log/{page.name}#" if decision else None
        if row is None or row not in index:
            offenders.append(f"{relative_name(page)}: {heading}")
    assert offenders == []


def test_map_names_what_exists():
    """In "To change X, edit Y": every file, and every name in one of the row's files."""
    text = (ROOT / "training/README.md").read_text(encoding="utf-8")
    table = text[text.index("## To change X, edit Y") :]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        spans = re.findall(r"`([\w./]+)`", row)
        named = [span for span in spans if span.endswith((".py", ".md"))]
        files = [path for name in named for path in (ROOT / name, ROOT / "training" / name) if path.is_file()]
        assert len(files) == len(named), row
        sources = "".join(path.read_text(encoding="utf-8") for path in files)
        names = [span for span in spans if span.isidentifier()]
        assert [name for name in names if not re.search(rf"\b{name}\b", sources)] == [], row
