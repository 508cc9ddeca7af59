"""What users of `transformers`, `peft` and `datasets` type for any model, typed for an EGMF checkpoint.

    python tests/helpers/habits.py CHECKPOINT CLIP FOLDER [--installed]

CHECKPOINT takes audio and video and has the task `emotion`; CLIP is a video file; FOLDER gets what is saved. Our
packages are out of reach, and the checkpoint's own code runs (`trust_remote_code=True`); with `--installed` they are
imported instead. habits_user.py has the user, habits_of_objects.py further habits.

Prints a JSON object with the outcome of each habit by its name: `works`, `refused: MESSAGE` or `fails: MESSAGE`. What
cannot work may be refused, with one line that contains the habit's `replacement`: what to type instead.
"""

import argparse
import contextlib
import copy
import importlib.abc
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import habits_of_objects  # noqa: F401  its habits are registered
import numpy as np
import torch
from habits_user import HABITS, TASK, TEXT, User, habit, may_be_refused


OUR_PACKAGES = ("modeling_egmf", "processing_egmf", "training", "egmf_training")
LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"]}


# ---- loading ----------------------------------------------------------------------------------------------------


@habit
def config_has_the_labels(user):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(user.checkpoint, **user.trust)
    assert set(config.id2label.values()) == set(user.probabilities), config.id2label
    assert {config.label2id[label] for label in user.probabilities} == set(config.id2label)


@habit
def config_of_the_language_model(user):
    config = user.model.config.get_text_config()
    assert config.vocab_size == user.model.get_input_embeddings().weight.shape[0]
    assert config.hidden_size == user.model.get_output_embeddings().weight.shape[1]


@habit
def every_auto_model(user):
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    for auto_class in (AutoModelForCausalLM, AutoModelForMultimodalLM):
        user.check_model(auto_class.from_pretrained(user.checkpoint, dtype=torch.float32, **user.trust))


@habit
def tokenizer_of_the_repo(user):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(user.checkpoint, **user.trust)
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"], skip_special_tokens=True) == TEXT


@habit
def feature_extractor_of_the_repo(user):
    from transformers import AutoFeatureExtractor

    AutoFeatureExtractor.from_pretrained(user.checkpoint, **user.trust)


@habit
def image_processor_of_the_repo(user):
    from transformers import AutoImageProcessor

    AutoImageProcessor.from_pretrained(user.checkpoint, **user.trust)


@habit
def device_map_auto(user):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(user.checkpoint, device_map="auto", dtype="auto", **user.trust)
    inputs = user.processor(text=TEXT, video=user.clip, task="emotion").to(model.device, model.dtype)
    user.check(user.answer(model, inputs), tolerance=0.1)


@habit
def half_precision(user):
    """The older name of `dtype` as well."""
    model = user.load_model(user.checkpoint).to("cpu").to(torch.bfloat16)
    user.check(user.answer(model, user.inputs.to(model.device, model.dtype)), tolerance=0.1)
    assert user.load_model(user.checkpoint, dtype=None, torch_dtype="bfloat16").dtype == torch.bfloat16


@habit
def attention_implementation(user):
    user.check_model(user.load_model(user.checkpoint, attn_implementation="eager"))
    user.check_model(user.load_model(user.checkpoint, attn_implementation="sdpa"))


@habit
def loading_info(user):
    from transformers import AutoModel

    options = {"dtype": torch.float32, "output_loading_info": True, **user.trust}
    model, info = AutoModel.from_pretrained(user.checkpoint, **options)
    user.check_model(model)
    assert not info["missing_keys"] and not info["unexpected_keys"], info


@may_be_refused("from_pretrained")
def subfolder(user):
    path = Path(user.checkpoint)
    user.check_model(user.load_model(path.parent, subfolder=path.name))


