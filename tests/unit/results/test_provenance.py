"""Provenance: enough to repeat a run, the same for equal runs, and never a reason to fail."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from moesim.errors import MoesimError
from moesim.results import provenance
from moesim.results.plain import canonical


def test_the_hash_is_that_of_the_canonical_json() -> None:
    digest = hashlib.sha256(b'{"a":[1,2.5],"b":null}').hexdigest()
    assert provenance.content_hash({"b": None, "a": (1, 2.5)}) == f"sha256:{digest}"


def test_every_value_counts_in_the_hash() -> None:
    assert provenance.content_hash({"a": 1}) != provenance.content_hash({"a": 1.5})
    assert provenance.content_hash({"a": 1}) != provenance.content_hash({"b": 1})


def test_what_json_cannot_hold_is_refused_with_its_path() -> None:
    with pytest.raises(MoesimError, match=r"result\.a\[1\] is a set"):
        canonical({"a": [1, {2}]})


def test_collected_provenance_is_complete_and_plain() -> None:
    collected = provenance.collect({"model": "m"}, seed=3, replicate=2, command=["moesim", "run", "x.yaml"])
    assert json.loads(json.dumps(collected)) == collected
    assert (collected["seed"], collected["replicate"], collected["scenario"]) == (3, 2, {"model": "m"})
    assert set(collected["versions"]) == {"python", "moesim", "numpy", "simpy", "scipy"}
    assert collected["command"] == ["moesim", "run", "x.yaml"]
    assert collected == provenance.collect({"model": "m"}, seed=3, replicate=2, command=["moesim", "run", "x.yaml"])


def test_many_runs_have_one_experiment_and_no_command() -> None:
    collected = provenance.collect_many({"axes": {"a": [1, 2]}}, {"model": "m"}, origins={"a": ("measured", "me", "")})
    assert json.loads(json.dumps(collected)) == collected
    assert set(collected) == {"experiment", "content_hash", "versions", "platform", "git_commit", "origins"}
    assert collected["content_hash"] != provenance.collect_many({"axes": {"a": [1, 2]}}, {"model": "n"})["content_hash"]


def test_runs_of_a_comparison_share_all_but_their_policies() -> None:
    runs = [(name, provenance.collect({"model": "m", "policy": {"kind": name}}, seed=3)) for name in ("a", "b")]
    shared = provenance.of_comparison(runs)
    assert shared["scenario"] == {"model": "m"}
    assert shared["policies"] == {"a": {"kind": "a"}, "b": {"kind": "b"}}
    assert (shared["seed"], shared["platform"]) == (3, runs[0][1]["platform"])
    assert shared["content_hash"] not in {entry["content_hash"] for _, entry in runs}
    assert provenance.of_comparison([]) == {}


def test_outside_a_checkout_the_commit_is_missing(tmp_path: Path) -> None:
    assert provenance.git_commit(tmp_path) is None


def test_a_broken_checkout_does_not_stop_a_run(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("nonsense")
    assert provenance.git_commit(tmp_path) is None


def test_without_git_the_commit_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_commit(tmp_path) is None


def test_changes_of_a_checkout_are_recorded(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "file").write_text("one")
    git("init", "-q")
    git("add", "file")
    git("commit", "-qm", "one", "--no-gpg-sign")
    commit = git("rev-parse", "HEAD")
    assert provenance.git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    provenance.git_commit.cache_clear()
    assert provenance.git_commit(tmp_path) == f"{commit}+changes"
