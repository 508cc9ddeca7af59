"""Every plan fits every recipe: what a corpus lacks is left out by name."""

from pathlib import Path

import yaml

from training.experiments.plan import plan_names, read_plan, with_recipe
from training.experiments.recipe_fit import fit_to_recipe, leave_out_repeated
from training.experiments.runner import Laboratory, Runner
from training.paths import CONFIGS


def recipe_without(tmp_path, **settings):
    content = yaml.safe_load((CONFIGS / "demo.yaml").read_text(encoding="utf-8")) | settings
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def test_every_plan_with_every_recipe(tmp_path):
    """As `--dry_run` lists them, every recipe with one plan and every plan with one recipe."""
    recipes = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    recipes.remove("ravdess-whisper-base")  # sound alone, from which no modality can be taken
    recipes.remove("ravdess_landmarks-whisper-base")  # without text, as in test_a_corpus_without_text
    pairs = [("modality_ablation", recipe) for recipe in recipes]
    pairs += [(name, (read_plan(name).recipes or ["cherma-glm3-6b"])[0]) for name in plan_names()]
    for name, recipe in pairs:
        adapted = fit_to_recipe(with_recipe(read_plan(name), recipe, "full", [0]))
        assert adapted.left_out == []
        laboratory = Laboratory([Runner(adapted, [0], tmp_path)])
        assert f"{len(laboratory.runs)} trainings and" in "\n".join(laboratory.describe())


def test_a_corpus_without_video(tmp_path):
    plan = with_recipe(read_plan("modality_ablation"), recipe_without(tmp_path, video="none"), None, [0])
    adapted = fit_to_recipe(plan)
    assert list(adapted.variants) == ["everything", "no_text", "no_audio"]
    assert adapted.variants["no_audio"].train == {"modalities": ["text"]}
    assert adapted.left_out == ["variant no_video: text, audio is all that the recipe has"]
    claims = {check.claim: check for check in adapted.checks}
    assert "Audio matters more than video" not in claims
    assert claims["Text matters more than audio"].worse == "no_text/all"
    assert claims["Retraining without a modality beats leaving it out"].worse == "everything/audio"


def test_a_corpus_without_text(tmp_path):
    """As of recordings whose sentences say nothing."""
    plan = with_recipe(
        read_plan("modality_ablation"), recipe_without(tmp_path, modalities=["audio", "video"]), None, [0]
    )
    adapted = fit_to_recipe(plan)
    assert list(adapted.variants) == ["everything", "no_audio", "no_video"]
    assert [check.claim for check in adapted.checks] == ["Audio matters more than video"]
    landmarks = fit_to_recipe(with_recipe(read_plan("modality_ablation"), "ravdess_landmarks-whisper-base", None, [0]))
    assert list(landmarks.variants) == ["everything", "no_audio", "no_video"]
    lora_on_text = read_plan("efficiency")
    adapted = fit_to_recipe(with_recipe(lora_on_text, recipe_without(tmp_path, modalities=["audio"]), None, [0]))
    assert list(adapted.variants) == ["egmf", "egmf_head"]


def test_every_other_plan_is_the_same_without_video(tmp_path):
    recipe = recipe_without(tmp_path, video="none")
    for name in ("gating", "expert_ablation", "paper_faithful", "pseudo_tokens", "lora", "learnable_experts"):
        plan = with_recipe(read_plan(name), recipe, None, [0])
        adapted = fit_to_recipe(plan)
        assert (adapted.variants, adapted.left_out) == (plan.variants, [])
        assert Path(adapted.recipe).stem == "mine"


def test_variants_that_a_recipe_makes_the_same_are_left_out_by_name():
    """With all layers of the language model in the recipe, the variant with its first 8 would be the same model."""
    plan = leave_out_repeated(with_recipe(read_plan("backbones"), "demo", None, [0]))
    assert list(plan.variants) == ["first_8_fitted", "first_8_layers", "random_weights", "random_and_small"]
    assert plan.left_out == [
        "variant all_layers: with this recipe, it is the same as first_8_fitted",
        "claim 'All layers beat the first 8': it compares variants that are the same, or left out",
    ]
    for name in plan_names():
        assert leave_out_repeated(read_plan(name)).left_out == []
