"""The metrics as modules of `evaluate`: offline, distributed, from a Space; doctests, metric cards, pages."""

import ast
import doctest
import http.server
import importlib.util
import json
import re
import subprocess
import sys
import threading
import tomllib
from functools import partial
from pathlib import Path

import evaluate
import pytest
import yaml
from packaging.requirements import Requirement


ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "hub_cards/metrics"
NAMES = ["egmf_erc", "egmf_msa"]
EXAMPLES = {
    "egmf_erc": {
        "predictions": ["joy", None, "anger", "joy", "joy"],
        "references": ["joy", "joy", "anger", "joy", "anger"],
    },
    "egmf_msa": {"predictions": [0.5, None, -0.8, 0.4, 0.9], "references": [1.0, 0.0, -0.4, 1.0, 0.6]},
}


SHARED_FUNCTIONS = {
    "_listed",
    "_check_lengths",
    "_check_known",
    "_check_bootstrap",
    "_release_files",
    "_bootstrap_intervals",
}
# One name in both modules, for labels and for scores.
OWN_FUNCTIONS = {"compute_figures", "_point_figures", "_largest_share", "_resampled"}


@pytest.fixture(scope="module", autouse=True)
def _caches(tmp_path_factory):
    """Keep the caches of `evaluate` in a temporary folder, and forget what was imported from this or others."""
    _forget_modules()
    cache = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        elsewhere = [entry for entry in sys.path if not Path(entry, "evaluate_modules").is_dir()]
        patch.setattr(sys, "path", elsewhere)
        for name in ("HF_MODULES_CACHE", "HF_METRICS_CACHE", "DOWNLOADED_EVALUATE_PATH"):
            patch.setattr(evaluate.config, name, str(cache / name))
        patch.setattr(evaluate.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
        yield
    _forget_modules()


def _forget_modules():
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        del sys.modules[name]


# ---- processes ------------------------------------------------------------------------------------------------------

PROCESS = """
import importlib.abc
import json
import socket
import sys


class WithoutTransformers(importlib.abc.MetaPathFinder):
    # evaluate imports transformers if it is installed, which takes seconds.
    def find_spec(self, name, path=None, target=None):
        if name == "transformers":
            raise ImportError(name)


def refuse(*arguments, **options):
    raise RuntimeError("a connection was opened")


socket.socket.connect = socket.getaddrinfo = refuse
sys.meta_path.insert(0, WithoutTransformers())
import evaluate

process = int(sys.argv[1])
examples = json.loads(sys.argv[2])
results = {}
for name, columns in examples.items():
    results[name] = []
    for run in ("one", "two"):
        metric = evaluate.load("hub_cards/metrics/" + name, num_process=2, process_id=process, experiment_id=run)
        for index in range(len(columns["references"])):
            example = {key: column[index : index + 1] for key, column in columns.items()}
            metric.add_batch(**example)
        metric.add_batch(predictions=[], references=[])
        results[name].append(metric.compute(bootstrap=20))
print(json.dumps(results))
"""


def test_two_fresh_processes_gather_their_examples_without_network(tmp_path, warm_python):
    """Alternate examples for one metric; for the other, all in one process and none in the other."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    shards = []
    for process in range(2):
        shard = {
            "egmf_erc": {key: column[process::2] for key, column in EXAMPLES["egmf_erc"].items()},
            "egmf_msa": {key: column[process * 5 :] for key, column in EXAMPLES["egmf_msa"].items()},
        }
        shards.append(shard)
    running = []
    for process, shard in enumerate(shards):
        command = [warm_python, "-c", PROCESS, str(process), json.dumps(shard)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    outputs = []
    for process in running:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-2000:]
        outputs.append(json.loads(output.splitlines()[-1]))
    first, second = outputs
    assert second == {name: [None, None] for name in NAMES}
    for name in NAMES:
        gathered = {key: column + shards[1][name][key] for key, column in shards[0][name].items()}
        expected = evaluate.load(str(FOLDER / name)).compute(**gathered, bootstrap=20)
        assert first[name] == [expected, expected]
        assert expected["unreadable_rate"] == 0.2
    assert not list(tmp_path.rglob("*.arrow"))


@pytest.mark.parametrize("name", NAMES)
def test_metric_in_memory_without_examples_says_so(name):
    metric = evaluate.load(str(FOLDER / name), keep_in_memory=True)
    for _ in range(2):
        with pytest.raises(ValueError, match="There are no examples"):
            metric.compute()
        metric.compute(**EXAMPLES[name])
    with pytest.raises(ValueError, match="There are no examples"):
        metric.compute(predictions=[], references=[])
    with pytest.raises(ValueError, match="There are no examples"):
        metric.compute()


# ---- combined -------------------------------------------------------------------------------------------------------

EXACT_MATCH = """
import datasets
import evaluate


class ExactMatch(evaluate.Metric):
    # As the modules of evaluate's own organization are written.

    def _info(self):
        column = datasets.Value("string")
        features = datasets.Features({"predictions": column, "references": column})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"exact_match": sum(map(str.__eq__, predictions, references)) / len(references)}
