"""Settings: who wins, and that what is refused is named without a secret."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from aloraserve.adapters.sources import parse_reference
from aloraserve.errors import AdapterSourceError, SettingsError
from aloraserve.routing.policies import POLICIES
from aloraserve.settings import MAX_FILE_BYTES, MAX_TENANTS, Settings, default_state_dir, load_settings

KEY = "hunter2-hunter2-hunter2"
Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("ALORASERVE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str) -> Path:
        file = tmp_path / "settings.yaml"
        file.write_text(text)
        return file

    return write_file


def refusal(file: Path | None = None, **flags: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(file, **flags)
    return caught.value.message


def test_without_anything_the_defaults_hold() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.replicas) == ("127.0.0.1", 8000, 2)
    assert settings.api_keys == {}
    assert settings.state_dir == default_state_dir()


def test_flags_win_over_the_environment_over_the_file_over_defaults(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("port: 1001\nreplicas: 3\nmax_loras: 4\n")
    monkeypatch.setenv("ALORASERVE_PORT", "1002")
    monkeypatch.setenv("ALORASERVE_REPLICAS", "5")
    settings = load_settings(file, port=1003)
    assert (settings.port, settings.replicas, settings.max_loras) == (1003, 5, 4)
    assert settings.max_num_seqs == Settings.model_fields["max_num_seqs"].default


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("replicas", "3", 3),
        ("kv_cache_gib", "0.5", 0.5),
        ("max_lora_rank", "128", 128),
        ("adapters_dir", "/srv/adapters", Path("/srv/adapters")),
        ("redis_url", "redis://cache:6379", SecretStr("redis://cache:6379")),
        ("policy", "round-robin", "round-robin"),
        ("receipts", "16", 16),
        ("stream_interval", "8", 8),
    ],
)
def test_a_variable_s_text_becomes_the_setting_s_type(
    monkeypatch: pytest.MonkeyPatch, key: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"ALORASERVE_{key.upper()}", text)
    assert getattr(load_settings(), key) == value


def test_a_flag_of_none_was_not_given(write: Write) -> None:
    assert load_settings(write("port: 1001"), port=None).port == 1001


def test_a_false_flag_was_given(write: Write) -> None:
    assert load_settings(write("metrics: true"), metrics=False).metrics is False


def test_a_mapping_in_the_environment_replaces_the_file_s(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALORASERVE_API_KEYS", f'{{"one": "{KEY}"}}')
    assert list(load_settings(write(f"api_keys: {{two: {KEY}}}")).api_keys) == ["one"]


@pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n", "{}", "---\n"])
def test_an_empty_file_has_no_settings(write: Write, text: str) -> None:
    assert load_settings(write(text)) == load_settings()


def test_an_unknown_key_is_named_with_the_known_ones(write: Write) -> None:
    file = write("prot: 1001\nport: 1001")
    message = refusal(file)
    assert message.startswith(f"{file}: unknown key 'prot'; known are ")
    assert set(Settings.model_fields) <= set(message.partition("known are ")[2].split(", "))


def test_an_unknown_variable_is_named_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALORASERVE_PROT", KEY)
    message = refusal()
    assert message.startswith("unknown variable ALORASERVE_PROT; known are ")
    assert {"ALORASERVE_PORT", "ALORASERVE_CONFIG"} <= set(message.partition("known are ")[2].split(", "))
    assert KEY not in message


def test_the_variable_that_names_the_file_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALORASERVE_CONFIG", "/etc/aloraserve.yaml")
    assert load_settings().port == 8000


def test_an_unknown_flag_is_refused_by_name() -> None:
    assert "prot" in refusal(prot=1)


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("port", "0", "greater than or equal to 1"),
        ("port", "65536", "less than or equal to 65535"),
        ("port", "http", "valid integer"),
        ("port", "1.5", "valid integer"),
        ("replicas", "4097", "less than or equal to 4096"),
        ("cells", "65", "less than or equal to 64"),
        ("host", "nowhere", "an IP address or localhost"),
        ("namespace", "A_B", "pattern"),
        ("namespace", "{x}", "pattern"),
        ("dtype", "float16", "'bfloat16' or 'float32'"),
        (
            "policy",
            "random",
            "one of expected-ttft, longest-prefix, session-hash, least-loaded, power-of-two, round-robin",
        ),
        ("receipts", "0", "greater than or equal to 1"),
        ("stream_interval", "0", "greater than or equal to 1"),
        ("block_tokens", "12", "multiple of 8"),
        ("max_lora_rank", "12", "8, 16, 32"),
        ("kv_cache_gib", "nan", "less than or equal to 1024"),
        ("kv_cache_gib", "inf", "less than or equal to 1024"),
        ("lookup_budget_ms", "0", "greater than 0"),
        ("max_model_len", "63", "greater than or equal to 64"),
    ],
)
def test_a_bad_value_is_named_with_its_source_whatever_that_is(
    write: Write, monkeypatch: pytest.MonkeyPatch, key: str, value: str, accepted: str
) -> None:
    file = write(f"{key}: '{value}'")
    from_file, from_flag = refusal(file), refusal(**{key: value})
    monkeypatch.setenv(f"ALORASERVE_{key.upper()}", value)
    from_environment = refusal()
    for source, message in ((file, from_file), ("flag", from_flag), ("environment", from_environment)):
        assert message.startswith(f"{source}: {key} is {value!r}: "), message
        assert accepted in message


def test_the_winning_source_of_a_bad_value_is_blamed(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("port: 1001")
    monkeypatch.setenv("ALORASERVE_PORT", "x")
    assert refusal(file).startswith("environment: port is 'x'")
    monkeypatch.setenv("ALORASERVE_PORT", "1002")
    assert refusal(file, port=-1).startswith("flag: port is '-1'")


def test_every_bad_value_is_named(write: Write) -> None:
    file = write("port: 0\nreplicas: 0")
    assert refusal(file).count(f"{file}: ") == 2


def test_a_long_bad_value_is_cut() -> None:
    assert len(refusal(dtype="x" * 10_000)) < 300


@pytest.mark.parametrize(
    "keys",
    [
        "{acme: hunter2}",
        f"{{acme: {KEY}, other: {KEY}}}",
        "hunter2",
        "[hunter2]",
        "{acme: [hunter2]}",
        "{acme: {hunter2: 1}}",
        "{" + ", ".join(f"t{n}: {KEY}{n}" for n in range(MAX_TENANTS + 1)) + "}",
    ],
)
def test_refused_api_keys_are_never_shown(write: Write, keys: str) -> None:
    file = write(f"api_keys: {keys}")
    message = refusal(file)
    assert message.startswith(f"{file}: api_keys")
    assert "hunter2" not in message


@pytest.mark.parametrize("policy", list(POLICIES))
def test_every_policy_is_accepted(policy: str) -> None:
    assert load_settings(policy=policy).policy == policy


def test_admin_keys_are_as_long_as_api_keys_and_never_shown(write: Write) -> None:
    message = refusal(write("admin_keys: {root: hunter2}"))
    assert "admin_keys: each key needs at least 16" in message
    assert "hunter2" not in message
    settings = load_settings(write(f"admin_keys: {{root: {KEY}}}"))
    assert settings.admin_keys["root"].get_secret_value() == KEY
    assert KEY not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_a_tenant_s_key_is_not_an_administrator_s(write: Write) -> None:
    message = refusal(write(f"api_keys: {{acme: {KEY}}}\nadmin_keys: {{root: {KEY}}}"))
    assert "admin_keys has a key of api_keys" in message
    assert KEY not in message


@pytest.mark.parametrize("value", ["", "{hunter2", "hunter2", '{"acme": "hunter2"'])
def test_a_structured_variable_that_is_not_json_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ALORASERVE_API_KEYS", value)
    message = refusal()
    assert message.startswith("environment: ")
    assert "api_keys" in message
    assert "hunter2" not in message


def test_accepted_api_keys_are_in_no_representation(write: Write) -> None:
    settings = load_settings(write(f"api_keys: {{acme: {KEY}}}"))
    assert settings.api_keys["acme"].get_secret_value() == KEY
    assert KEY not in f"{settings!r} {settings} {settings.model_dump_json()}"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "2001:db8::1"])
def test_a_public_host_needs_no_keys_of_the_settings(host: str) -> None:
    """Keys may be made while it runs; until then nobody is answered."""
    assert load_settings(host=host).is_public


def test_nobody_s_setting_opens_a_public_host(write: Write) -> None:
    message = refusal(write("allow_anonymous: true"), host="0.0.0.0")
    assert "allow_anonymous is not a setting any more" in message
    assert "`aloraserve keys`" in message


@pytest.mark.parametrize("keys", ["api_keys", "admin_keys"])
@pytest.mark.parametrize("name", ["", "a/b", "A", "-a", "a" * 65, "a b", "ä", "a\n"])
def test_a_name_of_a_tenant_or_an_administrator_is_plain(keys: str, name: str) -> None:
    message = refusal(**{keys: {name: KEY}})
    assert f"flag: {keys}: " in message
    assert "1 to 64 of a-z, 0-9" in message
    assert (repr(name) in message) is (len(name) < 16)


def test_a_key_that_is_taken_for_a_name_is_not_shown() -> None:
    assert "hunter2" not in refusal(api_keys={"SK-hunter2-hunter2": KEY})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_a_private_host_needs_no_keys(host: str) -> None:
    assert load_settings(host=host).host == host


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("port: [1", "not YAML"),
        ("a: b: c", "not YAML"),
        ("\tport: 1", "not YAML"),
        ("!!python/object/apply:os.getpid []", "not YAML"),
        ("- port", "holds a list"),
        ("port", "holds a str"),
        ("8000", "holds a int"),
        ("a: 1\n---\nb: 2", "not YAML"),
    ],
)
def test_a_file_that_is_not_a_mapping_is_refused_by_name(write: Write, text: str, fault: str) -> None:
    file = write(text)
    message = refusal(file)
    assert message.startswith(f"{file}: ")
    assert fault in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml").startswith(f"{tmp_path / 'none.yaml'}: cannot be read")
    assert refusal(tmp_path).startswith(f"{tmp_path}: cannot be read")
    (tmp_path / "latin.yaml").write_bytes(b"model: caf\xe9")
    assert refusal(tmp_path / "latin.yaml").startswith(f"{tmp_path / 'latin.yaml'}: cannot be read")


def test_a_file_of_the_longest_size_is_read_and_a_longer_one_is_not(write: Write) -> None:
    text = "port: 1001\n#"
    file = write(text + "x" * (MAX_FILE_BYTES - len(text)))
    assert load_settings(file).port == 1001
    file = write(text + "x" * (MAX_FILE_BYTES - len(text) + 1))
    assert refusal(file) == f"{file}: larger than {MAX_FILE_BYTES} bytes"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().port = 1


def test_the_state_folder_follows_the_desktop_s_rule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert load_settings().state_dir == tmp_path / "aloraserve"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings().state_dir == tmp_path / ".local" / "state" / "aloraserve"


@pytest.mark.parametrize("text", ["api_keys: {acme: hunter2-hunter2-x", "api_keys:\n  acme: *hunter2-hunter2-x\n"])
def test_a_broken_file_is_refused_without_showing_what_is_in_it(write: Write, text: str) -> None:
    message = refusal(write(text))
    assert "not YAML at line" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("text", ["served_name: 2024-13-45", "x: " + "[" * 5000])
def test_what_the_reader_trips_over_is_refused(write: Write, text: str) -> None:
    assert "cannot be read" in refusal(write(text))


@pytest.mark.parametrize("text", ["[]", "0", "false"])
def test_an_empty_value_is_not_a_mapping(write: Write, text: str) -> None:
    assert "a mapping of settings is needed" in refusal(write(text))


def test_a_lower_case_variable_wins_over_the_file_too(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("aloraserve_port", "1002")
    assert load_settings(write("port: 1001")).port == 1002


def test_an_unknown_lower_case_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("aloraserve_nothing", "1")
    assert "aloraserve_nothing" in refusal()


@pytest.mark.parametrize("key", [" sixteen-characters-", "sechzehn-zeichen-\u00e4", "sixteen characters"])
def test_a_key_that_no_header_could_carry_is_refused(write: Write, key: str) -> None:
    message = refusal(write(f"api_keys: {{acme: '{key}'}}"))
    assert "api_keys: each key needs" in message
    assert key not in message


def test_a_refused_redis_url_is_not_shown(write: Write) -> None:
    message = refusal(write("redis_url: {password: hunter2}"))
    assert "redis_url" in message
    assert "hunter2" not in message


def test_a_context_without_room_for_two_blocks_is_refused() -> None:
    assert "at least two blocks" in refusal(max_model_len=256, block_tokens=256)


def test_a_setting_of_an_earlier_release_says_what_replaced_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "aloraserve.yaml"
    file.write_text("overflow_wait_s: 30\n")
    with pytest.raises(SettingsError, match=r"overflow_wait_s is not a setting any more: .*priority_ageing") as raised:
        load_settings(file)
    assert str(raised.value).startswith(f"{file}: ")
    monkeypatch.setenv("ALORASERVE_OVERFLOW_WAIT_S", "30")
    with pytest.raises(SettingsError, match="environment: ALORASERVE_OVERFLOW_WAIT_S is not a setting any more"):
        load_settings()


@pytest.mark.parametrize(("ageing", "what"), [(0, "greater than or equal to 0.001"), (1.5, "less than or equal to 1")])
def test_the_rate_of_ageing_is_bounded(ageing: float, what: str) -> None:
    with pytest.raises(SettingsError, match=f"priority_ageing is '{ageing}': Input should be {what}"):
        load_settings(priority_ageing=ageing)


def test_as_many_adapters_are_loaded_as_run_at_once_and_the_pinned_ones_leave_room_for_those() -> None:
    assert "max_loaded_adapters is 4 with max_loras 8: at least as many" in refusal(max_loaded_adapters=4)
    assert load_settings(max_loaded_adapters=8).pinned_adapters == ()
    refused = refusal(max_loaded_adapters=9, pinned_adapters=["a", "b"])
    assert "pinned_adapters has 2 names with max_loaded_adapters 9: max_loras (8) places" in refused
    assert load_settings(max_loaded_adapters=10, pinned_adapters=["a", "b"]).pinned_adapters == ("a", "b")


def test_cells_have_one_to_128_replicas_each_and_a_server_each_or_none() -> None:
    assert load_settings(replicas=128).cells == 1
    assert load_settings(replicas=256, cells=2, cell_redis_urls=("redis://a:1", "redis://b:1")).cells == 2
    for flags in ({"replicas": 129}, {"replicas": 3, "cells": 4}):
        assert f"replicas is {flags['replicas']} with cells" in refusal(**flags)
    secret = "redis://:hunter2@cell:6379"
    message = refusal(replicas=2, cells=2, cell_redis_urls=(secret,))
    assert "cell_redis_urls has 1 with cells 2" in message
    assert "hunter2" not in message
    assert "hunter2" not in refusal(replicas=2, cells=2, cell_redis_urls=secret)


class TestAdapterSources:
    def test_entries_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ALORASERVE_ADAPTER_SOURCES", '["s3://models/adapters", "/mnt/adapters"]')
        policy = load_settings().adapter_policy
        policy.check(parse_reference("s3://models/adapters/safety"))
        with pytest.raises(AdapterSourceError, match="adapter_sources"):
            policy.check(parse_reference("hf://ibm/lib"))

    @pytest.mark.parametrize("entry", ["ftp://host", "relative"])
    def test_an_entry_that_is_none_is_named_with_its_setting(self, entry: str) -> None:
        assert f"flag: adapter_sources: '{entry}' is not accepted" in refusal(adapter_sources=("/a", entry))

    def test_a_password_in_an_entry_is_not_shown(self) -> None:
        assert "secret" not in refusal(adapter_sources=("s3://key:secret@bucket",))

    def test_every_folder_is_allowed_on_ones_own_machine_only(self, tmp_path: Path) -> None:
        (tmp_path / "adapters").mkdir()
        inside, outside = parse_reference(str(tmp_path / "adapters")), parse_reference(str(tmp_path))
        keys = {"team": KEY}
        for flags in ({"api_keys": keys}, {"admin_keys": keys}, {"host": "0.0.0.0", "api_keys": keys}):
            policy = load_settings(adapters_dir=tmp_path / "adapters", **flags).adapter_policy
            policy.folder(inside)
            with pytest.raises(AdapterSourceError, match="outside of those allowed"):
                policy.folder(outside)
        load_settings().adapter_policy.folder(outside)


def test_bounds_of_a_scaled_fleet_are_in_order_and_fit_its_cells() -> None:
    settings = load_settings(autoscaling=True, min_replicas=0, max_replicas=128, replicas=300)
    assert (settings.most_replicas, settings.most_gateways) == (128, 4)
    assert load_settings(min_replicas=3).most_replicas == 2
    assert "min_replicas is 5 with max_replicas 4: at most max_replicas is accepted" in refusal(min_replicas=5)
    assert "min_gateways is 3 with max_gateways 2" in refusal(min_gateways=3, max_gateways=2)
    assert "max_replicas is 129 with cells 1" in refusal(autoscaling=True, max_replicas=129)
    assert "min_replicas is 1 with cells 2: at least one a cell" in refusal(autoscaling=True, cells=2)


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("min_replicas", "-1", "greater than or equal to 0"),
        ("max_replicas", "0", "greater than or equal to 1"),
        ("min_gateways", "0", "greater than or equal to 1"),
        ("ttft_objective_s", "0", "greater than 0"),
        ("scale_down_cooldown_s", "-1", "greater than or equal to 0"),
        ("scaling_tolerance", "1.1", "less than or equal to 1"),
        ("hold_timeout_s", "0", "greater than 0"),
    ],
)
def test_a_bad_scaling_setting_is_named_with_what_is_accepted(key: str, value: str, accepted: str) -> None:
    message = refusal(**{key: value})
    assert message.startswith(f"flag: {key} is {value!r}: ")
    assert accepted in message


def test_scaling_rules_are_the_settings() -> None:
    rules = load_settings(max_replicas=7, ttft_objective_s=1.5, tpot_objective_ms=40).scaling_rules(32)
    assert (rules.max_replicas, rules.ttft_objective_s, rules.itl_objective_s, rules.max_requests) == (7, 1.5, 0.04, 32)
    assert rules.scale_down_cooldown_s == 180


def test_prompts_are_remembered_for_others_with_autoscaling_alone() -> None:
    assert Settings().warm_up_s == 0
    assert Settings(autoscaling=True).warm_up_s == Settings().warm_up_budget_s > 0
    assert Settings(autoscaling=True, warm_up_budget_s=0).warm_up_s == 0
