"""Find the columns of users, items, times and reviews among those a file has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from podx.errors import DataError
from podx.flags import flag_of, option
from podx_train.data.values import SHOWN_CHARACTERS

SHOWN_COLUMNS = 20

# Names looked for when none is given, lower case, in order of preference; the last of each are Amazon's of 2014.
KNOWN_NAMES: Mapping[str, tuple[str, ...]] = {
    "user": ("user", "user_id", "userid", "uid", "reviewerid"),
    "item": ("item", "item_id", "itemid", "iid", "product_id", "productid", "movie_id", "parent_asin", "asin"),
    "timestamp": ("timestamp", "time", "date", "datetime", "created_at", "unixreviewtime"),
    "review": ("review", "review_text", "text", "comment", "reviewtext"),
}
REQUIRED_ROLES = ("user", "item", "timestamp")


@dataclass(frozen=True)
class ColumnNames:
    """Names of the columns to read; None means: look for the usual names, Amazon's among them."""

    user: str | None = option(None, "Name of the user column.", flag="--user-column")
    item: str | None = option(None, "Name of the item column.", flag="--item-column")
    timestamp: str | None = option(None, "Name of the time column.", flag="--timestamp-column")
    review: str | None = option(None, "Name of the review column.", flag="--review-column")


def find_columns(path: Path, available: list[str], wanted: ColumnNames) -> dict[str, str]:
    """The column of each role; the review's is optional unless it was named.

    Raises:
        DataError: a named column is not there, or none is found for the user, the item or the time.
    """
    by_lower = {name.lower(): name for name in reversed(available)}
    shown = ", ".join(name[:SHOWN_CHARACTERS] for name in available[:SHOWN_COLUMNS])
    found: dict[str, str] = {}
    for role, known in KNOWN_NAMES.items():
        given = getattr(wanted, role)
        if given is not None and given not in available:
            raise DataError(f"{path} has no column {given!r} for the {role}: choose among {shown}")
        match = given or next((by_lower[name] for name in known if name in by_lower), None)
        if match is None and role in REQUIRED_ROLES:
            raise DataError(
                f"{path}: no column found for the {role}: name it with {flag_of(wanted, role)}, among {shown}"
            )
        if match is not None:
            found[role] = match
    return found
