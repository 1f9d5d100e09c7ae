from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest

from headrace.config import (
    Auth,
    Batching,
    Declared,
    Found,
    Limits,
    Resolved,
    ServerSettings,
    Source,
    Workers,
    describe,
    env_name,
    from_environment,
    from_flags,
    from_table,
    known_settings,
    nearest,
    override,
    resolve,
)
from headrace.errors import ConfigError


def test_the_defaults_are_valid() -> None:
    assert Batching().max_batch_size == 32
    assert Limits().max_depth == 64
    assert ServerSettings().limits == Limits()


@pytest.mark.parametrize(
    ("cls", "name", "value", "message"),
    [
        (Batching, "max_batch_size", 0, "Batching.max_batch_size: expected 1 to 65536, got 0"),
        (Batching, "max_batch_size", True, "expected 1 to 65536, got True"),
        (Batching, "max_batch_size", 2.0, "expected 1 to 65536, got 2.0"),
        (Batching, "max_batch_delay_s", math.nan, "expected 0 to 60, got nan"),
        (Batching, "max_batch_cost", 0, "expected a number, more than 0, got 0"),
        (Batching, "priority_step_s", -1, "expected seconds, from 0 to 1e9, got -1"),
        (Batching, "priority_step_s", math.inf, "expected seconds, from 0 to 1e9, got inf"),
        (Batching, "cost", "bites", "expected 'items' or 'bytes', got 'bites'"),
        (Batching, "bucket_bytes", (0, 5), "integers of at least 1, as in '1000,8000', got (0, 5)"),
        (
            Batching,
            "bucket_bytes",
            (5, 5),
            "expected ascending integers of at least 1, as in '1000,8000', got (5, 5)",
        ),
        (Batching, "bucket_bytes", (1.5,), "got (1.5,)"),
        (Batching, "bucket_bytes", "1000", "got '1000'"),
        (Batching, "bucket_bytes", 1000, "got 1000"),
        (Limits, "max_headers", 0, "expected an integer, at least 1, got 0"),
        (
            ServerSettings,
            "executor",
            "gpu",
            "expected 'process' or 'thread' or 'inline' or 'remote', got 'gpu'",
        ),
        (Workers, "niceness", 20, "expected 0 to 19, got 20"),
        (Workers, "insecure", 1, "expected true or false, got 1"),
        (ServerSettings, "uds", 3, "expected text or nothing, got 3"),
        (ServerSettings, "host", None, "expected text, got None"),
        (ServerSettings, "port", 99999, "expected 0 to 65535, got 99999"),
    ],
    ids=lambda part: part if isinstance(part, str) else None,
)
def test_a_value_out_of_range_is_refused_with_what_is_allowed(
    cls: type, name: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        cls(**{name: value})
    assert str(caught.value).endswith(message)
    assert str(caught.value).startswith(f"{cls.__name__}.{name}: ")


def test_a_number_may_be_given_as_an_integer() -> None:
    assert Batching(max_batch_delay_s=1).max_batch_delay_s == 1


def test_bounds_may_be_given_as_a_list() -> None:
    batching = Batching(bucket_bytes=[10, 20])  # type: ignore[arg-type]  # as in a table of TOML
    assert batching == Batching(bucket_bytes=(10, 20))
    assert hash(batching) == hash(Batching(bucket_bytes=(10, 20)))


@pytest.mark.parametrize(
    ("text", "bounds"),
    [("1000,8000", (1000, 8000)), (" 1000, 8000 ", (1000, 8000)), ("7", (7,)), ("", ()), (" ", ())],
)
def test_bounds_are_read_from_text(text: str, bounds: tuple[int, ...]) -> None:
    found = from_environment({"HEADRACE_BATCHING_BUCKET_BYTES": text})
    assert resolve([found]).settings.batching == {"bucket_bytes": bounds}
    assigned = from_flags({}, [f"batching.bucket_bytes={text}"])
    assert resolve([assigned]).settings.batching == {"bucket_bytes": bounds}


def test_bounds_are_a_list_in_a_table() -> None:
    found = from_table({"batching": {"bucket_bytes": [10, 20], "cost": "bytes"}}, file="h.toml")
    settings = resolve([found]).settings
    assert override(Batching(), settings.batching) == Batching(bucket_bytes=(10, 20), cost="bytes")


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)]
)
def test_a_truth_is_read_from_text(text: str, value: bool) -> None:
    found = from_environment({"HEADRACE_WORKERS_INSECURE": text})
    assert resolve([found]).settings.workers.insecure is value


