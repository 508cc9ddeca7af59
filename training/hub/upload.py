"""Put a trained run on the Hub, in one commit, and check that it comes back as it went.

    python -m training.push_to_hub runs/demo ORG/NAME --full
    python -m training.push_to_hub runs/demo ORG/NAME --text_model_name_or_path ORG/LANGUAGE-MODEL --upload_text_model
    python -m training.push_to_hub runs/demo ORG/NAME --full --dry-run --folder /tmp/look

Light (the default: what was trained; the language model is named by its own repo and commit) or `--full` (everything;
LoRA is merged where that moves no answer, and else kept in layers of its own). The repo gets weights, the code of
`modeling_egmf/` and `processing_egmf/` side by side, the processor, the card, results and training arguments; with
`--endpoint` also the handler for Inference Endpoints. It is private unless `--public` is said, and made public only
after it has been loaded back in a fresh process with an empty cache and has given the same answer.

`pushed.json` in the repo says which model it holds: the hash of the run's trained weights. The same run may be pushed
again, light or full, with a new card or new code. A repo with other weights, or with files that this command did not
put there, is another model's: it is left alone unless `--overwrite` is said, which replaces what it holds; its history
stays.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from modeling_egmf import EGMFForConditionalGeneration
from modeling_egmf.checkpoints_egmf import locate_part
from processing_egmf import EGMFProcessor

from ..model.builder import load
from ..model.export import merge, stand_alone
from ..records import commit, versions, write_json
from .fresh_process import answer_of, read_inputs
from .model_card import CardFacts, demo_facts, read_facts, results_file, run_config, write_card


ROOT = Path(__file__).resolve().parents[2]
CODE_FOLDERS = (ROOT / "modeling_egmf", ROOT / "processing_egmf")
ENDPOINT_FILES = [ROOT / "hub_cards/endpoint" / name for name in ("handler.py", "requirements.txt")]
MANIFEST = "pushed.json"
NOT_OURS = {".gitattributes"}  # the Hub makes it with every repo
LIGHT_BYTES = 40_000_000
TEXT_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "README.md")
SECRET_NAMES = re.compile(r"token$|^logging_dir$|^hub_", re.IGNORECASE)
TOLERANCE = 1e-3  # of a probability, where bits differ
SENTENCES = ("I'm fine.", "I can't believe it!", "Leave me alone.", "我很好，谢谢你。")


class PushError(Exception):
    """What went wrong, and what to do; nothing that a traceback would make clearer."""


@dataclass
class Remote:
    """What a repo holds before a push: None for what is not there."""

    exists: bool = False
    private: bool = True
    head: str | None = None
    branch_exists: bool = False
    files: frozenset[str] = frozenset()
    manifest: dict[str, Any] | None = None
    tags: tuple[tuple[str, str], ...] = ()


@dataclass
class Pushed:
    """What was done: the commit, the bytes of its files, and how the answer compared (None: not verified)."""

    repo_id: str
    commit: str
    size: int
    files: int
    difference: float | None = None
    label: str | None = None
    pipeline: str | None = None


# ---- the folder ----------------------------------------------------------------------------------------------


def weights_fingerprint(run: Path) -> str:
    """A hash of the run's trained weights, which is what makes it this model and no other.

    Raises:
        PushError: the folder holds no weights.
    """
    files = sorted(run.glob("model*.safetensors"))
    if not files or not (run / "config.json").is_file():
        raise PushError(f"{run} is no checkpoint: config.json or model.safetensors is missing. Give a run's folder.")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def copy_code(folder: Path) -> list[str]:
    """Both code folders side by side.

    Raises:
        PushError: two files share a name, so that one would overwrite the other.
    """
    names: list[str] = []
    for source in CODE_FOLDERS:
        for path in sorted(source.glob("*.py")):
            if path.name == "__init__.py":
                continue
            if path.name in names:
                raise PushError(f"{path.name} is in both code folders; in one repo it would overwrite itself.")
            shutil.copyfile(path, folder / path.name)
            names.append(path.name)
    return names


def portable(value: Any) -> Any:
    """A record without what belongs to one machine: absolute paths become their last part, tokens and logs go."""
    if isinstance(value, dict):
        return {key: portable(entry) for key, entry in value.items() if not SECRET_NAMES.search(key)}
    if isinstance(value, list):
        return [portable(entry) for entry in value]
    if isinstance(value, str) and "\n" not in value and len(value) > 1:
        path = PurePath(os.path.expanduser(value) if value.startswith("~") else value)
        return path.name if path.is_absolute() else value
    return value


def _copy_records(run: Path, folder: Path, study: Path | None) -> None:
    """Results, training arguments, the report with its pictures, and the figures of several seeds."""
    for path in [run / "training.json", *sorted(run.glob("results-*.json")), run / "ceilings.json"]:
        if path.is_file():
            write_json(folder / path.name, portable(json.loads(path.read_text(encoding="utf-8"))))
    if study is not None:
        write_json(folder / "study.json", portable(json.loads(study.read_text(encoding="utf-8"))))
    if (run / "report.md").is_file():
        text = (run / "report.md").read_text(encoding="utf-8")
        (folder / "report.md").write_text(text, encoding="utf-8")
        for name in re.findall(r"\]\(([\w-]+\.png)\)", text):
            if (run / name).is_file():
                shutil.copyfile(run / name, folder / name)


def find_facts(run: Path, given: Path | None, data: Path | None) -> CardFacts:
    """From `--card` or `card.yaml` in the run; what they leave out, for a run on the demo corpus, from the demo."""
    known = CardFacts()
    if any(place is not None and (place / "ceilings.json").is_file() for place in (run, data)):
        known = demo_facts(run_config(run))
    for path in (given, run / "card.yaml"):
        if path is not None and (path == given or path.is_file()):
            try:
                return read_facts(path, known)
            except (OSError, ValueError) as error:
                raise PushError(str(error)) from error
    return known


def merge_lora(model: EGMFForConditionalGeneration, processor: EGMFProcessor) -> dict[str, Any]:
    """Merge LoRA in place, and compare what the model answers before and after, about made-up samples.

    Returns:
        `moved`, the largest difference of a probability over `samples`, and whether it stays within `tolerance`: only
        then is the model to be pushed as it is now, `merged`. With a language model in bfloat16 it seldom is.
    """
    samples = [sample for seed in range(len(SENTENCES)) for sample in (made_up(processor, seed), made_up(None, seed))]
    asked = [processor(**sample, task=task) for sample in samples for task in processor.task_objects]
    before = [_probabilities(model, inputs) for inputs in asked]
    merge(model)
    after = [_probabilities(model, inputs) for inputs in asked]
    moved = max(float((old - new).abs().max()) for old, new in zip(before, after, strict=True))
    return {"merged": moved <= TOLERANCE, "moved": moved, "samples": len(asked), "tolerance": TOLERANCE}


def _probabilities(model: EGMFForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.score_answers(**inputs).probabilities.float()


def _say_merging(folder: Path, say: Callable[[str], None]) -> None:
    """What became of LoRA in a full checkpoint."""
    found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["merging"]
    if found is not None:
        kept = "" if found["merged"] else f", more than {found['tolerance']:g}: it stays in layers of its own"
        moved = f"a probability by up to {found['moved']:.1e} in {found['samples']} made-up samples"
        say(f"LoRA       {'merged, which moves' if found['merged'] else 'merging would move'} {moved}{kept}")


def build_folder(
    run: Path,
    folder: Path,
    repo_id: str,
    *,
    full: bool = False,
    endpoint: bool = False,
    text_model: tuple[str, str | None] | None = None,
    card: Path | None = None,
    study: Path | None = None,
    revision: str | None = None,
) -> tuple[EGMFForConditionalGeneration, EGMFProcessor, CardFacts]:
    """Everything that goes into the repo, in an empty folder; returns the model as it was saved.

    Args:
        endpoint: put the handler for Inference Endpoints and its requirements there as well.
        text_model: id and commit that a light checkpoint names in place of what the run names; None to keep that.
        revision: a tag or branch that the card's example shows.

    Raises:
        PushError: the run is not whole, or a light checkpoint would name a folder that nobody else has.
    """
    fingerprint = weights_fingerprint(run)
    if not (run / "training.json").is_file():
        raise PushError(f"{run} holds no training.json: it was not finished by training.train, and has no record.")
    try:
        model, processor = load(run)
    except (OSError, ValueError) as error:
        raise PushError(f"{run} cannot be loaded, and so not pushed: {error}") from error
    light = model.config.text_model_id is not None and not full
    merging = None
    if model.config.text_model_id is not None and full:
        merging = merge_lora(model, processor) if model.config.lora is not None else None
        if merging is not None and not merging["merged"]:
            del model  # large, and about to be loaded again
            model, _ = load(run)
        stand_alone(model)
    if light:
        if text_model is not None:
            model.config.text_model_id, model.config.text_model_revision = text_model
        for name in ("audio", "video"):
            encoder = getattr(model.config, f"{name}_config")
            if encoder is None or encoder.backbone_id is None or encoder.backbone_trainable:
                continue
            if os.path.isdir(locate_part(encoder.backbone_id, run)):
                raise PushError(
                    f"The frozen {name} encoder lies in a folder, {encoder.backbone_id!r}, which nobody else has. "
                    "Push with --full, or train on the encoder's Hub id."
                )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    copy_code(folder)
    for path in ENDPOINT_FILES if endpoint else ():
        shutil.copyfile(path, folder / path.name)
    _copy_records(run, folder, study)
    record = json.loads((run / "training.json").read_text(encoding="utf-8"))
    where = record.get("data_arguments", {}).get("dataset")
    data = Path(where) if where and Path(where).is_dir() else None
    if data is not None and (data / "ceilings.json").is_file():
        shutil.copyfile(data / "ceilings.json", folder / "ceilings.json")
    facts = find_facts(run, card, data)
    if not (folder / "gates.png").is_file():
        _draw_gates(run, folder)
    try:
        write_card(
            run,
            data or folder,
            facts=facts,
            folder=folder,
            where=repo_id,
            revision=revision,
            study=json.loads(study.read_text(encoding="utf-8")) if study else None,
            merging=merging,
        )
    except (KeyError, ValueError) as error:
        raise PushError(f"The card of {run} cannot be written: {error}") from error
    made = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    write_json(
        folder / MANIFEST,
        {
            "model": fingerprint,
            "kind": "light" if light else "full",
            "merging": merging,
            "text_model": [model.config.text_model_id, model.config.text_model_revision] if light else None,
            "source_commit": commit(),
            "versions": versions(),
            "files": {str(path.relative_to(folder)): _sha256(path) for path in made},
        },
    )
    return model, processor, facts


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _draw_gates(run: Path, folder: Path) -> None:
    """The gate's picture, for the first task with labels of the results."""
    found = results_file(run)
    if found is None:
        return
    from ..evaluation.plots import plot_gates
    from ..evaluation.subsets import ALL_MODALITIES as EVERYTHING

    whole = json.loads(found.read_text(encoding="utf-8"))["subsets"].get(EVERYTHING, {}).get("tasks", {})
    for part in whole.values():
        first = part["predictions"][0] if part["predictions"] else {}
        if "label" in first and "experts" in first:
            plot_gates(part["predictions"], list(first["probabilities"]), folder / "gates.png")
            return


