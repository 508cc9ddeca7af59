"""The metric's page: `python app.py`, with the packages of requirements.txt and Gradio, which a Space provides."""

import math
import warnings
from pathlib import Path
from typing import Any

import evaluate
from evaluate.utils.gradio import parse_readme


HERE = Path(__file__).parent
EXAMPLES = [
    ["2.4", "3.0"],
    ["-1.6", "-1.0"],
    ["0.0", "0.0"],
    ["0.2", "-0.4"],
    ["", "1.2"],
]
CORPORA = ["mosi", "mosei", "sims", "sims_v2"]


def parse_score(cell: str) -> float | None:
    if not cell:
        return None
    try:
        return float(cell)
    except ValueError:
        raise ValueError(
            f"{cell!r} is not a number; write one such as -0.4, or leave it empty for an unreadable answer."
        ) from None


def compute(
    table: list[list[Any]], corpus: str = "mosi", toolkits: bool = False, bootstrap: float = 0
) -> dict[str, Any]:
    """The figures of a table of predictions and references, and the warnings of the metric.

    Args:
        table: one row per example: prediction, reference. A blank prediction is unreadable; a blank row is skipped.
        corpus: the corpus whose convention is used.
        toolkits: treat scores outside the scale as the public toolkits do, and round to 4 decimals.
        bootstrap: number of resamples for the intervals; 0 for none.

    Raises:
        ValueError: a cell is not a number, or the metric rejects the scores.
    """
    metric = evaluate.load(str(HERE / "egmf_msa.py"), corpus, keep_in_memory=True)
    rows = [["" if cell is None else str(cell).strip() for cell in row] for row in table]
    examples = [[parse_score(cell) for cell in row] for row in rows if any(row)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = metric.compute(
            predictions=[prediction for prediction, _ in examples],
            references=[reference for _, reference in examples],
            out_of_range="toolkits" if toolkits else "error",
            decimals=4 if toolkits else None,
            bootstrap=int(bootstrap or 0),
        )
    for name, value in result.items():
        if isinstance(value, float) and math.isnan(value):
            result[name] = None  # JSON has no nan
    return {**result, "warnings": [str(warning.message) for warning in caught]}


def main() -> None:
    import gradio as gr

    def respond(table: list[list[Any]], corpus: str, toolkits: bool, bootstrap: float) -> dict[str, Any]:
        try:
            return compute(table, corpus, toolkits, bootstrap)
        except ValueError as error:
            raise gr.Error(str(error)) from error

    table = gr.Dataframe(
        value=EXAMPLES,
        headers=["prediction", "reference"],
        datatype="str",
        type="array",
        column_count=(2, "fixed"),
        label="Examples",
    )
    corpus = gr.Dropdown(CORPORA, value=CORPORA[0], label="Convention")
    toolkits = gr.Checkbox(label="As the public toolkits: accept scores outside the scale, round to 4 decimals")
    bootstrap = gr.Number(
        value=0,
        precision=0,
        minimum=0,
        maximum=10_000,
        label="Resamples for the intervals",
    )
    gr.Interface(
        fn=respond,
        inputs=[table, corpus, toolkits, bootstrap],
        outputs=gr.JSON(label="Figures"),
        title="EGMF sentiment",
        article=parse_readme(HERE / "README.md"),
        flagging_mode="never",
        api_name="compute",
    ).launch()


if __name__ == "__main__":
    main()
