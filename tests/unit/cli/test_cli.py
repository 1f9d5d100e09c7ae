"""The command line, run in this process; serving is tested with real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.cli import main
from headrace.config import known_settings

SOURCE = """
from headrace import Batching, Model

class Double(Model):
    examples = [1, 2]
    batching = Batching(max_batch_size=4)
    def predict(self, batch: list[int]) -> list[int]:
        return [2 * n for n in batch]

class Leaking(Model):
    examples = [1, 2]
    def predict(self, batch: list[int]) -> list[int]:
        return [batch[0] for _ in batch]

class Unloadable(Model):
    def load(self):
        raise OSError("no weights")
    examples = [1]
    def predict(self, batch: list[int]) -> list[int]:
        return batch

class Needs(Model):
    def __init__(self, weights):
        pass
    def predict(self, batch):
        return batch

class Odd(Model):
    def predict(self, batch: list[object()]) -> list[int]:
        return batch
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "app.py").write_text(SOURCE)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if "app" in name:
            del sys.modules[name]


class Cli:
    """Runs the command, and keeps what it wrote."""

    def __init__(
        self, captured: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._captured = captured
        self._monkeypatch = monkeypatch
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        if arguments[0] == "serve" and "--port" not in arguments:
            self._monkeypatch.setenv("HEADRACE_PORT", "0")  # other tests may run beside these
        self._monkeypatch.setattr(sys, "argv", ["headrace", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        self.out, self.err = self._captured.readouterr()
        code = caught.value.code
        assert isinstance(code, int) or code is None
        return code or 0


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    # What worker processes write is captured too.
    return Cli(capfd, monkeypatch)


def test_help_names_every_command(cli: Cli) -> None:
    assert cli("--help") == 0
    assert all(command in cli.out for command in ("serve", "check", "config", "openapi"))


def test_version_is_told(cli: Cli) -> None:
    assert cli("--version") == 0
    assert cli.out.strip()[0].isdigit()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "app.py:Doubel"), "app.py has no Doubel; did you mean Double?"),
        (
            ("serve", "app.py:Double", "--set", "limits.max_dept=3"),
            "did you mean limits.max_depth?",
        ),
        (("serve", "app.py:Double", "--set", "port"), "expected KEY=VALUE, got 'port'"),
        (("serve", "app.py:Double", "--port", "99999"), "--port: expected 0 to 65535"),
        (
            ("serve", "app.py:Double", "--executor", "ray"),
            "--executor: expected 'process' or 'thread' or 'inline' or 'remote'",
        ),
        (("serve", "app.py:Double", "--max-batch-size", "0"), "--max-batch-size: expected 1 to"),
        (("serve", "app.py:Double", "--config", "nowhere.toml"), "nowhere.toml: No such file"),
        (
            ("serve", "app.py:Double", "app.py:Double"),
            "expected different names, got 'double' twice",
        ),
        (("serve", "app.py:Needs"), "Needs() raised TypeError"),
        (("serve", "app.py:Odd"), "Odd"),
        (
            ("serve", "app.py:Double", "--executor", "inline", "--replicas", "2"),
            "replicas: expected 1 with executor 'inline', got 2",
        ),
        (("check", "nowhere:X"), "there is no module nowhere"),
        (("openapi", "app.py:SOURCE"), "app.py has no SOURCE"),
    ],
)
def test_a_wrong_setting_or_target_exits_with_2_and_says_why(
    cli: Cli, arguments: tuple[str, ...], said: str
) -> None:
    assert cli(*arguments) == 2
    assert cli.err.splitlines()[-1].startswith("headrace: ")
    assert said in cli.err


