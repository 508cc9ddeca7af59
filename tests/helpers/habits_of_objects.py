"""Further habits of habits.py: what users do with a model, a processor and a pipeline that they have loaded."""

import base64
import contextlib
import copy
import io
import json
import pickle
from pathlib import Path
from urllib.parse import quote_from_bytes

import torch
from habits_user import TASK, TEXT, habit, may_be_refused
from PIL import Image


# ---- model ------------------------------------------------------------------------------------------------------


@habit
def config_as_json(user):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(user.checkpoint, **user.trust)
    assert config.model_type == "egmf"
    assert json.loads(config.to_json_string()) and json.dumps(user.model.config.to_diff_dict())
    assert copy.deepcopy(config).to_dict() == config.to_dict()


@habit
def generation_config_of_the_repo(user):
    from transformers import GenerationConfig

    config = GenerationConfig.from_pretrained(user.checkpoint, max_new_tokens=2)
    assert user.model.generate(**user.inputs, generation_config=config).shape[0] == 1


@habit
def tokens_of_the_tokenizer(user):
    """Text alone, as for a language model."""
    tokens = user.processor.tokenizer(TEXT, return_tensors="pt")
    assert user.model(**tokens).logits.shape[1] == tokens["input_ids"].shape[1]
    assert user.model.generate(**tokens, max_new_tokens=2).shape[1] > tokens["input_ids"].shape[1]


@may_be_refused("processor(text=...)")
def scores_of_tokens_of_the_tokenizer(user):
    user.model.score_answers(**user.processor.tokenizer(TEXT, return_tensors="pt"))


@habit
def static_cache(user):
    sequences = user.model.generate(**user.inputs, max_new_tokens=2, do_sample=False, cache_implementation="static")
    assert torch.equal(sequences, user.model.generate(**user.inputs, max_new_tokens=2, do_sample=False))


@habit
def text_streamer(user):
    from transformers import TextStreamer

    user.model.generate(**user.inputs, max_new_tokens=2, streamer=TextStreamer(user.processor.tokenizer))


@habit
def hidden_states_and_tuples(user):
    output = user.model(**user.inputs, output_hidden_states=True)
    assert torch.equal(output[0], output.logits) and len(output.to_tuple()) >= 2
    assert output.hidden_states[-1].shape[1] == user.inputs["input_ids"].shape[1]


@habit
def autocast(user):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probabilities = user.answer(user.model, user.inputs)
    user.check(probabilities, tolerance=0.1)


@habit
def another_attention_after_loading(user):
    model = copy.deepcopy(user.model)
    model.set_attn_implementation("eager")
    user.check_model(model)


@may_be_refused("leave resize_token_embeddings() out")
def resized_embeddings(user):
    """After tokens were added to the tokenizer, as the placeholder was."""
    user.model.resize_token_embeddings(len(user.processor.tokenizer))


@habit
def memory_footprint(user):
    assert user.model.get_memory_footprint() > user.model.num_parameters()


@habit
def accelerator(user):
    from accelerate import Accelerator

    inputs = user.processor(text=TEXT, task="emotion", answer="joy")
    model = copy.deepcopy(user.model).train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
    prepare = Accelerator(cpu=True)
    model, optimizer = prepare.prepare(model, optimizer)
    prepare.backward(model(**inputs).loss)
    optimizer.step()
    assert model(**inputs).loss > 0


@habit
def adapter_that_cannot_be_added(user):
    """The model goes on as if nothing had happened, and its checkpoint loads."""
    model = user.load_model(user.checkpoint)
    with contextlib.suppress(ValueError):
        model.add_adapter({"r": 0}, "german")
    user.check_model(model)
    model.save_pretrained(user.folder / "after-a-failure")
    user.check_model(user.load_model(user.folder / "after-a-failure"))


# ---- processor --------------------------------------------------------------------------------------------------


@habit
def text_first(user):
    assert user.processor(TEXT)["modality_mask"].tolist() == [[1, 0, 0]]


@habit
def nested_videos(user):
    user.check(user.answer(user.model, user.processor(text=[TEXT], videos=[[user.clip]], task="emotion")))


@may_be_refused("`video`")
def images(user):
    user.processor(text=TEXT, images=["face.png"])


@habit
def base64_in_a_chat(user):
    encoded = base64.b64encode(Path(user.clip).read_bytes()).decode()
    for item in (
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{encoded}"}},
        {"type": "video", "base64": encoded},
    ):
        conversation = [{"role": "user", "content": [item, {"type": "text", "text": TEXT}]}]
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        inputs = user.processor.apply_chat_template(conversation, task="emotion", **options)
        user.check(user.answer(user.model, inputs))
    user.check(user.pipe(f"data:video/mp4;base64,{encoded}", text=TEXT, task="emotion")["probabilities"])


@habit
def items_of_responses(user):
    """Of OpenAI; and a place of a clip in a dict, as some templates have it."""
    uri = "data:video/mp4," + quote_from_bytes(Path(user.clip).read_bytes())
    for item in ({"type": "video", "video": {"url": user.clip}}, {"type": "video_url", "video_url": uri}):
        conversation = [{"role": "user", "content": [item, {"type": "input_text", "text": TEXT}]}]
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        inputs = user.processor.apply_chat_template(conversation, task="emotion", **options)
        user.check(user.answer(user.model, inputs))
    frame = io.BytesIO()
    Image.effect_mandelbrot((16, 16), (-2, -1.5, 1, 1.5), 50).save(frame, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(frame.getvalue()).decode()}"
    content = [{"type": "input_image", "image_url": uri}, {"type": "input_text", "text": TEXT}]
    assert user.pipe([{"role": "user", "content": content}], task="emotion")["modalities"] == ["text", "video"]


@may_be_refused("task=")
def system_message(user):
    """What is not followed must not be accepted in silence."""
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": TEXT}]
    user.pipe(messages, task="emotion")


@habit
def pickled_processor(user):
    """As workers of a data loader get it."""
    processor = pickle.loads(pickle.dumps(user.processor))  # noqa: S301  its own
    user.check(user.answer(user.model, processor(text=TEXT, video=user.clip, task="emotion")))


@habit
def batched_dataset_map(user):
    from datasets import Dataset

    examples = Dataset.from_dict({"sentence": [TEXT, "No.", "Well."]})
    processed = examples.map(lambda rows: user.processor(text=rows["sentence"], task="emotion"), batched=True)
    assert len(processed) == 3 and "input_ids" in processed.column_names


# ---- pipeline and Trainer ---------------------------------------------------------------------------------------


@habit
def pipeline_with_a_device_map(user):
    from transformers import pipeline

    pipe = pipeline(TASK, model=user.checkpoint, device_map="auto", dtype=torch.float32, **user.trust)
    user.check(pipe(user.clip, text=TEXT, task="emotion")["probabilities"])


@habit
def text_generation_pipeline(user):
    from transformers import pipeline

    pipe = pipeline("text-generation", model=user.model, tokenizer=user.processor.tokenizer)
    assert pipe(TEXT, max_new_tokens=2)[0]["generated_text"].startswith(TEXT)


@habit
def trainer_with_the_processor(user):
    trainer = user.trainer(processing_class=user.processor)
    trainer.save_model(str(user.folder / "saved-by-the-trainer"))
    user.check_model(user.load_model(user.folder / "saved-by-the-trainer"))