def test_workers_are_a_section_of_their_own() -> None:
    assert ServerSettings().workers == Workers()
    found = from_table({"workers": {"niceness": 5, "listen": "host:1"}}, file="h.toml")
    assert resolve([found]).settings.workers == Workers(niceness=5, listen="host:1")
    assert env_name("workers.stop_timeout_s") == "HEADRACE_WORKERS_STOP_TIMEOUT_S"


def test_every_setting_has_a_meaning_a_describable_type_and_a_valid_default() -> None:
    for key, declared in known_settings().items():
        assert declared.doc, key
        assert describe(declared.annotation), key
        declared.check(declared.default, where=key)


def test_known_settings_are_named_by_section() -> None:
    assert {"port", "limits.max_depth", "batching.max_batch_size"} <= set(known_settings())
    assert "limits" not in known_settings()
    assert env_name("limits.max_depth") == "HEADRACE_LIMITS_MAX_DEPTH"


def test_the_environment_gives_settings_by_prefix_as_text() -> None:
    environ = {"PATH": "/", "HEADRACE_PORT": "80", "HEADRACE_CONFIG": "x"}
    found = from_environment(environ, ignore=["HEADRACE_CONFIG"])
    assert [(entry.key, entry.value) for entry in found] == [("port", "80")]
    assert resolve([found]).settings.port == 80


def test_an_unknown_variable_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        from_environment({"HEADRACE_PROT": "80"})
    assert str(caught.value) == "HEADRACE_PROT: no such setting; did you mean HEADRACE_PORT?"


def test_a_table_gives_settings_of_the_top_level_and_of_sections() -> None:
    found = from_table({"port": 80, "limits": {"max_depth": 5}}, file="h.toml")
    settings = resolve([found]).settings
    assert (settings.port, settings.limits.max_depth) == (80, 5)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"prt": 1}, "h.toml: prt: no such setting; did you mean port?"),
        ({"limits": 1}, "h.toml: limits: expected a table, got 1"),
        (
            {"limits": {"max_dept": 1}},
            "h.toml: limits.max_dept: no such setting; did you mean limits.max_depth?",
        ),
        ({"": 1}, "h.toml: : no such setting"),
        ({"zzzzzz": 1}, "h.toml: zzzzzz: no such setting"),
    ],
    ids=["misspelt", "no-table", "misspelt-inside", "empty", "far-from-all"],
)
def test_an_unknown_key_of_a_table_is_an_error(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_table(table, file="h.toml")
    assert str(caught.value) == message


def test_flags_that_were_not_given_say_nothing() -> None:
    found = from_flags({"port": 1, "host": None, "batching.max_batch_size": "4"})
    assert [(entry.key, entry.source.name) for entry in found] == [
        ("port", "--port"),
        ("batching.max_batch_size", "--max-batch-size"),
    ]


def test_assignments_set_any_setting() -> None:
    found = from_flags({}, ["limits.max_depth=7"])
    assert resolve([found]).settings.limits.max_depth == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port", "--set: expected KEY=VALUE, got 'port'"),
        ("prt=1", "--set prt: no such setting; did you mean port?"),
    ],
    ids=["no-value", "unknown"],
)
def test_a_bad_assignment_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_flags({}, [text])
    assert str(caught.value) == message


