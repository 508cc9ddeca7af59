"""Publish the metrics egmf_erc and egmf_msa as Spaces, from which `evaluate.load` loads them.

    egmf push-metrics ORG          private; each Space gets one commit, which is loaded back and compared
    egmf push-metrics ORG --public

Next: hub/metric_spaces.py.
"""

from collections.abc import Sequence

from .cli import CommandParser, command_errors


def make_parser() -> CommandParser:
    parser = CommandParser(prog="egmf push-metrics", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("organization", metavar="ORG", help="organization or user; the Spaces are ORG/egmf_erc and ORG/egmf_msa")
    add("--public", action="store_true", help="make the Spaces public after the check; default: private")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors("Each Space is either unchanged or complete. Run the same command again."):
        arguments = make_parser().parse_args(argv)
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import validate_repo_id

        from .hub.metric_spaces import push_metrics

        validate_repo_id(arguments.organization)
        if "/" in arguments.organization:
            raise ValueError(f"ORG is {arguments.organization!r}; give the organization or user alone.")
        if constants.HF_HUB_OFFLINE:
            raise ValueError("HF_HUB_OFFLINE is set, but the Spaces are on the Hub. Unset it.")
        push_metrics(arguments.organization, HfApi(), arguments.public)


if __name__ == "__main__":
    main()
