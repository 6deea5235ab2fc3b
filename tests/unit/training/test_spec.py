"""A spec is checked whole: every problem comes at once, with its line."""

from pathlib import Path

import pytest

from aloraserve.adapters import InvocationMode
from aloraserve.adapters.intrinsics import ChoiceForm
from aloraserve.errors import TrainingError
from aloraserve.training import TrainingSpec

SPEC = """\
name: safety
base: smollm2
invocation: "<|im_start|>safety\\n"
mode: appended
intrinsic: {output: {form: yes_no}, documents: string}
data: {rows: rows.jsonl}
lora: {rank: 16}
training: {learning_rate: 2e-4, epochs: 2}
"""


def spec_of(folder: Path, text: str) -> TrainingSpec:
    (folder / "spec.yaml").write_text(text)
    return TrainingSpec.read(folder / "spec.yaml")


def problems_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(TrainingError) as caught:
        spec_of(folder, text)
    return caught.value.message.splitlines()


def test_a_spec_is_read_with_its_defaults(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, SPEC)
    intrinsic = spec.intrinsic_spec()
    assert (spec.kind, spec.mode, spec.lora.rank) == ("alora", InvocationMode.APPENDED, 16)
    assert spec.training.learning_rate == 2e-4
    assert spec.data.files == ("rows.jsonl",)
    assert spec.file("rows.jsonl") == tmp_path / "rows.jsonl"
    assert intrinsic is not None
    assert isinstance(intrinsic.form, ChoiceForm)
    assert intrinsic.form.choices == ("Y", "N")


def test_every_problem_comes_at_once_with_its_line(tmp_path: Path) -> None:
    text = 'name: "a b"\nbas: x\ninvocation: ""\nmode: nowhere\ndata: {rows: [r.jsonl], train: t.jsonl}\n'
    text += "training:\n  learning_rte: 1\n  epochs: -1\n  batch_size: '8'\nlora: {rank: 1.5}\n"
    problems = problems_of(tmp_path, text)
    lines = [problem.split(" ")[0] for problem in problems]
    places = [1, 1, 2, 3, 4, 5, 7, 8, 9, 10]
    assert lines == [f"spec.yaml:{line}" for line in places]
    assert any("'training.learning_rte'; did you mean 'learning_rate'?" in problem for problem in problems)
    assert any("'bas'; did you mean 'base'?" in problem for problem in problems)
    assert any("has no 'base'" in problem for problem in problems)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1\na: 2\n", "a key twice, or merges another one in line 2"),
        ("a: &x 1\nb: *x\n", "aliases are not accepted in line 2"),
        ("- 1\n", "holds list; a mapping is accepted"),
        ("a: !!python/object/apply:os.system [ls]\n", "is not valid YAML"),
        ("\ta", "is not valid YAML"),
        ("x" * 200_000, "has more than 131072 bytes"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(tmp_path: Path, text: str, found: str) -> None:
    [problem] = problems_of(tmp_path, text)
    assert problem.startswith("spec.yaml ")
    assert found in problem


def test_parts_that_do_not_divide_a_batch_are_refused(tmp_path: Path) -> None:
    text = SPEC.replace("epochs: 2}", "epochs: 2,\n  batch_size: 8, accumulation: 3}")
    [problem] = problems_of(tmp_path, text)
    found = "has accumulation 3, which does not divide batch_size 8; a divisor is accepted"
    assert problem == f"spec.yaml:9 training.accumulation {found}"
    assert spec_of(tmp_path, text.replace("accumulation: 3", "accumulation: 4")).training.accumulation == 4


def test_a_fault_of_the_intrinsic_has_its_line(tmp_path: Path) -> None:
    text = SPEC.replace("intrinsic: {output: {form: yes_no}", "intrinsic: {output: {form: choice, choices: [yes, no]}")
    [problem] = problems_of(tmp_path, text)
    assert problem.startswith("spec.yaml:5 intrinsic has output.choices [True, False]")


def test_an_io_yaml_is_read_from_the_spec_s_folder(tmp_path: Path) -> None:
    text = SPEC.replace("{output: {form: yes_no}, documents: string}", "io.yaml")
    [problem] = problems_of(tmp_path, text)
    assert problem == "spec.yaml:5 names 'io.yaml', which cannot be read: No such file or directory"
    (tmp_path / "io.yaml").write_text("model: ~\n")
    [problem] = problems_of(tmp_path, text)
    assert problem.startswith("spec.yaml:5 names 'io.yaml' in intrinsic: io.yaml has no 'response_format'")
    (tmp_path / "io.yaml").write_text('model: ~\nresponse_format: \'{"type": "string"}\'\ntransformations: ~\n')
    spec = spec_of(tmp_path, text)
    assert spec.io_yaml is not None
    assert spec.intrinsic_spec() is not None


def test_a_missing_spec_is_named(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "none.yaml", "none.yaml cannot be read: No such"), (tmp_path, "is not a file")):
        with pytest.raises(TrainingError, match=found):
            TrainingSpec.read(path)


def test_a_twin_has_the_same_data_and_its_own_shape(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, SPEC + "twin_lora: {rank: 4}\ntwin_training: {epochs: 5}\n")
    twin = spec.twin()
    assert (twin.name, twin.kind, twin.lora.rank, twin.training.epochs) == ("safety-lora", "lora", 4, 5)
    assert (twin.data, twin.invocation, twin.folder) == (spec.data, spec.invocation, spec.folder)


def test_a_digest_says_whether_a_training_would_give_the_same(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    spec = spec_of(tmp_path, SPEC)
    digest = spec.digest()
    same = SPEC.replace("epochs: 2", "epochs: 2, cache_bytes: 0, cache_prefixes: false") + "description: words\n"
    assert spec_of(tmp_path, same).digest() == digest
    for other in (SPEC.replace("rank: 16", "rank: 8"), SPEC.replace("epochs: 2", "epochs: 3")):
        assert spec_of(tmp_path, other).digest() != digest
    assert spec.twin().digest() != digest
    (tmp_path / "rows.jsonl").write_text("{} \n")
    assert spec.digest() != digest
