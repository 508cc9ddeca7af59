"""The metrics as modules of `evaluate`: offline, in several processes, from a Space; examples, cards, pages."""

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
ROWS = {
    "egmf_erc": {
        "predictions": ["joy", None, "anger", "joy", "joy"],
        "references": ["joy", "joy", "anger", "joy", "anger"],
    },
    "egmf_msa": {"predictions": [0.5, None, -0.8, 0.4, 0.9], "references": [1.0, 0.0, -0.4, 1.0, 0.6]},
}


@pytest.fixture(scope="module", autouse=True)
def _caches(tmp_path_factory):
    """What `evaluate` writes goes here, and what it imported from here is forgotten."""
    cache = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        for name in ("HF_MODULES_CACHE", "HF_METRICS_CACHE", "DOWNLOADED_EVALUATE_PATH"):
            patch.setattr(evaluate.config, name, str(cache / name))
        patch.setattr(evaluate.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
        yield
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        del sys.modules[name]


# ---- processes ------------------------------------------------------------------------------------------------------

PROCESS = """
import importlib.abc, json, socket, sys

class WithoutTransformers(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):  # evaluate takes it only where it is, and it costs seconds
        if name == "transformers":
            raise ImportError(name)

def refuse(*arguments, **options):
    raise RuntimeError("a connection was opened")

socket.socket.connect = socket.getaddrinfo = refuse
sys.meta_path.insert(0, WithoutTransformers())
import evaluate

process, shards, found = int(sys.argv[1]), json.loads(sys.argv[2]), {}
for name, shard in shards.items():
    found[name] = []
    for turn in ("one", "two"):
        metric = evaluate.load("hub_cards/metrics/" + name, num_process=2, process_id=process, experiment_id=turn)
        for row in range(len(shard["references"])):
            metric.add_batch(**{key: column[row : row + 1] for key, column in shard.items()})
        metric.add_batch(predictions=[], references=[])
        found[name].append(metric.compute(bootstrap=20))
print(json.dumps(found))
"""


def test_fresh_processes_without_network_gather_their_rows(tmp_path):
    """Two of them, rows in turn; of the second metric, one has them all and the other none."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    running = []
    shards = [
        {
            "egmf_erc": {key: column[process::2] for key, column in ROWS["egmf_erc"].items()},
            "egmf_msa": {key: column[process * 5 :] for key, column in ROWS["egmf_msa"].items()},
        }
        for process in range(2)
    ]
    for process in range(2):
        command = [sys.executable, "-c", PROCESS, str(process), json.dumps(shards[process])]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    ended = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], [errors[-2000:] for _, errors in ended]
    first, second = [json.loads(output.splitlines()[-1]) for output, _ in ended]
    assert second == {name: [None, None] for name in NAMES}
    for name in NAMES:
        gathered = {key: column + shards[1][name][key] for key, column in shards[0][name].items()}
        alone = evaluate.load(str(FOLDER / name)).compute(**gathered, bootstrap=20)
        assert first[name] == [alone, alone]
        assert alone["unreadable_rate"] == 0.2
    assert not list(tmp_path.rglob("*.arrow"))


# ---- a Space --------------------------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize("name", NAMES)
def test_loads_from_a_space(name, tmp_path, monkeypatch):
    """A server that answers as the Hub does: `/spaces/<who>/<name>/resolve/main/<name>.py`, and nothing else."""
    served = tmp_path / f"spaces/someone/{name}/resolve/main"
    served.mkdir(parents=True)
    (served / f"{name}.py").write_bytes((FOLDER / name / f"{name}.py").read_bytes())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/spaces/{{path}}/resolve/{{revision}}/{{name}}"
        monkeypatch.setattr(evaluate.config, "HUB_EVALUATE_URL", address)
        metric = evaluate.load(f"someone/{name}")
        server.shutdown()
    assert metric.name == name
    assert f"someone--{name}" in type(metric).__module__
    assert metric.compute(**ROWS[name])["unreadable_rate"] == 0.2


# ---- the modules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_examples_hold(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    module = importlib.import_module(f"hub_cards.metrics.{name}.{name}")
    ran = doctest.testmod(module)
    assert ran.failed == 0
    assert ran.attempted > 10


@pytest.mark.parametrize("name", NAMES)
def test_description_says_everything(name):
    """Every option, figure and configuration stands in the docstring of the module and in its card."""
    module = importlib.import_module(f"hub_cards.metrics.{name}.{name}")
    kind = next(value for key, value in vars(module).items() if key.endswith("Options"))
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    for corpus in ("default",) if name == "egmf_erc" else ("mosi", "sims"):
        metric = evaluate.load(str(FOLDER / name), corpus)
        assert metric.module_type == "metric"
        assert {feature.dtype for feature in metric.features.values()} <= {"string", "float32"}
        named = [*kind.__dataclass_fields__, *metric.features, *metric.compute(**ROWS[name], bootstrap=2)]
        for text in (metric.inputs_description, metric.compute.__doc__, type(metric).__doc__, card):
            assert [option for option in named if not re.search(rf"\b{option}\b", text)] == []


def definitions(name):
    tree = ast.parse((FOLDER / name / f"{name}.py").read_text(encoding="utf-8"))
    return {node.name: ast.unparse(node) for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_what_both_modules_hold_is_the_same():
    """Each file stands alone on the Hub, so that these few functions are there twice."""
    ours, theirs = map(definitions, NAMES)
    shared = {"_listed", "_same_length", "_check_known", "_check_bootstrap", "_bootstrap_intervals"}
    assert shared <= set(ours) & set(theirs)
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


# ---- Spaces: card, requirements, page -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_card_is_that_of_a_metric_space(name):
    text = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert {"title", "emoji", "colorFrom", "colorTo", "sdk_version", "description"} <= set(fields)
    assert (fields["sdk"], fields["app_file"], fields["pinned"]) == ("gradio", "app.py", False)
    assert {"evaluate", "metric"} <= set(fields["tags"])
    assert f'evaluate.load("hub_cards/metrics/{name}"' in body


@pytest.mark.parametrize("name", NAMES)
def test_example_of_the_card_runs(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(
        r"^```python\n(.*?)^```", (FOLDER / name / "README.md").read_text(encoding="utf-8"), re.M | re.S
    )
    *_, call = ast.parse(code).body
    assert ast.unparse(call).startswith("metric.compute(")
    values = {"evaluate": evaluate}
    for node in ast.parse(code).body[1:-1]:
        assert isinstance(node, ast.Assign)
        values[node.targets[0].id] = run(node.value, values)
    found = run(call.value, values)
    assert found["unreadable_rate"] > 0
    assert "confidence_intervals" in found


def run(node, values):
    """A literal, a name, or one of the two calls that a card makes."""
    if isinstance(node, ast.Name):
        return values[node.id]
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    arguments = [run(argument, values) for argument in node.args]
    options = {keyword.arg: run(keyword.value, values) for keyword in node.keywords}
    calls = {"evaluate.load": evaluate.load, "metric.compute": lambda **rows: values["metric"].compute(**rows)}
    return calls[ast.unparse(node.func)](*arguments, **options)


@pytest.mark.parametrize("name", NAMES)
def test_requirements_are_what_is_imported(name):
    lines = (FOLDER / name / "requirements.txt").read_text(encoding="utf-8").split()
    wanted = {Requirement(line).name: str(Requirement(line).specifier) for line in lines}
    imported = set()
    for node in ast.walk(ast.parse((FOLDER / name / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    packages = {"sklearn": "scikit-learn"}
    assert set(wanted) == {packages.get(module, module) for module in imported - set(sys.stdlib_module_names)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ours = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["training"]]
    assert wanted.items() <= {requirement.name: str(requirement.specifier) for requirement in ours}.items()


def page(name):
    spec = importlib.util.spec_from_file_location(f"{name}_page", FOLDER / name / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_of_emotions():
    app = page("egmf_erc")
    found = app.judge([*app.ROWS, ["", ""]], app.LABELS, 10.0)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["unreadable_rate"] == pytest.approx(1 / 5)
    assert list(found["per_class_f1"]) == ["neutral", "joy", "anger", "sadness"]
    assert "confidence_intervals" in found
    assert found["warnings"] == []
    assert app.judge([["joy", "joy"], [None, "anger"]])["accuracy"] == 0.5
    (warning,) = app.judge([["joy", "joy"], ["joy", "anger"]], "joy, anger")["warnings"]
    assert "All 2 readable predictions are 'joy'" in warning
    with pytest.raises(ValueError, match="'grief'"):
        app.judge([["grief", "joy"]], "joy, anger")


def test_page_of_sentiment():
    app = page("egmf_msa")
    found = app.judge([*app.ROWS, ["", ""]], "mosei")
    assert found["unreadable_rate"] == pytest.approx(1 / 5)
    assert found["acc2_has0"] == pytest.approx(3 / 5)
    one = app.judge([["0.5", "0.4"]], "sims", True, 5)
    assert (one["correlation"], one["mae"]) == (None, 0.1)  # JSON knows no nan
    assert "there is one row only" in one["warnings"][0]
    with pytest.raises(ValueError, match="'much' is no number"):
        app.judge([["much", "0.4"]])
    with pytest.raises(ValueError, match="beyond the scale"):
        app.judge([["2", "0.4"]], "sims")
