"""Tiny configurations of pretrained encoders, one for each way in which `transformers` builds them."""

from transformers import CLIPVisionConfig, ResNetConfig, ViTConfig, Wav2Vec2Config, WhisperConfig


AUDIO_BACKBONES = {
    "wav2vec2": Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(8, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        mask_time_prob=0.0,
        layerdrop=0.0,
        vocab_size=8,
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
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION_BACKBONES = {
    "vit": ViTConfig(image_size=16, patch_size=8, **VISION),
    "clip": CLIPVisionConfig(image_size=16, patch_size=8, **VISION),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"),
}
