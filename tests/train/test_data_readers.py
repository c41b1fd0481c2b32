"""Readers: every format gives the same interactions, and every malformed row is counted with its place."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from podx.errors import ConfigError, DataError
from podx_train.data.columns import ColumnNames
from podx_train.data.formats import InputFormat, detect_format
from podx_train.data.interactions import DUPLICATE_REASON, DropReport, Interactions
from podx_train.data.readers import read_interactions
from podx_train.data.values import RowError, seconds

ROWS = [("u1", "a", 30, "The neck is fine."), ("u2", "b", 10, ""), ("u1", "b", 20, 'Says "hi", twice')]


def triples(interactions: Interactions) -> list[tuple[str, str]]:
    return [
        (interactions.user_names[u], interactions.item_names[i])
        for u, i in zip(interactions.users.tolist(), interactions.items.tolist(), strict=True)
    ]


def write(path: Path, text: str) -> Path:
    data = text.encode("utf-8", errors="surrogateescape")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_rows(path: Path) -> Path:
    names = ["reviewerID", "asin", "unixReviewTime", "reviewText"]
    frame = pl.DataFrame(ROWS, schema=names, orient="row")
    if path.suffix == ".parquet":
        frame.write_parquet(path)
        return path
    if ".json" in path.name:
        return write(path, "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in ROWS))
    return write(path, frame.write_csv(separator="\t" if ".tsv" in path.name else ","))


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.tsv", "x.parquet", "x.jsonl", "x.json.gz", "x.data"])
def test_every_format_gives_the_same_interactions(tmp_path: Path, name: str) -> None:
    calls: list[tuple[int, int]] = []
    read = read_interactions(write_rows(tmp_path / name), progress=lambda done, total: calls.append((done, total)))
    assert triples(read) == [(user, item) for user, item, _, _ in ROWS]
    assert read.timestamps is not None
    assert read.timestamps.tolist() == [30.0, 10.0, 20.0]
    assert read.reviews == [review for *_, review in ROWS]
    assert read.user_names == ["u1", "u2"]
    assert not read.numbered
    assert read.report == DropReport()
    assert calls[-1][0] == calls[-1][1] > 0


@pytest.mark.parametrize("name", ["Beauty.txt", "Beauty.txt.gz"])
def test_numbered_sequences_keep_numbers_and_order(tmp_path: Path, name: str) -> None:
    read = read_interactions(write(tmp_path / name, "10 7 2 30\n9 2 7\n"))
    assert triples(read) == [("10", "7"), ("10", "2"), ("10", "30"), ("9", "2"), ("9", "7")]
    assert read.user_names == ["9", "10"]
    assert read.item_names == ["2", "7", "30"]
    assert read.numbered
    assert read.timestamps is None
    assert read.reviews is None


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.txt", "1 2 3\n", InputFormat.S3REC),
        ("a.txt", "1 x 3\n2 3 4\n3 4 5\n", InputFormat.S3REC),
        ("a.txt", "user,item,time\n", InputFormat.CSV),
        ("a.tsv", "1\t2\t3\n", InputFormat.CSV),
        ("a", '\n {"user": 1}\n', InputFormat.JSON_LINES),
        ("a.jsonl", "oops\n", InputFormat.JSON_LINES),
        ("a", "\ufeffuser,item,time\n", InputFormat.CSV),
    ],
)
def test_format_detection(tmp_path: Path, name: str, text: str, kind: InputFormat) -> None:
    assert detect_format(write(tmp_path / name, text)) is kind


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "who,what,when,user\nanna,a,1,zz\n")
    read = read_interactions(path, ColumnNames(user="who", item="what", timestamp="when"))
    assert triples(read) == [("anna", "a")]
    assert read.reviews is None


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (ColumnNames(), "no column found for the item: name it with --item-column, among user, thing, time"),
        (ColumnNames(item="stuff"), "no column 'stuff' for the item: choose among user, thing, time"),
    ],
)
def test_missing_columns_are_named(tmp_path: Path, columns: ColumnNames, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_interactions(write(tmp_path / "x.csv", "user,thing,time\nu,i,1\n"), columns)


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_review_column_that_was_named_must_be_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no column 'opinion' for the review"):
        read_interactions(write_rows(tmp_path / name), ColumnNames(review="opinion"))


def test_columns_of_numbered_sequences_are_a_conflict(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave the column options out"):
        read_interactions(write(tmp_path / "x.txt", "1 2 3\n"), ColumnNames(user="u"))


MALFORMED_CSV = [
    ("u,i", "line 3: 2 for 3", "number of fields differs from the header's"),
    (",i,5", "line 3", "user is missing"),
    ("u, ,5", "line 3", "item is missing"),
    ("u,i,", "line 3", "timestamp is missing"),
    ("u,i,soon", "line 3: 'soon'", "timestamp is neither a number nor a date"),
    ("u,i,nan", "line 3: 'nan'", "timestamp is out of range"),
    ("u,i,1e30", "line 3: '1e30'", "timestamp is out of range"),
    ("u\udcff,i,5", "line 3", "not UTF-8 text"),
]


@pytest.mark.parametrize(("row", "place", "reason"), MALFORMED_CSV)
def test_malformed_csv_rows_are_counted_with_line_and_reason(tmp_path: Path, row: str, place: str, reason: str) -> None:
    read = read_interactions(write(tmp_path / "x.csv", f"user,item,time\nu0,i0,1\n{row}\nu0,i1,2\n"))
    assert triples(read) == [("u0", "i0"), ("u0", "i1")]
    assert read.report == DropReport({reason: 1}, {reason: (place,)})


def test_csv_field_beyond_the_limit_is_counted_and_reading_goes_on(tmp_path: Path) -> None:
    text = f"user,item,time\nu0,i0,1\n{'x' * 200_000},i,2\nu0,i1,2\n"
    read = read_interactions(write(tmp_path / "x.csv", text))
    assert triples(read)[0] == ("u0", "i0")
    ((reason, count),) = read.report.counts.items()
    assert reason.startswith("not valid CSV")
    assert count == 1
    assert read.report.examples[reason] == ("line 3",)


def test_csv_line_numbers_count_quoted_line_ends_and_blank_lines(tmp_path: Path) -> None:
    text = '\nuser,item,time,review\nu,i,1,"two\nlines"\n\nbad\n'
    read = read_interactions(write(tmp_path / "x.csv", text))
    assert read.reviews == ["two\nlines"]
    assert list(read.report.examples.values()) == [("line 6: 1 for 4",)]


MALFORMED_JSON = [
    ("{oops", "line 2: '{oops'", "not valid JSON"),
    ("[1]", "line 2", "not a JSON object"),
    ('{"user": "u", "timestamp": 1}', "line 2", "item is missing"),
    ('{"user": null, "item": "i", "timestamp": 1}', "line 2", "user is missing"),
    ('{"user": true, "item": "i", "timestamp": 1}', "line 2: True", "user is neither text nor a whole number"),
    ('{"user": "u", "item": 1.5, "timestamp": 1}', "line 2: 1.5", "item is neither text nor a whole number"),
    ('{"user": "u", "item": "i", "timestamp": [1]}', "line 2: [1]", "timestamp is neither a number nor a date"),
    ('{"user": "u", "item": "i", "timestamp": true}', "line 2: True", "timestamp is neither a number nor a date"),
    ('{"user": "u", "item": "i", "timestamp": 1, "review": 3}', "line 2: 3", "review is not text"),
    ('{"user": "\\ud800", "item": "i", "timestamp": 1}', "line 2", "not UTF-8 text"),
]


@pytest.mark.parametrize(("row", "place", "reason"), MALFORMED_JSON)
def test_malformed_json_rows_are_counted_with_line_and_reason(
    tmp_path: Path, row: str, place: str, reason: str
) -> None:
    good = '{"user": 7, "item": "i", "timestamp": 1, "review": "fine"}'
    read = read_interactions(write(tmp_path / "x.jsonl", f"{good}\n{row}\n"))
    assert triples(read) == [("7", "i")]
    assert read.report == DropReport({reason: 1}, {reason: (place,)})


def test_optional_json_keys_are_found_in_later_records(tmp_path: Path) -> None:
    rows = [{"user": "u", "item": "i", "time": 1}, {"user": "u", "item": "j", "time": 2, "review": "Good neck."}]
    read = read_interactions(write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows))))
    assert read.reviews == ["", "Good neck."]


def test_malformed_parquet_rows_are_counted(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["u", None, "v"], "item": ["i", "i", "j"], "time": [1, 2, None]})
    frame.write_parquet(tmp_path / "x.parquet")
    read = read_interactions(tmp_path / "x.parquet")
    assert triples(read) == [("u", "i")]
    assert read.report.examples == {"user is missing": ("row 2",), "timestamp is missing": ("row 3",)}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2 3 x", "a word is not a whole number"),
        ("2 3 0", "numbers must be at least 1"),
        ("1 3 4", "the user was on an earlier line already"),
        ("2", "a user without items"),
    ],
)
def test_malformed_numbered_lines_are_counted(tmp_path: Path, row: str, reason: str) -> None:
    read = read_interactions(write(tmp_path / "x.txt", f"1 2 3\n{row}\n3 4 5\n"))
    assert triples(read) == [("1", "2"), ("1", "3"), ("3", "4"), ("3", "5")]
    assert read.report.counts == {reason: 1}
    assert read.report.examples[reason][0].startswith("line 2: ")


def test_repeated_pairs_keep_the_earliest_and_are_counted(tmp_path: Path) -> None:
    text = "user,item,time,review\nu,i,9,late\nu,j,5,other\nu,i,3,early\nu,i,3,same day\n"
    read = read_interactions(write(tmp_path / "x.csv", text))
    assert read.reviews == ["other", "early"]
    assert read.report.counts == {DUPLICATE_REASON: 2}
    assert read.report.examples[DUPLICATE_REASON] == ("line 2: user 'u', item 'i'", "line 5: user 'u', item 'i'")


def test_report_keeps_only_the_first_examples(tmp_path: Path) -> None:
    read = read_interactions(write(tmp_path / "x.csv", "user,item,time\nu,i,1\n" + "bad\n" * 10))
    assert list(read.report.counts.values()) == [10]
    assert [len(places) for places in read.report.examples.values()] == [3]
    assert read.report.total == 10


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_empty_file_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="is empty"):
        read_interactions(write(tmp_path / "x.csv", text))


def test_header_alone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no usable interaction: the file has no rows"):
        read_interactions(write(tmp_path / "x.csv", "user,item,time\n"))


def test_nothing_but_malformed_rows_is_an_error_that_lists_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)every row was dropped:.*2 × timestamp is missing \(line 2; line 3\)"):
        read_interactions(write(tmp_path / "x.csv", "user,item,time\nu,i,\nv,i,\n"))


def test_missing_file_and_json_array_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="check the path"):
        read_interactions(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="JSON lines, one object per line"):
        read_interactions(write(tmp_path / "x.json", '[{"user": 1}]'))


def test_truncated_gzip_is_an_error(tmp_path: Path) -> None:
    rows = "".join(f"u{n},i{n * n},{n}\n" for n in range(50_000))
    path = write(tmp_path / "x.csv.gz", "user,item,time\n" + rows)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"to its end.*damaged"):
        read_interactions(path)


def test_damaged_parquet_is_an_error(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="as Parquet"):
        read_interactions(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5.0),
        ("5.5", 5.5),
        ("1970-01-02", 86_400.0),
        ("1970-01-01T00:01:00+00:00", 60.0),
        (date(1970, 1, 2), 86_400.0),
        (datetime(1970, 1, 1, 1), 3600.0),
        (datetime(1970, 1, 1, 1, tzinfo=UTC), 3600.0),
    ],
)
def test_timestamps_of_many_kinds(value: object, expected: float) -> None:
    assert seconds(value) == expected


def test_timestamp_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(RowError, match="out of range"):
        seconds(10**400)


def test_real_reviews_are_read_whole(shared_data: Path) -> None:
    read = read_interactions(shared_data / "reviews" / "musical_instruments_sample.csv")
    assert len(read) == 499
    assert read.report.total == 0
    assert read.reviews is not None
    assert sum(map(bool, read.reviews)) == 499
