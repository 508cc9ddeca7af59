"""The metric's page: `python app.py`, with the packages of requirements.txt and Gradio, which a Space brings along."""

import math
import warnings
from pathlib import Path
from typing import Any

import evaluate
from evaluate.utils.gradio import parse_readme


HERE = Path(__file__).parent
ROWS = [["2.4", "3.0"], ["-1.6", "-1.0"], ["0.0", "0.0"], ["0.2", "-0.4"], ["", "1.2"]]
CORPORA = ["mosi", "mosei", "sims", "sims_v2"]


def _score(cell: str) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        raise ValueError(
            f"{cell!r} is no number; write one such as -0.4, or nothing if it could not be read."
        ) from None


def judge(rows: list[list[Any]], corpus: str = "mosi", toolkits: bool = False, resamples: float = 0) -> dict[str, Any]:
    """Figures of a table, and the warnings that came with them.

    Args:
        rows: pairs of predicted and true score; a blank prediction is one that could not be read, a blank row is left
            out.
        corpus: whose convention is asked for.
        toolkits: take scores beyond the scale as the public toolkits do, and round to 4 decimals.
        resamples: for the intervals; 0 for none.

    Raises:
        ValueError: a cell that is no number, or what the metric refuses.
    """
    metric = evaluate.load(str(HERE / "egmf_msa.py"), corpus, keep_in_memory=True)
    pairs = [[str("" if cell is None else cell).strip() for cell in row] for row in rows]
    pairs = [[_score(cell) for cell in pair] for pair in pairs if any(pair)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = metric.compute(
            predictions=[prediction for prediction, _ in pairs],
            references=[truth for _, truth in pairs],
            out_of_range="toolkits" if toolkits else "error",
            decimals=4 if toolkits else None,
            bootstrap=int(resamples or 0),
        )
    shown = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in found.items()}
    return {**shown, "warnings": [str(warning.message) for warning in caught]}


def main() -> None:
    import gradio as gr

    def shown(rows: list[list[Any]], corpus: str, toolkits: bool, resamples: float) -> dict[str, Any]:
        try:
            return judge(rows, corpus, toolkits, resamples)
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
                label="Scores",
            ),
            gr.Dropdown(CORPORA, value=CORPORA[0], label="Convention"),
            gr.Checkbox(label="As the public toolkits: scores beyond the scale accepted, figures to 4 decimals"),
            gr.Number(value=0, precision=0, minimum=0, maximum=10_000, label="Resamples for intervals"),
        ],
        outputs=gr.JSON(label="Figures"),
        title="EGMF sentiment",
        article=parse_readme(HERE / "README.md"),
        flagging_mode="never",
        api_name="judge",
    ).launch()


if __name__ == "__main__":
    main()
