"""Checks: adapters as they are met in the wild, and what the report says of each."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.peft_adapters import BASE, matrices

from aloraserve.adapters import BaseShape, CheckReport, check_adapter
from aloraserve.adapters.checks import patterns
from aloraserve.adapters.checks.report import MAX_PER_CODE
from aloraserve.adapters.peft_files import MAX_WEIGHTS_BYTES
from aloraserve.adapters.problems import ProblemCode

Write = Callable[..., Path]
Q_A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
Q_B = Q_A.replace("lora_A", "lora_B")
IO_YAML = "model: ~\nresponse_format: ~\ntransformations: ~\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4884832\n"


def check(folder: Path) -> CheckReport:
    return check_adapter(folder, base=BASE, max_rank=8)


def codes(report: CheckReport) -> set[str]:
    return {problem.code for problem in report.problems}


def rename(folder: Path, change: Callable[[str], str]) -> Path:
    """Write the adapter's tensors again under other names."""
    from safetensors.numpy import save_file

    save_file(
        {change(name): tensor for name, tensor in matrices(4, ("q_proj", "down_proj")).items()},
        folder / "adapter_model.safetensors",
    )
    return folder


def raw(folder: Path, header: str | bytes, data: bytes = b"") -> Path:
    """Write weights with a header of one's own."""
    encoded = header.encode() if isinstance(header, str) else header
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return folder


