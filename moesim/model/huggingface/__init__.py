"""The reading of configurations as Hugging Face keeps them: spellings of families, formats, and what is refused."""

from moesim.model.huggingface.config import read_config

__all__ = ["read_config"]
