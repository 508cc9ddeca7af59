"""ChatGLM3-6B as the native GLM architecture of `transformers`, without remote code: see convert.py."""
