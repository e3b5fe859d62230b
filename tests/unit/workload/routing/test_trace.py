"""Replay of recorded routing: what each request gets, and every defect of a file."""

import json
from pathlib import Path

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.streams import Streams
from moesim.workload.jobs import LayerBatch, Offline
from moesim.workload.routing.profile import HeldOut, OtherTasks, Same, Uniform
from moesim.workload.routing.trace import Trace
from tests.routed_models import RoutedModel

LENGTHS = (7, 12, 5, 9)


MODEL = RoutedModel("toy", 8, 2, 3)


def arrays(*, decode=False):
    rng = np.random.default_rng(0)
    tokens = sum(LENGTHS)
    first = 4 if decode else 0
    phase = "decode (generated tokens)" if decode else "prefill"
    meta = {"num_experts": 8, "phase": phase, "tasks_seq_range": {"a": [0, 1], "b": [2, 3]}}
    return {
        "experts": np.argsort(rng.random((tokens, 3, 8)), axis=-1)[..., :2].astype(np.uint8),
        "seq": np.repeat(np.arange(4), LENGTHS).astype(np.int32),
        "pos": np.concatenate([np.arange(n) + first for n in LENGTHS]).astype(np.int32),
        "meta": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
    }


def write(folder, content):
    np.savez_compressed(folder / "t.npz", **content)
    return "t.npz"


def build(folder, content=None, *, decode=False, requests=None, prompt=None, output=None, profile=None, model=None, **options):
    path = write(folder, content or arrays(decode=decode))
    routing = Trace(**{"path": path, "order": "file", **options})
    workload = Offline(requests=requests, prompt=prompt, output=output, routing=routing, profile=profile or Uniform())
    return workload.build(model or MODEL, Streams(1), folder)


def direct(ids):
    return np.stack([np.bincount(ids[:, layer].ravel(), minlength=8) for layer in range(3)])


def sequence(number, content=None):
    content = content or arrays()
    return content["experts"][content["seq"] == number]


def test_without_output_all_is_prompt(tmp_path):
    job, table = build(tmp_path)
    assert job.prompt.tolist() == list(LENGTHS)
    assert job.output.tolist() == [1] * 4
    for request in range(4):
        assert np.array_equal(table.prefill[request], direct(sequence(request)))


def test_output_takes_the_last_tokens(tmp_path):
    job, table = build(tmp_path, output=3)
    assert job.prompt.tolist() == [n - 3 for n in LENGTHS]
    assert job.passes == 2
    assert np.array_equal(table.prefill[1], direct(sequence(1)[:-3]))
    assert np.array_equal(table.decode[1], sequence(1)[-3:-1])


def test_prompt_and_output_pass_over_short_sequences(tmp_path):
    job, table = build(tmp_path, prompt=6, output=3)
    assert job.source.tolist() == [1, 3]
    assert np.array_equal(table.prefill[1], direct(sequence(3)[:6]))
    assert np.array_equal(table.decode[1], sequence(3)[6:8])


def test_decode_trace(tmp_path):
    job, table = build(tmp_path, decode=True)
    assert job.prompt.tolist() == [4] * 4
    assert job.output.tolist() == [n + 1 for n in LENGTHS]
    ids = sequence(2, arrays(decode=True))
    assert np.array_equal(table.decode[2, :5], ids)
    assert np.array_equal(table.prefill[2], direct(ids[:4]))
    assert "decode passes only" in table.notes[0]


def test_prompt_of_a_decode_trace_cycles(tmp_path):
    job, table = build(tmp_path, decode=True, prompt=12, output=3)
    ids = sequence(2, arrays(decode=True))
    assert np.array_equal(table.prefill[2], direct(np.concatenate([ids, ids, ids[:2]])))
    assert table.decode.shape[1] == job.passes == 2


def test_shuffled_by_the_seed_and_prefix_stable(tmp_path):
    shuffled, _ = build(tmp_path, order="shuffled")
    two, _ = build(tmp_path, order="shuffled", requests=2)
    assert sorted(shuffled.source) == [0, 1, 2, 3]
    assert np.array_equal(shuffled.source[:2], two.source)


def test_tasks_and_repeat(tmp_path):
    job, table = build(tmp_path, tasks=("b",), requests=5, repeat=True)
    assert job.source.tolist() == [2, 3, 2, 3, 2]
    assert np.array_equal(table.prefill[0], table.prefill[2])
    assert table.notes == ("5 requests replay 2 recorded sequences",)


def test_profiles(tmp_path):
    _, foreign = build(tmp_path, tasks=("a",), profile=OtherTasks(tasks=("b",)))
    rest = direct(np.concatenate([sequence(2), sequence(3)]))
    assert np.allclose(foreign.profile, rest / rest.sum(axis=1, keepdims=True))
    job, held = build(tmp_path, profile=HeldOut())
    assert job.source.tolist() == [0, 1, 2]
    assert np.allclose(held.profile, direct(sequence(3)) / (9 * 2))
    _, own = build(tmp_path, profile=Same())
    assert np.allclose(own.profile, direct(arrays()["experts"]) / (33 * 2))


def test_nothing_left_to_hold_out(tmp_path):
    with pytest.raises(InputError, match="all 4 sequences of the record, so none is left to learn popularity from"):
        build(tmp_path, requests=4, profile=HeldOut())


