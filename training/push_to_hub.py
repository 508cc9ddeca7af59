"""Push a trained run to the Hub in one commit, and check that it loads and gives the same answer.

    egmf push runs/demo ORG/NAME --standalone
    egmf push runs/demo ORG/NAME --text_model_name_or_path ORG/LANGUAGE-MODEL --upload_text_model
    egmf push runs/demo ORG/NAME --standalone --dry_run --folder /tmp/look

By default the adapter checkpoint ("light") is pushed: the trained weights, and the repo and commit of the language
model. `--standalone` ("full") pushes everything; LoRA is merged if that changes no answer, and otherwise stays in
separate layers. The repo gets weights, the code of `modeling_egmf/` and `processing_egmf/` side by side, the
processor, the model card, results and training arguments. It is private unless `--public` is given, and becomes public
only after it has loaded in a fresh process with an empty cache and given the same answer. The steps are in
hub/upload.py.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .cli import CommandParser, command_errors


REF = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")  # a branch or a tag


def make_parser() -> CommandParser:
    parser = CommandParser(prog="egmf push", description=__doc__.splitlines()[0])
    content = parser.add_argument_group("contents")
    target = parser.add_argument_group("target")
    check = parser.add_argument_group("check")
    add = parser.add_argument
    add("run", type=Path, help="folder of a finished run")
    add("repo_id", metavar="ORG/NAME", help="repo on the Hub")
    add("--standalone", action="store_true", group=content, help="push everything; default: the adapter checkpoint")
    add("--endpoint", action="store_true", group=content, help="add the handler for Inference Endpoints")
    add(
        "--text_model_name_or_path",
        group=content,
        help="Hub id of the language model that an adapter checkpoint names",
    )
    add("--upload_text_model", action="store_true", group=content, help="first upload the language model to that repo")
    add("--card", type=Path, group=content, help="YAML file with facts for the card; see hub/card_facts.py")
    add("--study", type=Path, group=content, help="results over several seeds, from the demo's study.py")
    add("--revision", group=target, help="branch to push to; default: main")
    add("--tag", group=target, help="tag for the commit; existing tags are never moved")
    add("--message", group=target, help="commit message")
    add("--public", action="store_true", group=target, help="make the repo public after the check; default: private")
    add("--overwrite", action="store_true", group=target, help="replace a different model in the repo")
    add("--no_verify", action="store_true", group=check, help="skip the check (saves downloading a large model)")
    add("--dry_run", action="store_true", group=check, help="only write the folder; no network")
    add("--folder", type=Path, group=check, help="folder for --dry_run; default: RUN-hub, next to the run")
    return parser


def find_mistakes(arguments: dict[str, Any], folder: Path | None, is_dry_run: bool) -> Iterator[str]:
    """What is wrong with the options, a message each."""
    for name in ("card", "study"):
        path = arguments[name]
        if path is not None and not path.is_file():
            yield f"--{name} {path} does not exist, or is not a file. Check the path."
    if folder is not None and not is_dry_run:
        yield "--folder can only be used with --dry_run."
    if arguments["standalone"] and (arguments["text_model_name_or_path"] or arguments["upload_text_model"]):
        yield "--standalone pushes the language model with the rest. Leave out the options that name another."
    for name in ("revision", "tag"):
        if arguments[name] is not None and not REF.fullmatch(arguments[name]):
            yield f"--{name} {arguments[name]!r} is no name for Git. Use letters, digits, '.', '-', '_' and '/'."


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors("The repo is either unchanged or complete. Run the same command again."):
        parser = make_parser()
        arguments = vars(parser.parse_args(argv))
        is_dry_run = arguments.pop("dry_run")
        folder = arguments.pop("folder")
        verify = not arguments.pop("no_verify")
        mistakes = list(find_mistakes(arguments, folder, is_dry_run))
        if mistakes:
            parser.error(" ".join(mistakes))
        _push(arguments, verify, is_dry_run, folder)


def _push(arguments: dict, verify: bool, is_dry_run: bool, folder: Path | None) -> None:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import validate_repo_id

    from .hub.options import PushOptions
    from .hub.upload import dry_run, push

    options = PushOptions(**arguments, verify=verify)
    validate_repo_id(options.repo_id)
    if options.repo_id.count("/") != 1:
        raise ValueError(f"The repo id is {options.repo_id!r}; it must be ORG/NAME or USER/NAME.")
    if is_dry_run:
        run = options.run.resolve()  # `.` has no name
        dry_run(options, folder or run.with_name(f"{run.name}-hub"))
    elif constants.HF_HUB_OFFLINE:
        raise ValueError("HF_HUB_OFFLINE is set, but a push needs the Hub. Unset it, or use --dry_run.")
    else:
        push(options, HfApi())


if __name__ == "__main__":
    main()
