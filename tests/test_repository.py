"""The repository's structure: directions of imports, names, sizes, and imports without side effects.

Each static rule is one test that lists all offenders.
"""

import ast
import re
import subprocess
import sys
from collections import Counter

from transformers.dynamic_module_utils import get_imports, get_relative_imports

from tests.helpers.sources import (
    HUB_FILES,
    PACKAGES,
    ROOT,
    SOURCES,
    TESTS,
    imported_modules,
    imported_names,
    module_name,
    raw_imports,
    relative_name,
    syntax_tree,
)


# ---- Hub files -------------------------------------------------------------------------------------------------

# The packages that a top-level import of a Hub file demands of everyone who loads a model.
DEMANDED = {"torch", "numpy", "transformers", "huggingface_hub", "safetensors"}

# Layers of the Hub code, lowest first; a file imports from lower layers only.
MODELING_LAYERS = (
    {"fields_egmf", "settings_egmf"},
    {"weights_egmf"},
    {"configuration_egmf", "precision_egmf", "outputs_egmf"},
    {"trainer_egmf"},
    {"decoders_egmf"},
    {"adapters_egmf", "backbones_egmf", "loading_egmf", "parts_egmf"},
    {
        "checkpoints_egmf",
        "answers_egmf",
        "prompt_egmf",
        "experts_egmf",
        "fusion_egmf",
        "encoders_egmf",
    },
    {"padding_egmf"},
    {"generation_egmf", "scoring_egmf"},
    {"modeling_egmf"},
    {"__init__"},
)
PROCESSING_LAYERS = (
    {"agreement_egmf", "arguments_egmf", "declared_egmf"},
    {"media_egmf", "frames_egmf"},
    {"faces_egmf", "tasks_egmf", "batches_egmf", "audio_egmf", "pictures_egmf", "stored_processor_egmf"},
    {"collator_egmf", "prompts_egmf", "results_egmf", "video_egmf"},
    {"frontends_egmf", "chat_egmf"},
    {"processing_egmf"},
    {"pipeline_egmf"},
    {"__init__"},
)
LAYERS = {"modeling_egmf": MODELING_LAYERS, "processing_egmf": PROCESSING_LAYERS}
# Imported for type checkers only, so that the pipeline is saved wherever the processor is.
CARRIED_ALONG = {("processing_egmf", "pipeline_egmf")}
LOADED_BY_NAME = ("configuration_egmf", "modeling_egmf", "processing_egmf", "pipeline_egmf")


def layer_of(path):
    layers = LAYERS[path.parent.name]
    return next(level for level, stems in enumerate(layers) if path.stem in stems)


def test_every_hub_file_has_a_layer():
    named = {stem for layers in LAYERS.values() for stems in layers for stem in stems}
    assert {path.stem for path in HUB_FILES} == named


def test_hub_files_import_lower_layers_only():
    offenders = []
    for path in HUB_FILES:
        siblings = [module for level, module in raw_imports(path) if level]
        for sibling in siblings:
            lower = layer_of(path.with_name(f"{sibling}.py")) < layer_of(path)
            if not lower and (path.stem, sibling) not in CARRIED_ALONG:
                offenders.append(f"{relative_name(path)} imports {sibling}")
    assert offenders == []


def test_hub_files_import_none_of_our_packages():
    offenders = [
        f"{relative_name(path)}: {module}"
        for path in HUB_FILES
        for level, module in raw_imports(path)
        if not level and module.split(".")[0] in PACKAGES
    ]
    assert offenders == []


def test_hub_files_import_siblings_in_the_one_form_that_the_loader_finds():
    """`from .stem import Name`: the loader of remote code searches with a regular expression, docstrings included."""
    offenders = []
    for path in HUB_FILES:
        siblings = {(level, module) for level, module in raw_imports(path) if level}
        plain = all(level == 1 and module and "." not in module for level, module in siblings)
        expected = {module for _, module in siblings}
        if path.stem in LOADED_BY_NAME:
            expected = files_needed(path)
        if not plain or set(get_relative_imports(path)) != expected:
            offenders.append(relative_name(path))
    assert offenders == []


def files_needed(path):
    """Names of the files that this one imports, directly or through others."""
    imported = [path.with_name(f"{module}.py") for level, module in raw_imports(path) if level]
    return {file.stem for file in imported}.union(*map(files_needed, imported))


def test_files_that_are_loaded_by_name_name_all_that_they_need():
    """A process that finds a file copied by another one does not look for what that file imports."""
    paths = [path for path in HUB_FILES if path.stem in LOADED_BY_NAME]
    assert len(paths) == len(LOADED_BY_NAME)
    assert [path.stem for path in paths if set(get_relative_imports(path)) != files_needed(path)] == []


