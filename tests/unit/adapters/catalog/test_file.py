"""The catalog's file: what was written is read, and nothing else gets in."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.catalog_entries import AT, entry, record, version_of

from aloraserve.adapters.catalog import AdapterRecord, AdapterState, CatalogPosition, Share, StoredRecord
from aloraserve.adapters.catalog.file import read_catalog, write_catalog
from aloraserve.adapters.catalog.intrinsic_json import input_of, intrinsic_from_json, intrinsic_to_json, output_of
from aloraserve.adapters.catalog.record import check_record
from aloraserve.adapters.catalog.reference import Reference
from aloraserve.adapters.intrinsics import ChoiceForm, GuardRule, IntrinsicParameters, IntrinsicSpec, JsonForm
from aloraserve.errors import InvalidRequestError

CASES = 10_000
SPECS = (
    IntrinsicSpec(),
    IntrinsicSpec(
        ChoiceForm(("Y", "N"), (1.0, 0.0), "yes_no"),
        instruction="Is {claim} so?",
        fields=("claim",),
        parameters=IntrinsicParameters(max_tokens=1, stop=("\n",)),
        documents="roles",
        sentences=(("documents", "c"),),
        guard=GuardRule(0.25, "below"),
    ),
    IntrinsicSpec(JsonForm('{"type": "object"}', has_likelihood=True), uses_logprob_text=True),
)


def sample() -> bytes:
    one, two = version_of("safety 1"), version_of("safety 2")
    shared = record("safety", "1", "2").pointed(
        "prod", [Share(version=one, share=0.75), Share(version=two, share=0.25)], AT, "canary"
    )
    gone = record("gone").moved([version_of("gone 1")], AdapterState.DELETED, AT, "old")
    labelled = entry("rag", kind="alora", owner="acme", visibility="private", labels={"team": "search"})
    owned = AdapterRecord(name="rag").added(labelled, promote=True)
    stored = [StoredRecord(each, number) for number, each in enumerate((shared, gone, owned), 1)]
    return write_catalog(stored, CatalogPosition("epoch", 3, 1), "fleet")


def test_what_was_written_is_read() -> None:
    file = read_catalog(sample())
    assert (file.namespace, file.position) == ("fleet", CatalogPosition("epoch", 3, 1))
    assert write_catalog(file.stored, file.position, file.namespace) == sample()


def test_changed_bytes_are_refused_or_a_catalog_that_is_whole() -> None:
    content, rng = sample(), random.Random(0)
    refused = 0
    for _ in range(CASES):
        changed = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(changed))
            match rng.randrange(3):
                case 0:
                    changed[place] = rng.randrange(256)
                case 1:
                    del changed[place : place + rng.randint(1, 40)]
                case _:
                    changed[place:place] = content[place : place + rng.randint(1, 40)]
        try:
            for filed in read_catalog(bytes(changed)).records:
                check_record(filed.record)
                for each in filed.record.live:
                    each.at(Path())
        except InvalidRequestError:
            refused += 1
    assert refused > CASES / 2


@pytest.mark.parametrize("spec", SPECS)
def test_an_intrinsic_is_what_it_was(spec: IntrinsicSpec) -> None:
    assert intrinsic_from_json(intrinsic_to_json(spec)) == spec


def test_the_forms_of_an_adapter_are_said_in_words() -> None:
    assert [(input_of(spec), output_of(spec)) for spec in (None, *SPECS)] == [
        ("conversation", "text"),
        ("conversation", "text"),
        ("conversation, documents as roles, fields claim", "yes_no: Y, N"),
        ("conversation", "json"),
    ]


@pytest.mark.parametrize("content", [{}, {"form": None}, {"form": {"type": "OtherForm"}}, {"form": []}])
def test_what_is_no_intrinsic_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="is not one of TextForm, ChoiceForm"):
        intrinsic_from_json(content)


@given(st.text(alphabet=st.characters(max_codepoint=0x2FF), max_size=100))
def test_a_reference_is_what_it_says_or_none(text: str) -> None:
    found = Reference.parse(text)
    assert found is None or str(found) == text
