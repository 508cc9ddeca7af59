"""Checkpoints of other formats turned into folders that `transformers` loads by itself."""
