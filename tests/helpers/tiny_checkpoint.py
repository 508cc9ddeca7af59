"""A tiny model with its processor, built without fixtures, for scripts."""

from pathlib import Path

import torch

from modeling_egmf import EGMFConfig, EGMFEncoderConfig, EGMFForConditionalGeneration
from modeling_egmf.parts_egmf import text_model_checksum
from processing_egmf import EGMFProcessor
from tests.helpers.corpus_files import tiny_llama, write_language_model
from tests.helpers.tiny_tokenizer import train_tokenizer


NUM_PSEUDO_TOKENS = 3
SIZES = {"audio": 6, "video": 5}  # width of features
FRAMES = {"frame_height": 16, "frame_width": 16}


def make_encoder(modality: str, input_type: str) -> EGMFEncoderConfig:
    return EGMFEncoderConfig(
        input_type=input_type,
        feature_size=SIZES[modality],
        hidden_size=8,
        num_attention_heads=2,
        num_mel_bins=16,
        conv_channels=(6, 8),
        **FRAMES,
    )


def make_model_and_processor(
    audio: str,
    video: str,
    folder: Path | None = None,
) -> tuple[EGMFForConditionalGeneration, EGMFProcessor]:
    """A model in evaluation mode, each weight of which moves the answer, and a processor that fits it.

    Args:
        audio, video: input types, such as `features`.
        folder: gets the language model, in `llm`, which the configuration then names as `../llm`.
    """
    tokenizer = train_tokenizer()
    language_model = tiny_llama(tokenizer)
    if folder is not None:
        write_language_model(folder / "llm", language_model, tokenizer)
    config = EGMFConfig(
        text_config=language_model.config,
        audio_config=make_encoder("audio", audio),
        video_config=make_encoder("video", video),
        fusion_hidden_size=16,
        fusion_attention_heads=2,
        num_pseudo_tokens=NUM_PSEUDO_TOKENS,
        lora={"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]},
        placeholder_token_id=len(tokenizer),
        text_model_id=None if folder is None else "../llm",
        text_model_checksum=None if folder is None else text_model_checksum(language_model),
    )
    torch.manual_seed(1)
    model = EGMFForConditionalGeneration(config, language_model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    processor = EGMFProcessor(
        tokenizer,
        num_pseudo_tokens=NUM_PSEUDO_TOKENS,
        audio_input=audio,
        audio_feature_size=SIZES["audio"] if audio == "features" else None,
        video_input=video,
        video_feature_size=SIZES["video"] if video == "features" else None,
        num_frames=4,
        **FRAMES,
    )
    return model, processor
