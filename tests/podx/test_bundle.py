"""Bundle folders: what was written is what is read, and a damaged byte anywhere is found."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from podx.bundle.bundle import CATALOG_FILE, FORMER_USERS_FILE, TOKENIZER_FILE, USERS_FILE, Bundle
from podx.bundle.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest, file_sha256
from podx.bundle.signature import DECODER_FILE, ENCODER_FILE, ITEM_DECODER_FILE, WEIGHTS_FILE
from podx.errors import BundleError, BundleVersionError, CatalogError
from podx.text.templates import Task
from tests.podx.bundles import ITEM_IDS, USER_IDS, manifest, stored_histories

FILES = [CATALOG_FILE, USERS_FILE, TOKENIZER_FILE, ENCODER_FILE, DECODER_FILE, ITEM_DECODER_FILE, WEIGHTS_FILE]


@pytest.fixture
def copy(tmp_path: Path, bundle_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(bundle_path, tmp_path / "copy"))


def test_a_manifest_reads_back_as_it_was() -> None:
    written = manifest({"weights.bin": "0" * 64}, tasks=[Task.TOPN, Task.SEQUENTIAL], levels=3)
    assert Manifest.from_json(written.to_json()) == written
    assert Manifest.from_json(manifest({}).to_json()).levels == 0


def signed(content: dict[str, object]) -> str:
    """The text of a manifest with these entries, as another version of podx may have written it."""
    content.pop("manifest_sha256", None)
    plain = json.dumps(content, sort_keys=True, ensure_ascii=True)
    content["manifest_sha256"] = hashlib.sha256(plain.encode()).hexdigest()
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_a_manifest_from_before_the_whole_search_has_no_levels() -> None:
    content = json.loads(manifest({}).to_json())
    del content["levels"]
    assert Manifest.from_json(signed(content)) == manifest({})


def test_fields_that_this_version_does_not_know_are_passed_over() -> None:
    content = json.loads(manifest({}).to_json())
    content["from_a_later_version"] = {"any": ["value", None]}
    content["shape"]["experts"] = 4
    assert Manifest.from_json(signed(content)) == manifest({})


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("precision", None, "Expected `str`"),
        ("tasks", ["poetry"], "poetry"),
        ("shape", {"heads": 2}, "missing required field"),
        ("shape", "absent", "shape"),
    ],
)
def test_an_entry_that_is_missing_or_of_a_wrong_type_is_named(entry: str, value: object, message: str) -> None:
    content = json.loads(manifest({}).to_json())
    content[entry] = value
    if value == "absent":
        del content[entry]
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(signed(content))


OUTSIDE = [
    "../outside.txt",
    "..",
    "",
    "/etc/passwd",
    "sub/weights.bin",
    "..\\outside.txt",
    "C:\\x",
    "C:x",
    "a\0b",
    ".x",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_file_that_may_lie_outside_the_bundle_is_refused(copy: Path, name: str) -> None:
    (copy.parent / "outside.txt").write_text("of somebody else")
    text = manifest({WEIGHTS_FILE: "0" * 64, name: "0" * 64}).to_json()
    (copy / MANIFEST_FILE).write_text(text, encoding="utf-8", newline="")
    with pytest.raises(BundleError, match="no plain file name"):
        Bundle.load(copy, verify=False)


def test_keys_that_are_no_text_read_back_as_text() -> None:
    written = manifest({})
    odd = Manifest(**{**vars(written), "provenance": {2: "naïve", 10: "a"}, "parity": {"lengths": (1, 2)}})
    read = Manifest.from_json(odd.to_json())
    assert read.provenance == {"2": "naïve", "10": "a"} and read.parity == {"lengths": [1, 2]}


def test_a_bundle_holds_what_was_exported(bundle_path: Path) -> None:
    bundle = Bundle.load(bundle_path)
    assert sorted(bundle.manifest.files) == sorted(FILES)
    assert bundle.file(WEIGHTS_FILE).read_bytes() == b"the bytes of weights.bin"
    assert [bundle.catalog.items.raw(n + 1) for n in range(len(bundle.catalog))] == ITEM_IDS
    assert [bundle.users.ids.raw(n + 1) for n in range(len(bundle.users))] == USER_IDS
    assert [bundle.users.history(n + 1).tolist() for n in range(len(bundle.users))] == stored_histories()
    assert bundle.tokenizer.vocab_size == bundle.manifest.shape.vocab_size


def test_the_archive_of_users_in_bundles_made_before_is_read(copy: Path) -> None:
    users = Bundle.load(copy).users
    former = copy / FORMER_USERS_FILE
    np.savez(former, raw_ids=users.ids.raw_ids, items=users.items, offsets=users.offsets)
    (copy / USERS_FILE).unlink()
    hashes = {path.name: file_sha256(path) for path in copy.iterdir() if path.name != MANIFEST_FILE}
    (copy / MANIFEST_FILE).write_text(manifest(hashes).to_json(), encoding="utf-8")
    read = Bundle.load(copy).users
    assert [read.ids.raw(n + 1) for n in range(len(read))] == USER_IDS
    assert [read.history(n + 1).tolist() for n in range(len(read))] == stored_histories()
    former.write_bytes(former.read_bytes()[:-30])
    with pytest.raises(CatalogError, match="export again"):
        _ = Bundle.load(copy, verify=False).users


def places_in(length: int) -> list[int]:
    """The first and last bytes of a file and some between."""
    return sorted({0, 1, length // 4, length // 2, 3 * length // 4, length - 2, length - 1})


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_in_any_file_is_found(copy: Path, name: str) -> None:
    path = copy / name
    whole = path.read_bytes()
    for place in places_in(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            with pytest.raises(BundleError, match=name):
                Bundle.load(copy)
    path.write_bytes(whole)
    assert Bundle.load(copy).manifest.files[name]


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_or_grown_is_found(copy: Path, name: str) -> None:
    path = copy / name
    whole = path.read_bytes()
    for content in [whole[:place] for place in places_in(len(whole))] + [whole + b"\0"]:
        path.write_bytes(content)
        with pytest.raises(BundleError, match=name):
            Bundle.load(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.load(copy, verify=False)


@pytest.mark.parametrize("flip", [0x01, 0x07, 0x20])
def test_a_changed_byte_anywhere_in_the_manifest_is_found(copy: Path, flip: int) -> None:
    whole = (copy / MANIFEST_FILE).read_bytes()
    for place in range(len(whole)):
        changed = whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :]
        with pytest.raises(BundleError):
            read_manifest(copy, changed)


def test_a_manifest_cut_anywhere_is_found(copy: Path) -> None:
    whole = (copy / MANIFEST_FILE).read_bytes()
    for place in range(len(whole)):
        with pytest.raises(BundleError):
            read_manifest(copy, whole[:place])


def read_manifest(folder: Path, content: bytes) -> None:
    """Read a manifest as loading does; from the disk (which takes longer) only where it may matter."""
    if content.isascii():
        Manifest.from_json(content.decode())
    else:
        (folder / MANIFEST_FILE).write_bytes(content)
        Bundle.load(folder)


@pytest.mark.parametrize("bytes_", [b"\xff", b"\r\n", b" \n"])
def test_bytes_that_text_mode_would_hide_are_found(copy: Path, bytes_: bytes) -> None:
    path = copy / MANIFEST_FILE
    path.write_bytes(path.read_bytes()[:-1] + bytes_)
    with pytest.raises(BundleError):
        Bundle.load(copy)


def test_a_manifest_written_by_hand_is_not_taken(copy: Path) -> None:
    path = copy / MANIFEST_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    content["max_history"] = 99
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    with pytest.raises(BundleError, match="was changed after it was written"):
        Bundle.load(copy)


def test_another_format_version_is_named(copy: Path) -> None:
    path = copy / MANIFEST_FILE
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 99'), encoding="utf-8")
    with pytest.raises(BundleVersionError, match=f"version 99, this podx reads {FORMAT_VERSION}"):
        Bundle.load(copy)


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": "something else"}', "null"])
def test_a_manifest_of_something_else_is_refused(copy: Path, content: str) -> None:
    (copy / MANIFEST_FILE).write_text(content)
    with pytest.raises(BundleError, match="does not describe a podx bundle"):
        Bundle.load(copy)


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_folder_that_is_no_bundle_is_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=f"{folder} holds no {MANIFEST_FILE}"):
        Bundle.load(tmp_path / folder)


def test_a_file_that_the_manifest_does_not_list_is_not_given(bundle_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no recommend\.onnx: export it again"):
        Bundle.load(bundle_path).file("recommend.onnx")


def test_without_verification_a_damaged_table_is_found_when_it_is_read(copy: Path) -> None:
    path = copy / CATALOG_FILE
    path.write_bytes(path.read_bytes()[:-20])
    bundle = Bundle.load(copy, verify=False)
    with pytest.raises(CatalogError, match=CATALOG_FILE):
        _ = bundle.catalog
