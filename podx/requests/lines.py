"""Requests as JSON lines: those with raw ids are read, those with token ids and item numbers written.

Read, one object a line: ``{"user": "u1", "history": ["i1"], "exclude": [], "allow": null}``, of which only ``user``
must be there, or ``{"user": "u1", "candidates": ["i1", "i2"], "exclude": []}``. See :class:`podx.RecommendRequest`
and :class:`podx.RankRequest`.

Written: ``input_ids``, ``whole_word_ids``, ``excluded_items``, ``allowed_items`` (lists of integers) and ``task_id``.
They are rows of the inputs of ``recommend.onnx`` (:mod:`podx.bundle.signature`), not padded yet. Models with prompt
vectors of each user have ``user_rows`` as well, which is filled up with -1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from podx.atomic import replace_file
from podx.bundle import signature as sig
from podx.bundle.catalog import IdTable
from podx.errors import CatalogError, RequestError
from podx.requests.encoder import EncodedRequest, RequestEncoder
from podx.requests.types import RankRequest, RecommendRequest

ENCODING = "utf-8"
_READ_ENCODING = "utf-8-sig"  # some editors begin a file with a byte-order mark
_CANDIDATES = "candidates"


def encode_lines(path: Path, encoder: RequestEncoder, exclude_seen: bool = True) -> Iterator[str]:
    """The requests of a file, encoded, one line each.

    Raises:
        RequestError: a line holds no request, or one that cannot be answered; the message says which line.
    """
    for place, line in _lines(path):
        try:
            yield encoded_line(encoder.encode(parse_request(line), exclude_seen), encoder.reads_user_rows)
        except RequestError as error:
            raise type(error)(f"{place}: {error}") from error


def parse_request(line: str) -> RecommendRequest | RankRequest:
    """The request in a line; one with candidates is a :class:`RankRequest`.

    Raises:
        RequestError: the line is no JSON object, lacks the user, or has an entry that is not known or of a wrong type.
    """
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:  # not JSON; a number of too many digits; too many brackets
        raise RequestError(f"this is not JSON ({error}): write one object a line") from error
    if not isinstance(content, dict):
        raise RequestError('this is no JSON object: write {"user": "…"}, with history or candidates where wanted')
    kind = RankRequest if _CANDIDATES in content else RecommendRequest
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise RequestError(f"{unknown[0]!r} is no entry of such a request: use {', '.join(known)}")
    if not isinstance(content.get("user"), str):
        raise RequestError("there is no user, or it is no text: give its raw id in quotes")
    for name, value in content.items():
        if name != "user" and not _is_id_list(value, or_none=name in ("history", "allow")):
            raise RequestError(f"{name!r} must be a list of raw ids, each in quotes")
    return kind(**content)


def encoded_line(request: EncodedRequest, user_rows: bool = False) -> str:
    """A request as a line of JSON, without the line end. ``user_rows``: the model has prompt vectors of each user."""
    content = {
        sig.INPUT_IDS: request.text.input_ids.tolist(),
        sig.WHOLE_WORD_IDS: request.text.whole_word_ids.tolist(),
        sig.TASK_ID: request.task_id,
        sig.EXCLUDED_ITEMS: np.unique(request.denied).tolist(),
        sig.ALLOWED_ITEMS: request.allowed_row.tolist(),
    }
    if user_rows:
        content[sig.USER_ROWS] = list(request.text.prompt_rows)
    return json.dumps(content)


def item_lines(items: IdTable) -> Iterator[str]:
    """Raw ids of items 1, 2, …, so that line n has item n.

    Raises:
        CatalogError: an id holds a line break.
    """
    for number in range(1, len(items) + 1):
        raw = items.raw(number)
        if "\n" in raw or "\r" in raw:
            raise CatalogError(
                f"the id {raw!r} of item {number} holds a line break, so it has no line of its own: "
                f"give the item another id and export again"
            )
        yield raw


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines to a file that appears under its name only when the last of them is written."""

    def write(partial: Path) -> None:
        with partial.open("w", encoding=ENCODING, newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)

    replace_file(path, write)


def _is_id_list(value: Any, or_none: bool) -> bool:
    if value is None:
        return or_none
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where each line stands, and the line; empty ones are passed over."""
    with path.open(encoding=_READ_ENCODING) as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}, line {number}", line
        except UnicodeDecodeError as error:
            raise RequestError(f"{path} is no UTF-8 text ({error}): save it as UTF-8") from error
