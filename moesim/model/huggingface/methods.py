"""Owns the quantisation methods that checkpoints name: which format each gives to weights, and to which modules.

Knows bits, scales and zero points of each method; nothing of the sizes of modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from moesim.model.huggingface.fields import Fields
from moesim.model.precision import canonical

__all__ = ["ALGORITHMS", "METHODS", "Quantization", "listed", "unknown"]

ALGORITHMS = {  # of NVIDIA's ModelOpt
    "FP8": "fp8",
    "FP8_PB_WO": "fp8",
    "FP8_PB_REAL": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_NVFP4": "nvfp4",
    "W4A8_NVFP4_FP8": "nvfp4",
    "MXFP4": "mxfp4",
    "W4A8_MXFP4_FP8": "mxfp4",
    "MXFP8": "mxfp8",
    "INT8": "int8",
    "INT8_SQ": "int8",
    "W8A16": "int8",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "INT4_AWQ": "4.125 bits",  # a 16-bit scale for 128 weights
    "W4A16_AWQ": "4.125 bits",
    "W4A8_AWQ": "4.125 bits",
}


class Quantization(NamedTuple):
    """`default` of linear layers (nothing where only named modules are quantised), and what says otherwise, last word last."""

    default: str = ""
    named: tuple[tuple[str, str], ...] = ()
    """(pattern of modules, format) of modules with a format of their own."""
    spared: tuple[str, ...] = ()
    """Patterns of modules left as they were."""
    kv: str = ""
    """Format of the cache, where the checkpoint says so."""
    embedding: str = ""
    """Format of the input embedding, where it is quantised too."""
    experts_apart: bool = False
    """Whether routed experts lie outside the module named `mlp`, which is then the block beside them (Gemma-4)."""


def unknown(fields: Fields, path: str, method: str) -> Quantization | None:
    """None, and a mistake that says which methods are known."""
    known = ", ".join(name for name in METHODS if name not in ("mlx", "mistral"))
    fields.wrong(
        path,
        f"quantisation '{method}' is not known; known: {known}. Leave quantization_config out and give the precision itself",
    )
    return None


# Formats


def _number(fields: Fields, path: str, value: Any, *, whole: bool = True) -> float:
    good = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and 0 < value <= 16
    if not good:
        right = "a whole number from 1 to 16" if whole else "a number up to 16"
        fields.wrong(path, f"{value!r} is wrong for the bits of a weight; it must be {right}")
    return float(value) if good else 0.0


def _grouped(fields: Fields, path: str, bits: Any, group: Any, extra: Callable[[float], float]) -> str:
    """`4.15625 bits` for 4 bits in groups of 128 with `extra` bits a group; bare bits without groups."""
    number = _number(fields, path, bits)
    if not number:
        return ""
    shared = extra(number) / group if isinstance(group, int) and not isinstance(group, bool) and group > 0 else 0.0
    return canonical(f"{number + shared} bits")


def _scale_and_zero(bits: float) -> float:
    return 16.0 + bits


def _two_scales(_: float) -> float:
    return 32.0


def _blocks(bits: Any, group: Any) -> str:
    """Floating-point weights with scales of 8 bits; an empty text for what no format has."""
    if bits == 8:
        return "mxfp8" if group == 32 else "fp8"
    return {16: "nvfp4", 32: "mxfp4"}.get(group, "") if bits == 4 and isinstance(group, int) else ""


def _weights(fields: Fields, path: str, weights: Mapping[str, Any]) -> str:
    """The format of a group of compressed-tensors."""
    bits, group = weights.get("num_bits"), weights.get("group_size")
    if weights.get("type") == "float":
        name = _blocks(bits, group)
        return name or _grouped(fields, path, bits, group, lambda _: 8.0)
    zero_point = not weights.get("symmetric", True)
    return _grouped(fields, path, bits, group, _scale_and_zero if zero_point else lambda _: 16.0)


# Methods


def _fp8(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    return Quantization("fp8")


def _mxfp4(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    return Quantization(named=(("experts", "mxfp4"),))


def _mxfp8(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    return Quantization("mxfp8")


def _eetq(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    return Quantization("int8")


def _gptq(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    """A 16-bit scale and a zero point as wide as a weight for each group; `dynamic` patterns have other bits or none."""
    bits, group = config.get("bits", config.get("w_bit")), config.get("group_size", config.get("q_group_size", 128))
    default = _grouped(fields, f"{path}.bits", bits, group, _scale_and_zero)
    if not default:
        return None
    named, spared = [], []
    dynamic = config.get("dynamic")
    for pattern, change in dynamic.items() if isinstance(dynamic, Mapping) else ():
        if str(pattern).startswith("-:"):
            spared.append(str(pattern))
        elif isinstance(change, Mapping):
            own = (change.get("bits", bits), change.get("group_size", group))
            named.append((str(pattern), _grouped(fields, f"{path}.dynamic", *own, _scale_and_zero)))
    return Quantization(default, tuple(named), tuple(spared))


def _auto_round(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    """As GPTQ, or blocks of floats; `extra_config` names modules with bits of their own."""

    def chosen(entry: Mapping[str, Any]) -> str:
        bits, group = entry.get("bits", config.get("bits")), entry.get("group_size", config.get("group_size", 128))
        if isinstance(bits, int) and bits >= 16:
            return "bf16"
        if str(entry.get("data_type", config.get("data_type", "int"))).startswith(("mx", "nv", "fp")):
            return _blocks(bits, group) or _grouped(fields, f"{path}.bits", bits, group, lambda _: 8.0)
        return _grouped(fields, f"{path}.bits", bits, group, _scale_and_zero)

    default = chosen({})
    own = config.get("extra_config")
    entries = own.items() if isinstance(own, Mapping) else ()
    named = tuple((str(name), chosen(entry)) for name, entry in entries if isinstance(entry, Mapping) and "bits" in entry)
    return Quantization(default, named) if default else None


def _compressed(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    """One format for each group of targets; the class `Linear` stands for all linear layers."""
    default, named = "", []
    for number, (targets, weights) in enumerate(_groups(config)):
        name = _weights(fields, f"{path}.config_groups.weights.num_bits", weights)
        if not name:
            return None
        if "Linear" in targets or (not targets and not number):
            default = name
        named += [(target, name) for target in targets if target != "Linear"]
    if not default and not named:
        fields.wrong(f"{path}.config_groups", "missing: one group with the 'weights' that it quantises")
        return None
    return Quantization(default, tuple(named))


def _groups(config: Mapping[str, Any]) -> Iterator[tuple[list[str], Mapping[str, Any]]]:
    groups = config.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            targets = group.get("targets")
            yield [str(target) for target in targets] if isinstance(targets, list) else [], weights


def listed(fields: Fields, path: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Modules that ModelOpt names one by one."""
    layers = config.get("quantized_layers")
    for name, entry in layers.items() if isinstance(layers, Mapping) else ():
        algorithm = str(entry.get("quant_algo", "")).upper() if isinstance(entry, Mapping) else ""
        if algorithm not in ALGORITHMS:
            unknown(fields, f"{path}.quantized_layers", algorithm)
            return
        yield str(name), ALGORITHMS[algorithm]


