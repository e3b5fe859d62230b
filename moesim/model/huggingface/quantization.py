"""Owns where a checkpoint says how it is quantised: which section or file, by which method, what is spared, and the cache.

Knows the keys that methods share; nothing of their formats (see methods) nor of the sizes of modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.model.huggingface.fields import Fields
from moesim.model.huggingface.methods import ALGORITHMS, METHODS, Quantization, listed, unknown

__all__ = ["read_quantization"]

_SPARED = (
    "ignore",
    "exclude_modules",
    "modules_to_not_convert",
    "ignored_layers",
    "exclude",
    "llm_int8_skip_modules",
    "skip_modules",
)


def read_quantization(fields: Fields, sidecar: Mapping[str, Any] | None) -> Quantization | None:
    """What the config, or else the hf_quant_config.json beside it, says; None when nothing is quantised, or after a mistake."""
    path, config = fields.find("quantization_config", "compression_config", "quantization")
    beside = sidecar.get("quantization", sidecar) if sidecar else None
    if not path and beside:
        path, config = "hf_quant_config.json", beside
    if not path:
        return None
    if not isinstance(config, Mapping):
        fields.wrong(path, f"{config!r} is wrong for a quantisation; it must be an object with 'quant_method'")
        return None
    read = METHODS.get(_method(config))
    if read is None:
        return unknown(fields, f"{path}.quant_method", str(config.get("quant_method", "")))
    result = read(fields, path, config)
    if result is None:
        return None
    spared = tuple(str(item) for key in _SPARED if isinstance(config.get(key), list) for item in config[key])
    kv = _kv(config) or (_kv(beside) if isinstance(beside, Mapping) else "")
    return result._replace(
        experts_apart=fields.text("model_type").startswith("gemma"),
        named=(*result.named, *listed(fields, path, config)),
        spared=(*result.spared, *spared),
        kv=kv or result.kv,
    )


def _method(config: Mapping[str, Any]) -> str:
    """The method's name in one spelling, recognised by its keys where none is given (MLX, Mistral, ModelOpt's file)."""
    name = str(config.get("quant_method") or "").lower().replace("_", "-")
    if name:
        return name.removesuffix("-marlin")
    if "qformat_weight" in config:
        return "mistral"
    if "quant_algo" in config:
        return "modelopt"
    if "config_groups" in config:
        return "compressed-tensors"
    return "mlx" if "bits" in config and ("group_size" in config or "mode" in config) else ""


def _kv(config: Mapping[str, Any]) -> str:
    """The format of the cache by the keys of compressed-tensors, ModelOpt and Quark; an empty text when none says."""
    scheme = config.get("kv_cache_scheme")
    if isinstance(scheme, Mapping) and scheme.get("num_bits"):
        return "fp8" if scheme.get("type") == "float" and scheme["num_bits"] == 8 else _bits(scheme["num_bits"])
    algorithm = config.get("kv_cache_quant_algo") or (scheme if isinstance(scheme, str) else "")
    if isinstance(algorithm, str) and algorithm.upper() in ALGORITHMS:
        return ALGORITHMS[algorithm.upper()]
    quark = config.get("kv_cache_quant_config")
    dtypes = str(quark) if quark else ""
    return "fp8" if "fp8" in dtypes else "int8" if "int8" in dtypes else ""


def _bits(number: Any) -> str:
    return f"int{number}" if number in (4, 8) else ""
