"""Calls of functions read out of answers: the same ones however an answer is cut into pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.serving.tools import AUTO, FORMATS, ToolUse, known_format

NAMES = frozenset({"weather", "time"})
PARIS = '{"name": "weather", "arguments": {"city": "Paris {\\"x\\"}", "days": [1, {"a": 2}]}}'
ARGUMENTS = '{"city": "Paris {\\"x\\"}", "days": [1, {"a": 2}]}'

Calls = list[tuple[str, str]]


def read(use: ToolUse, pieces: Sequence[str]) -> tuple[str, Calls]:
    """Return an answer's text and calls."""
    reader = use.reader()
    heard = [*(reader.hear(piece) for piece in pieces), reader.end()]
    names: list[str] = []
    arguments: list[str] = []
    ids: set[str] = set()
    for delta in (delta for one in heard for delta in one.calls):
        assert (delta.id is None) == (delta.name is None)
        if delta.id is not None and delta.name is not None:
            assert delta.index == len(names), "calls begin one after the other"
            ids.add(delta.id)
            names.append(delta.name)
            arguments.append("")
        arguments[delta.index] += delta.arguments
    assert len(ids) == len(names)
    return "".join(one.text for one in heard), list(zip(names, arguments, strict=True))


def auto(name: str) -> ToolUse:
    return ToolUse(NAMES, FORMATS[name])


ANSWERS = [
    ("hermes", "Hello, no call.", "Hello, no call.", []),
    ("hermes", f"<tool_call>\n{PARIS}\n</tool_call>", "", [("weather", ARGUMENTS)]),
    ("hermes", f"I look.\n<tool_call>{PARIS}</tool_call> bye", "I look.\n", [("weather", ARGUMENTS)]),
    (
        "hermes",
        f'<tool_call>{PARIS}</tool_call>\n<tool_call>\n{{"arguments": {{}}, "name": "time"}}\n</tool_call>',
        "",
        [("weather", ARGUMENTS), ("time", "{}")],
    ),
    ("hermes", '<tool_call>{"name": "time"}</tool_call>', "", [("time", "{}")]),
    ("hermes", '<tool_call>{"name": "time", "arguments": null}</tool_call>', "", [("time", "{}")]),
    ("hermes", '<tool_call>{"name": "time", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("time", '{"a": 1}')]),
    ("hermes", '<tool_call>{"name": "moon", "arguments": {}}</tool_call>', "", [("moon", "{}")]),
    # cut short: what was written of the arguments is there, and the reason of the end says so
    ("hermes", '<tool_call>{"name": "time", "arguments": {"a": [1', "", [("time", '{"a": [1')]),
    # no calls: nothing is lost
    ("hermes", "a <tool_ call <tool", "a <tool_ call <tool", []),
    ("hermes", "<tool_call>nothing</tool_call> x", "<tool_call>nothing</tool_call> x", []),
    ("hermes", '<tool_call>{"a": 1} x', '<tool_call>{"a": 1} x', []),
    ("hermes", '<tool_call>{"name": "time", ]', '<tool_call>{"name": "time", ]', None),
    ("hermes", '<tool_call>{"name": "' + "x" * 300, '<tool_call>{"name": "' + "x" * 300, []),
    ("hermes", f'<tool_call>{{"name": "{"x" * 300}"}}', f'<tool_call>{{"name": "{"x" * 300}"}}', []),
    ("hermes", '<tool_call>{"na', '<tool_call>{"na', []),
    ("granite4", f"<tool_call>\n{PARIS}\n</tool_call>", "", [("weather", ARGUMENTS)]),
    (
        "granite",
        f'<|tool_call|>[{PARIS}, {{"name": "time", "arguments": {{}}}}]',
        "",
        [("weather", ARGUMENTS), ("time", "{}")],
    ),
    ("granite", f"<tool_call>[{PARIS}]", "", [("weather", ARGUMENTS)]),
    ("mistral", f"Sure.[TOOL_CALLS] [{PARIS}]", "Sure.", [("weather", ARGUMENTS)]),
    ("llama3_json", PARIS.replace("arguments", "parameters"), "", [("weather", ARGUMENTS)]),
    ("llama3_json", f'{PARIS}; {{"name": "time", "parameters": {{}}}}', "", [("weather", ARGUMENTS), ("time", "{}")]),
    ("llama3_json", f"<|python_tag|>{PARIS}", "", [("weather", ARGUMENTS)]),
    ("llama3_json", ' {"name": "Bob", "age": 3} is it', ' {"name": "Bob", "age": 3} is it', []),
    ("llama3_json", f"So: {PARIS}", f"So: {PARIS}", []),
]


@pytest.mark.parametrize(("name", "answer", "text", "calls"), ANSWERS)
def test_an_answer_is_read_alike_whole_and_character_by_character(
    name: str, answer: str, text: str, calls: Calls | None
) -> None:
    whole = read(auto(name), [answer])
    if calls is not None:
        assert whole == (text, calls)
    assert read(auto(name), list(answer)) == whole


@given(st.sampled_from(ANSWERS), st.lists(st.integers(1, 12), min_size=1, max_size=60))
def test_an_answer_is_read_alike_however_it_is_cut(
    answer: tuple[str, str, str, Calls | None], sizes: list[int]
) -> None:
    name, text = answer[:2]
    pieces, place = [], 0
    while place < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[place : place + size])
        place += size
    assert read(auto(name), pieces) == read(auto(name), [text])


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=10,
        ),
        max_size=4,
    )
)
def test_any_arguments_come_through_as_they_were_written(arguments: dict[str, object]) -> None:
    written = json.dumps(arguments, ensure_ascii=False)
    answer = f'<tool_call>{{"name": "time", "arguments": {written}}}</tool_call>'
    assert read(auto("hermes"), list(answer)) == ("", [("time", written)])