# ---- the Hub -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def plainly(doing: str, repo_id: str) -> Iterator[None]:
    """Turn what the Hub or the network says into a sentence with what to do."""
    try:
        yield
    except PushError:
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        said = str(error).strip().splitlines()
        if status == 401 and "Repository Not Found" not in str(error):
            raise PushError(
                f"The Hub does not know this token, {doing}. Log in with `hf auth login`, or set HF_TOKEN to one with "
                "the right to write."
            ) from error
        if status == 403:
            raise PushError(
                f"The token has no right to write to {repo_id}, {doing}. Use one of its owner's, with the role "
                "'write'."
            ) from error
        if status in (409, 412):
            raise PushError(
                f"{repo_id} was changed by somebody else meanwhile, {doing}. Nothing was overwritten: look at it, and "
                "run the same command again."
            ) from error
        raise PushError(
            f"The Hub refused ({status}), {doing}: {said[0] if said else error}.{_again(repo_id)}"
        ) from error
    except KeyboardInterrupt as error:
        raise PushError(f"Interrupted, {doing}.{_again(repo_id)}") from error
    except Exception as error:  # the network's errors have no class in common
        cause = error.__cause__ or error
        raise PushError(
            f"The connection broke off, {doing} ({type(cause).__name__}: {cause}).{_again(repo_id)}"
        ) from error


