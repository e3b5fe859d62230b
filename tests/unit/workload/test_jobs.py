"""Workloads: lengths, laws, profiles, and what must not change a request's routing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from pydantic import ValidationError

from moesim.errors import InputError
from moesim.streams import Streams
from moesim.workload.jobs import LayerBatch, Offline
from moesim.workload.requests.lengths import FromTable, LogNormal, UniformLengths
from moesim.workload.routing.presets import PRESETS, nearest
from moesim.workload.routing.profile import HeldOut, OtherTasks, Same, Table, Uniform
from moesim.workload.routing.sticky import Sticky, reuse_by_layer
from moesim.workload.routing.zipf import Independent, Zipf, expected_counts, zipf_curve
from moesim.workload.routing.zipf import Uniform as UniformRouting
from tests.routed_models import RoutedModel

ROOT = Path(__file__).resolve().parents[3]
HERE = Path()


MODEL = RoutedModel("deepseek-v2-lite", 64, 6, 4)


SMALL = RoutedModel("small", 16, 3, 4)
LAW = {"exponent": 0.6, "tail": 0.5, "tilt": 0.8, "thread": 0.8, "reuse": 0.2, "memory": 0.1, "coupling": 0.3}
CONCENTRATED = Sticky(**{**LAW, "exponent": 2.0, "tilt": 3.0})
ROUTINGS = [UniformRouting(), Zipf(exponent=1.0), Zipf(exponent=4.0), Sticky(**LAW), CONCENTRATED]


def build(routing, *, model=SMALL, seed=1, requests=3, prompt=20, output=5, profile=None, progress=None):
    profile = profile or HeldOut(requests=4, tokens=32)
    workload = Offline(requests=requests, prompt=prompt, output=output, routing=routing, profile=profile)
    return workload.build(model, Streams(seed), HERE, progress)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_every_token_takes_k_distinct_experts(routing):
    prompt, output = UniformLengths(minimum=1, maximum=30), UniformLengths(minimum=1, maximum=9)
    job, table = build(routing, prompt=prompt, output=output, requests=70)
    assert np.array_equal(table.prefill.sum(axis=2), np.repeat(job.prompt[:, None] * 3, 4, axis=1))
    assert (table.prefill.max(axis=2) <= job.prompt[:, None]).all()
    assert table.decode.shape == (70, job.passes, 4, 3)
    used = np.arange(job.passes) < (job.output - 1)[:, None]
    ids = np.sort(table.decode[used].astype(int), axis=-1)
    assert (np.diff(ids, axis=-1) > 0).all()
    assert ids.max() < 16


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_request_does_not_depend_on_those_that_follow(routing):
    _, short = build(routing, requests=3)
    _, long = build(routing, requests=67)
    assert np.array_equal(short.prefill, long.prefill[:3])
    assert np.array_equal(short.decode, long.decode[:3])


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_request_does_not_depend_on_the_lengths_of_others(routing):
    model, streams, profile = SMALL, Streams(1), Uniform()
    job, _ = build(routing)
    alone = routing.table(job, model, streams, HERE, profile)
    job.prompt[1], job.output[1] = 90, 3
    beside = routing.table(job, model, streams, HERE, profile)
    for request in (0, 2):
        assert np.array_equal(alone.prefill[request], beside.prefill[request])
        assert np.array_equal(alone.decode[request, :4], beside.decode[request, :4])


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_longer_output_only_adds_tokens(routing):
    _, short = build(routing, output=3)
    _, long = build(routing, output=12)
    assert np.array_equal(short.prefill, long.prefill)
    assert np.array_equal(short.decode, long.decode[:, :2])


@pytest.mark.parametrize("routing", ROUTINGS)
def test_decoded_tokens_continue_the_prompt(routing):
    """Token 20 of a request takes the same experts whether it belongs to the prompt or is decoded."""
    _, longer = build(routing, prompt=21, output=1)
    _, table = build(routing, prompt=20, output=5)
    added = longer.prefill.astype(int) - table.prefill
    expected = np.zeros_like(added)
    np.put_along_axis(expected, table.decode[:, 0].astype(int), 1, axis=2)
    assert np.array_equal(added, expected)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_seeds_differ_and_repeat(routing):
    assert np.array_equal(build(routing)[1].prefill, build(routing)[1].prefill)
    assert not np.array_equal(build(routing)[1].prefill, build(routing, seed=2)[1].prefill)


def test_another_process_and_hash_seed_give_the_same_bytes():
    code = (
        "import sys, hashlib; sys.path[:0] = sys.argv[1:]\n"
        "from test_jobs import *\n"
        "digest = hashlib.sha256()\n"
        "for routing in ROUTINGS:\n"
        "    _, t = build(routing)\n"
        "    digest.update(t.prefill.tobytes() + t.decode.tobytes() + t.profile.tobytes())\n"
        "print(digest.hexdigest())"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(Path(__file__).parent)]
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("0", "77")]
    answers = {subprocess.run(command, env=env, check=True, capture_output=True).stdout for env in environments}
    assert len(answers) == 1
    assert len(answers.pop().strip()) == 64


def test_progress_rises_to_the_total():
    calls = []
    build(Sticky(**LAW), requests=70, progress=lambda done, total: calls.append((done, total)))
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert calls[-1] == (70 * 24, 70 * 24)


class TestProfiles:
    def test_same_is_the_run_itself(self):
        job, table = build(Zipf(exponent=1.0), profile=Same())
        everyone = np.arange(3)
        counts = table.prefill_counts(everyone) + sum(table.decode_counts(everyone, g) for g in range(job.passes))
        assert np.allclose(table.profile, counts / counts.sum(axis=1, keepdims=True), rtol=1e-12)

    @pytest.mark.parametrize("routing", ROUTINGS[1:])
    def test_held_out_comes_from_other_draws_of_the_same_law(self, routing):
        held = build(routing, requests=40, prompt=200, profile=HeldOut(requests=200, tokens=100))[1]
        own = build(routing, requests=40, prompt=200, profile=Same())[1]
        assert not np.allclose(held.profile, own.profile, rtol=1e-6)
        assert np.corrcoef(held.profile.ravel(), own.profile.ravel())[0, 1] > 0.9

    def test_held_out_does_not_touch_the_run(self):
        own, two = (build(Sticky(**LAW), profile=profile)[1] for profile in (Same(), HeldOut(requests=3, tokens=8)))
        assert np.array_equal(own.decode, two.decode)

    def test_uniform(self):
        assert (build(Zipf(exponent=1.0), profile=Uniform())[1].profile == 1 / 16).all()

    def test_table(self, tmp_path):
        rows = "\n".join(f"{layer},{expert},{expert}" for layer in range(4) for expert in range(16))
        (tmp_path / "p.csv").write_text("layer,expert,count\n" + rows)
        table = build(UniformRouting(), profile=Table(path=str(tmp_path / "p.csv")))[1]
        assert np.allclose(table.profile, np.arange(16) / 120)

    def test_tasks_need_a_trace(self):
        with pytest.raises(InputError, match="needs routing of kind 'trace'"):
            build(UniformRouting(), profile=OtherTasks(tasks=("law",)))


class TestZipf:
    def test_expected_counts_of_the_published_example(self):
        """CXL-Expert: 128 experts, exponent 1.5, 1,024 tokens: the hottest 32 take 951."""
        workload = LayerBatch(tokens=1024, routing=Zipf(exponent=1.5, draw="expected"), profile=Uniform())
        job, table = workload.build(RoutedModel("seed", 128, 1, 10), Streams(0), HERE)
        counts = np.sort(table.prefill_counts(np.array([0]))[0])[::-1]
        assert counts.sum() == 1024
        assert counts[:32].sum() == round(1024 * zipf_curve(128, 1.5)[:32].sum()) == 951
        assert (job.layers, job.attention, job.passes, table.prefill.shape) == (1, False, 0, (1, 1, 128))

    def test_expected_refuses_top_2_and_decode(self):
        routing = Zipf(exponent=1.0, draw="expected")
        with pytest.raises(InputError, match="top-1 models; this one is top-3"):
            build(routing)
        with pytest.raises(InputError, match="no decode passes"):
            build(routing, model=RoutedModel("x", 16, 1, 2))

    def test_without_permutation_expert_0_leads_everywhere(self):
        _, table = build(Zipf(exponent=1.5, permute=False), prompt=300)
        assert (table.prefill.sum(axis=0).argmax(axis=1) == 0).all()
        _, permuted = build(Zipf(exponent=1.5), prompt=300, model=RoutedModel("x", 16, 3, 12))
        assert len(set(permuted.prefill.sum(axis=0).argmax(axis=1))) > 3

    @pytest.mark.parametrize("tokens", [1, 100, 5000])
    def test_expected_counts_follow_the_law_at_every_rank(self, tokens):
        counts = expected_counts(16, 1.0, tokens)
        assert counts.sum() == tokens
        assert (np.diff(counts) <= 0).all()
        assert np.abs(np.cumsum(counts) - tokens * np.cumsum(zipf_curve(16, 1.0))).max() <= 1.0


class TestSticky:
    def test_reuse_is_zero_first_and_most_in_the_middle(self):
        reuse = reuse_by_layer(26, 0.3)
        assert reuse[0] == 0
        assert reuse.argmax() in (12, 13)
        assert abs(reuse.mean() - 0.3) < 0.01
        assert reuse.max() <= 1.3 * 0.3 + 1e-12
        assert reuse_by_layer(1, 0.3).tolist() == [0.3]

    def test_full_reuse_repeats_the_first_token_where_reuse_is_one(self):
        law = Sticky(**{**LAW, "reuse": 1.0, "memory": 0.0, "coupling": 0.0})
        _, table = build(law, model=RoutedModel("x", 16, 3, 9), output=30)
        middle = np.sort(table.decode[:, :, 4], axis=-1)
        assert (middle == middle[:, :1]).all()

    def test_full_coupling_follows_the_layer_above(self):
        """Ranks stay within 2 of each other, so a token's experts of two layers are as popular."""
        law = Sticky(**{**LAW, "reuse": 0.0, "memory": 0.0, "coupling": 1.0, "exponent": 3.0, "tilt": 0.0})
        _, table = build(law, model=RoutedModel("x", 64, 1, 2), requests=40, prompt=1, output=100)
        rank = (-table.profile).argsort(axis=1).argsort(axis=1)
        ranks = np.stack([rank[layer][table.decode[:, :, layer, 0]] for layer in (0, 1)])
        hot = ranks[0] < 3
        assert (ranks[1][hot] < 8).mean() > 0.95

    def test_a_named_preset_and_one_by_the_model(self):
        named, _ = Sticky(preset="gpt-oss-20b").resolve(SMALL)
        assert named == PRESETS["gpt-oss-20b"]
        chosen, notes = Sticky(tilt=0.5).resolve(MODEL)
        assert chosen == PRESETS["deepseek-v2-lite"]._replace(tilt=0.5)
        assert notes == ()

    def test_unknown_models_borrow_with_a_warning(self):
        with pytest.warns(UserWarning, match="no routing was fitted to 'small'"):
            _, table = build(Sticky())
        assert "borrowing the preset" in table.notes[0]
        assert nearest(160, 6).name == "qwen3-30b-a3b"

    def test_all_parameters_need_no_preset(self):
        assert build(Sticky(**LAW))[1].notes == ()

    def test_unknown_preset(self):
        with pytest.raises(InputError, match="Did you mean 'gpt-oss-20b'"):
            Sticky(preset="gpt-oss-20").resolve(SMALL)


