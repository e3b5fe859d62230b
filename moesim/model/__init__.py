"""What is computed: the shape of a model, and its bytes and FLOPs per expert, layer and token.

Knows nothing of hardware or workload. Names load on first use, so that listing models imports neither numpy nor pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moesim.model.catalogue import load_named, named, named_after, named_config

if TYPE_CHECKING:
    from moesim.model.architecture import Architecture
    from moesim.model.attention import GroupedQuery, Latent, Linear
    from moesim.model.gguf_model import read_model
    from moesim.model.huggingface import read_config
    from moesim.model.precision import Precision

__all__ = [
    "Architecture",
    "GroupedQuery",
    "Latent",
    "Linear",
    "Precision",
    "load_named",
    "named",
    "named_after",
    "named_config",
    "read_config",
    "read_model",
]

_HOMES = {
    "Architecture": "architecture",
    "GroupedQuery": "attention",
    "Latent": "attention",
    "Linear": "attention",
    "Precision": "precision",
    "read_config": "huggingface",
    "read_model": "gguf_model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