def _again(repo_id: str) -> str:
    return (
        f" {repo_id} is as it was, or already whole: all files come in one commit. Run the same command again; large "
        "files that have arrived are not sent twice."
    )


def look_at(api: HfApi, repo_id: str, revision: str | None) -> Remote:
    """What the repo holds now, on the branch that will be pushed to or, before that is made, on main."""
    try:
        refs = api.list_repo_refs(repo_id)
    except RepositoryNotFoundError:
        return Remote()
    branches = {ref.name: ref.target_commit for ref in refs.branches}
    branch = revision or "main"
    info = api.model_info(repo_id, revision=branches.get(branch) or branches.get("main"))
    manifest = None
    files = frozenset(entry.rfilename for entry in info.siblings or [])
    if MANIFEST in files:
        with tempfile.TemporaryDirectory() as cache:
            path = api.hf_hub_download(repo_id, MANIFEST, revision=info.sha, cache_dir=cache)
            with contextlib.suppress(ValueError):
                manifest = json.loads(Path(path).read_text(encoding="utf-8"))
    tags = tuple((ref.name, ref.target_commit) for ref in refs.tags)
    found = manifest if isinstance(manifest, dict) and "model" in manifest else None
    return Remote(True, bool(info.private), info.sha, branch in branches, files, found, tags)


