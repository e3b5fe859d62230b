"""Bytes per number of each precision."""

import pytest
from pydantic import ValidationError

from moesim.model import Precision
from moesim.model.precision import BITS, bytes_of, canonical


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fp32", 4.0),
        ("bf16", 2.0),
        ("fp16", 2.0),
        ("fp8", 1.0),
        ("int8", 1.0),
        ("int4", 0.5),
        ("mxfp4", 0.53125),  # 32 numbers of 4 bits and a scale of 8: 17 bytes
        ("nvfp4", 0.5625),  # 16 numbers of 4 bits and a scale of 8: 9 bytes
        ("mxfp8", 1.03125),  # 32 numbers of 8 bits and a scale of 8: 33 bytes
        ("q8_0", 34 / 32),
        ("q6_k", 210 / 256),
        ("q4_k_m", 0.605),
        ("4.85 bits", 0.60625),
        ("4.85bits", 0.60625),
        ("1 bit", 0.125),
    ],
)
def test_bytes_per_number(name: str, expected: float) -> None:
    assert bytes_of(name) == pytest.approx(expected, rel=1e-15)
    assert Precision.bytes_of(name) == bytes_of(name)


@pytest.mark.parametrize(
    ("written", "unified"),
    [
        ("BF16", "bf16"),
        ("bfloat16", "bf16"),
        ("torch.float16", "fp16"),
        ("Q4_K_M", "q4_k_m"),
        ("4.850 bits", "4.85 bits"),
        ("8 bits", "8 bits"),
    ],
)
def test_spellings_are_unified(written: str, unified: str) -> None:
    assert canonical(written) == unified
    assert Precision(experts=written).experts == unified


def test_canonical_names_are_fixed_points() -> None:
    assert [canonical(name) for name in BITS] == list(BITS)


def test_unknown_precision_says_what_is_known() -> None:
    with pytest.raises(ValueError, match="is not a precision") as caught:
        canonical("bf61")
    assert str(caught.value) == (
        f"'bf61' is not a precision; known: {', '.join(BITS)}, or a number of bits such as '4.85 bits'. Did you mean 'bf16'?"
    )


@pytest.mark.parametrize("bits", ["0 bits", "65 bits"])
def test_bits_out_of_range(bits: str) -> None:
    with pytest.raises(ValueError, match="is out of range") as caught:
        canonical(bits)
    assert str(caught.value) == f"'{bits}' is out of range; a number takes more than 0 and at most 64 bits"


def test_negative_bits_are_not_a_precision() -> None:
    with pytest.raises(ValidationError, match="'-4 bits' is not a precision"):
        Precision(kv="-4 bits")


def test_embeddings_follow_the_weights_unless_given() -> None:
    assert Precision(weights="int8").embedding_name == "int8"
    assert Precision(weights="int8", embeddings="bf16").embedding_name == "bf16"
