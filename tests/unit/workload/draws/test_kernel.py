"""The compiled walk draws what numpy draws, to the bit; so does its source as plain Python; exponentials know no processor."""

import hashlib
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from reporting import for_all

from moesim import jit
from moesim.portable import exponential, logarithm, power_law
from moesim.streams import Streams
from moesim.workload.draws import job as draws
from moesim.workload.draws import kernel
from moesim.workload.draws.blocks import BLOCK, Process
from moesim.workload.draws.experts import AliasTable, mean_one
from moesim.workload.draws.job import draw_job, draw_with, joined, walk
from moesim.workload.draws.laws import IndependentLaw, Kin, StickyLaw, strides
from moesim.workload.jobs import Offline
from moesim.workload.routing.sticky import Sticky
from moesim.workload.table import Job
from tests.routed_models import RoutedModel

ROOT = Path(__file__).resolve().parents[4]
wrapping = np.errstate(over="ignore")
PLAIN = SimpleNamespace(**{function.__name__: wrapping(function) for function in kernel.FUNCTIONS})


@pytest.fixture(scope="module")
def compiled():
    functions = jit.native(kernel)
    if functions is None:
        pytest.skip("numba is not installed")
    return functions


def sticky(rng, experts, top_k, layers, requests):
    coupling, bond = np.full(layers, rng.choice([0.0, 0.5, 1.0])), np.full(layers, rng.choice([0.0, 0.6, 1.0]))
    coupling[0] = bond[0] = 0.0
    curve = np.stack([power_law(experts, float(rng.choice([0.0, 0.5, 2.0, 6.0])), float(rng.uniform(-3, 8)))] * layers)
    tilt, thread = float(rng.choice([0.0, 0.5, 1.5, 5.0])), float(rng.uniform())
    reuse, memory = np.full(layers, rng.choice([0.0, 0.3, 1.0])), np.full(layers, rng.choice([0.0, 0.3]))
    decay, reach = float(rng.choice([0.0, 1.0, 1.7])), int(rng.choice([2, 3, 16, 30]))
    named = rng.permuted(np.broadcast_to(np.arange(experts), (layers, experts)), axis=1)
    kin = Kin(float(rng.uniform()), rng.standard_normal((3, layers, experts)), rng.integers(0, 3, requests))
    process = Process(curve, tilt, thread, reuse, memory, coupling, bond, decay, reach)
    return StickyLaw(process, named, top_k, kin if rng.random() < 0.5 else None)


def independent(rng, experts, top_k, layers, requests):
    popularity = rng.random((layers, experts)) ** float(rng.choice([0, 1, 8, 60]))
    popularity[:, rng.permutation(experts)[: rng.integers(0, experts - top_k + 1)]] = 0.0
    return IndependentLaw(popularity, top_k)


def case(seed):
    """A law and a job of up to two blocks, from the flattest to the most concentrated."""
    rng = np.random.default_rng(seed)
    experts = int(rng.choice([2, 3, 8, 64, 256, 257, 300]))
    top_k, layers = int(rng.integers(1, min(experts, 9) + 1)), int(rng.integers(1, 5))
    requests = int(rng.choice([1, 3, 66]))
    law = (sticky, independent)[seed % 2](rng, experts, top_k, layers, requests)
    prompt, output = rng.integers(1, 30, requests), rng.integers(1, 12, requests)
    return law, Job(np.zeros(requests), prompt, output, layers)


@for_all(range(60))
def test_compiled_and_numpy_draw_the_same(seed, compiled):
    law, job = case(seed)
    blocks = walk(job, law, Streams(seed), "routing"), draw_with(compiled, job, law, Streams(seed), "routing")
    expected, drawn = (joined(job, law, part) for part in blocks)
    assert np.array_equal(drawn.prefill, expected.prefill)
    assert np.array_equal(drawn.decode, expected.decode)
    assert drawn.decode.dtype == expected.decode.dtype


@for_all(range(12))
def test_the_source_as_plain_python_draws_the_same_within_bounds(seed):
    law, job = case(seed)
    job = Job(job.arrival[:2], np.minimum(job.prompt[:2], 8), np.minimum(job.output[:2], 3), job.layers)
    drawn = joined(job, law, draw_with(PLAIN, job, law, Streams(seed), "routing"))
    assert np.array_equal(drawn.prefill, joined(job, law, walk(job, law, Streams(seed), "routing")).prefill)


def test_without_the_new_parameters_the_first_law_draws_what_it_always_drew():
    """Digests of the law of seven parameters, taken before domains, bonds and longer memory came in."""
    law = Sticky(exponent=0.355, tail=1.014, tilt=1.146, thread=0.874, reuse=0.118, memory=0.152, coupling=0.828)
    digests = []
    for model, requests in ((RoutedModel("a", 64, 6, 4), 5), (RoutedModel("b", 300, 8, 3), 66)):
        _, table = Offline(requests=requests, prompt=30, output=20, routing=law).build(model, Streams(3), Path())
        profile = np.round(table.profile * 1e9).astype(np.int64)
        drawn = table.prefill.tobytes() + table.decode.tobytes() + profile.tobytes()
        digests.append(hashlib.sha256(drawn).hexdigest()[:16])
    assert digests == ["8fc0a47bdda1a9f0", "3bf08aacc4d5d88d"]