def check_target(
    remote: Remote, repo_id: str, fingerprint: str, *, overwrite: bool, public: bool, tag: str | None
) -> None:
    """Refuse what would hurt somebody.

    Raises:
        PushError: another model is there, the repo is public already, or the tag is taken.
    """
    there = remote.files - NOT_OURS
    if there and not overwrite:
        if remote.manifest is None:
            shown = ", ".join(sorted(there)[:3])
            raise PushError(
                f"{repo_id} holds files that this command did not put there ({shown}, {len(there)} in all). Choose "
                "another name, or replace them with --overwrite."
            )
        if remote.manifest["model"] != fingerprint:
            raise PushError(
                f"{repo_id} holds another model: {MANIFEST} there names the trained weights "
                f"{str(remote.manifest['model'])[:12]}, this run's are {fingerprint[:12]}. Choose another name, or "
                "replace it with --overwrite; its history stays."
            )
    if remote.exists and not remote.private and not public:
        raise PushError(f"{repo_id} is public: say --public if everybody may see this run, or choose another name.")
    taken = dict(remote.tags).get(tag) if tag else None
    if taken is not None and taken != remote.head:
        raise PushError(f"The tag {tag} is taken, by commit {taken[:12]}. A tag is never moved: choose another.")


def choose_text_model(
    api: HfApi | None,
    run: Path,
    wanted: str | None,
    upload: bool,
    say: Callable[[str], None] = print,
    public: bool = False,
) -> tuple[str, str | None] | None:
    """Id and commit of the language model that a light checkpoint will name; uploads it, if that is asked for.

    Args:
        api: None to stay away from the network: the commit is then unknown.
        public: everybody is to load the checkpoint.

    Raises:
        PushError: the run names a local folder and no id is given, or the id's repo cannot be read, not by everybody
            who is to load the checkpoint, or holds another language model.
    """
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    named = config.get("text_model_id")
    if named is None:
        return None
    located = locate_part(named, run)
    if wanted is None and os.path.isdir(located):
        raise PushError(
            f"A light checkpoint names its language model, and this one names a folder, {named!r}, which nobody else "
            "has. Give --text_model_name_or_path ORG/NAME, a repo with the same weights (--upload_text_model puts them there), or "
            "--full."
        )
    text_model = wanted or named
    try:
        validate_repo_id(text_model)
    except HFValidationError as error:
        raise PushError(f"--text_model_name_or_path {text_model!r} is no Hub id: {error}") from error
    if api is None:
        return text_model, config.get("text_model_revision") if wanted is None else None
    if upload:
        _upload_text_model(api, text_model, Path(located), say)
    with plainly(f"asking for the language model {text_model}", text_model):
        try:
            pinned = config.get("text_model_revision") if wanted is None else None
            found = api.model_info(text_model, revision=pinned)
            path = Path(api.hf_hub_download(text_model, "config.json", revision=found.sha))
            there = json.loads(path.read_text(encoding="utf-8"))
        except EntryNotFoundError as error:
            raise PushError(f"{text_model} holds no config.json, and so no language model. Name another.") from error
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise PushError(
                f"The language model {text_model} is not on the Hub, or not visible with this token. Put it there "
                "with --upload_text_model, name another --text_model_name_or_path, or push with --full."
            ) from error
    trained = config["text_config"]
    shape = {name: trained[name] for name in ("model_type", "hidden_size", "num_hidden_layers") if name in trained}
    other = [f"{name} {there[name]}, not {value}" for name, value in shape.items() if there.get(name, value) != value]
    if other:
        raise PushError(f"{text_model} is not what this run was trained on: it has {', '.join(other)}. Name another.")
    if public and found.private:
        raise PushError(
            f"The language model {text_model} is private, so that nobody else could load a public checkpoint that "
            "names it. Make it public first, name a public --text_model_name_or_path, or push with --full."
        )
    return text_model, found.sha


