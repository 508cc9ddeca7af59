"""The metric's page: `python app.py`, with the packages of requirements.txt and Gradio, which a Space provides."""

import math
import warnings
from pathlib import Path
from typing import Any

import evaluate
from evaluate.utils.gradio import parse_readme


HERE = Path(__file__).parent
EXAMPLES = [
    ["joy", "joy"],
    ["anger", "anger"],
    ["", "sadness"],
    ["anger", "joy"],
    ["neutral", "neutral"],
]
LABELS = "neutral, joy, anger, sadness"


def compute(table: list[list[Any]], labels: str = "", bootstrap: float = 0) -> dict[str, Any]:
    """The figures of a table of predictions and references, and the warnings of the metric.

    Args:
        table: one row per example: prediction, reference. A blank prediction is unreadable; a blank row is skipped.
        labels: all classes, separated by commas; blank for those that occur.
        bootstrap: number of resamples for the intervals; 0 for none.

    Raises:
        ValueError: the metric rejects the table or the labels.
    """
    metric = evaluate.load(str(HERE / "egmf_erc.py"), keep_in_memory=True)
    examples = [[str(cell or "").strip() for cell in row] for row in table]
    examples = [example for example in examples if any(example)]
    label_names = [name.strip() for name in labels.split(",") if name.strip()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = metric.compute(
            predictions=[prediction for prediction, _ in examples],
            references=[reference for _, reference in examples],
            labels=label_names or None,
            bootstrap=int(bootstrap or 0),
        )
    for name, value in result.items():
        if isinstance(value, float) and math.isnan(value):
            result[name] = None  # JSON has no nan
    return {**result, "warnings": [str(warning.message) for warning in caught]}


def main() -> None:
    import gradio as gr

    def respond(table: list[list[Any]], labels: str, bootstrap: float) -> dict[str, Any]:
        try:
            return compute(table, labels, bootstrap)
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
    labels = gr.Textbox(value=LABELS, label="All labels, separated by commas; blank for those that occur")
    bootstrap = gr.Number(
        value=0,
        precision=0,
        minimum=0,
        maximum=10_000,
        label="Resamples for the intervals",
    )
    gr.Interface(
        fn=respond,
        inputs=[table, labels, bootstrap],
        outputs=gr.JSON(label="Figures"),
        title="EGMF emotion recognition",
        article=parse_readme(HERE / "README.md"),
        flagging_mode="never",
        api_name="compute",
    ).launch()


if __name__ == "__main__":
    main()