def test_layer_batch_takes_the_middle_layer(tmp_path):
    routing = Trace(path=write(tmp_path, arrays()), order="file")
    job, table = LayerBatch(tokens=10, routing=routing, profile=HeldOut()).build(MODEL, Streams(0), tmp_path)
    assert np.array_equal(table.prefill[0, 0], direct(arrays()["experts"][:10])[1])
    assert (job.layers, table.profile.shape) == (1, (1, 8))
    with pytest.raises(InputError, match="has 33 tokens; the batch has 99"):
        LayerBatch(tokens=99, routing=routing).build(MODEL, Streams(0), tmp_path)


def edit(name, change):
    def apply(content):
        content[name] = change(content[name].copy())
        return content

    return apply


def put(index, value):
    def apply(array):
        array[index] = value
        return array

    return apply


def meta(**changes):
    return edit("meta", lambda raw: np.frombuffer(json.dumps(json.loads(bytes(raw)) | changes).encode(), dtype=np.uint8))


DEFECTS = {
    "missing array": (lambda c: {k: v for k, v in c.items() if k != "pos"}, "'pos' is missing; the file has experts, meta"),
    "two dimensions": (edit("experts", lambda a: a[:, 0]), r"array 'experts' has shape \(33, 2\)"),
    "no dimension": (edit("experts", lambda a: a[0, 0, 0]), r"array 'experts' has shape \(\)"),
    "far": (edit("pos", lambda a: a.astype(np.int64) + 2**40), "a position is beyond 1,000,000,000 tokens"),
    "ranges": (meta(tasks_seq_range={"a": 3}), r"is not \{task: \[first, last\]\}"),
    "floats": (edit("experts", lambda a: a.astype(float)), "array 'experts' has type float64; whole numbers"),
    "short seq": (edit("seq", lambda a: a[:-1]), "array 'seq' has 32 entries for 33 tokens"),
    "out of range": (edit("experts", put((5, 1, 0), 8)), "token 5, layer 1: expert 8 of 8"),
    "twice": (edit("experts", put((6, 2), 3)), "token 6, layer 2: expert 3 twice"),
    "gap": (edit("pos", put(3, 9)), "sequence 0: position 9 follows 2"),
    "pieces": (edit("seq", put(30, 0)), "a sequence comes in several pieces"),
    "late start": (edit("pos", lambda a: a + 1), "sequence 0 of a prefill trace starts at position 1"),
    "no prompt": (meta(phase="decode"), "has no prompt"),
    "no json": (edit("meta", lambda a: a[:-3]), "not JSON text"),
    "experts of the model": (meta(num_experts=9), "records 9 experts per layer; the model has 8"),
    "empty": (lambda c: c | {"experts": c["experts"][:0], "seq": c["seq"][:0], "pos": c["pos"][:0]}, "'experts' is empty"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_of_the_file(tmp_path, defect):
    change, message = DEFECTS[defect]
    with pytest.raises(InputError, match=message) as caught:
        build(tmp_path, change(arrays()))
    assert caught.value.mistakes[0].file.endswith("t.npz")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (MODEL._replace(top_k=3), "records 2 experts per token; the model has 3"),
        (MODEL._replace(n_moe=2), "records 3 MoE layers; the model has 2"),
    ],
)
def test_another_model(tmp_path, model, message):
    with pytest.raises(InputError, match=message):
        build(tmp_path, model=model)


def test_all_defects_of_the_model_at_once(tmp_path):
    with pytest.raises(InputError) as caught:
        build(tmp_path, model=MODEL._replace(experts=16, top_k=3, n_moe=2))
    assert len(caught.value.mistakes) == 3


def test_missing_truncated_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match="no such routing trace"):
        Offline(routing=Trace(path="none.npz")).build(MODEL, Streams(0), tmp_path)
    write(tmp_path, arrays())
    whole = (tmp_path / "t.npz").read_bytes()
    for broken in (whole[:-40], whole[: len(whole) // 2], b"", b"not a zip", whole[:200] + b"\0" * 60 + whole[260:]):
        (tmp_path / "t.npz").write_bytes(broken)
        with pytest.raises(InputError, match="not a readable npz file"):
            Offline(routing=Trace(path="t.npz")).build(MODEL, Streams(0), tmp_path)
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(InputError, match="not an npz archive"):
        Offline(routing=Trace(path="x.npy")).build(MODEL, Streams(0), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"requests": 5}, "5 requests asked for; the trace has 4 sequences of at least 1 tokens"),
        ({"output": 40}, "no sequence is long enough: 41 tokens are needed, the longest has 12"),
        ({"tasks": ("c",)}, "no task 'c' in the trace; it has a, b"),
        ({"profile": OtherTasks(tasks=("bb",))}, "no task 'bb' in the trace; it has a, b"),
        ({"prompt": {"kind": "uniform", "minimum": 1, "maximum": 2}}, "a trace has lengths of its own"),
    ],
)
def test_requests_that_cannot_be_met(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        build(tmp_path, **options)


def test_a_job_made_elsewhere_is_checked(tmp_path):
    job, _ = build(tmp_path)
    job.prompt[:] = 40
    with pytest.raises(InputError, match="request 0 needs 40 recorded tokens; its sequence 0 has 7"):
        Trace(path="t.npz").table(job, MODEL, Streams(0), Path(tmp_path), Uniform())
