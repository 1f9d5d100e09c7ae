"""Writes the tables of the documentation that come from the code.

    python docs/generate.py           # write them anew
    python docs/generate.py --check   # exit 1 if that would change a file

A table stands between two comments, `<!-- generated: NAME -->` and `<!-- end of NAME -->`, in any
page of this folder.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from headrace import server
from headrace.call import INTERNAL_ERROR
from headrace.config import describe, env_name, known_settings
from headrace.errors import HeadraceError
from headrace.http.errors import STATUS
from headrace.metrics.prometheus import METRICS
from headrace.wire import NEXT, Kind, State

DOCS = Path(__file__).parent

_BLOCK = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end of (?P=name) -->)",
    re.DOTALL,
)
_EXITS = {
    "EXIT_OK": "it was told to stop, and has drained",
    "EXIT_CONFIG": "a setting, an argument or a target is wrong",
    "EXIT_BIND": "the address cannot be listened on",
    "EXIT_NOT_READY": "a model did not become ready",
    "EXIT_HUNG": "a replica hung for longer than `limits.predict_timeout_s`",
}


def settings() -> Iterator[str]:
    """Every setting: key, variable, default, what it may be, and what it means."""
    rows = [
        (
            f"`{key}`",
            f"`{env_name(key)}`",
            _default(declared.default),
            describe(declared.annotation).replace("'", "`"),
            declared.doc,
        )
        for key, declared in known_settings().items()
    ]
    return _table(("setting", "variable", "default", "allowed", "meaning"), rows)


def metrics() -> Iterator[str]:
    """Every metric: name, kind, labels and meaning."""
    rows = [
        (f"`{name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.doc)
        for name, metric in METRICS.items()
    ]
    return _table(("metric", "kind", "labels", "meaning"), rows)


def errors() -> Iterator[str]:
    """Every code that an answer or a log record may have, by its status."""
    # The classes that stand above headrace.errors are found once their modules are loaded.
    for module in ("headrace.http.docs", "headrace.listener", "headrace.testing"):
        importlib.import_module(module)
    classes = {cls.code: cls for cls in _below(HeadraceError)}
    rows = []
    for code, status in sorted(STATUS.items(), key=lambda entry: entry[1]):
        if code == INTERNAL_ERROR:
            again, meaning = False, "A fault of headrace itself; the log has the traceback."
        else:
            cls = classes[code]
            again, meaning = cls.retryable, (cls.__doc__ or "").partition("\n")[0]
        rows.append((f"`{code}`", str(status), "yes" if again else "", meaning))
    return _table(("code", "status", "worth a retry", "meaning"), rows)


def exit_codes() -> Iterator[str]:
    """The exit codes of `headrace serve`."""
    codes = {name: value for name, value in vars(server).items() if name.startswith("EXIT_")}
    rows = [(str(value), _EXITS[name]) for name, value in codes.items()]
    return _table(("exit code", "meaning"), rows)


def worker_protocol() -> Iterator[str]:
    """What each side may say in each state of the worker protocol, and the state after it."""
    rows = [
        (f"`{state.value}`", _sayings(state, "front"), _sayings(state, "worker")) for state in State
    ]
    return _table(("state", "the front may send", "the worker may send"), rows)


def _sayings(state: State, side: str) -> str:
    """Kinds of messages, those first that change nothing."""
    after = {
        Kind(kind).name.lower(): following
        for (before, sender, kind), following in NEXT.items()
        if before is state and sender == side
    }
    stays = [kind for kind, following in after.items() if following is state]
    moves = [
        f"{kind} → `{following.value}`" for kind, following in after.items() if following != state
    ]
    return ", ".join(stays + moves)


TABLES: Mapping[str, Callable[[], Iterator[str]]] = {
    "settings": settings,
    "metrics": metrics,
    "errors": errors,
    "exit-codes": exit_codes,
    "worker-protocol": worker_protocol,
}


def updated(text: str) -> str:
    """A page with its tables made anew."""

    def fill(block: re.Match[str]) -> str:
        table = "\n".join(TABLES[block["name"]]())
        return f"{block['begin']}\n{table}\n\n{block['end']}"

    return _BLOCK.sub(fill, text)


def main(arguments: Sequence[str]) -> int:
    """Write the tables, or with `--check` only say which pages would change."""
    changed = []
    for page in sorted(DOCS.rglob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = updated(before)
        if before != after:
            changed.append(page.relative_to(DOCS.parent))
            if "--check" not in arguments:
                page.write_text(after, encoding="utf-8")
    if changed and "--check" in arguments:
        for path in changed:
            sys.stderr.write(f"{path} differs from the code: run scripts/docs\n")
        return 1
    return 0


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _row(head)
    yield _row(["---"] * len(head))
    for row in rows:
        yield _row([cell.replace("|", "\\|") for cell in row])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _default(value: object) -> str:
    if value is None:
        return "none"
    if value == math.inf:
        return "no bound"
    return f"`{value}`"


def _below(cls: type[HeadraceError]) -> Iterator[type[HeadraceError]]:
    """A class and all below it."""
    yield cls
    for subclass in cls.__subclasses__():
        yield from _below(subclass)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
