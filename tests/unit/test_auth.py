"""API keys: what is one, and whose."""

from __future__ import annotations

import hashlib

import pytest

from headrace.auth import Keys, digested, digested_lines
from headrace.errors import ConfigError

SECRET = "correct-horse-battery"
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()


def test_a_secret_is_kept_as_its_digest_alone() -> None:
    assert digested(f"alice:{SECRET}", where="x") == f"alice:sha256:{DIGEST}"


def test_a_digest_stays_as_it_is_in_whatever_case() -> None:
    for given in (DIGEST, DIGEST.upper()):
        assert digested(f"alice:sha256:{given}", where="x") == f"alice:sha256:{DIGEST}"


def test_a_secret_may_hold_colons() -> None:
    entry = digested("alice:one:two:three:four", where="x")
    assert Keys([entry]).find("one:two:three:four") == "alice"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (SECRET, "x: expected name:secret"),
        (f":{SECRET}", "x: expected name:secret"),
        (f"al ice:{SECRET}", "x: expected name:secret"),
        (f"{'a' * 65}:{SECRET}", "x: expected name:secret"),
        ("alice:", "at least 16 visible ASCII characters"),
        ("alice:" + "s" * 15, "at least 16 visible ASCII characters"),
        ("alice:ünicode-ünicode-ünicode", "at least 16 visible ASCII characters"),
        ("alice:sha256:beef", "64 hex digits"),
    ],
)
def test_an_error_says_what_is_expected_and_never_the_secret(entry: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        digested(entry, where="x")
    secret = entry.partition(":")[2]
    assert not secret or secret not in str(caught.value)


def test_a_file_has_a_key_a_line_and_comments() -> None:
    text = f"# who may ask\n\n  alice:{SECRET}  \nbob:sha256:{DIGEST}\n"
    assert digested_lines(text, where="f") == [f"alice:sha256:{DIGEST}", f"bob:sha256:{DIGEST}"]


def test_a_wrong_line_is_named_by_its_number() -> None:
    with pytest.raises(ConfigError, match="f, line 3: expected a secret"):
        digested_lines(f"# keys\nalice:{SECRET}\nbob:short\n", where="f")


def test_a_file_without_keys_is_a_mistake_and_not_an_open_door() -> None:
    with pytest.raises(ConfigError, match="f: expected at least one key"):
        digested_lines("# none\n\n", where="f")


def test_a_key_is_found_by_its_secret_alone() -> None:
    keys = Keys([digested(f"{name}:{name * 16}", where="x") for name in "abc"])
    assert [keys.find(name * 16) for name in "abcd"] == ["a", "b", "c", None]
    assert keys.find("") is None
    assert keys.find(DIGEST) is None
    assert keys.names == {"a", "b", "c"}


def test_a_digest_is_no_key() -> None:
    assert Keys([digested(f"alice:{SECRET}", where="x")]).find(f"sha256:{DIGEST}") is None


def test_a_name_may_have_an_old_and_a_new_key() -> None:
    keys = Keys([digested(f"a:{secret}", where="x") for secret in ("old" * 6, "new" * 6)])
    assert keys.find("old" * 6) == keys.find("new" * 6) == "a"


def test_its_representation_shows_nothing_of_a_key() -> None:
    assert DIGEST not in repr(vars(Keys([f"a:sha256:{DIGEST}"])))
