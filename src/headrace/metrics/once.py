"""Warnings that a scrape every few seconds would otherwise repeat for ever."""

from __future__ import annotations

import logging

MAX_SUBJECTS = 100
"""Subjects that are warned of; their names come from users' code, so they need a bound."""


class Once:
    """Warns of each subject the first time.

    Args:
        log: Where to.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._subjects: set[str] = set()

    def warning(self, subject: str, message: str, error: BaseException | None = None) -> None:
        """Log a message, if this is the first about its subject.

        Args:
            subject: What the message is about.
            message: What is wrong.
            error: What was raised; its traceback goes to the record.
        """
        if subject in self._subjects or len(self._subjects) >= MAX_SUBJECTS:
            return
        self._subjects.add(subject)
        self._log.warning("%s", message, exc_info=error)
