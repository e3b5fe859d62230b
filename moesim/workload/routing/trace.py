"""Owns the replay of recorded routing: which sequence each request gets, and what of it is prompt and what decode.

Knows the record through `record`; draws nothing but the order of the sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.errors import InputError, Mistake, did_you_mean
from moesim.progress import Progress
from moesim.streams import Streams
from moesim.workload.requests.lengths import Lengths
from moesim.workload.routing import profile as profiles
from moesim.workload.routing.law import Routed, Routing, normalised, own_counts
from moesim.workload.routing.record import Record, read_record
from moesim.workload.table import Job, RoutingTable, id_type

__all__ = ["Trace"]

_CYCLED = "the trace records decode passes only: each prompt is routed like its request's own decoded tokens, taken in turn"

_FOLLOWED = 64
"""Sequences of a record that next-layer statistics are counted on, at most."""


class _Wanted(NamedTuple):
    """Lengths asked for; None: the trace's own."""

    prompt: int | None
    output: int | None


class Trace(Routing):
    """Each request replays one recorded sequence.

    A prefill trace holds whole sequences. With `output: N` the last N tokens of each are the decoded ones (pass g feeds
    the g-th of them back, so the last is never fed back) and the rest is the prompt; with `prompt` too, the first
    tokens are the prompt and the next N the output; without `output` all is prompt. A decode trace holds the decode
    passes alone: all of them are replayed, or the first N - 1, and since the prompt's routing was not recorded, its tokens
    take the request's own recorded tokens in turn. Sequences too short for the lengths asked for are passed over.
    In a layer batch the tokens are those of the middle layer, sequence after sequence.

    A profile of kind `held_out` is learnt on the sequences left over; a job that does not say how many requests it has
    leaves a quarter of them for it.
    """

    kind: Literal["trace"] = "trace"
    path: str = Field(min_length=1)
    """npz file, relative to the scenario's folder; format in `moesim.workload.routing.record`."""
    tasks: tuple[str, ...] = ()
    """Tasks of the file to replay; default all."""
    order: Literal["shuffled", "file"] = "shuffled"
    """`shuffled`: sequences in an order drawn from the stream `requests` (another one in each replicate)."""
    repeat: bool = False
    """Begin anew when there are more requests than sequences; otherwise that is an error."""

    def job(
        self,
        requests: int | None,
        prompt: Lengths | None,
        output: Lengths | None,
        model: Routed,
        streams: Streams,
        base: Path,
        profile: profiles.Profile,
    ) -> Job:
        record = self._record(model, base)
        lengths = _wanted(prompt, output)
        chosen = self._choose(record, requests, lengths, streams, profile)
        tokens = record.tokens[chosen]
        if record.decode:
            prompts = record.position[chosen] if lengths.prompt is None else np.full(len(chosen), lengths.prompt)
            outputs = tokens + 1 if lengths.output is None else np.full(len(chosen), lengths.output)
        else:
            outputs = np.full(len(chosen), lengths.output or 1)
            prompts = tokens - (lengths.output or 0) if lengths.prompt is None else np.full(len(chosen), lengths.prompt)
        return Job(np.zeros(len(chosen)), prompts.astype(np.int64), outputs.astype(np.int64), model.n_moe, source=chosen)

    def table(
        self, job: Job, model: Routed, streams: Streams, base: Path, profile: profiles.Profile, progress: Progress | None = None
    ) -> RoutingTable:
        record = self._record(model, base)
        if job.layers != model.n_moe:
            return self._layer_batch(job, record, model, streams, base, profile)
        chosen = job.source
        if chosen is None:
            chosen = self._choose(record, job.requests, _Wanted(None, None), streams, profile)
        layers, experts = job.layers, model.experts
        prefill = np.zeros((job.requests, layers, experts), dtype=np.uint32)
        decode = np.zeros((job.requests, job.passes, layers, model.top_k), dtype=id_type(experts))
        for request, number in enumerate(chosen):
            sequence = record.sequence(int(number))
            prompt, passes = int(job.prompt[request]), int(job.output[request]) - 1
            first = 0 if record.decode else prompt
            if first + passes > len(sequence):
                message = f"request {request} needs {first + passes} recorded tokens; its sequence {number} has {len(sequence)}"
                raise InputError(Mistake(message, file=str(base / self.path)))
            prefill[request] = _counts(sequence, prompt, experts)
            decode[request, :passes] = sequence[first : first + passes]
            if progress is not None:
                progress(request + 1, job.requests)
        own = own_counts(profile, prefill, decode, job.output)
        learnt = self._learn(profile, own, record, chosen, model, streams, base)
        prompts = partial(_prompt_ids, lambda request: record.sequence(int(chosen[request])), job.prompt)
        left_over = self._left_over(profile, record, chosen)
        followers = None if left_over is None else partial(_followers, record, left_over, experts)
        notes, topics = _notes(record, chosen), _topics(record, chosen)
        return RoutingTable(prefill, decode, experts, learnt, notes, prompts, topics, followers)

    def _layer_batch(
        self, job: Job, record: Record, model: Routed, streams: Streams, base: Path, profile: profiles.Profile
    ) -> RoutingTable:
        """Tokens of one layer without attention: sequence after sequence, as many as there are tokens."""
        sequences = self._usable(record, _Wanted(None, None), streams)
        needed, has = int(job.prompt.sum()), int(record.tokens[sequences].sum())
        if needed > has and not self.repeat:
            message = f"has {has} tokens; the batch has {needed}. Ask for fewer, or set repeat: true"
            raise InputError(Mistake(message, file=str(base / self.path)))
        used = int(np.searchsorted(np.cumsum(record.tokens[sequences]), needed)) + 1
        middle = model.n_moe // 2
        tokens = np.concatenate([record.sequence(int(number)) for number in sequences[:used]])[:, middle : middle + 1]
        prefill = np.zeros((job.requests, 1, model.experts), dtype=np.uint32)
        first = np.cumsum(job.prompt) - job.prompt

        def own_tokens(request: int) -> NDArray[np.unsignedinteger[Any]]:
            return np.roll(tokens, -int(first[request]), axis=0)

        for request in range(job.requests):
            prefill[request] = _counts(own_tokens(request), int(job.prompt[request]), model.experts)
        decode = np.zeros((job.requests, 0, 1, model.top_k), dtype=id_type(model.experts))
        own = np.zeros((model.n_moe, model.experts), dtype=np.int64)
        own[middle] = prefill.sum(axis=(0, 1), dtype=np.int64)
        learnt = self._learn(profile, own, record, sequences[:used], model, streams, base)[middle : middle + 1]
        return RoutingTable(prefill, decode, model.experts, learnt, prompts=partial(_prompt_ids, own_tokens, job.prompt))

    def _record(self, model: Routed, base: Path) -> Record:
        return read_record(base / self.path, model.n_moe, model.experts, model.top_k)

    def _sequences(self, record: Record, tasks: tuple[str, ...], path: str) -> IntArray:
        """Sequences of the named tasks (all without names), in the order of the file."""
        unknown = [task for task in tasks if task not in record.tasks]
        if unknown:
            known = ", ".join(record.tasks)
            sentences = [
                f"no task '{task}' in the trace; it has {known}.{did_you_mean(task, record.tasks)}" for task in unknown
            ]
            raise InputError(*(Mistake(text, path=path) for text in sentences))
        return np.unique(np.concatenate([record.tasks[task] for task in tasks or record.tasks]))

    def _usable(self, record: Record, lengths: _Wanted, streams: Streams) -> IntArray:
        sequences = self._sequences(record, self.tasks, "workload.routing.tasks")
        if self.order == "shuffled":
            sequences = streams["requests"].permutation(sequences)
        return sequences[record.tokens[sequences] >= _needed(record, lengths)]

    def _choose(
        self, record: Record, requests: int | None, lengths: _Wanted, streams: Streams, profile: profiles.Profile
    ) -> IntArray:
        """[R] the sequence that each request replays."""
        usable = self._usable(record, lengths, streams)
        if not usable.size:
            longest = int(record.tokens.max())
            message = f"no sequence is long enough: {_needed(record, lengths)} tokens are needed, the longest has {longest}"
            raise InputError(Mistake(message, file=self.path))
        if requests is None:
            held = len(usable) // 4 if isinstance(profile, profiles.HeldOut) else 0
            return usable[: len(usable) - held]
        if requests > len(usable) and not self.repeat:
            message = (
                f"{requests} requests asked for; the trace has {len(usable)} sequences of at least "
                f"{_needed(record, lengths)} tokens. Ask for fewer, or set repeat: true"
            )
            raise InputError(Mistake(message, path="workload.requests"))
        return usable[np.arange(requests) % len(usable)]

    def _learn(
        self,
        profile: profiles.Profile,
        own: IntArray,
        record: Record,
        chosen: IntArray,
        model: Routed,
        streams: Streams,
        base: Path,
    ) -> FloatArray:
        """[L, E] like `Routing.learn`, the two kinds that come from a record read from it."""
        sequences = self._left_over(profile, record, chosen)
        if sequences is None:
            return self.learn(profile, own, model, streams, base)
        counts = np.zeros((model.n_moe, model.experts), dtype=np.int64)
        for number in sequences:
            sequence = record.sequence(int(number))
            counts += _counts(sequence, len(sequence), model.experts)
        return normalised(counts)

    def _left_over(self, profile: profiles.Profile, record: Record, chosen: IntArray) -> IntArray | None:
        """Sequences that a profile is learnt on; None for kinds that do not come from the record."""
        if isinstance(profile, profiles.OtherTasks):
            return self._sequences(record, profile.tasks, "workload.profile.tasks")
        if not isinstance(profile, profiles.HeldOut):
            return None
        known = self._sequences(record, self.tasks, "workload.routing.tasks")
        sequences = np.setdiff1d(known, chosen)
        if not sequences.size:
            message = (
                f"the run replays all {len(known)} sequences of the record, so none is left to learn popularity from; "
                f"take workload.requests below {len(known)}, or a workload.profile that needs none: "
                "{kind: uniform} (nothing known), {kind: table, path: COUNTS.csv} or {kind: same} (an oracle's)"
            )
            raise InputError(Mistake(message, path="workload.profile"))
        return sequences


