"""Raw ids as a text file, line n being number n: the map that a service in another language needs."""

from __future__ import annotations

from pathlib import Path

from podx.atomic import replace_file
from podx.bundle.catalog import ENCODING, IdTable
from podx.errors import CatalogError


def write_ids(path: Path, ids: IdTable, what: str) -> None:
    """Write the raw ids of numbers 1, 2, … to a file that appears under its name only when it is complete.

    Args:
        what: ``item`` or ``user``, for the error.

    Raises:
        CatalogError: an id holds a line break.
    """

    def write(partial: Path) -> None:
        with partial.open("w", encoding=ENCODING, newline="\n") as file:
            file.writelines(f"{_one_line(ids.raw(number), number, what)}\n" for number in range(1, len(ids) + 1))

    replace_file(path, write)


def _one_line(raw: str, number: int, what: str) -> str:
    if "\n" in raw or "\r" in raw:
        raise CatalogError(
            f"the id {raw!r} of {what} {number} holds a line break, so it has no line of its own: "
            f"give the {what} another id and export again"
        )
    return raw