class TestReport:
    def test_a_good_adapter_has_its_facts_and_no_problem(self, write_adapter: Write) -> None:
        folder = write_adapter(alora_invocation_tokens=[1, 2], base_model_name_or_path="some/model")
        report = check(folder)
        facts = report.facts
        assert report.is_accepted
        assert report.reason == ""
        assert (facts.kind, facts.rank, facts.alpha, facts.invocation_ids) == ("alora", 4, 8.0, (1, 2))
        assert (facts.target_modules, facts.tensors, facts.base_model) == (("down_proj", "q_proj"), 4, "some/model")
        assert facts.base_fingerprint == BASE.fingerprint
        assert facts.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
        version = report.version("safety", folder)
        assert (version.digest, version.alpha, version.size_bytes) == (facts.digest, 8.0, facts.size_bytes)

    def test_all_problems_are_in_one_report(self, write_adapter: Write) -> None:
        folder = write_adapter(
            r=99, lora_alpha=0, bias=None, tensors={Q_B: np.full((8, 4), np.nan, np.float32), "x": np.ones(1)}
        )
        (folder / "aloraserve.json").write_text('{"untraind": true}')
        report = check(folder)
        assert codes(report) == {
            ProblemCode.CONFIG,
            ProblemCode.SIDECAR,
            ProblemCode.TENSOR_NAME,
            ProblemCode.TENSOR_VALUES,
        }
        text = " | ".join(problem.text for problem in report.problems)
        for word in ("r 99", "lora_alpha 0", "bias None", "untraind", "'x'", "NaN"):
            assert word in text

    def test_a_report_is_bounded_and_counts_the_rest(self, write_adapter: Write) -> None:
        more = {f"x.{number}": np.ones(1, np.float32) for number in range(50)}
        report = check(write_adapter(tensors=more))
        assert (len(report.problems), report.omitted) == (MAX_PER_CODE, 50 - MAX_PER_CODE)
        assert report.reason.endswith("(and 49 more)")

    def test_a_reason_has_neither_paths_nor_control_characters(self, write_adapter: Write, tmp_path: Path) -> None:
        folder = write_adapter(tensors={"a\x1b[31m\nb": np.ones(1, np.float32)}, target_modules=["\x07\u202e"])
        (folder / "\x1b.bin").write_bytes(b"")
        reason = " ".join(problem.text for problem in check(folder).problems)
        assert reason.isprintable()
        assert reason.isascii()
        assert str(tmp_path) not in reason

    def test_whatever_goes_wrong_is_a_refusal(self, write_adapter: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("aloraserve.adapters.checks.check.check_config", broken)
        assert check(write_adapter()).reason == "it cannot be checked: ZeroDivisionError"


class TestNames:
    @pytest.mark.parametrize(
        ("change", "accepted"),
        [
            (lambda name: name.replace("model.model.layers", "model.layers"), Q_A),
            (lambda name: name.replace("base_model.model.", ""), Q_A),
            (lambda name: name.replace(".weight", ".default.weight"), Q_A),
            (lambda name: name.replace("self_attn.", "").replace("mlp.", ""), Q_A),
            (lambda name: name.replace("model.model.layers", "model.model.language_model.layers"), Q_A),
            (lambda name: name.replace("layers.1", "layers.7"), "layers 0 to 1; this is layer 7"),
            (lambda name: name.replace("layers.1.self_attn.q_proj", "embed_tokens"), "<module>"),
        ],
    )
    def test_a_tensor_that_hits_nothing_is_named_with_what_would_hit(
        self, write_adapter: Write, change: Callable[[str], str], accepted: str
    ) -> None:
        report = check(rename(write_adapter(), change))
        found = {problem.found: problem.accepted for problem in report.problems}
        assert accepted in found[f"has the tensor {change(Q_A)!r}, which hits no linear of the base model"]

    def test_weights_for_another_base_model_say_so_once(self, write_adapter: Write) -> None:
        wrong = {name: np.ones((tensor.shape[0] * 2, tensor.shape[1] * 2), np.float32)
                 for name, tensor in matrices(2, ("q_proj", "down_proj")).items()}  # fmt: skip
        report = check(write_adapter(tensors=wrong, base_model_name_or_path="ibm-granite/granite-3.2-8b"))
        assert [problem.code for problem in report.problems] == [ProblemCode.OTHER_BASE]
        assert "4 of 4 tensors do not fit" in report.reason
        assert "'ibm-granite/granite-3.2-8b'" in report.reason

    def test_a_layer_that_the_config_selects_has_weights(self, write_adapter: Write) -> None:
        report = check(write_adapter(layers_to_transform=None))
        assert codes(report) == {ProblemCode.TENSOR_MISSING}
        assert "no weights for model.layers.0.mlp.down_proj" in report.reason

    @pytest.mark.parametrize(
        "config",
        [
            {"target_modules": r".*\.layers\.1\..*\.(q_proj|down_proj)", "layers_to_transform": None},
            {"target_modules": ["self_attn.q_proj", "model.layers.1.mlp.down_proj"]},
            {"layers_to_transform": 1},
            {"layers_to_transform": [1], "layers_pattern": "layers"},
            {"layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
            {"layers_to_transform": None, "exclude_modules": r".*layers\.0\..*"},
            {"target_modules": ["q_proj", "down_proj", "up_proj"], "exclude_modules": ["up_proj"]},
        ],
    )
    def test_modules_are_selected_as_in_peft(self, write_adapter: Write, config: dict[str, Any]) -> None:
        assert check(write_adapter(**config)).reason == ""

    @pytest.mark.parametrize(
        ("config", "word"),
        [
            ({"target_modules": "q_proj", "layers_to_transform": None}, "selects nothing"),
            ({"target_modules": ".*"}, "beside an expression"),
            ({"target_modules": ".*", "layers_to_transform": None}, "which selects 'embed_tokens'"),
            ({"target_modules": "(", "layers_to_transform": None}, "not a regular expression"),
            ({"target_modules": "x" * 5000, "layers_to_transform": None}, "5000 characters"),
            ({"layers_pattern": "layers", "layers_to_transform": None}, "alone"),
            ({"layers_pattern": "(a+)+$"}, "layers_pattern"),
            ({"layers_to_transform": ["1"]}, "layers_to_transform"),
            ({"layers_to_transform": [9]}, "selects nothing"),
            ({"exclude_modules": ["q_proj", "down_proj"]}, "selects nothing"),
        ],
    )
    def test_a_selection_that_peft_refuses_is_refused(
        self, write_adapter: Write, config: dict[str, Any], word: str
    ) -> None:
        assert word in check(write_adapter(**config)).reason

    def test_an_expression_without_end_is_refused_in_time(
        self, write_adapter: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(patterns, "BUDGET_S", 0.05)
        endless = r"(?:\w|.)+(?:\w|.)+(?:\w|.)+(?:\w|.)+[!?]"
        assert "takes longer than" in check(write_adapter(target_modules=endless, layers_to_transform=None)).reason


class TestConfig:
    @pytest.mark.parametrize(
        "value", ["Gaussian", "GAUSSIAN", "lora_ga", "mica", "orthogonal", "eva", True, False, None]
    )
    def test_where_training_began_changes_nothing(self, write_adapter: Write, value: object) -> None:
        assert check(write_adapter(init_lora_weights=value)).is_accepted

    def test_fields_of_later_versions_are_passed_over(self, write_adapter: Write) -> None:
        assert check(write_adapter(peft_version="9.0", something_new={"a": [1, None]})).is_accepted

    @pytest.mark.parametrize(
        ("config", "word"),
        [
            ({"bias": None}, "bias None; accepted: 'none'"),
            ({"lora_alpha": 10**400}, "a finite number other than 0"),
            ({"lora_alpha": 0}, "lora_alpha 0"),
            ({"lora_alpha": True}, "lora_alpha True"),
            ({"lora_dropout": None}, "lora_dropout None"),
            ({"r": 4096}, "r 4096"),
            ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'"),
            ({"use_rslora": "false"}, "use_rslora 'false'"),
            ({"velora_config": {"scale": 1}}, "velora_config"),
            ({"eva_config": {"rho": 0.5}}, "eva_config with rho 0.5"),
            ({"corda_config": 1}, "corda_config 1"),
            ({"init_lora_weights": "EVA"}, "init_lora_weights 'EVA'"),
            ({"use_bdlora": {}}, "use_bdlora {}"),
            ({"rank_pattern": None}, "rank_pattern None"),
            ({"trainable_token_indices": []}, "trainable_token_indices []"),
            ({"peft_type": "ALORA"}, "'LORA' with alora_invocation_tokens"),
            ({"use_alora": True}, "use_alora True; accepted: alora_invocation_tokens"),
            ({"invocation_string": ""}, "invocation_string ''; accepted: alora_invocation_tokens"),
            ({"alora_invocation_string": "<go>"}, "'<go>'; accepted: alora_invocation_tokens"),
            ({"cross_stream": True}, "this is a Shadow-Residual adapter"),
            ({"last_context_token": 3, "alora_invocation_tokens": [1]}, "this is a Shadow-Residual adapter"),
            ({"alora_invocation_tokens": [[1, 2]]}, "with [1, 2]; accepted: token ids"),
            ({"alora_invocation_tokens": {"1": 2}}, "{'1': 2}"),
            ({"alora_invocation_tokens": [1.0]}, "with 1.0"),
        ],
    )
    def test_what_would_be_served_wrongly_is_refused_by_name(
        self, write_adapter: Write, config: dict[str, Any], word: str
    ) -> None:
        assert word in check(write_adapter(**config)).reason

    def test_a_legacy_alora_with_its_tokens_added_is_an_alora(self, write_adapter: Write) -> None:
        report = check(write_adapter(invocation_string="<go>", alora_invocation_tokens=[5]))
        assert (report.is_accepted, report.facts.kind) == (True, "alora")

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            (lambda text: b"\xef\xbb\xbf" + text, "byte order mark"),
            (lambda text: text.decode().encode("utf-16"), "byte order mark"),
            (lambda text: text.decode().encode("utf-16-le"), "byte order mark"),
            (lambda text: text.decode().encode("utf-32-be"), "byte order mark"),
            (lambda text: text.replace(b'"lora_alpha": 8', b'"lora_alpha": 8, "lora_alpha": 16'), "'lora_alpha' twice"),
            (lambda text: text.replace(b'"lora_alpha": 8', b'"lora_alpha": NaN'), "not finite in 'lora_alpha'"),
            (lambda text: text.replace(b'"lora_alpha": 8', b'"lora_alpha": 1e999'), "not finite in 'lora_alpha'"),
            (lambda text: text.replace(b"[1]", b"[[-Infinity]]"), "not finite in 'layers_to_transform'"),
            (lambda text: text.replace(b"8", b"8" * 5000), "not valid JSON"),
            (lambda text: text.replace(b"LORA", b"\xff"), "UTF-8"),
        ],
    )
    def test_json_that_readers_take_differently_is_refused(
        self, write_adapter: Write, change: Callable[[bytes], bytes], word: str
    ) -> None:
        path = write_adapter() / "adapter_config.json"
        path.write_bytes(change(path.read_bytes()))
        report = check(path.parent)
        assert codes(report) == {ProblemCode.JSON}
        assert word in report.reason


class TestWeights:
    @pytest.mark.parametrize(
        ("tensors", "word"),
        [
            ({Q_A: np.zeros((0,), np.float16)}, "saved without gathering its parts; accepted: [4, 8]"),
            ({Q_A: np.full((4, 8), 1e38, np.float32)}, "at most 65504"),
            ({Q_B: np.full((8, 4), 60000, np.float16)}, "numbers up to 120000 when scaled"),
            ({Q_A: np.ones((4, 8, 1), np.float32)}, "[4, 8, 1]"),
            ({Q_A: np.ones((8, 4), np.float32)}, "[8, 4]"),
            ({Q_A: np.ones((4, 8), np.int32)}, "of type I32"),
        ],
    )
    def test_numbers_that_no_engine_computes_with_are_refused(
        self, write_adapter: Write, tensors: dict[str, Any], word: str
    ) -> None:
        assert word in check(write_adapter(tensors=tensors)).reason

    def test_an_adapter_that_changes_nothing_is_refused(self, write_adapter: Write) -> None:
        zeros = {
            name: np.zeros_like(found) for name, found in matrices(4, ("q_proj", "down_proj")).items() if "_B" in name
        }
        assert "changes nothing" in check(write_adapter(tensors=zeros)).reason

    @pytest.mark.parametrize(
        ("header", "data", "word"),
        [
            (f'{{"{Q_A}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},"{Q_A}":{{}}}}', b"abcd", "twice"),
            ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"abc", "too short"),
            ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"abcde", "too long"),
            ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', b"abcd", "of shape [2] has 4 bytes"),
            ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', b"abcdefgh", "leaves a hole"),
            ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', b"abcd", "has -4 bytes"),
            ('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"abcd", "no valid shape"),
            ('{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', b"abcd", "no valid shape"),
            ('{"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4]}}', b"", "no valid shape"),
            ('{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}', b"abcd", "of type 'F99'"),
            ('{"a":[]}', b"", "not an object"),
            ('{"__metadata__":{"a":1}}', b"", "__metadata__"),
            (b"\xff{}", b"", "does not start with"),
            (b'{"\xff":{}}', b"", "UTF-8"),
            ("[]", b"", "does not start with"),
            ("{" * 10000, b"", "not valid JSON"),
        ],
    )
    def test_a_header_that_lies_is_refused(
        self, write_adapter: Write, header: str | bytes, data: bytes, word: str
    ) -> None:
        report = check(raw(write_adapter(), header, data))
        assert codes(report) == {ProblemCode.HEADER}
        assert word in report.reason

    @pytest.mark.parametrize("length", [0, 7, 100])
    def test_a_truncated_file_is_refused(self, write_adapter: Write, length: int) -> None:
        folder = write_adapter()
        os.truncate(folder / "adapter_model.safetensors", length)
        assert codes(check(folder)) == {ProblemCode.HEADER}

    def test_a_sparse_file_beyond_the_limit_is_not_read(
        self, write_adapter: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = write_adapter()
        os.truncate(folder / "adapter_model.safetensors", 10 * 1024**3)
        monkeypatch.setattr("aloraserve.adapters.checks.check.read_header", lambda _: pytest.fail("it was read"))
        report = check(folder)
        assert report.reason == (
            f"adapter_model.safetensors has {10 * 1024**3} bytes; accepted: at most {MAX_WEIGHTS_BYTES}"
        )

    def test_memory_does_not_grow_with_the_weights(self, write_adapter: Write) -> None:
        wide = BaseShape.decoder(
            layers=1, hidden_size=2**20, intermediate_size=8, heads=1, kv_heads=1, head_dim=8, vocab_size=100
        )
        shapes = {"A": [16, 2**20], "B": [8, 16]}
        header: dict[str, Any] = {}
        end = 0
        for side, shape in shapes.items():
            start, end = end, end + shape[0] * shape[1] * 4
            name = f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight"
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        folder = raw(write_adapter(r=16, target_modules=["q_proj"], layers_to_transform=[0]), json.dumps(header))
        weights = folder / "adapter_model.safetensors"
        os.truncate(weights, weights.stat().st_size + end)
        tracemalloc.start()
        report = check_adapter(folder, base=wide, max_rank=16)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "changes nothing" in report.reason
        assert report.facts.size_bytes > 64 * 2**20
        assert peak < 16 * 2**20


class TestFiles:
    @pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "io.yaml"])
    def test_a_git_lfs_pointer_is_called_one(self, write_adapter: Write, name: str) -> None:
        folder = write_adapter()
        (folder / name).write_bytes(POINTER)
        assert check(folder).reason == f"{name} is a Git LFS pointer; accepted: the file itself; run git lfs pull"

    def test_a_snapshot_in_a_hub_cache_is_served(self, write_adapter: Write, tmp_path: Path) -> None:
        folder = hub_cache(write_adapter(), tmp_path / "models--ibm--safety")
        assert check(folder).is_accepted

    def test_a_link_into_another_repository_s_cache_is_refused(self, write_adapter: Write, tmp_path: Path) -> None:
        other = hub_cache(write_adapter("other"), tmp_path / "models--ibm--other")
        folder = hub_cache(write_adapter(), tmp_path / "models--ibm--safety")
        weights = folder / "adapter_model.safetensors"
        weights.unlink()
        weights.symlink_to(other / "adapter_model.safetensors")
        report = check(folder)
        assert codes(report) == {ProblemCode.FILE_LINK}
        assert "hf download --local-dir" in report.reason

    def test_blobs_that_are_of_no_cache_are_elsewhere(self, write_adapter: Write, tmp_path: Path) -> None:
        folder = write_adapter()
        (tmp_path / "blobs").mkdir()
        (folder / "adapter_config.json").rename(tmp_path / "blobs" / "config")
        (folder / "adapter_config.json").symlink_to("../blobs/config")
        assert codes(check(folder)) == {ProblemCode.FILE_LINK}

    def test_a_library_of_intrinsics_says_where_its_adapters_are(self, write_adapter: Write, tmp_path: Path) -> None:
        for kind in ("alora", "lora"):
            (tmp_path / "answerability" / "smollm2").mkdir(parents=True, exist_ok=True)
            write_adapter(f"answerability/smollm2/{kind}")
        report = check(tmp_path / "answerability")
        assert codes(report) == {ProblemCode.FILES_DEEPER}
        assert "'smollm2/alora', 'smollm2/lora'" in report.reason

    def test_what_a_trainer_leaves_beside_does_no_harm(self, write_adapter: Write) -> None:
        folder = write_adapter()
        digest = check(folder).facts.digest
        write_adapter("safety/checkpoint-500")
        for name in ("optimizer.pt", "rng_state.pth", "training_args.bin", "adapter_model.bin", "README.md"):
            (folder / name).write_bytes(b"\x80\x02.")
        report = check(folder)
        assert (report.is_accepted, report.facts.digest) == (True, digest)

    def test_a_pipe_in_place_of_a_file_does_not_hold_anybody_up(self, write_adapter: Write) -> None:
        folder = write_adapter()
        (folder / "adapter_config.json").unlink()
        os.mkfifo(folder / "adapter_config.json")
        assert "not a regular file" in check(folder).reason

    def test_a_file_that_shrinks_while_it_is_read_is_tried_again(
        self, write_adapter: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from aloraserve.adapters.checks import check as module

        folder = write_adapter()
        weights = folder / "adapter_model.safetensors"
        read = module.read_header

        def and_cut(file: Any) -> Any:
            entries = read(file)
            os.truncate(weights, weights.stat().st_size - 8)
            return entries

        monkeypatch.setattr(module, "read_header", and_cut)
        report = check(folder)
        assert "changed while it was read" in report.reason
        assert report.cause is not None


class TestSidecar:
    def test_it_is_content(self, write_adapter: Write) -> None:
        folder = write_adapter()
        digests = [check(folder).facts.digest]
        for name, text in (("aloraserve.json", "{}"), ("io.yaml", IO_YAML), ("aloraserve.json", '{"untrained": true}')):
            (folder / name).write_text(text)
            digests.append(check(folder).facts.digest)
        assert len(set(digests)) == 4

    def test_it_is_read(self, write_adapter: Write) -> None:
        content = {
            "untrained": True,
            "description": "Says whether it is safe.",
            "invocation_text": "<go>",
            "invocation_mode": "instruction",
            "intrinsic": {"output": {"form": "yes_no"}},
            "example": [{"role": "user", "content": "Hello"}],
            "labels": {"team": "rag"},
        }
        folder = write_adapter()
        (folder / "aloraserve.json").write_text(json.dumps(content))
        report = check(folder)
        sidecar, version = report.facts.sidecar, report.version("safety", folder)
        assert (sidecar.untrained, sidecar.invocation_text, sidecar.labels) == (True, "<go>", {"team": "rag"})
        assert sidecar.example[0].content == "Hello"
        assert (version.untrained, version.invocation_text, version.invocation_mode) == (True, "<go>", "instruction")
        assert version.intrinsic is not None
        assert version.intrinsic.gives_probability

    def test_an_intrinsic_that_is_wrong_is_one_of_the_problems(self, write_adapter: Write) -> None:
        folder = write_adapter(bias="all")
        (folder / "io.yaml").write_text("model: ~")
        assert codes(check(folder)) == {ProblemCode.CONFIG, ProblemCode.INTRINSIC}

    @pytest.mark.parametrize(
        ("content", "word"),
        [
            ('{"untrained": 1}', "$.untrained"),
            ('{"invocationtext": "x"}', "invocationtext"),
            ('{"invocation_mode": "somewhere"}', "invocation_mode"),
            ('{"labels": {"a b": "c"}}', "labels"),
            ('{"example": [{"role": "user"}]}', "content"),
            ('{"untrained": true, "untrained": false}', "twice"),
            ("[]", "not a JSON object"),
            ("\ufeff{}", "byte order mark"),
        ],
    )
    def test_a_typo_is_an_error(self, write_adapter: Write, content: str, word: str) -> None:
        folder = write_adapter()
        (folder / "aloraserve.json").write_text(content)
        report = check(folder)
        assert codes(report) == {ProblemCode.SIDECAR}
        assert word in report.reason
        assert "invocation_text" in report.reason


def hub_cache(folder: Path, repository: Path) -> Path:
    """Move an adapter to where ``hf download`` puts it: links in a snapshot to blobs."""
    (repository / "blobs").mkdir(parents=True)
    (repository / "snapshots").mkdir()
    snapshot = folder.rename(repository / "snapshots" / "0abc")
    for path in list(snapshot.iterdir()):
        path.rename(repository / "blobs" / path.name)
        path.symlink_to(f"../../blobs/{path.name}")
    return snapshot