def _followers(record: Record, sequences: IntArray, experts: int, distance: int) -> IntArray:
    """[L - distance, E, E] tokens of `sequences` that used an expert and, `distance` layers on, another one."""
    ids = np.concatenate([record.sequence(int(number)) for number in sequences[:_FOLLOWED]]).astype(np.intp)
    pairs = np.zeros((max(ids.shape[1] - distance, 0), experts, experts), dtype=np.int64)
    for layer, table in enumerate(pairs):
        keys = ids[:, layer, :, None] * experts + ids[:, layer + distance, None, :]
        table += np.bincount(keys.ravel(), minlength=experts**2).reshape(experts, experts)
    return pairs


def _topics(record: Record, chosen: IntArray) -> IntArray | None:
    """[R] number of the task of each replayed sequence of `chosen` [R]; None where the record names no tasks."""
    if not record.tasks:
        return None
    task = np.full(len(record.tokens), -1, dtype=np.int64)
    for number, sequences in enumerate(record.tasks.values()):
        task[sequences] = number
    return task[chosen]


def _wanted(prompt: Lengths | None, output: Lengths | None) -> _Wanted:
    wrong = [name for name, value in (("prompt", prompt), ("output", output)) if not isinstance(value, int | None)]
    if wrong:
        message = "a trace has lengths of its own; give a whole number of tokens or leave it out"
        raise InputError(*(Mistake(message, path=f"workload.{name}") for name in wrong))
    return _Wanted(prompt if isinstance(prompt, int) else None, output if isinstance(output, int) else None)


