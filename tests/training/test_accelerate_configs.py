"""Launch files: accelerate's loader and launcher accept them, and every documented launch command names one."""

import re
import shlex
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType


FOLDER = Path(__file__).parents[2] / "training/accelerate_configs"
FILES = sorted(FOLDER.glob("*.yaml"))
LINES = re.findall(r"`(accelerate launch [^`]+)`", (FOLDER / "README.md").read_text(encoding="utf-8"))
KINDS = {"one": DistributedType.NO, "ddp": DistributedType.MULTI_GPU, "fsdp2": DistributedType.FSDP}


def launched(line):
    """The launcher's parse of a command line: its own options, and the module with its arguments."""
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(shlex.split(line)[2:]))
    return arguments


def test_every_launch_file_exists():
    names = {path.stem for path in FILES}
    assert names == {"one_gpu"} | {f"{kind}{end}" for kind in ("ddp", "fsdp2") for end in ("", "_machines")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_the_file(path):
    config = load_config_from_file(str(path))
    assert config.distributed_type == KINDS[path.stem.split("_")[0]]
    assert config.num_machines == (2 if path.stem.endswith("_machines") else 1)
    # Under mixed precision accelerate would cast the frozen language model, or our own layers.
    assert config.mixed_precision == "no"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_has_its_line(path):
    assert [line for line in LINES if f"training/accelerate_configs/{path.name}" in line], path.name


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("/")[-1][:40])
def test_launcher_takes_the_line(line, monkeypatch):
    monkeypatch.chdir(FOLDER.parents[1])
    arguments = launched(line)
    assert arguments.module
    assert arguments.training_script in ("training.train", "training.run_eval", "training.predict")
    kind = Path(arguments.config_file).stem.split("_")[0]
    assert (arguments.multi_gpu, arguments.use_fsdp) == (kind == "ddp", kind == "fsdp2")
    if "--machine_rank" in line:
        assert (arguments.num_machines, arguments.num_processes, arguments.main_process_ip) == (2, 16, "HOST")
    else:
        assert arguments.num_machines == 1
    if kind == "fsdp2":
        assert (arguments.fsdp_version, arguments.fsdp_auto_wrap_policy) == (2, "TRANSFORMER_BASED_WRAP")


def test_unknown_key_is_an_error(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(FILES[0].read_text(encoding="utf-8") + "num_proceses: 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="num_proceses"):
        load_config_from_file(str(path))