def test_an_unknown_variable_or_key_is_an_error_with_the_nearest_name(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_PROT", "1")
    assert cli("config") == 2
    assert "HEADRACE_PROT: no such setting; did you mean HEADRACE_PORT?" in cli.err
    monkeypatch.delenv("HEADRACE_PROT")
    (folder / "headrace.toml").write_text("[limits]\nmax_dept = 3\n")
    assert cli("config") == 2
    assert (
        "headrace.toml: limits.max_dept: no such setting; did you mean limits.max_depth?" in cli.err
    )


def test_a_settings_file_that_is_no_toml_is_an_error(cli: Cli, folder: Path) -> None:
    (folder / "headrace.toml").write_text("port = = 3")
    assert cli("config") == 2
    assert "headrace.toml: " in cli.err


def test_a_user_modules_traceback_is_shown(cli: Cli, folder: Path) -> None:
    (folder / "broken_app.py").write_text("import nothing_like_it\n")
    assert cli("serve", "broken_app.py:X") == 2
    assert "import nothing_like_it" in cli.err
    assert cli.err.splitlines()[-1].startswith("headrace: broken_app.py:X: importing it raised")


def test_config_shows_every_setting_and_where_its_value_came_from(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("HEADRACE_PORT", "8001")
    (folder / "headrace.toml").write_text(
        "port = 8002\nhost = '0.0.0.0'\n[limits]\nmax_depth = 9\n"
    )
    assert cli("config", "--set", "limits.max_depth=10") == 0
    lines = {line.split()[0]: line for line in cli.out.splitlines() if line.strip()}
    assert set(known_settings()) <= set(lines)
    assert lines["port"].split()[1:3] == ["8001", "HEADRACE_PORT"]
    assert lines["host"].split()[1:3] == ["0.0.0.0", "headrace.toml:"]
    assert lines["limits.max_depth"].split()[1:4] == ["10", "--set", "limits.max_depth"]
    assert lines["replicas"].split()[1:3] == ["1", "default"]


def test_check_tells_what_a_good_model_answered(cli: Cli) -> None:
    assert cli("check", "app.py:Double") == 0
    assert "double: ok" in cli.out
    assert "examples[1] -> 4" in cli.out


@pytest.mark.parametrize(
    ("name", "said"),
    [("Leaking", "examples[1]"), ("Unloadable", "load raised OSError: no weights")],
)
def test_check_fails_with_1_and_says_why_and_goes_on_with_the_others(
    cli: Cli, name: str, said: str
) -> None:
    assert cli("check", f"app.py:{name}", "app.py:Double") == 1
    assert said in cli.err
    assert "double: ok" in cli.out


def test_openapi_prints_the_document(cli: Cli) -> None:
    assert cli("openapi", "app.py:Double") == 0
    assert "/models/double/predict" in json.loads(cli.out)["paths"]


@pytest.mark.parametrize("how", [[sys.executable, "-m", "headrace"]])
def test_it_is_a_command_and_a_module(how: list[str]) -> None:
    ran = subprocess.run([*how, "--version"], capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_config_shows_how_many_keys_there_are_and_nothing_of_them(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("HEADRACE_AUTH_KEYS", "alice:correct-horse-battery bob:correct-horse-staple")
    assert cli("config") == 0
    lines = {line.split()[0]: line for line in cli.out.splitlines() if line.strip()}
    assert lines["auth.keys"].split()[1:4] == ["2", "keys", "HEADRACE_AUTH_KEYS"]
    assert "horse" not in cli.out and "sha256:c" not in cli.out


def test_a_wrong_key_is_named_by_its_number_and_not_repeated(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_AUTH_KEYS", "alice:correct-horse-battery bob:hunter2")
    assert cli("config") == 2
    assert "HEADRACE_AUTH_KEYS, key 2: expected a secret of at least 16" in cli.err
    assert "hunter2" not in cli.err and "horse" not in cli.err


def test_keys_are_not_taken_from_the_command_line(cli: Cli) -> None:
    assert cli("serve", "app.py:Double", "--set", "auth.keys=alice:correct-horse-battery") == 2
    assert "set HEADRACE_AUTH_KEYS" in cli.err
    assert "horse" not in cli.err


def test_a_file_of_keys_that_cannot_be_read_is_a_wrong_setting(cli: Cli, folder: Path) -> None:
    (folder / "keys").write_text("alice:correct-horse-battery\n")
    (folder / "keys").chmod(0o644)
    assert cli("serve", "app.py:Double", "--port", "0", "--set", "auth.keys_file=keys") == 2
    assert "got mode 0644" in cli.err
