"""Owns how a config.json says which number format its weights have.

Knows the quantisation methods that checkpoints name; nothing of sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.model.hf_fields import Fields
from moesim.model.precision import Precision, canonical

__all__ = ["read_precision"]

_METHODS = "fp8, fbgemm_fp8, mxfp4, gptq, awq, compressed-tensors, bitsandbytes, modelopt"


def read_precision(fields: Fields) -> Precision:
    """The precision that the checkpoint is stored in: `torch_dtype` (or `dtype`), changed by `quantization_config`.

    Caches and activations stay in the unquantised format, as do embeddings and LM head. A method that leaves attention
    alone (mxfp4, or `modules_to_not_convert` with attention in it) changes the experts only.
    """
    base = _base(fields)
    path, config = fields.find("quantization_config")
    stored = base
    if path and not isinstance(config, Mapping):
        fields.wrong(path, f"{config!r} is wrong for a quantisation; it must be an object with 'quant_method'")
    elif path:
        stored = _stored(fields, path, config) or base
    spared = path and _spares_attention(config)
    return Precision(
        weights=base if spared else stored,
        experts=stored,
        kv=base,
        activations=base,
        embeddings=None if stored == base or spared else base,
    )


def _base(fields: Fields) -> str:
    path, value = fields.find("torch_dtype", "dtype")
    if not path:
        return "bf16"
    try:
        return canonical(str(value))
    except ValueError as error:
        fields.wrong(path, str(error))
        return "bf16"


def _stored(fields: Fields, path: str, config: Mapping[str, Any]) -> str:
    """The precision of quantised weights; an empty text after a mistake."""
    method = str(config.get("quant_method", ""))
    if method in ("fp8", "fbgemm_fp8"):
        return "fp8"
    if method == "mxfp4":
        return "mxfp4"
    if method in ("gptq", "awq", "gptq_marlin", "awq_marlin"):
        # a 16-bit scale and a zero point as wide as a weight for each group
        return _grouped(fields, f"{path}.bits", config.get("bits"), config.get("group_size", 128), zero_point=True)
    if method == "compressed-tensors":
        return _compressed(fields, path, config)
    if method == "bitsandbytes":
        if config.get("load_in_8bit"):
            return "int8"
        # 4 bits and, per 64 weights, a 32-bit scale; or an 8-bit one and, per 256 of those, a 32-bit one
        return f"{4 + 8 / 64 + 32 / (64 * 256)} bits" if config.get("bnb_4bit_use_double_quant") else "4.5 bits"
    if method.startswith("modelopt"):
        algorithm = str(config.get("quant_algo", "")).upper()
        return {"FP8": "fp8", "NVFP4": "nvfp4"}.get(algorithm, "") or _unknown(fields, f"{path}.quant_algo", algorithm)
    return _unknown(fields, f"{path}.quant_method", method)


def _unknown(fields: Fields, path: str, method: str) -> str:
    fields.wrong(
        path,
        f"quantisation '{method}' is not known; known: {_METHODS}. Leave quantization_config out and give the precision itself",
    )
    return ""


def _grouped(fields: Fields, path: str, bits: Any, group: Any, *, zero_point: bool) -> str:
    """`4.15625 bits` for 4 bits in groups of 128 with scale and zero point; bare bits without groups."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 0 < bits <= 16:
        fields.wrong(path, f"{bits!r} is wrong for the bits of a weight; it must be a whole number from 1 to 16")
        return ""
    extra = (16 + (bits if zero_point else 0)) / group if isinstance(group, int) and group > 0 else 0.0
    return canonical(f"{bits + extra} bits")


def _compressed(fields: Fields, path: str, config: Mapping[str, Any]) -> str:
    groups = config.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping):
        fields.wrong(f"{path}.config_groups", "missing: one group with the 'weights' that it quantises")
        return ""
    if weights.get("type") == "float" and weights.get("num_bits") == 8:
        return "fp8"
    zero_point = not weights.get("symmetric", True)
    place = f"{path}.config_groups.weights.num_bits"
    return _grouped(fields, place, weights.get("num_bits"), weights.get("group_size"), zero_point=zero_point)


def _spares_attention(config: Any) -> bool:
    if not isinstance(config, Mapping):
        return False
    if config.get("quant_method") == "mxfp4":
        return True
    spared = config.get("modules_to_not_convert") or config.get("ignore")
    return isinstance(spared, list) and any("self_attn" in str(module) for module in spared)