class TestLengths:
    def test_lognormal(self):
        job, _ = build(UniformRouting(), requests=400, prompt=LogNormal(median=20, sigma=0.5, maximum=60), output=1)
        assert 17 < np.median(job.prompt) < 23
        assert job.prompt.max() <= 60
        assert job.prompt.min() >= 1

    def test_more_requests_begin_with_the_same_lengths(self):
        lengths = LogNormal(median=20, sigma=0.5)
        short, long = (build(UniformRouting(), requests=n, prompt=lengths, output=lengths)[0] for n in (5, 9))
        assert np.array_equal(short.prompt, long.prompt[:5])
        assert np.array_equal(short.output, long.output[:5])
        assert not np.array_equal(short.prompt, short.output)

    @pytest.mark.parametrize("pick", ["file", "sampled"])
    def test_table_keeps_prompt_and_output_together(self, tmp_path, pick):
        path = tmp_path / "requests.csv"
        path.write_text("prompt_tokens,output_tokens\n" + "".join(f"{n},{2 * n}\n" for n in range(1, 9)))
        table = FromTable(path=str(path), pick=pick)
        job, _ = build(UniformRouting(), requests=6, prompt=table, output=table)
        assert np.array_equal(job.output, 2 * job.prompt)
        assert pick == "sampled" or job.prompt.tolist() == [1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("prompt,output_tokens\n1,2\n", "no column 'prompt_tokens'"),
            ("prompt_tokens\nten\n", "'ten' is not a number"),
            ("prompt_tokens\n1\n0\n", r":3:1: prompt_tokens 0 is not a number of tokens"),
            ("prompt_tokens\n", "has no rows"),
        ],
    )
    def test_defects_of_a_table(self, tmp_path, text, message):
        (tmp_path / "requests.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            build(UniformRouting(), prompt=FromTable(path=str(tmp_path / "requests.csv")))

    def test_too_few_rows_and_no_file(self, tmp_path):
        (tmp_path / "r.csv").write_text("prompt_tokens\n1\n")
        with pytest.raises(InputError, match="3 requests asked for; the file has 1"):
            build(UniformRouting(), prompt=FromTable(path=str(tmp_path / "r.csv"), pick="file"))
        with pytest.raises(InputError, match="no such file"):
            build(UniformRouting(), prompt=FromTable(path=str(tmp_path / "none.csv")))

    def test_bounds_in_order(self):
        with pytest.raises(ValidationError, match="maximum 2 is below minimum 5"):
            UniformLengths(minimum=5, maximum=2)


class TestSpecs:
    def test_from_a_mapping(self):
        workload = Offline.model_validate(
            {
                "kind": "offline",
                "requests": 2,
                "prompt": {"kind": "uniform", "minimum": 1, "maximum": 4},
                "output": 2,
                "routing": {"kind": "zipf", "exponent": 1.0},
                "profile": {"kind": "uniform"},
            }
        )
        assert isinstance(workload.routing, Zipf)
        assert isinstance(workload.prompt, UniformLengths)
        assert Offline.model_validate(workload.model_dump()) == workload
        assert "zipf" in str(Offline.model_json_schema())

    def test_unknown_kind(self):
        with pytest.raises(ValidationError, match="'zipf'"):
            Offline.model_validate({"requests": 2, "prompt": 2, "output": 2, "routing": {"kind": "zipff"}})

    def test_missing_lengths_are_all_reported(self):
        with pytest.raises(InputError) as caught:
            Offline(routing=UniformRouting()).build(SMALL, Streams(0), HERE)
        assert [m.path for m in caught.value.mistakes] == ["workload.requests", "workload.prompt", "workload.output"]

    def test_a_foreign_law_by_name_and_as_an_object(self):
        named = Offline.model_validate({"requests": 1, "prompt": 3, "output": 1, "routing": {"kind": f"{__name__}:FirstOnly"}})
        assert isinstance(named.routing, FirstOnly)
        _, table = build(FirstOnly())
        assert (table.prefill[:, :, :3] == 20).all()
        assert named.model_dump()["routing"] == {"kind": "first"}


class FirstOnly(Independent):
    """Always the first k experts."""

    kind: Literal["first"] = "first"

    def popularity(self, layers, model, streams, base):
        return (np.arange(model.experts) < model.top_k) * np.ones((layers, 1))


class TestPopularityTable:
    def routing(self, path):
        from moesim.workload.routing.popularity import PopularityTable

        return PopularityTable(path=str(path))

    def write(self, folder, rows, header="layer,expert,share"):
        (folder / "p.csv").write_text(header + "\n" + "\n".join(rows) + "\n")
        return folder / "p.csv"

    def test_top_1_follows_the_table(self, tmp_path):
        path = self.write(tmp_path, [f"{layer},{e},{e + 1}" for layer in (1, 2) for e in range(4)])
        _, table = build(self.routing(path), model=RoutedModel("x", 4, 1, 2), requests=1, prompt=20_000)
        assert np.allclose(table.prefill[0] / 20_000, np.arange(1, 5) / 10, atol=0.015)

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (["0,0,1", "0,1,1"], "has 1 layers; the model has 2"),
            (["0,0,1", "1,9,1"], "expert 9 is not one of the model's 4"),
            (["0,0,1", "1,0,-2"], "below zero"),
            (["0,0,1", "1,0,1"], "layer 0 .from 0. has 1 expert above zero; top-2 needs 2 or more"),
        ],
    )
    def test_defects(self, tmp_path, rows, message):
        with pytest.raises(InputError, match=message):
            build(self.routing(self.write(tmp_path, rows)), model=RoutedModel("x", 4, 2, 2))

    def test_no_value_column(self, tmp_path):
        with pytest.raises(InputError, match="no column with a popularity"):
            build(self.routing(self.write(tmp_path, ["0,0,1"], "layer,expert,weight")), model=RoutedModel("x", 4, 2, 2))