@may_be_refused("from_pretrained")
def model_of_a_config(user):
    """A random language model would answer, too, but nonsense: never without a warning."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(user.checkpoint, **user.trust)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        AutoModel.from_config(config, **user.trust)
    assert caught, "a random language model without a warning"


# ---- model ------------------------------------------------------------------------------------------------------


@habit
def printed_model(user):
    printed = repr(user.model)
    assert printed.startswith("EGMFForConditionalGeneration("), printed[:80]
    assert str(user.model.dtype) == "torch.float32" and str(user.model.device) == "cpu"


@habit
def copied_model(user):
    user.check_model(copy.deepcopy(user.model))


@habit
def state_dict(user):
    other = user.load_model(user.checkpoint)
    other.load_state_dict(user.model.state_dict())
    user.check_model(other)


@habit
def compiled_model(user):
    """Without a compiler of machine code."""
    compiled = torch.compile(user.model, backend="eager")
    with torch.inference_mode():
        difference = compiled(**user.inputs).logits - user.model(**user.inputs).logits
    assert difference.abs().max() < 1e-4


@habit
def loss_of_labels(user):
    inputs = user.processor(text=TEXT, video=user.clip, task="emotion", answer="joy", return_tensors="pt")
    assert user.model(**inputs).loss > 0


@habit
def gradient_checkpointing_and_parameters(user):
    user.model.gradient_checkpointing_enable()
    user.model.gradient_checkpointing_disable()
    assert user.model.num_parameters() > user.model.num_parameters(only_trainable=True) > 0


@habit
def generate_and_decode(user):
    sequences = user.model.generate(**user.inputs, max_new_tokens=4, do_sample=False)
    assert isinstance(user.processor.batch_decode(sequences, skip_special_tokens=True)[0], str)
    assert isinstance(user.processor.decode(sequences[0], skip_special_tokens=True), str)


@habit
def options_of_generate(user):
    from transformers import GenerationConfig, TextIteratorStreamer

    output = user.model.generate(
        **user.inputs, max_new_tokens=2, num_beams=2, return_dict_in_generate=True, output_scores=True
    )
    assert len(output.scores) <= 2
    user.model.generate(**user.inputs, generation_config=GenerationConfig(max_new_tokens=2, do_sample=True, top_p=0.9))
    streamer = TextIteratorStreamer(user.processor.tokenizer, skip_prompt=True)
    user.model.generate(**user.inputs, max_new_tokens=2, streamer=streamer)
    assert isinstance("".join(streamer), str)


# ---- processor --------------------------------------------------------------------------------------------------


@habit
def videos_instead_of_video(user):
    inputs = user.processor(text=TEXT, videos=[user.clip], task="emotion", return_tensors="pt")
    user.check(user.answer(user.model, inputs))


@habit
def padding_truncation_max_length(user):
    inputs = user.processor(
        text=[TEXT, "No."], task="emotion", padding=True, truncation=True, max_length=256, return_tensors="pt"
    )
    assert inputs["input_ids"].shape[0] == 2


@habit
def numpy_tensors(user):
    inputs = user.processor(text=TEXT, video=user.clip, task="emotion", return_tensors="np")
    assert isinstance(inputs["input_ids"], np.ndarray)


@habit
def nested_keywords(user):
    inputs = user.processor(
        text=TEXT,
        audio=user.noise,
        task="emotion",
        text_kwargs={"max_length": 256},
        audio_kwargs={"sampling_rate": 16_000},
    )
    assert inputs["modality_mask"].tolist() == [[1, 1, 0]]


@habit
def printed_processor(user):
    printed = repr(user.processor)
    assert len(printed) < 3000 and "EGMFProcessor" in printed, f"{len(printed)} characters"


@habit
def chat_template(user):
    content = [{"type": "video", "path": user.clip}, {"type": "text", "text": TEXT}]
    inputs = user.processor.apply_chat_template(
        [{"role": "user", "content": content}], task="emotion", tokenize=True, return_dict=True, return_tensors="pt"
    )
    user.check(user.answer(user.model, inputs))


@habit
def to_device_and_dtype(user):
    inputs = user.processor(text=TEXT, video=user.clip, task="emotion")
    user.check(user.answer(user.model, inputs.to(user.model.device, user.model.dtype)))


@habit
def methods_of_the_tokenizer(user):
    tokenizer = user.processor.tokenizer
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(ids)) == ids
    assert tokenizer.pad_token_id is not None
    assert "input_ids" in user.processor.model_input_names


@habit
def processor_saved_elsewhere(user):
    from transformers import AutoProcessor

    user.processor.save_pretrained(user.folder / "processor")
    processor = AutoProcessor.from_pretrained(user.folder / "processor", **user.trust)
    user.check(user.answer(user.model, processor(text=TEXT, video=user.clip, task="emotion")))


@habit
def processor_in_dataset_map(user):
    from datasets import Dataset

    examples = Dataset.from_dict({"sentence": [TEXT, "No."]})
    processed = examples.map(lambda example: user.processor(text=example["sentence"], task="emotion"))
    assert len(processed[0]["input_ids"][0]) == len(processed[0]["attention_mask"][0])


# ---- pipeline ---------------------------------------------------------------------------------------------------


@habit
def pipeline_of_a_path(user):
    user.check(user.pipe(user.clip, text=TEXT, task="emotion")["probabilities"])


@habit
def pipeline_without_a_task(user):
    from transformers import pipeline

    pipe = pipeline(model=user.checkpoint, device=-1, torch_dtype=torch.float32, **user.trust)
    user.check(pipe(user.clip, text=TEXT, task="emotion")["probabilities"])


@habit
def pipeline_of_objects(user):
    from transformers import pipeline

    pipe = pipeline(TASK, model=user.model, processor=user.processor, **user.trust)
    user.check(pipe(user.clip, text=TEXT, task="emotion")["probabilities"])


@may_be_refused("Give each clip as a dict with its own")
def one_text_for_several_clips(user):
    user.pipe([user.clip] * 3, text=TEXT, task="emotion")


@habit
def pipeline_in_batches(user):
    clips = [{"video": user.clip, "text": TEXT}] * 3
    answers = user.pipe(clips, task="emotion", batch_size=2, num_workers=2)
    for answer in answers:
        user.check(answer["probabilities"])


@habit
def pipeline_of_a_dataset(user):
    from datasets import Dataset, Video
    from transformers.pipelines.pt_utils import KeyDataset

    examples = Dataset.from_dict({"clip": [user.clip, user.clip]}).cast_column("clip", Video(decode=False))
    assert len([answer["label"] for answer in user.pipe(KeyDataset(examples, "clip"), task="emotion")]) == 2


@habit
def pipeline_of_an_array(user):
    """As the pipelines for audio take it."""
    expected = user.pipe({"audio": user.noise, "sampling_rate": 16_000}, task="emotion")["label"]
    for key in ("array", "raw"):
        assert user.pipe({key: user.noise, "sampling_rate": 16_000}, task="emotion")["label"] == expected


@habit
def best_labels_only(user):
    answer = user.pipe(user.clip, text=TEXT, task="emotion", top_k=2)
    assert answer["label"] == max(user.probabilities, key=user.probabilities.get)
    assert len(answer["probabilities"]) == 2


@habit
def restricted_labels(user):
    answer = user.pipe(user.clip, text=TEXT, task="emotion", labels=["joy", "anger"])
    both = user.probabilities["joy"] + user.probabilities["anger"]
    assert abs(answer["probabilities"]["joy"] - user.probabilities["joy"] / both) < 1e-4


@habit
def task_as_a_dict(user):
    task = {"name": "mood", "kind": "classification", "labels": ["good", "bad"], "prompt": "\nThe mood is"}
    assert set(user.pipe(text=TEXT, task=task)["probabilities"]) == {"good", "bad"}


@habit
def any_to_any(user):
    from transformers import pipeline

    pipe = pipeline("any-to-any", model=user.model, processor=user.processor)
    content = [{"type": "video", "path": user.clip}, {"type": "text", "text": TEXT}]
    assert pipe(text=[{"role": "user", "content": content}], max_new_tokens=4)


# ---- checkpoints ------------------------------------------------------------------------------------------------


@habit
def model_saved_elsewhere(user):
    user.model.save_pretrained(user.folder / "a/b/saved", max_shard_size="1MB")
    user.check_model(user.load_model(user.folder / "a/b/saved"))


@habit
def pipeline_saved_elsewhere(user):
    from transformers import pipeline

    user.pipe.save_pretrained(user.folder / "pipe")
    pipe = pipeline(model=str(user.folder / "pipe"), dtype=torch.float32, **user.trust)
    user.check(pipe(user.clip, text=TEXT, task="emotion")["probabilities"])


@may_be_refused("text_model_id")
def copied_folder(user):
    copied = user.folder / "c/copy"
    shutil.copytree(user.checkpoint, copied, ignore=shutil.ignore_patterns("checkpoint-*", "runs"))
    user.check_model(user.load_model(copied))


@may_be_refused("text_model_id")
def push_to_hub(user):
    user.model.push_to_hub("org/x")


# ---- peft -------------------------------------------------------------------------------------------------------


@habit
def peft_loads_the_adapter(user):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    named = user.model.config.text_model_id
    in_folder = Path(user.checkpoint, named)
    language_model = AutoModelForCausalLM.from_pretrained(in_folder if in_folder.is_dir() else named)
    adapted = PeftModel.from_pretrained(language_model, user.checkpoint, subfolder="default")
    assert set(adapted.peft_config) == {"default"}


@habit
def adapters_switch(user):
    model = user.load_model(user.checkpoint)
    model.disable_adapters()
    off = user.answer(model, user.inputs)
    model.enable_adapters()
    user.check_model(model)
    assert off != user.probabilities


@habit
def second_adapter(user):
    from peft import LoraConfig

    model = user.load_model(user.checkpoint)
    model.add_adapter(LoraConfig(**LORA), adapter_name="german")
    model.set_adapter("german")
    assert user.answer(model, user.inputs) != user.probabilities
    model.set_adapter("default")
    user.check_model(model)


# ---- training ---------------------------------------------------------------------------------------------------


@habit
def plain_trainer(user):
    assert user.trainer().train().training_loss > 0


@habit
def evaluation_of_a_plain_trainer(user):
    trainer = user.trainer()
    assert trainer.evaluate()["eval_loss"] > 0
    assert "test_loss" in trainer.predict(trainer.eval_dataset).metrics


@habit
def data_loader(user):
    from torch.utils.data import DataLoader

    examples = [{"text": TEXT, "task": "emotion", "answer": "joy"}] * 4
    (batch, _) = DataLoader(examples, batch_size=2, collate_fn=user.collator())
    assert user.model(**batch).loss > 0


# ---- the report -------------------------------------------------------------------------------------------------


class OutOfReach(importlib.abc.MetaPathFinder):
    """Refuses our own packages, so that only the checkpoint's copies of the code can be imported."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OUR_PACKAGES:
            raise ImportError(f"{name} is deliberately out of reach here")


def outcome(function: Callable[[User], None], replacement: str | None, user: User) -> str:
    try:
        function(user)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        is_refusal = replacement is not None and replacement in message and "\n" not in message
        return f"refused: {message}" if is_refusal else f"fails: {message[:800]}"
    return "works"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("clip", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--installed", action="store_true", help="import our packages; no trust_remote_code")
    parser.add_argument("--only", nargs="+", choices=HABITS, default=list(HABITS), help="names of habits")
    arguments = parser.parse_args()
    if arguments.installed:
        importlib.import_module("modeling_egmf")
        importlib.import_module("processing_egmf")
    else:
        sys.meta_path.insert(0, OutOfReach())
    user = User(arguments.checkpoint.resolve(), arguments.clip.resolve(), arguments.folder, arguments.installed)
    with contextlib.redirect_stdout(sys.stderr):
        report = {name: outcome(*HABITS[name], user) for name in arguments.only}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