def test_hub_files_require_few_packages():
    offenders = []
    for path in HUB_FILES:
        required = {name.split(".")[0] for name in get_imports(path)}
        excess = required - set(sys.stdlib_module_names) - DEMANDED
        if excess:
            offenders.append(f"{relative_name(path)}: {sorted(excess)}")
    assert offenders == []


def test_hub_files_have_unique_names():
    """Both folders are flattened into one repo on the Hub."""
    names = Counter(path.name for path in HUB_FILES if path.name != "__init__.py")
    assert names
    assert [name for name, count in names.items() if count > 1] == []


def test_model_and_processor_meet_only_in_training_and_hub_cards():
    offenders = []
    for path in SOURCES:
        roots = {module.split(".")[0] for level, module in raw_imports(path) if not level}
        meets = {"modeling_egmf", "processing_egmf"} <= roots
        if meets and path.relative_to(ROOT).parts[0] not in ("training", "hub_cards"):
            offenders.append(relative_name(path))
    assert offenders == []


# ---- directions within training/ -------------------------------------------------------------------------------

COMMANDS = {"cli", "train", "run_eval", "run_experiment", "predict", "calibrate", "push_to_hub", "push_metrics"}
# What each part of training/ may import of the others; everything else is a forbidden direction.
MAY_IMPORT = {
    "records": set(),
    "paths": set(),
    "options": {"records", "cli", "paths", "model.backbones"},
    "recipes": {"records", "cli", "paths", "options", "model.backbones"},
    "option_checks": {"cli", "model.presets"},
    "arguments": {"options", "option_checks", "recipes"},
    "data": {"records", "paths"},
    "model": {"records", "paths", "options", "option_checks", "data"},
    "evaluation": {"records", "paths", "options", "arguments", "data", "model", "cli"},
    "trainer": {"records", "paths", "arguments", "option_checks", "data", "model", "evaluation"},
    "chatglm3": {"records", "paths", "cli"},
    "hub": {"records", "paths", "arguments", "data", "model", "evaluation", "cli"},
    "export": {"records", "paths", "model", "cli"},
    "converters": {"records", "paths", "arguments", "data", "model", "hub", "cli"},
    "experiments": {
        *("records", "paths", "cli", "options", "option_checks", "recipes", "data", "model", "evaluation", "run_eval"),
    },
    "demo": {"records", "paths", "recipes", "arguments", "data", "model", "evaluation", "trainer", "hub", "cli"},
    "real": {"records", "paths", "recipes", "arguments", "data", "evaluation", "demo", "cli"},
    "benchmarks": {
        *("records", "paths", "cli", "options", "arguments", "data", "model", "evaluation", "trainer", "converters"),
        *("demo", "train", "real"),
    },
}


def part_of(module):
    """`training.data.dataset` -> `data`; `training.model.backbones` and `.presets` keep two names: they are leaves."""
    for leaf in ("backbones", "presets"):
        if module.startswith(f"training.model.{leaf}"):
            return f"model.{leaf}"
    return module.split(".")[1] if "." in module else ""


def test_training_imports_run_one_way():
    offenders = []
    for path in (path for path in SOURCES if path.is_relative_to(ROOT / "training")):
        part = part_of(module_name(path))
        if part in COMMANDS or part == "":
            continue
        own_part = part.split(".")[0]
        allowed = MAY_IMPORT[own_part] | {own_part}
        for module, line in imported_modules(path):
            target = part_of(module) if module.startswith("training.") else None
            if target is not None and target not in allowed and target.split(".")[0] not in allowed:
                offenders.append(f"{relative_name(path)}:{line} imports {module}: {part} -> {target} is forbidden")
    assert offenders == []


def test_no_import_cycles():
    graph = {
        module_name(path): {module for module, _ in imported_modules(path) if module != module_name(path)}
        for path in SOURCES
        if not path.is_relative_to(ROOT / "hub_cards") and path not in HUB_FILES
    }
    finished = set()
    trail = []

    def visit(module):
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module in finished:
            return
        trail.append(module)
        for target in sorted(graph.get(module, ())):
            visit(target)
        trail.pop()
        finished.add(module)

    for module in sorted(graph):
        visit(module)


def test_metric_modules_import_nothing_of_ours():
    offenders = []
    for path in sorted((ROOT / "hub_cards/metrics").rglob("*.py")):
        roots = {module.split(".")[0] for level, module in raw_imports(path) if not level}
        if roots & {*PACKAGES, "hub_cards"}:
            offenders.append(relative_name(path))
    assert offenders == []