def test_later_layers_override_earlier_ones_and_origins_are_kept() -> None:
    resolved: Resolved = resolve(
        [
            from_table({"port": 1, "host": "h"}, file="h.toml"),
            from_environment({"HEADRACE_PORT": "2"}),
            from_flags({"batching.max_batch_size": 8}),
        ]
    )
    assert resolved.settings.port == 2
    assert resolved.settings.batching == {"max_batch_size": 8}
    assert resolved.origins == {
        "port": "HEADRACE_PORT",
        "host": "h.toml: host",
        "batching.max_batch_size": "--max-batch-size",
    }


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (from_environment({"HEADRACE_PORT": "x"}), "HEADRACE_PORT: expected 0 to 65535, got 'x'"),
        (
            from_environment({"HEADRACE_WORKERS_INSECURE": "perhaps"}),
            "HEADRACE_WORKERS_INSECURE: expected true or false, got 'perhaps'",
        ),
        (
            from_table({"workers": {"insecure": "true"}}, file="f"),
            "f: workers.insecure: expected true or false, got 'true'",
        ),
        (from_table({"port": "80"}, file="f"), "f: port: expected 0 to 65535, got '80'"),
        (
            from_environment({"HEADRACE_DRAIN_DELAY_S": "nan"}),
            "HEADRACE_DRAIN_DELAY_S: expected seconds, from 0 to 1e9, got 'nan'",
        ),
        *(
            (
                from_flags({}, [f"batching.bucket_bytes={text}"]),
                "--set batching.bucket_bytes: expected ascending integers of at least 1,"
                f" as in '1000,8000', got '{text}'",
            )
            for text in ("20,10", "10,,20", "10,x", "0", "10;20")
        ),
        (
            from_table({"batching": {"bucket_bytes": "10"}}, file="f"),
            "f: batching.bucket_bytes: expected ascending integers of at least 1,"
            " as in '1000,8000', got '10'",
        ),
    ],
    ids=[
        "no-number",
        "no-truth",
        "truth-as-text-in-a-file",
        "text-in-a-file",
        "nan",
        "descending",
        "gap",
        "no-integer",
        "zero",
        "no-comma",
        "bounds-as-text-in-a-file",
    ],
)
def test_a_bad_value_is_told_with_where_it_came_from(layer: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve([layer])
    assert str(caught.value) == message


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_of_all_numbers_a_batchs_cost_alone_may_be_without_end(number: float) -> None:
    floats = {
        key for key, declared in known_settings().items() if isinstance(declared.default, float)
    }
    assert {"drain_timeout_s", "limits.max_client_rate", "batching.priority_step_s"} < floats
    taken = set()
    for key in floats:
        for layer in (
            from_flags({}, [f"{key}={number}"]),
            [Found(key, number, Source(key, False))],
        ):
            with contextlib.suppress(ConfigError):
                resolve([layer])
                taken.add(key)
    assert taken == ({"batching.max_batch_cost"} if number == math.inf else set())


def test_override_replaces_and_checks_again() -> None:
    batching = Batching()
    assert override(batching, {}) is batching
    assert override(batching, {"max_batch_size": 2}).max_batch_size == 2
    with pytest.raises(ConfigError, match="expected 1 to 65536, got 0"):
        override(batching, {"max_batch_size": 0})
    with pytest.raises(ConfigError, match="did you mean max_batch_size"):
        override(batching, {"max_batch_siz": 2})


def test_nearest_says_nothing_when_nothing_is_near() -> None:
    assert nearest("qqq", ["port"]) == ""


def test_a_declared_setting_reads_text_only_where_it_may() -> None:
    declared = Declared(int, 1, "doc")
    assert declared.parse("5", where="x", strict=False) == 5
    with pytest.raises(ConfigError, match="x: expected an integer, got '5'"):
        declared.parse("5", where="x", strict=True)


SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    "keys", [(f"a:{SECRET}",), [f"a:{SECRET}"], Auth(keys=(f"a:{SECRET}",)).keys]
)
def test_keys_are_digests_as_soon_as_they_are_settings(keys: Any) -> None:
    auth = Auth(keys=keys)
    assert [key.split(":")[:2] for key in auth.keys] == [["a", "sha256"]]
    assert SECRET not in repr(ServerSettings(auth=auth))


@pytest.mark.parametrize("keys", [f"a:{SECRET}", [1], None, {f"a:{SECRET}": 1}])
def test_keys_are_a_list_and_nothing_of_another_value_is_repeated(keys: Any) -> None:
    with pytest.raises(ConfigError, match=r"Auth.keys: expected a list of keys") as caught:
        Auth(keys=keys)
    assert SECRET not in str(caught.value)


def test_keys_come_from_the_environment_and_a_file_as_digests() -> None:
    found = from_environment({"HEADRACE_AUTH_KEYS": f"a:{SECRET}  b:{SECRET}\n"})
    resolved = resolve([found])
    assert len(resolved.settings.auth.keys) == 2
    assert SECRET not in repr(resolved)
    table = {"auth": {"keys": [f"a:{SECRET}"], "keys_file": "k"}}
    resolved = resolve([from_table(table, file="f")])
    assert (len(resolved.settings.auth.keys), resolved.settings.auth.keys_file) == (1, "k")
    with pytest.raises(ConfigError, match=r"--set auth\.keys: everybody"):
        from_flags({}, [f"auth.keys=a:{SECRET}"])