def _upload_text_model(api: HfApi, text_model: str, folder: Path, say: Callable[[str], None]) -> None:
    if not (folder / "config.json").is_file():
        raise PushError(f"There is no language model in {folder} to upload.")
    with plainly(f"sending the language model to {text_model}", text_model):
        try:
            present = {entry.rfilename for entry in api.model_info(text_model).siblings or []}
        except RepositoryNotFoundError:
            present = set()
        if "config.json" in present:
            say(f"language   {text_model} is there already, and stays as it is")
            return
        api.create_repo(text_model, private=True, exist_ok=True)
        paths = sorted({path for pattern in TEXT_MODEL_FILES for path in folder.glob(pattern)})
        size = sum(path.stat().st_size for path in paths)
        say(f"language   {len(paths)} files, {size / 1e6:.1f} MB, to {text_model} (private)")
        operations = [CommitOperationAdd(path.name, path) for path in paths]
        api.create_commit(text_model, operations, commit_message="The language model of an EGMF checkpoint")


def send(
    api: HfApi, folder: Path, repo_id: str, remote: Remote, *, revision: str | None, overwrite: bool, message: str
) -> str:
    """All files in one commit, and what is no longer part of the model out of it. Returns the commit's id."""
    names = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    ours = set(remote.manifest["files"]) | {MANIFEST} if remote.manifest else set()
    stale = (remote.files - NOT_OURS if overwrite else remote.files & ours) - set(names)
    with plainly(f"sending {repo_id}", repo_id):
        if not remote.exists:
            api.create_repo(repo_id, private=True, exist_ok=True)
        if revision is not None and not remote.branch_exists:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(name, path) for name, path in names.items()]
        operations += [CommitOperationDelete(name) for name in sorted(stale)]
        made = api.create_commit(
            repo_id,
            operations,
            commit_message=message,
            revision=revision,
            parent_commit=remote.head if remote.exists else None,
        )
    return made.oid


