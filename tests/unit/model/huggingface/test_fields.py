"""Access to keys of a config.json: the first known spelling wins, and each mistake says where it stands and what is right."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.errors import Mistake
from moesim.model.huggingface.fields import Fields, sections


def problems(fields: Fields) -> list[tuple[str, str]]:
    return [(mistake.path, mistake.message) for mistake in fields.all_mistakes()]


class TestFind:
    def test_the_first_spelling_that_is_there_and_not_null(self) -> None:
        fields = Fields({"b": 2, "a": None, "c": 3})
        assert fields.find("a", "b", "c") == ("b", 2)
        assert fields.find("c", "b") == ("c", 3)
        assert fields.find("a", "d") == ("", None)

    @pytest.mark.parametrize("value", [0, False, "", []])
    def test_a_value_may_be_false(self, value: Any) -> None:
        assert Fields({"a": value}).find("a") == ("a", value)

    def test_a_dot_descends(self) -> None:
        fields = Fields({"a": {"b": {"c": 7}, "d": 5}})
        assert fields.find("a.b.c") == ("a.b.c", 7)
        assert fields.find("a.d.c", "a.x", "a.d") == ("a.d", 5)

    def test_the_innermost_section_goes_before_what_it_is_nested_in(self) -> None:
        fields = Fields({"x": 1, "y": 2, "text_config": {"x": 3, "llm": {"z": 4}}})
        assert fields.find("z", "x") == ("text_config.llm.z", 4)
        assert fields.find("x") == ("text_config.x", 3)
        assert fields.find("y") == ("y", 2)
        assert fields.path("w") == "text_config.llm.w"
        assert Fields({}).path("w") == "w"


DECODER: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 2}


class TestSections:
    def test_a_decoder_under_an_unknown_name_is_found_by_its_keys(self) -> None:
        mapping = {"lang": {"inner": DECODER}, "vision_tower": DECODER}
        assert [path for _, path in sections(mapping)] == ["lang.inner", "lang", ""]

    @pytest.mark.parametrize("name", ["vision", "audio_config", "talker", "mtp_block", "draft_model", "quant_info", "encoder"])
    def test_towers_beside_the_decoder_are_not_taken_for_it(self, name: str) -> None:
        assert [path for _, path in sections({name: DECODER})] == [""]

    def test_a_decoder_is_not_searched_for_another(self) -> None:
        assert [path for _, path in sections({**DECODER, "lang": DECODER})] == [""]
        assert [path for _, path in sections({**DECODER, "text_config": DECODER})] == ["text_config", ""]

    def test_an_empty_section_is_passed_over(self) -> None:
        assert [path for _, path in sections({"text_config": {}, "llm": DECODER})] == ["llm", ""]

    def test_what_refers_to_itself_ends(self) -> None:
        mapping: dict[str, Any] = {}
        mapping["llm"] = mapping
        assert len(sections(mapping)) == 9


class TestIntegers:
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("7", "'7' is wrong for the width; it must be a whole number of at least 2"),
            (7.0, "7.0 is wrong for the width; it must be a whole number of at least 2"),
            (True, "True is wrong for the width; it must be a whole number of at least 2"),
            (1, "1 is wrong for the width; it must be a whole number of at least 2"),
            (51, "51 is wrong for the width; it must be at most 50"),
            ([], "[] is wrong for the width; it must be a whole number of at least 2"),
            ([7, 8], "the width has several values (7, 8); moesim takes one value for all layers"),
            ([7, 7, 8, 9], "the width has several values (7, 8); moesim takes one value for all layers"),
        ],
    )
    def test_what_is_not_a_whole_number_in_range(self, value: Any, message: str) -> None:
        fields = Fields({"text_config": {"w": value}})
        assert fields.integer("width", "the width", ("v", "w"), minimum=2, maximum=50) == 0
        assert problems(fields) == [("text_config.w", message)]
        assert fields.origins == {"width": "text_config.w"}

    @pytest.mark.parametrize(("value", "read"), [(2, 2), (50, 50), ([7, 7], 7)])
    def test_limits_belong_to_the_range_and_equal_values_are_one(self, value: Any, read: int) -> None:
        fields = Fields({"w": value})
        assert fields.integer("width", "the width", ("w",), minimum=2, maximum=50) == read
        assert not fields.mistakes

    def test_no_size_of_a_model_is_above_a_trillion(self) -> None:
        fields = Fields({"most": 10**12, "more": 10**12 + 1})
        assert [fields.integer(name, "the width", (name,)) for name in ("most", "more")] == [10**12, 0]
        assert problems(fields) == [("more", "1000000000001 is wrong for the width; it must be at most 1000000000000")]

    def test_a_default_or_a_mistake_where_none_is_there(self) -> None:
        fields = Fields({})
        assert fields.integer("a", "the a", ("a1", "a2"), 5) == 5
        assert fields.integer("b", "the b", ("b1", "b2", "b3")) == 0
        assert fields.integer("c", "the c", ("c1",)) == 0
        assert problems(fields) == [("b1", "missing: the b (also read: b2, b3)."), ("c1", "missing: the c.")]
        assert fields.origins == {"a": "a1", "b": "b1", "c": "c1"}

    @pytest.mark.parametrize(
        ("value", "read"),
        [
            ([0, 3], [0, 3]),
            ("1, 2 ,3", [1, 2, 3]),
            ("7", [7]),
            ([], []),
            ([1, -1], None),
            ([True], None),
            ("1,,2", None),
            ("1234567890", None),
            (5, None),
            ([1.0], None),
        ],
    )
    def test_lists_may_be_text_with_commas(self, value: Any, read: list[int] | None) -> None:
        fields = Fields({})
        assert fields.integers("p", value, "the layers") == (read or [])
        wrong = ("p", f"{value!r} is wrong for the layers; it must be a list of whole numbers")
        assert problems(fields) == ([] if read is not None else [wrong])


def test_truths_and_texts() -> None:
    fields = Fields({"yes": True, "no": False, "word": "true", "number": 1})
    assert fields.boolean("m", ("yes",), False)
    assert not fields.boolean("m", ("no",), True)
    assert fields.boolean("m", ("absent",), True)
    assert fields.boolean("whether", ("word",), True)
    assert not fields.boolean("whether", ("number",), False)
    assert problems(fields) == [
        ("word", "'true' is wrong for whether; it must be true or false"),
        ("number", "1 is wrong for whether; it must be true or false"),
    ]
    assert (fields.text("absent", "word"), fields.text("number"), fields.text("absent")) == ("true", "", "")


class TestMisspellings:
    @pytest.mark.parametrize(
        ("written", "hint"),
        [
            ("num_expert", " Is 'num_expert' a misspelling of 'num_experts'?"),
            ("num_exprets", " Is 'num_exprets' a misspelling of 'num_experts'?"),
            ("num_experts_x", ""),  # a word more is another name
            ("experts", ""),  # a word less, too
        ],
    )
    def test_a_stranger_close_to_a_key_that_is_missing(self, written: str, hint: str) -> None:
        fields = Fields({written: 8})
        fields.integer("", "the experts", ("num_experts",))
        assert problems(fields) == [("num_experts", f"missing: the experts.{hint}")]

    def test_a_key_with_a_meaning_is_not_a_misspelling_though_it_is_read_later(self) -> None:
        fields = Fields({"num_expert": 8})
        fields.missing("the experts", ("num_experts",))
        fields.heed("num_expert")
        assert problems(fields) == [("num_experts", "missing: the experts.")]

    def test_hints_stand_behind_what_is_missing_only(self) -> None:
        fields = Fields({"num_expert": 8})
        fields.wrong("p", "is wrong.")
        fields.missing("the experts", ("num_experts",))
        assert [message.endswith("?") for _, message in problems(fields)] == [False, True]
        assert fields.mistakes[0] == Mistake("is wrong.", "p")


def test_unread_keys_count_by_name_and_have_a_value() -> None:
    mapping = {
        "read": 1, "size_a": 1, "size_zero": 0, "size_null": None, "_size": 3, "other": 4,
        "moe": {"size_b": 2, "known": 1, "flag": False, "plain": 5}, "size_section": {"size_c": 1},
        "text_config": {"size_d": 4, "moe": {"size_e": 1}},
    }  # fmt: skip
    fields = Fields(mapping)
    fields.find("read", "moe.known")
    unread = list(fields.unread(lambda key: "size" in key))
    assert unread == [
        ("text_config.size_d", "size_d"), ("text_config.moe.size_e", "size_e"), ("size_a", "size_a"), ("moe.size_b", "size_b"),
        ("size_section", "size_section"),
    ]  # fmt: skip


def test_a_guess_that_unread_keys_may_deny_is_one_mistake_which_blames_each_once() -> None:
    fields = Fields({})
    fields.guess("the width", ("width", "w"), "wide|breadth", 64)
    fields.guess("the breadth", ("breadth",), "breadth", 8)
    fields.guess("the depth", ("depth",), "deep", 2)
    unread = [("a.so_wide", "so_wide"), ("breadth_x", "breadth_x"), ("tall", "tall")]
    assert fields.refuse_guesses(unread) == {"a.so_wide", "breadth_x"}
    message = (
        "'so_wide', 'breadth_x' may say the width, and moesim does not read it; write 'width' (without it, 64 would be taken)"
    )
    assert problems(fields) == [("a.so_wide", message)]