def test_words_of_a_place_are_every_64th_of_the_generator(compiled):
    bits = np.random.PCG64(11)
    streams, words = strides(bits), bits.random_raw(BLOCK * 50).reshape(50, BLOCK)
    for place in (0, 1, 63):
        drawn = np.empty(50, dtype=np.uint64)
        compiled.fill(streams[place], drawn[:20])
        compiled.fill(streams[place], drawn[20:])
        assert np.array_equal(drawn, words[:, place])


@for_all([2, 5, 128, 512], [0, 1, 40])
def test_compiled_alias_tables_are_those_of_numpy(experts, power, compiled):
    popularity = np.random.default_rng(experts).random((9, experts)) ** power
    popularity[1:3, 2:] = 0.0
    popularity[3] = 1.0
    threshold, alias = np.empty(popularity.shape, np.uint32), np.empty(popularity.shape, np.uint16)
    compiled.sweep(mean_one(popularity), threshold, alias)
    expected = AliasTable(popularity, 1).cells()
    assert np.array_equal(threshold, expected[0])
    assert np.array_equal(alias, expected[1])


def test_threads_do_not_change_what_is_drawn(compiled, monkeypatch):
    law, job = case(4)
    drawn = []
    for threads in ("1", "5"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        drawn.append(joined(job, law, draw_with(compiled, job, law, Streams(0), "routing")))
    assert np.array_equal(drawn[0].prefill, drawn[1].prefill)
    assert np.array_equal(drawn[0].decode, drawn[1].decode)


def test_without_numba_numpy_draws(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    jit._addresses.cache_clear()
    try:
        assert jit.native(kernel) is None
        assert not jit.ready(kernel)
    finally:
        jit._addresses.cache_clear()
    law, job = case(2)
    monkeypatch.setattr(draws, "_EACH", 1.0)
    monkeypatch.setattr(jit, "native", lambda module: None)
    assert np.array_equal(
        draw_job(job, law, Streams(2), "routing").prefill, joined(job, law, walk(job, law, Streams(2), "routing")).prefill
    )


def test_code_is_kept_for_later_processes(compiled):
    law, job = case(1)
    list(draw_with(compiled, job, law, Streams(0), "routing"))
    assert jit.ready(kernel)


def ulps(value, exact):
    return abs(Decimal(float(value)) - exact) / Decimal(float(np.spacing(value)))


def test_exponentials_are_right_to_the_last_digit():
    points = np.random.default_rng(0).uniform(-700, 700, 2_000)
    assert max(ulps(value, Decimal(float(x)).exp()) for x, value in zip(points, exponential(points), strict=True)) < 1.1
    assert exponential(np.array([0.0, -1e9])).tolist() == [1.0, 0.0]
    assert logarithm(2.0) == pytest.approx(0.6931471805599453, abs=0)
    assert power_law(4, 1.0, 0.0).tolist() == [1.0, 1 / 2, 1 / 3, 1 / 4]
    assert np.allclose(power_law(64, 0.5, 2.0), np.arange(1, 65) ** -0.5 * np.exp(-2.0 * np.arange(1, 65) / 64), rtol=1e-14)


DIGEST = """
import hashlib
import numpy as np
from moesim.streams import Streams
from moesim.workload.draws.blocks import Process
from moesim.workload.requests.lengths import LogNormal, draw_lengths
from moesim.portable import power_law
process = Process(np.stack([power_law(256, 0.479, 0.743)] * 4), 1.0, 0.9, *np.full((4, 4), 0.2), 1.3, 181)
popularity = process.popularity(process.tilts(Streams(0)["routing"]))
lags = process.lags()
lengths = draw_lengths(LogNormal(median=700, sigma=1.2), 5_000, Streams(0), "prompt", None)
print(hashlib.sha256(popularity.tobytes() + lags.tobytes() + lengths.tobytes()).hexdigest())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="switches off instructions in the way of glibc on x86")
def test_popularity_is_the_same_without_the_instructions_of_newer_processors():
    """I7: on a processor without AVX-512, AVX2 or fused multiply-adds, too."""
    plain = {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR X86_V3 AVX512F AVX512_SKX AVX2 FMA3"}
    bare = {**plain, "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F"}
    answers = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", DIGEST],
            env={**os.environ, **added},
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout
        for added in ({}, plain, bare)
    ]
    assert len(answers[0].strip()) == 64
    assert len(set(answers)) == 1