# ---- the check -----------------------------------------------------------------------------------------------


def made_up(processor: EGMFProcessor | None, seed: int = 0) -> dict[str, Any]:
    """A sample of everything that the processor takes: words, a tone, colored frames; of words alone for None."""
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {"text": SENTENCES[seed]}
    if processor is None:
        return found
    if processor.audio_input == "features":
        found["audio_features"] = rng.normal(size=(20, processor.audio_feature_size)).astype(np.float32)
    elif processor.audio_input is not None:
        times = np.arange(processor.sampling_rate) / processor.sampling_rate
        found["audio"] = (0.3 * np.sin(2 * np.pi * 220 * (1 + seed) * times)).astype(np.float32)
        found["sampling_rate"] = processor.sampling_rate
    if processor.video_input == "features":
        found["video_features"] = rng.normal(size=(10, processor.video_feature_size)).astype(np.float32)
    elif processor.video_input is not None:
        shape = (processor.num_frames, processor.frame_height, processor.frame_width, 3)
        found["video"] = rng.integers(0, 256, size=shape).astype(np.uint8)
        found["fps"] = 8.0
    return found


def example_inputs(processor: EGMFProcessor, path: Path) -> Path:
    """An npz with one made-up sample."""
    np.savez(path, **made_up(processor))
    return path


