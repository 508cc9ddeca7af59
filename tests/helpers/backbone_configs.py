"""Tiny configurations of pretrained encoders, one for each way in which `transformers` builds them."""

from transformers import (
    ASTConfig,
    CLIPVisionConfig,
    Data2VecAudioConfig,
    HubertConfig,
    LasrEncoderConfig,
    MoonshineConfig,
    ParakeetEncoderConfig,
    ResNetConfig,
    SEWConfig,
    TimesformerConfig,
    UniSpeechConfig,
    VideoMAEConfig,
    ViTConfig,
    VivitConfig,
    VJEPA2Config,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    WavLMConfig,
    WhisperConfig,
)


TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CONVOLUTIONS = {
    "conv_dim": (8, 8),
    "conv_kernel": (10, 8),
    "conv_stride": (8, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
    "vocab_size": 8,
}
SPEECH = {**TRANSFORMER, **CONVOLUTIONS}
AUDIO_BACKBONES = {
    "wav2vec2": Wav2Vec2Config(
        **SPEECH,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        mask_time_prob=0.0,
    ),
    "whisper": WhisperConfig(
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        num_mel_bins=8,
        max_source_positions=20,
        vocab_size=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    ),
}
# Families of waveform encoders; in most of them padding would change a clip's output. All have SpecAugment on.
SPEECH_BACKBONES = {
    "wav2vec2_group_norm": Wav2Vec2Config(**SPEECH, feat_extract_norm="group"),
    "wav2vec2_layer_norm": Wav2Vec2Config(**SPEECH, feat_extract_norm="layer", do_stable_layer_norm=True),
    "wav2vec2_conformer": Wav2Vec2ConformerConfig(**SPEECH),
    "hubert_group_norm": HubertConfig(**SPEECH, feat_extract_norm="group"),
    "hubert_layer_norm": HubertConfig(**SPEECH, feat_extract_norm="layer", do_stable_layer_norm=True),
    "wavlm_group_norm": WavLMConfig(**SPEECH, feat_extract_norm="group"),
    "unispeech": UniSpeechConfig(**SPEECH),
    "data2vec_audio": Data2VecAudioConfig(**SPEECH),
    "sew": SEWConfig(**SPEECH, squeeze_factor=2),
    "moonshine": MoonshineConfig(
        hidden_size=16,
        intermediate_size=16,
        encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=1,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        vocab_size=16,
    ),
}
# Encoders of spectrograms, with the width of their input.
SPECTROGRAM_BACKBONES = {
    "whisper": (AUDIO_BACKBONES["whisper"], 8),
    "wav2vec2_bert": (Wav2Vec2BertConfig(**TRANSFORMER, feature_projection_input_dim=8, vocab_size=8), 8),
    "parakeet": (ParakeetEncoderConfig(**TRANSFORMER, num_mel_bins=16, subsampling_conv_channels=8), 16),
    "lasr": (LasrEncoderConfig(**TRANSFORMER, num_mel_bins=8), 8),
    "ast": (ASTConfig(**TRANSFORMER, max_length=40, num_mel_bins=16), 16),
}
VISION_BACKBONES = {
    "vit": ViTConfig(image_size=16, patch_size=8, **TRANSFORMER),
    "clip": CLIPVisionConfig(image_size=16, patch_size=8, **TRANSFORMER),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"),
}
# Encoders of whole clips: 4 frames of 16 x 16 pixels.
CLIP_BACKBONES = {
    "videomae": VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, tubelet_size=2, **TRANSFORMER),
    "vivit": VivitConfig(image_size=16, num_frames=4, tubelet_size=[2, 8, 8], **TRANSFORMER),
    "timesformer": TimesformerConfig(image_size=16, patch_size=8, num_frames=4, **TRANSFORMER),
    "vjepa2": VJEPA2Config(
        crop_size=16,
        patch_size=8,
        frames_per_clip=4,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        pred_hidden_size=24,
        pred_num_hidden_layers=1,
        pred_num_attention_heads=2,
        pred_num_mask_tokens=1,
    ),
}