@given(st.sampled_from(sorted(FORMATS)), st.text(alphabet='<tool_cal>/|[TOOL_CALLS]{}":,nameruts \n\\x1', max_size=60))
def test_no_text_without_a_call_is_lost(name: str, answer: str) -> None:
    text, calls = read(auto(name), list(answer))
    assert calls or text == answer


def test_an_answer_that_has_to_be_calls_is_a_list_of_them() -> None:
    answer = '[{"name": "time", "parameters": {"a": 1}}, {"name": "weather", "parameters": {}}]'
    assert read(ToolUse(NAMES), list(answer)) == ("", [("time", '{"a": 1}'), ("weather", "{}")])
    assert read(ToolUse(NAMES, is_parallel=False), list(answer)) == ("", [("time", '{"a": 1}')])


def test_the_answer_to_a_named_function_is_its_arguments() -> None:
    assert read(ToolUse(NAMES, named="time"), ['{"a"', "", ": 1}"]) == ("", [("time", '{"a": 1}')])


def test_where_calls_are_not_parallel_the_first_one_counts() -> None:
    use = ToolUse(NAMES, FORMATS["hermes"], is_parallel=False)
    answer = f'<tool_call>{PARIS}</tool_call><tool_call>{{"name": "time", "arguments": {{}}}}</tool_call>'
    assert read(use, list(answer)) == ("", [("weather", ARGUMENTS)])


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("return a json object within <tool_call></tool_call> XML tags:", "hermes"),
        ("start with <|tool_call|> followed by a list", "granite"),
        ("{{ '[TOOL_CALLS] [' }}", "mistral"),
        ("{{ 'Environment: ipython' }} <|python_tag|>", "llama3_json"),
        ("<tool_call><function=f><parameter=a>1</parameter></function></tool_call>", None),
        ("{{ messages }}", None),
    ],
)
def test_a_chat_template_says_how_calls_are_written(template: str, name: str | None) -> None:
    found = known_format(AUTO, template)
    assert (found.name if found else None) == name
    assert known_format("mistral", template).name == "mistral"
