"""GGUF files, written by the package of ggml itself, are read to the byte; what is wrong with one is said in one message."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import EXPERTS, HIDDEN, LAYERS, VOCAB, WIDTH, scenario, write

import moesim
from moesim.errors import InputError
from moesim.model import read_model
from moesim.model.ggml import BY_NUMBER
from moesim.scenario import check, load_data


def bytes_by_package(path: Path, *words: str) -> int:
    """Bytes of the tensors whose name holds any of `words`, as the package reads the file."""
    tensors = [tensor for tensor in gguf.GGUFReader(path).tensors if any(word in tensor.name for word in words)]
    assert tensors
    return sum(int(tensor.n_bytes) for tensor in tensors)


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_read_to_the_byte(tmp_path: Path, shared: bool) -> None:
    path = write(tmp_path / "small-UD-Q4_K_XL.gguf", shared=shared)
    model = read_model(path)
    assert (model.name, model.layers, model.experts, model.top_k) == ("small-UD-Q4_K_XL", LAYERS, EXPERTS, 2)
    assert (model.hidden, model.expert_width, model.vocab, model.shared_width) == (HIDDEN, WIDTH, VOCAB, WIDTH * shared)
    for layer, nbytes in enumerate(model.expert_bytes_by_layer.tolist()):
        assert nbytes * EXPERTS == bytes_by_package(path, f"blk.{layer}.ffn_gate_exps", f"blk.{layer}.ffn_up_exps",
                                                    f"blk.{layer}.ffn_down_exps")  # fmt: skip
    assert len(set(model.expert_bytes_by_layer)) == LAYERS
    assert model.all_expert_bytes == bytes_by_package(path, "_exps")
    dense = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp", "token_embd", "output.weight", *["shexp"] * shared]
    assert model.non_expert_bytes == pytest.approx(bytes_by_package(path, *dense), abs=1e-3)


def test_types_are_those_of_the_package() -> None:
    """A later package may know more types; those that moesim knows are alike."""
    of_package = {int(kind): (kind.name.lower(), *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {number: tuple(kind) for number, kind in BY_NUMBER.items()} == {n: of_package[n] for n in BY_NUMBER}


def test_a_run_moves_each_layers_own_bytes_and_loses_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "small.gguf")
    result = moesim.run(scenario(str(path)))
    quality = result.summary["quality"]
    assert quality["precision"] == {quality["native"]: 1.0}
    by_layer, experts = read_model(path).expert_bytes_by_layer, result.frame("experts")
    host = experts[experts["resident"] == 0]
    assert sorted(set(host["layer"])) == [0, 1]
    read = float(sum(by_layer[layer] for layer in experts["layer"][experts["resident"] == 0]))
    assert result.details["peak_B"]["ddr"] >= read > 0
    assert len(set(by_layer)) == 3


def test_parts_of_a_split_model_are_read_together(tmp_path: Path) -> None:
    whole = read_model(write(tmp_path / "whole.gguf"))
    write(tmp_path / "parts.gguf", split_max_tensors=10)
    first, *later = sorted(tmp_path.glob("parts-*.gguf"))
    assert later
    model = read_model(first)
    assert model.name == "parts"
    assert model.precision == whole.precision
    with pytest.raises(
        InputError, match=rf"is a later part of a split model; name its first part, parts-00001-of-0000{len(later) + 1}"
    ):
        read_model(later[-1])
    later[0].unlink()
    with pytest.raises(InputError, match=f"is the first of {len(later) + 1} parts, and {later[0].name} is not beside it"):
        read_model(first)


def test_later_layers_of_multi_token_prediction_are_left_out(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_uint32("qwen3moe.nextn_predict_layers", 1)

    assert read_model(write(tmp_path / "mtp.gguf", change=change)).layers == LAYERS - 1


def test_a_tied_embedding_and_windows_are_seen(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_sliding_window(128)
        writer.add_array("qwen3moe.attention.sliding_window_pattern", [True, False, True])

    assert read_model(write(tmp_path / "windows.gguf", change=change)).windows == (128, 0, 128)


def message(path: Path) -> str:
    """The one message about a file."""
    with pytest.raises(InputError) as caught:
        read_model(path, path.name)
    assert len(caught.value.mistakes) == 1
    return str(caught.value)


def test_what_is_not_a_model_of_experts_is_refused(tmp_path: Path) -> None:
    def window(writer: gguf.GGUFWriter) -> None:
        writer.add_sliding_window(128)

    def state_space(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("blk.0.ssm_x.weight", np.zeros(8, dtype=np.float32))

    dense = gguf.GGUFWriter(tmp_path / "dense.gguf", "llama")
    dense.add_block_count(1)
    dense.add_tensor("token_embd.weight", np.zeros((8, 32), dtype=np.float32))
    dense.write_header_to_file()
    dense.write_kv_data_to_file()
    dense.write_tensors_to_file()
    dense.close()
    assert message(tmp_path / "dense.gguf") == (
        "dense.gguf: has no tensors of experts (ffn_down_exps), and is not of a family that is known to be dense"
    )
    assert "not which layers see no further" in message(write(tmp_path / "window.gguf", change=window))
    assert message(write(tmp_path / "ssm.gguf", change=state_space)) == (
        "ssm.gguf: has the tensor 'blk.0.ssm_x.weight', which moesim does not model"
    )


def test_files_that_are_not_whole_are_refused_in_one_message(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gguf").read_bytes()

    def file(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return message(tmp_path / name)

    assert "is cut short: blk.2.ffn_gate_inp.weight ends at byte" in file("short.gguf", whole[: len(whole) - 3000])
    for length in (5, 20, 60, 3000):
        assert "is cut short" in file("head.gguf", whole[:length]), length
    assert file("empty.gguf", b"") == "empty.gguf: is not a GGUF file: it begins with b'', not b'GGUF'"
    assert "begins with b'PK" in file("zip.gguf", b"PK\x03\x04" + whole[4:])
    assert "is GGUF version 1; versions 2 and 3 are read" in file("old.gguf", whole[:4] + struct.pack("<I", 1) + whole[8:])
    big = write(tmp_path / "big.gguf", endianess=gguf.GGUFEndian.BIG)
    assert "is a big-endian GGUF file" in message(big)
    with pytest.raises(InputError, match="no such file"):
        read_model(tmp_path / "missing.gguf")


@pytest.mark.parametrize("claim", [2**63, 2**40, 10**6])
def test_a_length_is_not_believed(tmp_path: Path, claim: int) -> None:
    """An array, a text, a count of keys or of tensors that the file cannot hold ends at once."""
    text, array, key = 8, 9, struct.pack("<Q", 1) + b"a"
    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
    bodies = (
        key + struct.pack("<IIQ", array, 0, claim),
        key + struct.pack("<IIQ", array, text, claim),
        key + struct.pack("<IQ", text, claim),
        struct.pack("<Q", claim),
    )
    for data in (*(head + body for body in bodies), struct.pack("<4sIQQ", b"GGUF", 3, claim, 0)):
        (tmp_path / "damaged.gguf").write_bytes(data + bytes(64))
        assert any(word in message(tmp_path / "damaged.gguf") for word in ("is cut short", "is damaged"))


def test_every_damaged_byte_of_a_header_ends_in_a_message_or_a_model(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gguf").read_bytes()
    rng = np.random.default_rng(1)
    path, refused = tmp_path / "damaged.gguf", 0
    places = [*range(0, 700, 9), *rng.integers(len(whole) // 20, size=60).tolist()]
    for place in places:
        path.write_bytes(whole[:place] + bytes([int(rng.integers(256))]) + whole[place + 1 :])
        try:
            read_model(path)
        except InputError:
            refused += 1
    assert 0 < refused < len(places)


def test_a_mistake_stands_where_the_scenario_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGML" * 100)
    lines = [
        "name: s", "hardware: rtx4090-desktop", "model: bad.gguf", "policy: lru",
        "workload: {kind: offline, requests: 1, prompt: 8, output: 2, routing: {kind: uniform}}",
    ]  # fmt: skip
    (tmp_path / "s.yaml").write_text("\n".join(lines), encoding="utf-8")
    errors = check([str(tmp_path / "s.yaml")])["files"][0]["errors"]
    assert [(error["line"], error["path"]) for error in errors] == [(3, "model")]
    assert "bad.gguf: is not a GGUF file: it begins with b'GGML'" in errors[0]["message"]


def test_a_file_is_checked_by_itself_and_is_not_a_scenario(tmp_path: Path) -> None:
    good = str(write(tmp_path / "good.gguf"))
    (tmp_path / "bad.gguf").write_bytes(b"GGML" * 100)
    reports = check([good, str(tmp_path / "bad.gguf")])["files"]
    assert [len(report["errors"]) for report in reports] == [0, 1]
    with pytest.raises(InputError, match="this is a model, not a scenario; a scenario names it by 'model: "):
        moesim.run(good)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-30B-A3B", "https://huggingface.co/Qwen/Qwen3-30B-A3B", "qwen/qwen3-30b-a3b"])
def test_a_repository_that_is_known_is_the_named_model(name: str) -> None:
    assert load_data(scenario(name)).scenario.model == load_data(scenario("qwen3-30b-a3b")).scenario.model


def test_another_repository_says_what_to_give() -> None:
    with pytest.raises(
        InputError, match=r"nothing is downloaded; fetch its configuration \(hf download some/model config.json\)"
    ):
        load_data(scenario("some/model"))
