"""Client text is escaped so that a template does with it what it did, and finds no special token in it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.serving.prompts.escaping import ESCAPE, MARKS, SPLIT, Escaping

TOKENS = ("<|start|>", "<|end|>", "[INST]", "</s>", "<s>")
escaping = Escaping(TOKENS)
texts = st.lists(st.sampled_from([*TOKENS, "<|", "|>", "start", "<", *MARKS[:4], " ", "x"])).map("".join)


@given(texts | st.text())
def test_no_token_is_left_and_everything_comes_back(text: str) -> None:
    escaped = escaping.escape(text)
    assert not any(token in escaped for token in TOKENS)
    assert escaping.restore(escaped) == text


@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_characters="<>[]"), max_size=40))
def test_other_texts_stay_the_same_object(text: str) -> None:
    messages = [{"role": "user", "content": text}]
    assert escaping.escape(text) is text
    assert escaping.escape_messages(messages) is messages


@pytest.mark.parametrize(
    "text", ["a < b > c", "<p>text</p>", "> quoted", "[1, 2]", "x -> y", "<start>", "<|other|>", "| >", "[INST"]
)
def test_markup_that_is_no_token_stays(text: str) -> None:
    template = "<s>[INST] {{ content }} [/INST] </s>"
    assert Escaping(TOKENS, template).escape(text) == text


@pytest.mark.parametrize("value", [3, 2.5, None, True])
def test_other_values_stay(value: object) -> None:
    assert escaping.escape(value) is value


def test_texts_in_lists_and_objects_are_escaped_names_too() -> None:
    tools: Any = [{"<s>": {"description": ["</s>", 1]}}]
    [escaped] = escaping.escape_messages([{"role": "user", "content": "hi", "tool_calls": tools}])
    assert not any(token in str(escaped) for token in TOKENS)
    assert escaped["content"] == "hi"
    assert escaping.restore(str(escaped["tool_calls"])) == str(tools)


def test_what_templates_do_to_texts_comes_out_as_before() -> None:
    text = " <|start|>User <s> "
    escaped = escaping.escape(text)
    assert len(escaped) == len(text)
    for change in (str.strip, str.upper, str.title, lambda part: part[:12], lambda part: part[4:], str.split):
        assert escaping.restore(str(change(escaped))) == str(change(text))


def test_a_text_does_not_complete_what_a_template_writes() -> None:
    by_parts = Escaping(TOKENS, "{{ '<|' + role + '|>' }}{{ content }}<{{ content }}s>")
    for text in ("start|>", " end|>", "s>x", "hi <|start", "<"):
        assert by_parts.escape(text) != text
        assert by_parts.restore(by_parts.escape(text)) == text
    assert escaping.escape(">") != ">"
    assert Escaping(TOKENS, "<s>{{ content }}</s>").escape(">") == ">"


def test_tokens_that_overlap_are_all_broken() -> None:
    overlapping = Escaping(["<|end|>", "end|>x", "|>x<|"])
    escaped = overlapping.escape("<|end|>x<|end|>")
    assert not any(token in escaped for token in overlapping.tokens)


def test_without_tokens_nothing_is_escaped_but_what_is_private() -> None:
    nothing = Escaping([])
    assert nothing.escape("<|start|>") == "<|start|>"
    assert nothing.restore(nothing.escape(SPLIT + ESCAPE)) == SPLIT + ESCAPE


def test_a_split_is_written_as_asked() -> None:
    assert escaping.restore(f"a{SPLIT}b") == "ab"
    assert escaping.restore(f"a{SPLIT}b", "|") == "a|b"
    assert escaping.is_escaped(SPLIT)
    assert not escaping.is_escaped("é日本🙂 <|start|>")


def test_tokens_may_begin_with_any_number_of_characters() -> None:
    many = Escaping([f"{chr(0x4E00 + number)}|{number}>" for number in range(600)])
    text = "".join(sorted(many.tokens))
    assert many.restore(many.escape(text)) == text
    assert not any(token in many.escape(text) for token in many.tokens)
