"""The model card of a run, rendered from its results JSON and training record."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .report import EVERYTHING, gate_spread, results_table


TEMPLATE = Path(__file__).resolve().parent.parent / "hub_cards/templates/model_card.md"
METRIC_NAMES = {"accuracy": "Accuracy", "weighted_f1": "Weighted F1", "mae": "MAE", "correlation": "Pearson r"}


def _eval_results(results: dict[str, Any], dataset: str) -> list[EvalResult]:
    found = []
    for task, part in results["subsets"][EVERYTHING]["tasks"].items():
        for key, name in METRIC_NAMES.items():
            if part["metrics"].get(key) is not None:
                found.append(
                    EvalResult(
                        task_type="video-classification",
                        task_name=f"{task} from text, audio and video",
                        dataset_type="synthetic",
                        dataset_name=dataset,
                        dataset_config=task,  # or the results of all tasks would be listed under the first
                        dataset_split=results["split"],
                        metric_type=key,
                        metric_name=name,
                        metric_value=round(part["metrics"][key], 4),
                    )
                )
    return found


def write_card(run: Path, data: Path, dataset: str = "EGMF demo corpus") -> Path:
    """`README.md` into the run's folder, with metadata that `huggingface_hub` has checked."""
    results = json.loads((run / "results-test.json").read_text(encoding="utf-8"))
    record = json.loads((run / "training.json").read_text(encoding="utf-8"))
    ceilings_file = data / "ceilings.json"
    ceilings = json.loads(ceilings_file.read_text(encoding="utf-8")) if ceilings_file.is_file() else {}
    tasks = list(results["subsets"][EVERYTHING]["tasks"])
    emotion = results["subsets"][EVERYTHING]["tasks"].get("emotion")
    spread = gate_spread(emotion["predictions"]) if emotion else {}
    card_data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="video-classification",
        language=["en", "zh"],
        base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
        tags=["emotion-recognition", "sentiment-analysis", "multimodal", "egmf", "custom_code"],
        model_name="EGMF demo",
        eval_results=_eval_results(results, dataset),
    )
    card = ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        name="EGMF demo",
        synthetic=True,
        where=str(run),
        tasks=tasks,
        light=results["config"]["text_model_id"] is not None,
        megabytes=f"{(run / 'model.safetensors').stat().st_size / 1e6:.1f}",
        text_model="SmolLM2-135M-Instruct",
        dataset=dataset,
        split=results["split"],
        seed=record["seed"],
        table="\n".join(results_table(results, ceilings)),
        gate=", ".join(f"{name} {value:.3f}" for name, value in spread.items()),
        trained=f"{record['parameters']['trained']:,}",
        all_parameters=f"{record['parameters']['all']:,}",
        minutes=f"{record['seconds']['all'] / 60:.1f}",
        train_rows=record["rows"]["train"],
        data_licence="the synthetic clips are Apache-2.0; the rated sentences come from vaderSentiment (MIT, Hutto "
        "and Gilbert 2014)",
    )
    path = run / "README.md"
    card.save(path)
    return path
