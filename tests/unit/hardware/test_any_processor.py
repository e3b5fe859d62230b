"""I7: times are the same on every processor: nothing but sums, products and square roots goes into them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.hardware.experts import p_norm
from moesim.portable import cube_root, exponential, hazard, logarithms, one_or_more, powers

ROOT = Path(__file__).resolve().parents[3]
TIMES = """
import hashlib
import numpy as np
from moesim.hardware.experts import Table, p_norm
from moesim.policies.kit.history import Rows
from moesim.portable import hazard, one_or_more
times = [f"{us} us" for us in (201.3, 203, 205.7, 207, 212, 222, 243, 291, 480, 933, 1811)]
table = Table.model_validate({"weights": "352 MB", "tokens": [2**n for n in range(11)], "time": times})
digest = hashlib.sha256(table.seconds(np.arange(1, 5000), 352e6).tobytes())
for q in (1.0, 1.5, 2.0, 3.0, 4.7):
    digest.update(p_norm(np.linspace(0.1, 3, 5000), np.linspace(3, 0.1, 5000), q).tobytes())
digest.update(one_or_more(np.linspace(0, 30, 5000)).tobytes() + hazard(np.linspace(0, 0.999, 5000)).tobytes())
rows = Rows(np.linspace(0.1, 3, 300 * 200).reshape(1, 300, 200) ** 2)
digest.update(rows.weighted(0, np.linspace(1, 2, 300)).tobytes())
print(digest.hexdigest())
"""
OFF = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR X86_V3 AVX512F AVX512_SKX AVX2 FMA3",
    "OPENBLAS_CORETYPE": "Nehalem",
}
WITHOUT = ({}, OFF, {**OFF, "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F"})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="switches off instructions in the way of glibc on x86")
def test_i7_times_are_the_same_without_the_instructions_of_newer_processors() -> None:
    command = [sys.executable, "-W", "ignore", "-c", TIMES]
    runs = [
        subprocess.run(command, env={**os.environ, **off}, cwd=ROOT, check=True, capture_output=True).stdout for off in WITHOUT
    ]
    assert len(runs[0].strip()) == 64
    assert len(set(runs)) == 1


def test_i7_no_room_that_decides_results_takes_functions_of_the_processor() -> None:
    rooms = ("contract", "engine", "hardware", "policies", "runtime", "scheduling", "workload/draws")
    functions = re.compile(r"\b(np|math)\.(exp|expm1|log|log1p|log10|pow|power|tanh|cbrt)\(")
    products = re.compile(r" @ |\bnp\.(dot|vdot|inner|matmul|einsum|tensordot|linalg)\b")  # add in an order of their own
    files = [path for room in rooms for path in (ROOT / "moesim" / room).rglob("*.py")]
    assert len(files) > 100
    assert [
        str(path) for path in files if any(pattern.search(path.read_text("utf-8")) for pattern in (functions, products))
    ] == []


def apart(values: np.ndarray, truth: np.ndarray) -> float:
    """Units in the last place between doubles and what they should be."""
    return float(np.max(np.abs(values - truth) / np.spacing(np.abs(truth).astype(np.float64))))


def test_roots_powers_and_logarithms_are_right_to_the_last_digits() -> None:
    x = np.linspace(1.0, 4.0, 10_001)
    wide = x.astype(np.longdouble)
    assert apart(cube_root(x), np.cbrt(wide)) < 2.5
    assert apart(logarithms(x[1:]), np.log(wide[1:])) < 2.5
    for exponent in (0.2, 2 / 3, 1.0, 1.5, 3.0, 4.7):
        assert apart(powers(x, exponent), wide ** np.longdouble(exponent)) < 2.5 + 2 * exponent * np.log(4.0)
    assert powers(np.array([0.0, 1.0]), 0.7).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("function", [exponential, logarithms], ids=["exponential", "logarithms"])
def test_a_number_alone_gives_the_bits_that_it_gives_among_others(function) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0.0, 1.0, 300), 2.0 ** rng.uniform(-300, 9, 300), [799.9, 800.0, 1000.0]])
    x = np.concatenate([x, -x]) if function is exponential else x
    with np.errstate(over="ignore"):
        assert np.array([float(function(np.asarray(value))) for value in x]).tobytes() == function(x).tobytes()


def test_chances_are_right_to_the_last_digits_however_small() -> None:
    expected = np.concatenate([np.logspace(-12, 2, 10_001), [0.5, np.nextafter(0.5, 0.0)]])
    assert apart(one_or_more(expected), -np.expm1(-expected.astype(np.longdouble))) < 3
    share = np.concatenate([np.logspace(-12, -1e-9, 10_001), [0.25, np.nextafter(0.25, 0.0)]])
    assert apart(hazard(share), -np.log1p(-share.astype(np.longdouble))) < 4
    assert one_or_more(np.zeros(1)).tolist() == hazard(np.zeros(1)).tolist() == [0.0]


@given(st.floats(1e-12, 1e3), st.floats(1e-12, 1e3), st.sampled_from([1.0, 1.5, 2.0, 3.0, 4.7]))
def test_the_norm_is_that_of_the_definition(first: float, second: float, q: float) -> None:
    a, b = np.longdouble(first), np.longdouble(second)
    assert float(p_norm(first, second, q)) == pytest.approx(float((a**q + b**q) ** (1 / np.longdouble(q))), rel=2e-15)
