"""The package as `pip install` lays it out: training/ is egmf_training/, hub_cards/ is egmf_hub_cards/.

setuptools copies the files as it does for a wheel; the commands then run in fresh processes in another folder, from
which the clone cannot be seen.
"""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETTINGS = PROJECT["tool"]["setuptools"]
BUILD = """
import json, sys
from setuptools import Distribution
settings = json.loads(sys.argv[1])
distribution = Distribution({**settings, "include_package_data": False, "script_name": "setup.py"})
distribution.command_options["build_py"] = {"build_lib": ("test", sys.argv[2])}
distribution.run_command("build_py")
"""

# Only the extras demo, conversion, space and dev install these: commands of the extra training must do without.
TRAINING_EXTRA_ONLY = """
import sys
from importlib.machinery import PathFinder
class TrainingExtraOnly(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] in {"matplotlib", "gguf", "sentencepiece", "gradio", "playwright", "pytest"}:
            return None
        return super().find_spec(name, path, target)
sys.meta_path = [TrainingExtraOnly if finder is PathFinder else finder for finder in sys.meta_path]
"""


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory):
    target = tmp_path_factory.mktemp("site_packages")
    settings = {
        "name": "egmf",
        "packages": SETTINGS["packages"],
        "package_dir": SETTINGS["package-dir"],
        "package_data": {name.replace("*", ""): patterns for name, patterns in SETTINGS["package-data"].items()},
    }
    subprocess.run([sys.executable, "-c", BUILD, json.dumps(settings), str(target)], check=True, cwd=ROOT)
    return target


@pytest.fixture
def installed(site_packages, tmp_path, warm_python):
    """`installed("train", "--help")`: the command `egmf` with the extra training, in a folder without the clone."""
    package, function = PROJECT["project"]["scripts"]["egmf"].split(":")
    start = f"from {package} import {function}; {function}()"
    environment = {**os.environ, "PYTHONPATH": str(site_packages), "HF_HUB_OFFLINE": "1"}

    def run(*arguments, also="pass"):
        command = [warm_python, "-c", f"{TRAINING_EXTRA_ONLY}{also}; {start}", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    return run


def test_every_package_and_data_file_is_listed(site_packages):
    folders = {path.parent for path in (ROOT / "training").rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert {f"egmf_{name}" for name in names} == {
        package for package in SETTINGS["packages"] if package.startswith("egmf_training")
    }
    missing = []
    for path in (ROOT / "training").rglob("*"):
        is_data = path.suffix in (".yaml", ".txt", ".tsv", ".json")
        if is_data and not (site_packages / "egmf_training" / path.relative_to(ROOT / "training")).is_file():
            missing.append(str(path))
    assert missing == []
    assert all((site_packages / package / "py.typed").is_file() for package in ("modeling_egmf", "processing_egmf"))
    for name in ("templates/model_card.md", "metrics/egmf_erc/egmf_erc.py", "endpoint/handler.py"):
        assert (site_packages / "egmf_hub_cards" / name).is_file()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--help"], "usage: egmf COMMAND"),
        (["train", "--help"], "smollm2-135m"),
        (["convert", "folder", "--help"], "usage: "),
    ],
)
def test_commands_work_from_any_folder(installed, arguments, text):
    finished = installed(*arguments)
    assert finished.returncode == 0, finished.stderr
    assert text in finished.stdout


def test_evaluation_and_push_work_from_any_folder(installed, make_model, make_processor, tmp_path):
    make_model("waveform", "frames", lora=None).save_pretrained(tmp_path / "checkpoint")
    make_processor("waveform", "frames").save_pretrained(tmp_path / "checkpoint")
    row = '{"id": "a", "split": "test", "task": "emotion", "text": "Oh.", "answer": "joy"}\n'
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/metadata.jsonl").write_text(row)
    command = ["evaluate", "--model_name_or_path", "checkpoint", "--dataset", "corpus", "--device", "cpu"]
    imports = "import egmf_training.push_to_hub, egmf_training.hub.upload, egmf_training.train"
    finished = installed(*command, also=imports)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "checkpoint/results-test.json").is_file()


def test_installed_modules_name_themselves(site_packages):
    """Processes that training starts and files of hub_cards come from the installed package."""
    program = "from egmf_training.paths import HUB_CARDS, python_command; print(HUB_CARDS, python_command('train')[2])"
    environment = {**os.environ, "PYTHONPATH": str(site_packages)}
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=site_packages, env=environment
    )
    assert finished.stdout.split() == [str(site_packages / "egmf_hub_cards"), "egmf_training.train"]