# ---- names ----------------------------------------------------------------------------------------------------


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def test_no_private_name_of_another_module_is_used():
    offenders = [
        f"{relative_name(path)}:{line} takes {name} from {module}"
        for path in [*SOURCES, *TESTS]
        for module, name, line in imported_names(path)
        if is_private(name) and module.split(".")[0] in (*PACKAGES, "hub_cards", "tests")
    ]
    for path in SOURCES:
        modules = {
            name: f"{module}.{name}" for module, name, _ in imported_names(path) if module.split(".")[0] in PACKAGES
        }
        for node in ast.walk(syntax_tree(path)):
            if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
                continue
            if is_private(node.attr) and node.value.id in {*modules, "processor", "model"}:
                offenders.append(f"{relative_name(path)}:{node.lineno} uses {ast.unparse(node)}")
    assert offenders == []


def test_nothing_is_named_like_a_library():
    roots = {module.split(".")[0] for path in SOURCES for level, module in raw_imports(path) if not level}
    # Scripts import their siblings by bare names: the Space's, and those of fresh processes.
    siblings = {path.stem for path in (ROOT / "hub_cards/space").glob("*.py")} | {"fresh_process"}
    libraries = roots - {*PACKAGES, "hub_cards", "tests", *siblings} - set(sys.stdlib_module_names)
    assert "torch" in libraries
    tracked = [path for path in [*SOURCES, *TESTS] if path.name != "__init__.py"]
    names = {path.stem for path in tracked} | {part for path in tracked for part in path.relative_to(ROOT).parts[:-1]}
    assert sorted(libraries & names) == []


def test_no_test_module_imports_another():
    offenders = [
        f"{relative_name(path)}:{line} imports {module}"
        for path in TESTS
        for module, line in imported_modules(path)
        if module.split(".")[-1].startswith("test_")
    ]
    assert offenders == []


def test_tests_mirror_the_sources():
    """Each folder below tests/ is one of the sources, the helpers or the assets."""
    folders = {path.parent for path in TESTS if path.name.startswith("test_")}
    offenders = [relative_name(path) for path in folders if path != ROOT / "tests" and not mirrored(path)]
    assert offenders == []


def mirrored(folder):
    return (ROOT / folder.relative_to(ROOT / "tests")).is_dir()


def test_files_are_short():
    offenders = [
        f"{relative_name(path)}: {count} lines"
        for path in [*SOURCES, *TESTS]
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 500
    ]
    assert offenders == []


BRITISH = r"[a-z]*(?:colour|behaviour|neighbour|favour)[a-z]*|licen[c]e[ds]?|grey|centre[ds]?|learnt|artefacts?"
BRITISH += r"|(?:un)?labelled|cancelled|modelling"
BRITISH += r"|[a-z]*(?:standard|summar|normal|quant|initial|token|minim|recogn)is(?:e|ed|es|ing)"
# Words of our own that stood for one of the field (house style).
OWN_WORDS = r"judge[ds]?|judging|ledgers?|towers?|warm_up|answer_index"


def test_terms_and_us_spelling():
    pattern = re.compile(rf"(?<![A-Za-z])(?:{BRITISH}|{OWN_WORDS})(?![A-Za-z])", re.IGNORECASE)
    phrases = ROOT / "training/demo/phrases.py"
    offenders = [
        f"{relative_name(path)}:{number} {match.group()}"
        for path in [*SOURCES, *ROOT.glob("*.md"), *(ROOT / "training").rglob("*.yaml")]
        if path not in (phrases, ROOT / "CHANGELOG.md")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in pattern.finditer(line)
    ]
    assert offenders == []


# ---- imports without side effects -------------------------------------------------------------------------------

PLAIN_STATEMENTS = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
    ast.AugAssign,
)


# An installed package makes its classes known to `transformers`.
REGISTRATION = re.compile(r"Auto\w+\.register\(")


def top_level_work(path):
    """Statements at the top of a module that do more than define, and are not `main()` behind its guard."""
    for position, node in enumerate(syntax_tree(path).body):
        is_docstring = position == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, PLAIN_STATEMENTS) or is_docstring:
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if path.name == "__init__.py" and REGISTRATION.match(ast.unparse(node)):
            continue
        calls = [ast.unparse(step) for step in node.body] if isinstance(node, ast.If) else []
        if calls not in (["main()"], ["sys.exit(main())"]):
            yield f"{relative_name(path)}:{node.lineno} {ast.unparse(node)[:80]}"


def test_importing_does_no_work():
    assert [offender for path in SOURCES for offender in top_level_work(path)] == []


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


def test_every_module_is_imported_without_side_effects(tmp_path, warm_python):
    modules = [module_name(path) for path in SOURCES if not path.is_relative_to(ROOT / "hub_cards")]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    (tmp_path / "work").mkdir()
    command = [warm_python, "-c", IMPORT_ALL, *modules]
    done = subprocess.run(command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == ""
