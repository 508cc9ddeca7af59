"""The metric's page: `python app.py`, with the packages of requirements.txt and Gradio, which a Space brings along."""

import math
import warnings
from pathlib import Path
from typing import Any

import evaluate
from evaluate.utils.gradio import parse_readme


HERE = Path(__file__).parent
ROWS = [["joy", "joy"], ["anger", "anger"], ["", "sadness"], ["anger", "joy"], ["neutral", "neutral"]]
LABELS = "neutral, joy, anger, sadness"


def judge(rows: list[list[Any]], labels: str = "", resamples: float = 0) -> dict[str, Any]:
    """Figures of a table, and the warnings that came with them.

    Args:
        rows: pairs of prediction and truth; a blank prediction is one that could not be read, a blank row is left out.
        labels: all classes, with commas between them; blank for those that occur.
        resamples: for the intervals; 0 for none.
    """
    metric = evaluate.load(str(HERE / "egmf_erc.py"), keep_in_memory=True)
    pairs = [[str(cell or "").strip() for cell in row] for row in rows]
    pairs = [pair for pair in pairs if any(pair)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = metric.compute(
            predictions=[prediction for prediction, _ in pairs],
            references=[truth for _, truth in pairs],
            labels=[name.strip() for name in labels.split(",") if name.strip()] or None,
            bootstrap=int(resamples or 0),
        )
    shown = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in found.items()}
    return {**shown, "warnings": [str(warning.message) for warning in caught]}


def main() -> None:
    import gradio as gr

    def shown(rows: list[list[Any]], labels: str, resamples: float) -> dict[str, Any]:
        try:
            return judge(rows, labels, resamples)
        except ValueError as error:
            raise gr.Error(str(error)) from error

    gr.Interface(
        fn=shown,
        inputs=[
            gr.Dataframe(
                value=ROWS,
                headers=["prediction", "truth"],
                datatype="str",
                type="array",
                column_count=(2, "fixed"),
                label="Answers",
            ),
            gr.Textbox(value=LABELS, label="All labels, with commas; blank for those that occur"),
            gr.Number(value=0, precision=0, minimum=0, maximum=10_000, label="Resamples for intervals"),
        ],
        outputs=gr.JSON(label="Figures"),
        title="EGMF emotion recognition",
        article=parse_readme(HERE / "README.md"),
        flagging_mode="never",
        api_name="judge",
    ).launch()


if __name__ == "__main__":
    main()
