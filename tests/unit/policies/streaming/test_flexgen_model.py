"""FlexGen's cost model, term by term: on a host of which all rates but one are endless, one stream is left to sum by hand."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from moesim.policies.streaming.flexgen_model import T4_HOST, Constants, Dense, Shares, Split, layer_seconds, throughput

MODEL = Dense(layers=3, hidden=2, width=3)
"""A layer weighs 8 * 2^2 + 4 * 2 * 3 = 56 bytes."""
SHARES = Shares(Split(0.25, 0.5, 0.25), Split(0.5, 0.25, 0.25), Split(0.0, 0.5, 0.5), gpu_batch=32, num_batches=2)
"""64 sequences in a block; the CPU's attention is as fast as it gets, for its three numbers are 0 below."""
PROMPT, OUTPUT = 4, 2
"""A decode attends to 4 + 2 / 2 tokens on average."""


def host(**rates: float) -> Constants:
    endless = {field.name: math.inf for field in fields(Constants)} | {"both": 0.0, "batch": 0.0, "hidden": 0.0}
    return Constants(**{**endless, **rates})


@pytest.mark.parametrize(
    ("rate", "prefill", "decode"),
    [
        ("to_gpu", 56 * 0.75 + 2 * 4 * 2 * 64 * 1.0, 56 * 0.75 + 2 * 2 * 64 * 1.0),
        ("to_host_cache", 4 * 5 * 2 * 64 * 0.5, 0.0),
        ("to_host_hidden", 2 * 4 * 2 * 64 * 1.0, 2 * 2 * 64 * 1.0),
        ("from_disk", 56 * 0.25 + 2 * 4 * 2 * 64 * 0.5, 4 * 64 * 5 * 2 * 0.25 + 2 * 2 * 64 * 0.5 + 56 * 0.25 / 0.95),
        ("to_disk_cache", 4 * 64 * 5 * 2 * 0.25, 0.0),
        ("to_disk_hidden", 2 * 4 * 2 * 64 * 0.5, 4 * 64 * 2 * 0.25 + 2 * 2 * 64 * 0.5),
        ("matmul_prefill", 64 * (8 * 4 * 4 + 4 * 4 * 2 * 3), 0.0),
        ("attention_prefill", 4 * 64 * 16 * 2, 0.0),
        ("matmul_decode", 0.0, 64 * (8 * 4 + 4 * 2 * 3)),
        ("attention_decode", 0.0, 4 * 64 * 5 * 2 * 0.5),
        ("cpu", 0.0, 4 * 64 * 5 * 2 * 0.5),
    ],
)
def test_each_rate_carries_its_own_bytes_or_operations(rate: str, prefill: float, decode: float) -> None:
    for speed in (1.0, 4.0):
        assert layer_seconds(MODEL, host(**{rate: speed}), SHARES, PROMPT, OUTPUT) == pytest.approx(
            (prefill / speed, decode / speed)
        )


def test_prefill_is_the_slowest_of_up_and_read_down_and_write_and_work() -> None:
    """1066 up, 526 read; 1280 + 1024 down, 640 + 512 written; 14,336 of work."""
    up, down = {"to_gpu": 1.0, "from_disk": 1.0}, {"to_host_cache": 1.0, "to_host_hidden": 1.0, "to_disk_cache": 1.0}
    assert layer_seconds(MODEL, host(**up), SHARES, PROMPT, OUTPUT)[0] == 1066 + 526
    assert layer_seconds(MODEL, host(**up, **down), SHARES, PROMPT, OUTPUT)[0] == 1280 + 1024 + 640
    assert layer_seconds(MODEL, host(**up, **down, to_disk_hidden=1.0), SHARES, PROMPT, OUTPUT)[0] == 2304 + 640 + 512
    assert layer_seconds(MODEL, host(**up, **down, matmul_prefill=1.0), SHARES, PROMPT, OUTPUT)[0] == 14336


def test_decode_is_upload_and_the_slowest_of_the_rest() -> None:
    """298 up; 256 down beside 256 written and 3,584 + 1,280 + 1,280 of work."""
    up, down = {"to_gpu": 1.0}, {"to_host_hidden": 1.0, "to_disk_hidden": 1.0}
    assert layer_seconds(MODEL, host(**up, **down), SHARES, PROMPT, OUTPUT)[1] == 298 + 256
    work = {"matmul_decode": 1.0, "attention_decode": 1.0, "cpu": 1.0}
    assert layer_seconds(MODEL, host(**up, **down, **work), SHARES, PROMPT, OUTPUT)[1] == 298 + 3584 + 1280 + 1280


def test_throughput_counts_one_prefill_and_all_further_tokens_of_every_layer() -> None:
    """64 sequences of 2 tokens in 3 layers of 14,336 s of prefill, and of 3,584 s for the second token."""
    slow = host(matmul_prefill=1.0, matmul_decode=1.0)
    assert throughput(MODEL, slow, SHARES, PROMPT, OUTPUT) == pytest.approx(64 * 2 / (3 * (14336 + 3584)))


@pytest.mark.parametrize(
    ("rate", "prefill", "decode"),
    [
        ("to_host_cache", 1280 / (0.97 * 2**30), 0.0),
        ("to_disk_cache", 640 / (0.746 * 2**30), 0.0),
        ("to_disk_hidden", 512 / (2.015 * 2**30), 256 / (2.015 * 2**30)),
    ],
)
def test_ways_of_the_published_host_are_in_gib_a_second(rate: str, prefill: float, decode: float) -> None:
    """Ways that hide behind others in the published plans: caches to the host, caches and hidden states to disk."""
    way = {rate: getattr(T4_HOST, rate)}
    assert layer_seconds(MODEL, host(**way), SHARES, PROMPT, OUTPUT) == pytest.approx((prefill, decode))
