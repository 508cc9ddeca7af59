"""The prediction that the README's quickstart prints, from the checkpoint and corpus of `make demo`.

    python -m training.demo.quickstart     # after `make demo`; then python -m training.demo.update_readme

The README shows the same call and, from `training/results/quickstart.json`, its output.
"""

from collections.abc import Sequence
from pathlib import Path

from ..cli import CommandParser, command_errors
from ..paths import RESULTS
from ..records import commit, versions, write_json


CLIP = "clips/test_0000.mp4"
TEXT = "I'm fine."
TASK = "emotion"
TOP_K = 3


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors():
        parser = CommandParser(description=__doc__.splitlines()[0])
        parser.add_argument("--model_name_or_path", default="runs/demo", help="checkpoint of `make demo`")
        parser.add_argument("--dataset", type=Path, default=Path("data/demo"), help="the demo corpus")
        parser.add_argument("--output", type=Path, default=RESULTS / "quickstart.json", help="JSON file to write")
        arguments = parser.parse_args(argv)
        from transformers import pipeline

        pipe = pipeline("multimodal-emotion-recognition", model=arguments.model_name_or_path, trust_remote_code=True)
        prediction = pipe(str(arguments.dataset / CLIP), text=TEXT, task=TASK, top_k=TOP_K)
        record = {
            "clip": CLIP,
            "text": TEXT,
            "task": TASK,
            "top_k": TOP_K,
            "prediction": prediction,
            "commit": commit(),
            "versions": versions(),
        }
        print(f"results: {write_json(arguments.output, record)}")


if __name__ == "__main__":
    main()
