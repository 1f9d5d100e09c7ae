"""How far a load test is, for people at a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Progress = Callable[[int], object]
"""Takes how many requests have ended so far."""


@contextlib.contextmanager
def progress_bar(total: int, *, is_shown: bool | None) -> Iterator[Progress | None]:
    """A bar on standard error, until the block ends.

    Args:
        total: How many requests there are.
        is_shown: None shows it if standard error is a terminal.

    Yields:
        What moves the bar; None if there is none.
    """
    if is_shown is None:
        is_shown = sys.stderr is not None and sys.stderr.isatty()
    if not is_shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # No refreshing thread: it would take the interpreter lock at times of its own choice.
    with Bar(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task("requests", total=total)

        def move(ended: int) -> None:
            bar.update(task, completed=ended, refresh=True)

        yield move