def fresh_environment(cache: Path, api: HfApi) -> dict[str, str]:
    """The process's own variables, but with empty caches, the Hub that was pushed to, and its token."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not re.match(r"HF_|HUGGING|TRANSFORMERS_|PYTHONPATH|XDG_CACHE", name)
    }
    kept |= {"HF_HOME": str(cache), "HF_ENDPOINT": api.endpoint, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    token = api.token if isinstance(api.token, str) else get_token()  # of HF_TOKEN, or saved by `hf auth login`
    if token:
        kept["HF_TOKEN"] = token
    if constants.HF_HUB_DISABLE_XET:
        kept["HF_HUB_DISABLE_XET"] = "1"
    return kept


def verify(
    api: HfApi, repo_id: str, revision: str, expected: dict[str, np.ndarray], inputs: Path, pipeline: str | None
) -> dict[str, np.ndarray]:
    """Load the commit in a fresh process with an empty cache, and compare its answer.

    Raises:
        PushError: it does not load, or answers otherwise.
    """
    with tempfile.TemporaryDirectory() as folder:
        job, answer = Path(folder, "job.json"), Path(folder, "answer.npz")
        write_json(job, {"repo": repo_id, "revision": revision, "inputs": str(inputs), "pipeline": pipeline})
        done = subprocess.run(
            [sys.executable, "-I", str(Path(__file__).with_name("fresh_process.py")), str(job), str(answer)],
            cwd=folder,
            env=fresh_environment(Path(folder, "cache"), api),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise PushError(
                f"{repo_id} is on the Hub (commit {revision[:12]}) but does not load in a fresh process:\n"
                + "\n".join(lines[-12:])
            )
        with np.load(answer) as stored:
            found = {name: stored[name] for name in stored.files}
    difference = float(np.abs(found["probabilities"] - expected["probabilities"]).max())
    if difference > TOLERANCE:
        raise PushError(
            f"{repo_id} is on the Hub (commit {revision[:12]}) and loads, but answers otherwise than the run: "
            f"{found['label']} in place of {expected['label']}, a probability differs by {difference:.4f}. Has the "
            "language model that it names other weights than the one that it was trained beside?"
        )
    if pipeline and str(found["pipeline_label"]) != str(found["pipeline_expected"]):
        raise PushError(
            f"The pipeline of {repo_id} (commit {revision[:12]}) says {found['pipeline_label']}, its model "
            f"{found['pipeline_expected']}, about the same sample."
        )
    return found


# ---- all of it -----------------------------------------------------------------------------------------------


def push(
    run: Path,
    repo_id: str,
    api: HfApi,
    *,
    full: bool = False,
    endpoint: bool = False,
    public: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    overwrite: bool = False,
    text_model: str | None = None,
    upload_text_model: bool = False,
    card: Path | None = None,
    study: Path | None = None,
    message: str | None = None,
    verified: bool = True,
    say: Callable[[str], None] = print,
) -> Pushed:
    """Build, send, load back, compare, then tag and publish.

    Args:
        api: endpoint and token of the Hub.
        endpoint: also push the handler for Inference Endpoints.
        revision: a branch, made if it is not there; None for main.
        tag: a name for the commit, set after the check.
        verified: load it back and compare an answer.

    Raises:
        PushError: what went wrong, and what to do.
    """
    fingerprint = weights_fingerprint(run)
    with plainly("asking who you are", repo_id):
        try:
            role = api.whoami().get("auth", {}).get("accessToken", {}).get("role")
        except (LocalTokenNotFoundError, ValueError) as error:
            raise PushError("There is no token. Log in with `hf auth login`, or set HF_TOKEN.") from error
        if role == "read":
            raise PushError(
                f"The token has no right to write to {repo_id}: it may only read. Use one with the role 'write'."
            )
        remote = look_at(api, repo_id, revision)
    check_target(remote, repo_id, fingerprint, overwrite=overwrite, public=public, tag=tag)
    another = remote.manifest is None or remote.manifest["model"] != fingerprint
    if text_model == repo_id:
        raise PushError(
            f"--text_model_name_or_path is {repo_id} itself: a language model has a repo of its own. Name another."
        )
    chosen = None if full else choose_text_model(api, run, text_model, upload_text_model, say, public)
    with tempfile.TemporaryDirectory() as temporary:
        folder, inputs = Path(temporary, "repo"), Path(temporary, "inputs.npz")
        model, processor, facts = build_folder(
            run,
            folder,
            repo_id,
            full=full,
            endpoint=endpoint,
            text_model=chosen,
            card=card,
            study=study,
            revision=tag or revision,
        )
        _say_merging(folder, say)
        if public and facts.unsaid():
            raise PushError(f"A public card must say {', '.join(facts.unsaid())}. Give --card with these fields.")
        if facts.unsaid():
            say(f"card       does not say {', '.join(facts.unsaid())}: give --card before making it public")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        pipeline = next(iter(config.get("custom_pipelines") or {}), None)
        expected = answer_of(model, processor, read_inputs(str(example_inputs(processor, inputs)))) if verified else {}
        kind = "light" if config.get("text_model_id") is not None else "full"
        del model
        paths = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in paths)
        say(f"folder     {kind}, {len(paths)} files, {size / 1e6:.1f} MB")
        if kind == "light" and size > LIGHT_BYTES:
            say(f"           more than {LIGHT_BYTES / 1e6:.0f} MB for a light checkpoint: are the results so large?")
        made = send(
            api,
            folder,
            repo_id,
            remote,
            revision=revision,
            overwrite=overwrite and another,
            message=message or f"EGMF, {kind}, trained weights {fingerprint[:12]}",
        )
        say(f"pushed     {repo_id}, commit {made}")
        done = Pushed(repo_id, made, size, len(paths), pipeline=pipeline)
        if verified:
            found = verify(api, repo_id, made, expected, inputs, pipeline)
            done.difference = float(np.abs(found["logits"] - expected["logits"]).max())
            done.label = str(found["label"])
            same = "logits equal bit for bit" if done.difference == 0 else f"logits within {done.difference:.1e}"
            names = "AutoModel, AutoProcessor" + (f", pipeline {pipeline}" if pipeline else "")
            say(f"verified   in a fresh process with an empty cache: {names}; answer {done.label}, {same}")
    with plainly(f"naming the commit of {repo_id}", repo_id):
        if tag is not None:
            if dict(remote.tags).get(tag) not in (None, made):
                raise PushError(f"{repo_id} was pushed, but the tag {tag} stays on the commit before: choose another.")
            api.create_tag(repo_id, tag=tag, revision=made, exist_ok=True)
            say(f"tagged     {tag}")
        if public and remote.private:
            api.update_repo_settings(repo_id, private=False)
            say(f"published  {repo_id} is public")
    say(f"pin it     AutoModel.from_pretrained({repo_id!r}, revision={made!r}, trust_remote_code=True)")
    return done


def dry_run(run: Path, repo_id: str, folder: Path, say: Callable[[str], None] = print, **options: Any) -> None:
    """Build the folder and list it; nothing is asked of the network.

    Raises:
        PushError: as for `push`; also where something is already in the folder.
    """
    if folder.exists() and any(folder.iterdir()):
        raise PushError(f"{folder} is not empty. Give another --folder, or empty it.")
    chosen = None if options["full"] else choose_text_model(None, run, options["text_model_name_or_path"], False, say)
    shown = options["tag"] or options["revision"]
    passed = {name: options[name] for name in ("full", "endpoint", "card", "study")}
    _, _, facts = build_folder(run, folder, repo_id, text_model=chosen, revision=shown, **passed)
    _say_merging(folder, say)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        say(f"{path.stat().st_size:>12,}  {path.relative_to(folder)}")
    say(f"{sum(path.stat().st_size for path in paths):>12,}  bytes in {folder}; nothing was sent")
    if facts.unsaid():
        say(f"The card does not say {', '.join(facts.unsaid())}: give --card.")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("repo_id", metavar="ORG/NAME", help="where it goes on the Hub")
    parser.add_argument("--full", action="store_true", help="everything, nothing else to fetch; default: light")
    parser.add_argument("--endpoint", action="store_true", help="also the handler for Inference Endpoints")
    parser.add_argument("--public", action="store_true", help="make it public, after the check; default: private")
    parser.add_argument("--revision", help="branch to push to; default: main")
    parser.add_argument("--tag", help="name for the commit; never moved")
    parser.add_argument("--overwrite", action="store_true", help="replace another model that is there")
    parser.add_argument("--text_model_name_or_path", help="Hub id of the language model that a light checkpoint names")
    parser.add_argument("--upload_text_model", action="store_true", help="put the run's language model there first")
    parser.add_argument(
        "--card", type=Path, help="YAML with what the card says; see CardFacts in training/hub/model_card.py"
    )
    parser.add_argument("--study", type=Path, help="figures over several seeds, as training.demo.study writes them")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument(
        "--no-verify", action="store_true", help="do not load it back (a large model: saves its download)"
    )
    parser.add_argument("--dry-run", action="store_true", help="build the folder only, without network")
    parser.add_argument("--folder", type=Path, help="of --dry-run; default: RUN-hub, beside the run")
    arguments = parser.parse_args(argv)
    try:
        validate_repo_id(arguments.repo_id)
    except HFValidationError as error:
        parser.error(str(error))
    if arguments.repo_id.count("/") != 1:
        parser.error(f"{arguments.repo_id!r} must be ORG/NAME, or USER/NAME.")
    for name in ("card", "study"):
        path = getattr(arguments, name)
        if path is not None and not path.is_file():
            parser.error(f"There is no {path}.")
    if arguments.folder is not None and not arguments.dry_run:
        parser.error("--folder belongs to --dry-run.")
    options = {
        name: getattr(arguments, name)
        for name in ("full", "endpoint", "revision", "tag", "text_model_name_or_path", "card", "study")
    }
    try:
        if arguments.dry_run:
            folder = arguments.folder or arguments.run.with_name(f"{arguments.run.name}-hub")
            dry_run(arguments.run, arguments.repo_id, folder, **options)
            return
        if constants.HF_HUB_OFFLINE:
            raise PushError("HF_HUB_OFFLINE is set, and a push needs the Hub. Unset it, or say --dry-run.")
        more = {name: getattr(arguments, name) for name in ("public", "overwrite", "upload_text_model", "message")}
        push(arguments.run, arguments.repo_id, HfApi(), verified=not arguments.no_verify, **options, **more)
    except PushError as error:
        sys.exit(f"\n{error}")


if __name__ == "__main__":
    main()
