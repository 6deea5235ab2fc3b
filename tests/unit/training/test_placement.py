"""An invocation that would not act is refused by its line; one that others would tokenize otherwise is explained."""

from pathlib import Path

import pytest
from support.training_base import WITH_DOCUMENTS, write_base

from aloraserve.errors import TrainingError
from aloraserve.training import TrainingSpec
from aloraserve_services.training.base_model import BaseTokens
from aloraserve_services.training.examples import ExampleBuilder
from aloraserve_services.training.placement import placement_notes, prove_placement


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseTokens:
    return BaseTokens.read(write_base(tmp_path_factory.mktemp("base")))


def notes_of(base: BaseTokens, folder: Path, *lines: str) -> list[str]:
    """Return what is said of a spec's invocation."""
    path = folder / "spec.yaml"
    path.write_text("\n".join(["name: judge", "base: base", "data: {rows: rows}", *lines]))
    spec = TrainingSpec.read(path)
    builder = ExampleBuilder(spec, base.tokenizer, end_token=base.end_token, context=base.context)
    proof = prove_placement(spec, builder.version, base)
    assert proof.mode is not None
    return list(placement_notes(spec, builder.version, proof.mode, base.tokenizer))


def test_one_that_begins_with_a_special_token_is_the_same_everywhere(base: BaseTokens, tmp_path: Path) -> None:
    assert notes_of(base, tmp_path, 'invocation: "<|start|>safety\\n"') == []


def test_one_that_merges_with_what_stands_before_it_is_explained(base: BaseTokens, tmp_path: Path) -> None:
    [note] = notes_of(base, tmp_path, 'invocation: "words"')
    assert "by itself, and others behind" in note
    assert "Begin the invocation with a special token" in note


def test_one_that_is_merged_in_the_instruction_is_explained(base: BaseTokens, tmp_path: Path) -> None:
    intrinsic = 'intrinsic: {output: {form: text}, instruction: "Are these words?"}'
    [note] = notes_of(base, tmp_path, "invocation: ords", "mode: instruction", intrinsic)
    assert "others in the instruction, where it is merged with its neighbours" in note


def test_one_that_is_not_in_the_generation_prompt_is_refused_by_line(base: BaseTokens, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        notes_of(base, tmp_path, "mode: generation_prompt", 'invocation: "<|start|>safety\\n"')
    assert caught.value.message.startswith("spec.yaml:5 has an invocation that does not act: ")
    assert "belongs in the prompt's generation prompt, but its tokens" in caught.value.message


def test_one_that_is_not_in_the_instruction_is_refused_by_line(base: BaseTokens, tmp_path: Path) -> None:
    intrinsic = 'intrinsic: {output: {form: text}, instruction: "Is it so?"}'
    with pytest.raises(TrainingError) as caught:
        notes_of(base, tmp_path, "mode: instruction", intrinsic, "invocation: <requirements>")
    assert caught.value.message.startswith("spec.yaml:6 has an invocation that does not act: ")
    assert "the instruction does not contain the adapter's invocation, '<requirements>'" in caught.value.message


@pytest.mark.parametrize(("end", "found"), [(None, "<|end|>"), (["<|start|>", "<|end|>"], "<|end|>"), (5, "<|end|>")])
def test_an_answer_ends_with_the_token_that_the_template_writes(tmp_path: Path, end: object, found: str) -> None:
    ids = {"<|start|>": 356, "<|end|>": 357}
    given = [ids[token] for token in end] if isinstance(end, list) else end
    tokens = BaseTokens.read(write_base(tmp_path, end=given))
    assert tokens.tokenizer.convert_ids_to_tokens(tokens.end_token) == found


def test_a_template_that_writes_another_end_decides_if_engines_stop_there(tmp_path: Path) -> None:
    template = WITH_DOCUMENTS.replace("'<|end|>\n' }}{% endfor %}{% if add", "'<|start|>\n' }}{% endfor %}{% if add")
    assert template != WITH_DOCUMENTS
    assert BaseTokens.read(write_base(tmp_path / "a", template=template)).end_token == 357
    assert BaseTokens.read(write_base(tmp_path / "b", template=template, end=[357, 356])).end_token == 356


def test_a_base_model_without_a_template_or_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has no chat template"):
        BaseTokens.read(write_base(tmp_path / "base", template=""))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="tokenizer cannot be read"):
        BaseTokens.read(tmp_path / "empty")
