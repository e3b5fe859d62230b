"""Fits of single kernels that a serving program was profiled with: attention of decoding rows, and small kernels.

Knows the tables of vLLM 0.19 with Llama-3.1-8B on an RTX PRO 6000 and the laws of the cost models.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from moesim import files
from moesim.arrays import BoolArray, FloatArray
from moesim.fit.gpu import GPUS
from moesim.fit.solve import ALTERNATE, Fit, Parameter, Residuals, Values, alternate, least_squares

__all__ = ["attention_of_decodes", "small_kernels"]

_SOURCE = "vLLM 0.19 on an RTX PRO 6000, Llama-3.1-8B (LLMServingSim 5daddb21a545, profiler)"
_GPU = GPUS["rtx_pro_6000_server"]
_TOKEN = 2 * 8 * 128 * 2.0
"""Bytes that a token has in the cache of a layer: keys and values of 8 heads of 128 numbers of 16 bit."""
_FLOOR = Parameter("launch", "s", (1e-5,), 1e-6, 1e-4)
_SMALL = ("layernorm", "rotary_emb", "act_fn")
_FEW = 64
"""Tokens up to which a small kernel takes no longer than its fixed time."""


@cache
def attention_of_decodes(data: Path) -> Fit:
    """Rows of a step that decodes only: a fixed time and the stream of the cache."""
    table = _attention(data)
    rows = table[(table[:, 0] == 0) & (table[:, 2] > 0)]
    nbytes, seconds = _TOKEN * rows[:, 2] * rows[:, 3], 1e-6 * rows[:, 4]

    def predict(values: Values) -> FloatArray:
        return np.asarray(values["launch"] + nbytes / (values["streaming"] * _GPU.bandwidth))

    parameters = (_FLOOR, Parameter("streaming", "", (0.6,), 0.05, 1.0))
    return _fit("attention core", "decode", "launch + bytes / (streaming B)", predict, seconds, parameters)


@cache
def small_kernels(data: Path) -> Fit:
    """Norm, rotation and activation of 1 to 64 tokens: one fixed time for all of them."""
    rows = [row for row in _rows(data, "dense") if row["layer"] in _SMALL and int(row["tokens"]) <= _FEW]
    seconds = np.array([1e-6 * float(row["time_us"]) for row in rows])

    def predict(values: Values) -> FloatArray:
        return np.full(len(seconds), values["launch"])

    return _fit("small kernels", "norm, rotation, activation at 1 to 64 tokens", "launch", predict, seconds, (_FLOOR,))


def _fit(
    component: str,
    subject: str,
    law: str,
    predict: Callable[[Values], FloatArray],
    seconds: FloatArray,
    parameters: Sequence[Parameter],
) -> Fit:
    chosen: BoolArray = alternate(len(seconds))
    values = least_squares(predict, seconds, chosen, parameters)
    predicted = predict(values)
    return Fit(
        component=component,
        subject=subject,
        law=law,
        parameters=values,
        units={parameter.name: parameter.unit for parameter in parameters},
        source=_SOURCE,
        split=ALTERNATE,
        fitted=Residuals.of(predicted[chosen], seconds[chosen]),
        tested=Residuals.of(predicted[~chosen], seconds[~chosen]),
    )


def _attention(data: Path) -> FloatArray:
    """[rows, 5] new and cached tokens of a prompt, decoding sequences, their context, us."""
    names = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
    return np.array([[float(row[name]) for name in names] for row in _rows(data, "attention")])


def _rows(data: Path, kernel: str) -> list[dict[str, str]]:
    path = data / "kernels" / f"vllm_{kernel}_llama-3.1-8b_rtxpro6000.csv.gz"
    return list(csv.DictReader(line for _, line in files.read_lines(path)))