def _needed(record: Record, lengths: _Wanted) -> int:
    """Recorded tokens that a sequence must have."""
    passes = (lengths.output or 1) - 1
    if record.decode:
        return max(passes, 1)
    if lengths.prompt is not None:
        return lengths.prompt + passes
    return 1 + (lengths.output or 0)


def _counts(sequence: NDArray[np.unsignedinteger[Any]], tokens: int, experts: int) -> IntArray:
    """[L, E] tokens per expert of the first `tokens` tokens of `sequence` [T, L, k], which begins anew when it ends."""
    layers = sequence.shape[1]
    whole, rest = divmod(tokens, len(sequence))
    flat = sequence.astype(np.intp) + np.arange(layers)[:, None] * experts

    def count(ids: IntArray) -> IntArray:
        return np.bincount(ids.ravel(), minlength=layers * experts).reshape(layers, experts)

    counts = count(flat[:rest])
    return counts + whole * count(flat) if whole else counts


def _prompt_ids(
    sequence_of: Callable[[int], NDArray[np.unsignedinteger[Any]]], prompt: IntArray
) -> NDArray[np.unsignedinteger[Any]]:
    """[R, P, L, k] the first `prompt` [R] tokens of each request's sequence [T, L, k], which begins anew when it ends."""
    example = sequence_of(0)
    ids = np.zeros((len(prompt), int(prompt.max()), *example.shape[1:]), dtype=example.dtype)
    for request, length in enumerate(prompt.tolist()):
        ids[request, :length] = np.resize(sequence_of(request), (length, *example.shape[1:]))
    return ids


def _notes(record: Record, chosen: IntArray) -> tuple[str, ...]:
    notes = (_CYCLED,) if record.decode else ()
    replayed = len(np.unique(chosen))
    return notes if replayed == len(chosen) else (*notes, f"{len(chosen)} requests replay {replayed} recorded sequences")
