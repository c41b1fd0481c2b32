"""One cell of an input row: ids as text, timestamps as seconds, and what is wrong with it otherwise."""

from __future__ import annotations

from datetime import UTC, date, datetime

SHOWN_CHARACTERS = 60
LATEST_TIME = 1e19  # beyond today in nanoseconds, so that any unit fits
NOT_A_TIME = "timestamp is neither a number nor a date"


class RowError(Exception):
    """Why a row cannot be used: a reason to count by, and the detail of this row. Never leaves the readers."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def id_text(role: str, value: object) -> str:
    """A raw id as text without surrounding space.

    Raises:
        RowError: the value is missing, empty, or neither text nor a whole number.
    """
    if value is None:
        raise RowError(f"{role} is missing")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowError(f"{role} is neither text nor a whole number", repr(value)[:SHOWN_CHARACTERS])
    text = str(value).strip()
    if not text:
        raise RowError(f"{role} is missing")
    return text


def seconds(value: object) -> float:
    """A point in time as seconds since 1970 (or whatever unit the numbers have: only their order counts).

    Accepts numbers, numbers as text, dates and ISO 8601 text; times without a zone are read as UTC.

    Raises:
        RowError: the value is missing or none of these.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise RowError("timestamp is missing")
    shown = repr(value)[:SHOWN_CHARACTERS]
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, str):
        value = _parsed(value.strip(), shown)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(NOT_A_TIME, shown)
    if not -LATEST_TIME <= value <= LATEST_TIME:  # false for nan too
        raise RowError("timestamp is out of range", shown)
    return float(value)


def _parsed(text: str, shown: str) -> float | datetime:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise RowError(NOT_A_TIME, shown) from None