def _modelopt(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    algorithm = str(config.get("quant_algo") or "").upper()
    if algorithm == "MIXED_PRECISION" and isinstance(config.get("quantized_layers"), Mapping):
        return Quantization()
    if algorithm in ALGORITHMS:
        return Quantization(ALGORITHMS[algorithm])
    if config.get("config_groups"):
        return _compressed(fields, path, config)
    return unknown(fields, f"{path}.quant_algo", algorithm)


def _bitsandbytes(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    if config.get("load_in_8bit"):
        return Quantization("int8")
    # 4 bits and, per 64 weights, a 32-bit scale; or an 8-bit one and, per 256 of those, a 32-bit one
    return Quantization(f"{4 + 8 / 64 + 32 / (64 * 256)} bits" if config.get("bnb_4bit_use_double_quant") else "4.5 bits")


def _mlx(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    """A 16-bit scale and a 16-bit bias per group, or blocks of floats; embeddings are quantised like the rest."""

    def chosen(entry: Mapping[str, Any]) -> str:
        mode = str(entry.get("mode", config.get("mode", "affine")))
        if mode in ("mxfp4", "mxfp8", "nvfp4"):
            return mode
        if mode != "affine":
            unknown(fields, f"{path}.mode", mode)
            return ""
        bits, group = entry.get("bits", config.get("bits")), entry.get("group_size", config.get("group_size", 64))
        return _grouped(fields, f"{path}.bits", bits, group, _two_scales)

    default = chosen({})
    own = {str(name): entry for name, entry in config.items() if "." in str(name)}
    named = tuple((name, chosen(entry)) for name, entry in own.items() if isinstance(entry, Mapping))
    spared = tuple(name for name, entry in own.items() if entry is False)
    return Quantization(default, (("lm_head", default), *named), spared, embedding=default) if default else None


def _exllama(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    """Bits per weight on average, as the converter was asked for; the head has bits of its own."""
    bits = _number(fields, f"{path}.bits", config.get("bits"), whole=False)
    if not bits:
        return None
    head = config.get("head_bits")
    named = (("lm_head", canonical(f"{head} bits")),) if isinstance(head, int | float) and 0 < head <= 16 else ()
    return Quantization(canonical(f"{bits} bits"), named)


def _quark(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    """AMD Quark: one global format, and others by layer."""

    def chosen(entry: Any) -> str:
        weight = entry.get("weight") if isinstance(entry, Mapping) else None
        weight = weight[0] if isinstance(weight, list) and weight else weight
        dtype = str(weight.get("dtype", "")) if isinstance(weight, Mapping) else ""
        group = weight.get("group_size") if isinstance(weight, Mapping) else None
        if dtype.startswith(("fp8", "mxfp8")):
            return "mxfp8" if group == 32 else "fp8"
        if dtype.startswith(("fp4", "mx_fp4", "mxfp4", "mx")):
            return _blocks(4, group or 32)
        bits = {"int4": 4, "uint4": 4, "int8": 8, "uint8": 8}.get(dtype)
        if bits is None:
            unknown(fields, f"{path}.global_quant_config.weight.dtype", dtype)
            return ""
        return _grouped(fields, path, bits, group, _scale_and_zero)

    default = chosen(config.get("global_quant_config"))
    own = config.get("layer_quant_config")
    named = tuple((str(name), chosen(entry)) for name, entry in own.items()) if isinstance(own, Mapping) else ()
    return Quantization(default, named) if default else None


def _torchao(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    """torchao by the name of its configuration; 4 bits with a 16-bit scale and zero point per group of 128."""
    kind, arguments = config.get("quant_type"), config.get("quant_type_kwargs")
    if isinstance(kind, Mapping):
        kind = kind.get("default", kind)
        arguments = kind.get("_data") if isinstance(kind, Mapping) else None
        kind = kind.get("_type") if isinstance(kind, Mapping) else kind
    name = str(kind).lower().replace("_", "")
    group = arguments.get("group_size", 128) if isinstance(arguments, Mapping) else 128
    if "nvfp4" in name:
        return Quantization("nvfp4")
    if "int4" in name.partition("activation")[2] or "int4weight" in name:
        return Quantization(_grouped(fields, path, 4, group, _two_scales))
    if "int8" in name:
        return Quantization("int8")
    if "float8" in name or "fp8" in name:
        return Quantization("fp8")
    return unknown(fields, f"{path}.quant_type", str(kind))


def _hqq(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    """A 16-bit scale and a 16-bit zero point per group."""
    inner = config.get("quant_config", config)
    weights = inner.get("weight_quant_params") if isinstance(inner, Mapping) else None
    if not isinstance(weights, Mapping):
        weights = {"nbits": config.get("bits", config.get("nbits")), "group_size": config.get("group_size", 64)}
    name = _grouped(
        fields, f"{path}.quant_config.weight_quant_params.nbits", weights.get("nbits"), weights.get("group_size"), _two_scales
    )
    return Quantization(name) if name else None


def _quanto(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    name = {"float8": "fp8", "int8": "int8", "int4": "4.25 bits", "int2": "2.25 bits"}.get(str(config.get("weights")), "")
    return Quantization(name) if name else unknown(fields, f"{path}.weights", str(config.get("weights")))


def _fp_quant(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    name = str(config.get("forward_dtype", ""))
    return Quantization(name) if name in ("mxfp4", "nvfp4", "mxfp8") else unknown(fields, f"{path}.forward_dtype", name)


def _mistral(fields: Fields, path: str, config: Mapping[str, Any]) -> Quantization | None:
    name = str(config["qformat_weight"])
    if name.startswith("fp8"):
        return Quantization("fp8")
    return Quantization(name) if name in ("nvfp4", "mxfp4") else unknown(fields, f"{path}.qformat_weight", name)


METHODS: dict[str, Callable[[Fields, str, Mapping[str, Any]], Quantization | None]] = {
    "fp8": _fp8,
    "fbgemm-fp8": _fp8,
    "ptpc-fp8": _fp8,
    "finegrained-fp8": _fp8,
    "mxfp4": _mxfp4,
    "mxfp8": _mxfp8,
    "gptq": _gptq,
    "gptqmodel": _gptq,
    "awq": _gptq,
    "auto-round": _auto_round,
    "autoround": _auto_round,
    "intel/auto-round": _auto_round,
    "compressed-tensors": _compressed,
    "bitsandbytes": _bitsandbytes,
    "modelopt": _modelopt,
    "modelopt-fp4": _modelopt,
    "modelopt-mixed": _modelopt,
    "exl2": _exllama,
    "exl3": _exllama,
    "quark": _quark,
    "torchao": _torchao,
    "hqq": _hqq,
    "quanto": _quanto,
    "eetq": _eetq,
    "fp-quant": _fp_quant,
    "mlx": _mlx,
    "mistral": _mistral,
}
