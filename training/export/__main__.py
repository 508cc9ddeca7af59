"""Export everything in front of the language model to ONNX or torch.export.

    egmf export runs/demo exported/
    egmf export runs/demo exported/ --format onnx torch

Encoders, fusion, experts and pseudo tokens become one program for any batch size and any lengths: embeddings of the
transcript, audio and video in, pseudo tokens and the gate's weights out. Before the folder gets its name, each file is
run and compared with the PyTorch model. README.md and export.json in the folder describe inputs and outputs. Weights
are in float32, whatever the language model's precision. The steps are in export/writer.py.
"""

from collections.abc import Sequence
from pathlib import Path

from ..cli import CommandParser, command_errors


def make_parser() -> CommandParser:
    parser = CommandParser(prog="egmf export", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("run", metavar="RUN", help="checkpoint: a folder or a Hub id")
    add("output_dir", metavar="OUTPUT_DIR", type=Path, help="folder to write")
    add(
        "--format",
        nargs="+",
        choices=("onnx", "torch"),
        default=["onnx"],
        help="files to write: egmf.onnx (needs the extra onnx), egmf.pt2; default: onnx",
    )
    add("--text_model_name_or_path", help="language model of an adapter checkpoint, if it was moved")
    add("--overwrite", action="store_true", help="replace an earlier export in OUTPUT_DIR")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with command_errors("OUTPUT_DIR was not changed. Run the same command again."):
        arguments = make_parser().parse_args(argv)
        from .writer import ExportOptions, export_run  # imports torch

        options = ExportOptions(**vars(arguments))
        record = export_run(options)
        for name, file in record["files"].items():
            print(f"{options.output_dir / name}: equals the model to {file['largest_difference']:.1e}")


if __name__ == "__main__":
    main()
