"""Codes from texts: what they find, how files are read, and what is refused."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel
from typer.testing import CliRunner, Result

from podx.errors import ConfigError, DataError
from podx_train.cli.data import app
from podx_train.codes.collaborative import Codes
from podx_train.codes.options import ClusterOptions, LastCode
from podx_train.codes.text import encoded, item_vectors, text_codes, tfidf
from podx_train.codes.text_file import held_out_pairs, read_texts
from podx_train.data.dataset import Dataset
from podx_train.data.synth import SynthOptions, interactions_csv, make_world, write_review

WORLD = SynthOptions()
REVIEWS = "reviews/musical_instruments_sample.csv"


def group_texts(seed: int = 0) -> tuple[np.ndarray, list[list[str]]]:
    """Hidden group of each item of the synthetic world, and two reviews of it."""
    random = np.random.default_rng(seed)
    world = make_world(WORLD, random)
    return world.cluster, [[write_review(world, item, random) for _ in range(2)] for item in range(WORLD.items)]


def purity(codes: Codes, groups: np.ndarray) -> float:
    """Share of items whose group is the most frequent of their leaf."""
    leaves: dict[tuple[str, ...], list[int]] = {}
    for item, of_item in enumerate(codes):
        leaves.setdefault(of_item[:-1], []).append(int(groups[item]))
    return sum(int(np.bincount(leaf).max()) for leaf in leaves.values()) / len(codes)


def codes_of(texts: Sequence[Sequence[str]], **options: object) -> Codes:
    popularity = np.zeros(len(texts), dtype=np.int64)
    return text_codes(item_vectors(texts, seed=0), popularity, ClusterOptions(**options), lambda done, total: None)


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def index(data: Path, out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["index", str(data), "--out", str(out), *arguments])


@pytest.fixture(scope="module")
def world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic world as a dataset, its interactions file in it."""
    folder = tmp_path_factory.mktemp("synth") / "data"
    assert CliRunner().invoke(app, ["synth", "--out", str(folder)]).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def t5_folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder of a random T5, with T5's own tokenizer."""
    if not (shared_data / "t5" / "spiece.model").is_file():
        pytest.skip("T5's tokenizer t5/spiece.model is not in the shared data folder")
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    shape = T5Config(vocab_size=32_100, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    T5EncoderModel(shape).save_pretrained(folder)
    shutil.copy(shared_data / "t5" / "spiece.model", folder)
    return folder


@pytest.mark.parametrize("seed", range(3))
def test_items_of_one_group_share_their_clusters(seed: int) -> None:
    groups, texts = group_texts(seed)
    found = purity(codes_of(texts, seed=seed), groups)
    shuffled = purity(codes_of(texts, seed=seed), np.random.default_rng(seed).permutation(groups))
    assert found >= 0.95 > 0.5 > shuffled


def test_an_item_that_nobody_took_lies_among_its_like() -> None:
    """Popularity and training change nothing; the last text is of an item unlike any other's words but its group's."""
    groups, texts = group_texts()
    guitar = next(item for item, lines in enumerate(texts) if "guitar" in lines[0])
    codes = codes_of([*texts, ["A guitar with a rosewood fretboard and a precise tuner"]])
    of_group = {codes[item][:-1] for item in np.flatnonzero(groups == groups[guitar]).tolist()}
    assert codes[-1][:-1] in of_group


def test_items_without_text_fill_up_the_smallest_leaves() -> None:
    _, texts = group_texts()
    sizes: dict[tuple[str, ...], int] = {}
    for of_item in codes_of([[] if item % 3 == 0 else lines for item, lines in enumerate(texts)]):
        sizes[of_item[:-1]] = sizes.get(of_item[:-1], 0) + 1
    assert sum(sizes.values()) == len(texts) and max(sizes.values()) <= 50


def test_one_seed_gives_the_same_codes_another_others() -> None:
    _, texts = group_texts()
    options = {"clusters": 3, "leaf_size": 9, "last": LastCode.SHARED}
    codes = codes_of(texts, **options, seed=4)
    assert codes == codes_of(texts, **options, seed=4) != codes_of(texts, **options, seed=5)
    assert len(set(codes)) == len(codes) and {len(of_item) for of_item in codes} > {3}


def test_too_few_texts_are_another_catalogs() -> None:
    with pytest.raises(DataError, match=r"only 1 of 3 items have text.*--item-column"):
        codes_of([["a red pen"], [], []])
    assert tfidf(["!", "?"]).shape == (2, 1)  # no words are no error


def test_equal_texts_and_few_items_still_get_codes() -> None:
    codes = codes_of([["the same pen"]] * 7, leaf_size=2)
    assert len(set(codes)) == 7


def test_lines_of_an_item_are_joined_and_fields_found(tmp_path: Path) -> None:
    file = write(
        tmp_path / "items.jsonl",
        {"asin": "a", "title": " Pen ", "categories": [["Office", "Pens"]], "price": 3, "year": {"no": 1}},
        {"asin": "a", "description": ["It writes."], "title": None},
        "",
        {"asin": 7, "title": 300},
        {"asin": "c", "title": "  "},
    )
    texts = read_texts(file)
    assert texts == ({"a": ["Pen\nOffice\nPens", "It writes."], "7": ["300"]}, 0)
    assert read_texts(file, text_columns=["Price"])[0] == {"a": ["3"]}
    zipped = tmp_path / "items.jsonl.gz"
    zipped.write_bytes(gzip.compress(file.read_bytes()))
    assert read_texts(zipped) == texts


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"item": "a", "title": "x"}', '{"item": "b", '], r"line 2: not valid JSON .*: mend the line"),
        (['{"title": "x"}'], "line 1: item is missing"),
        (['{"item": "a", "title": {"en": "x"}}'], "line 1: title is no text"),
        (
            ['{"item": "a", "label": "x"}'],
            "no text of any item: name .*--text-column, among item, label",
        ),
        (['["a", "x"]'], "starts with"),
        (["1 2 3", "2 3 4"], "give JSON lines"),
        ([], "is empty"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, lines: list[str], message: str) -> None:
    file = write(tmp_path / ("texts.txt" if message.startswith("give") else "texts.jsonl"), *lines)
    if message.startswith("give"):
        file.write_text("\n".join(lines))
    with pytest.raises(DataError, match=message) as caught:
        read_texts(file)
    assert str(file) in str(caught.value)


def test_reviews_of_held_out_interactions_are_not_read(world_folder: Path, tmp_path: Path) -> None:
    dataset = Dataset.load(world_folder)
    text = interactions_csv(WORLD)
    changed = tmp_path / "changed.csv"
    held_out = held_out_pairs(dataset)
    rows = [line.split(",", 3) for line in text.splitlines()]
    rows = [[*row[:3], "Zebra"] if (row[0], row[1]) in held_out else row for row in rows]
    changed.write_text("\n".join(",".join(row) for row in rows))
    texts, left_out = read_texts(world_folder / "interactions.csv", held_out)
    assert len(held_out) == left_out == 2 * dataset.user_count
    assert read_texts(changed, held_out) == (texts, left_out)
    assert any("Zebra" in lines for lines in read_texts(changed)[0].values())


def test_command_writes_codes_and_says_what_they_are_worth(world_folder: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "new.jsonl", {"item": "brand-new", "title": "a guitar"})
    file.write_text(file.read_text() + _titles(Dataset.load(world_folder).item_ids[5:]))
    result = index(world_folder, tmp_path / "out", "--text", str(file), "--leaf-size", "20", "--seed", "2")
    assert result.exit_code == 0, result.output
    printed = " ".join(result.output.split())
    assert "items without text, spread over the smallest clusters │ 5" in printed
    assert "items of the file that are not in the dataset │ 1" in printed
    coded = Dataset.load(tmp_path / "out")
    assert coded.scheme == "text" and coded.item_codes is not None and len(set(coded.item_codes)) == WORLD.items
    origin = json.loads((tmp_path / "out" / "dataset.json").read_text())["provenance"]["index"]
    assert (origin["method"], origin["model"], origin["options"]["leaf_size"]) == ("text", "tf-idf", 20)


def _titles(item_ids: Sequence[str]) -> str:
    _, texts = group_texts()
    by_raw = {f"i{number}": lines[0] for number, lines in enumerate(texts, start=1)}
    return "".join(json.dumps({"item": raw, "title": by_raw[raw]}) + "\n" for raw in item_ids)


@pytest.mark.parametrize("arguments", [["--text-model", "x"], ["--item-column", "x"], ["--text-column", "x"]])
def test_options_of_texts_need_texts(world_folder: Path, tmp_path: Path, arguments: list[str]) -> None:
    result = index(world_folder, tmp_path / "out", "--collaborative", *arguments)
    assert isinstance(result.exception, ConfigError) and "give it a file" in str(result.exception)


def test_real_reviews(shared_data: Path) -> None:
    """Capos lie together and microphones do, by nothing but what people wrote of them."""
    if not (shared_data / REVIEWS).is_file():
        pytest.skip(f"{REVIEWS} is not in the shared data folder")
    texts = read_texts(shared_data / REVIEWS)[0]
    assert len(texts) == 44 and sum(map(len, texts.values())) == 499
    codes = dict(zip(texts, codes_of(list(texts.values()), leaf_size=10), strict=True))
    for kind in (("B0002CZSJO", "B0002CZSJY", "B0002CZVW8", "B0002CZVWS"), ("B0000AQRSR", "B0000AQRSS", "B0000AQRSU")):
        assert len({codes[item][:-1] for item in kind}) == 1


def test_a_t5_folder_reads_texts(t5_folder: Path) -> None:
    told: list[tuple[int, int]] = []
    texts = ["a guitar", "an electric kettle with a lid, and more", "a guitar"]
    vectors = encoded(texts, str(t5_folder), lambda done, total: told.append((done, total)))
    assert vectors.shape == (3, 16) and told == [(3, 3)]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
    np.testing.assert_allclose(encoded(texts[:1], str(t5_folder))[0], vectors[0], atol=1e-5)  # padding is not read
    of_items = item_vectors([[texts[0], texts[1]], []], str(t5_folder))
    np.testing.assert_allclose(of_items[0], (mean := vectors[:2].mean(0)) / np.linalg.norm(mean), atol=1e-5)
    assert not of_items[1].any()


def test_a_bert_folder_reads_texts(tmp_path: Path) -> None:
    shape = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(shape, add_pooling_layer=False).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "pen", "hat"]))
    vectors = encoded(["red pen", "hat"], str(tmp_path))
    assert vectors.shape == (2, 8) and not np.allclose(vectors[0], vectors[1])


def test_a_model_that_is_not_there(tmp_path: Path, t5_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"text model .* cannot be loaded: give a folder"):
        encoded(["x"], str(tmp_path / "nothing here"))
    broken = tmp_path / "broken"
    shutil.copytree(t5_folder, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        encoded(["x"], str(broken))