"""


def test_combined_with_another_metric(tmp_path):
    (tmp_path / "exact_match").mkdir()
    (tmp_path / "exact_match/exact_match.py").write_text(EXACT_MATCH)
    examples = {"predictions": ["joy", "", "anger", "joy"], "references": ["joy", "joy", "anger", "anger"]}
    combined = evaluate.combine([str(FOLDER / "egmf_erc"), str(tmp_path / "exact_match")])
    expected = {**evaluate.load(str(FOLDER / "egmf_erc")).compute(**examples), "exact_match": 0.5}
    assert combined.compute(**examples) == expected
    combined.add_batch(**examples)
    assert combined.compute() == expected
    for prediction, reference in zip(*examples.values(), strict=True):
        combined.add(prediction, reference)
    assert combined.compute() == expected


def test_combined_with_another_configuration():
    """Figures of the same name are prefixed with the names of the metrics, or with the keys of a dict."""
    examples = {"predictions": [0.5, None, -0.8, 0.4], "references": [1.0, 0.0, -0.4, 0.8]}
    path = str(FOLDER / "egmf_msa")
    combined = evaluate.combine({"mosi": evaluate.load(path, "mosi"), "sims": evaluate.load(path, "sims")})
    result = combined.compute(**examples, decimals=3)
    for corpus in ("mosi", "sims"):
        single = evaluate.load(path, corpus).compute(**examples, decimals=3)
        assert result[f"{corpus}_mae"] == single["mae"]
        assert result[f"{corpus}_unreadable_rate"] == single["unreadable_rate"] == 0.25
    assert {"acc2_has0", "acc2_sims"} <= set(result)


def test_labels_and_scores_are_not_combined():
    """One column of predictions cannot be both."""
    combined = evaluate.combine([str(FOLDER / name) for name in NAMES])
    for name, message in (("egmf_msa", "labels are names"), ("egmf_erc", "pass one number per example")):
        with pytest.raises(ValueError, match=message):
            combined.compute(**EXAMPLES[name])


# ---- a Space --------------------------------------------------------------------------------------------------------


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize("name", NAMES)
def test_loads_from_a_space(name, tmp_path, monkeypatch):
    """From a server with the Hub's address `/spaces/<owner>/<name>/resolve/main/<name>.py`, and nothing else."""
    served = tmp_path / f"spaces/someone/{name}/resolve/main"
    served.mkdir(parents=True)
    (served / f"{name}.py").write_bytes((FOLDER / name / f"{name}.py").read_bytes())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = partial(SilentHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/spaces/{{path}}/resolve/{{revision}}/{{name}}"
        monkeypatch.setattr(evaluate.config, "HUB_EVALUATE_URL", address)
        metric = evaluate.load(f"someone/{name}")
        server.shutdown()
    assert metric.name == name
    assert f"someone--{name}" in type(metric).__module__
    assert metric.compute(**EXAMPLES[name])["unreadable_rate"] == 0.2


# ---- the modules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_doctests_hold(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    module = importlib.import_module(f"hub_cards.metrics.{name}.{name}")
    results = doctest.testmod(module)
    assert results.failed == 0
    assert results.attempted > 10


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_documented(name):
    """Every option, figure and column is described in the module's docstring and in its card."""
    module = importlib.import_module(f"hub_cards.metrics.{name}.{name}")
    options = next(value for key, value in vars(module).items() if key.endswith("Options"))
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    corpora = ["default"] if name == "egmf_erc" else ["mosi", "sims"]
    for corpus in corpora:
        metric = evaluate.load(str(FOLDER / name), corpus)
        assert metric.module_type == "metric"
        assert {feature.dtype for feature in metric.features.values()} <= {"string", "float32"}
        figures = metric.compute(**EXAMPLES[name], bootstrap=2)
        names = [*options.__dataclass_fields__, *metric.features, *figures]
        texts = [metric.inputs_description, metric.compute.__doc__, type(metric).__doc__, card]
        for text in texts:
            assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def functions_of(name):
    tree = ast.parse((FOLDER / name / f"{name}.py").read_text(encoding="utf-8"))
    return {node.name: ast.unparse(node) for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_functions_that_both_modules_define_are_the_same():
    """Each file stands alone on the Hub, so that these few functions exist twice."""
    erc = functions_of("egmf_erc")
    msa = functions_of("egmf_msa")
    shared = {name for name in erc if name in msa and name not in OWN_FUNCTIONS}
    assert shared == SHARED_FUNCTIONS
    assert {name: erc[name] for name in shared} == {name: msa[name] for name in shared}


# ---- Spaces: card, requirements, page -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_card_describes_a_metric_space(name):
    text = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert {"title", "emoji", "colorFrom", "colorTo", "sdk_version", "description"} <= set(metadata)
    assert (metadata["sdk"], metadata["app_file"], metadata["pinned"]) == ("gradio", "app.py", False)
    assert {"evaluate", "metric"} <= set(metadata["tags"])
    assert f'evaluate.load("hub_cards/metrics/{name}"' in body


@pytest.mark.parametrize("name", NAMES)
def test_example_of_the_card_runs(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    *setup, call = ast.parse(code).body
    assert ast.unparse(setup[0]) == "import evaluate"
    assert ast.unparse(call).startswith("metric.compute(")
    variables = {"evaluate": evaluate}
    for node in setup[1:]:
        assert isinstance(node, ast.Assign)
        variables[node.targets[0].id] = run(node.value, variables)
    result = run(call.value, variables)
    assert result["unreadable_rate"] > 0
    assert "confidence_intervals" in result


def run(node, variables):
    """The value of a literal, a name, or one of the two calls that a card makes."""
    if isinstance(node, ast.Name):
        return variables[node.id]
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    arguments = [run(argument, variables) for argument in node.args]
    options = {keyword.arg: run(keyword.value, variables) for keyword in node.keywords}
    called = ast.unparse(node.func)
    assert called in ("evaluate.load", "metric.compute")
    if called == "evaluate.load":
        return evaluate.load(*arguments, **options)
    return variables["metric"].compute(**options)


@pytest.mark.parametrize("name", NAMES)
def test_requirements_match_the_imports(name):
    lines = (FOLDER / name / "requirements.txt").read_text(encoding="utf-8").split()
    requirements = specifiers(lines)
    imported = set()
    for node in ast.walk(ast.parse((FOLDER / name / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    packages = {"sklearn": "scikit-learn"}
    third_party = imported - set(sys.stdlib_module_names)
    assert set(requirements) == {packages.get(module, module) for module in third_party}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    of_project = specifiers(project["dependencies"] + project["optional-dependencies"]["training"])
    assert requirements.items() <= of_project.items()


def specifiers(lines):
    requirements = [Requirement(line) for line in lines]
    return {requirement.name: str(requirement.specifier) for requirement in requirements}


def page(name):
    spec = importlib.util.spec_from_file_location(f"{name}_page", FOLDER / name / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_of_emotions():
    app = page("egmf_erc")
    result = app.compute([*app.EXAMPLES, ["", ""]], app.LABELS, 10.0)
    assert result["accuracy"] == pytest.approx(3 / 5)
    assert result["unreadable_rate"] == pytest.approx(1 / 5)
    assert list(result["per_class_f1"]) == ["neutral", "joy", "anger", "sadness"]
    assert "confidence_intervals" in result
    assert result["warnings"] == []
    assert app.compute([["joy", "joy"], [None, "anger"]])["accuracy"] == 0.5
    (warning,) = app.compute([["joy", "joy"], ["joy", "anger"]], "joy, anger")["warnings"]
    assert "All 2 readable predictions are 'joy'" in warning
    with pytest.raises(ValueError, match="'grief'"):
        app.compute([["grief", "joy"]], "joy, anger")


def test_page_of_sentiment():
    app = page("egmf_msa")
    result = app.compute([*app.EXAMPLES, ["", ""]], "mosei")
    assert result["unreadable_rate"] == pytest.approx(1 / 5)
    assert result["acc2_has0"] == pytest.approx(3 / 5)
    one_example = app.compute([["0.5", "0.4"]], "sims", True, 5)
    assert (one_example["correlation"], one_example["mae"]) == (None, 0.1)  # JSON has no nan
    assert "there is only one example" in one_example["warnings"][0]
    with pytest.raises(ValueError, match="'much' is not a number"):
        app.compute([["much", "0.4"]])
    with pytest.raises(ValueError, match="outside the scale"):
        app.compute([["2", "0.4"]], "sims")
