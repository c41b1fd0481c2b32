"""The card of a bundle says what the manifest says, and the bundle is the same without it."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from podx.bundle.bundle import Bundle
from podx.bundle.manifest import MANIFEST_FILE, Manifest
from podx.hub import CARD_FILE
from podx_export.card import NOT_MEASURED, SCHEMES, UNKNOWN_SCHEME, write_card
from podx_export.catalog.change import CatalogChange
from podx_export.catalog.update import update_bundle
from podx_export.pipeline import _training_facts

RANKING = {"hr_10": 0.0962, "ndcg_10": 0.0548, "popularity_hr_10": 0.0174, "popularity_ndcg_10": 0.0083}


def card(folder: Path) -> str:
    return (folder / CARD_FILE).read_text(encoding="utf-8")


def changed(bundle: Path, folder: Path, **changes: Any) -> str:
    """The card of the bundle with another manifest."""
    shutil.copytree(bundle, folder)
    manifest = replace(Manifest.from_json((folder / MANIFEST_FILE).read_text(encoding="utf-8")), **changes)
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    write_card(folder)
    return card(folder)


def figures(text: str) -> set[str]:
    """Every number of the card that is not part of a name."""
    return set(re.findall(r"(?<![\w@.'-])\d+(?:,\d{3})*(?:\.\d+)*(?:e-\d+)?", text))


def said(bundle: Bundle) -> set[str]:
    """Every number that a manifest and its tables allow a card to name."""
    manifest, catalog, users = bundle.manifest, bundle.catalog, bundle.users
    training, parity = manifest.provenance["training"], manifest.parity
    numbers = [int(catalog.listed.sum()), len(catalog), len(users), len(users.items), manifest.prompts]
    numbers += [manifest.max_history, manifest.user_prompts, manifest.provenance["parameters"]]
    numbers += [training["seed"], training["updates"] or 0, parity["requests"]]
    allowed = {f"{number:,}" for number in numbers} | {manifest.podx_version, "2023", "10"}
    allowed |= {f"{parity['max_difference']:.1e}", f"{parity['equal_lists'] * 100:.1f}"}
    for cost in parity.get("cost", ()):
        allowed |= {str(cost["users"]), f"{cost['overlap'] * 100:.1f}"}
        allowed |= {f"{cost[name]:.3f}" for name in ("hit_rate", "fp32_hit_rate")}
    return allowed | {f"{value:.4f}" for value in training.get("validation_ranking", {}).values()}


@pytest.mark.parametrize("name", ["trained_bundle", "untrained_bundle", "rounded_bundle"])
def test_every_figure_is_one_of_the_manifest(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    bundle = Bundle.load(folder)
    body = card(folder).partition("\n# ")[2]
    assert figures(body) - said(bundle) == set()
    for wanted in (f"{len(bundle.users):,}", f"{len(bundle.users.items):,}", f"{bundle.manifest.parity['requests']}"):
        assert wanted in figures(body)
    for cost in bundle.manifest.parity.get("cost", ()):
        assert f"{cost['overlap']:.1%} of the top 10" in body and cost["instruction_set"] in body
    assert SCHEMES["paper"] in body and "**This leaks:**" in body


def test_the_hub_reads_its_metadata(trained_bundle: Path) -> None:
    data = ModelCard(card(trained_bundle)).data
    assert data.library_name == "podx" and {"recommender-system", "onnx", "sequential", "topn"} <= set(data.tags)
    assert data.license is None and "is for those who publish it to state" in card(trained_bundle)


def test_a_bundle_is_the_same_without_its_card(trained_bundle: Path, tmp_path: Path) -> None:
    with_card = Bundle.load(trained_bundle)
    assert CARD_FILE not in with_card.manifest.files
    shutil.copytree(trained_bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / CARD_FILE).write_text("mine", encoding="utf-8")
    assert Bundle.load(tmp_path / "bundle").version == with_card.version


def test_another_catalog_has_another_card(trained_bundle: Path, tmp_path: Path) -> None:
    update_bundle(trained_bundle, tmp_path / "bundle", CatalogChange(delist=["item-1", "item-2"]))
    assert "| items that can come back | 298 of 300 |" in card(tmp_path / "bundle")


def test_accuracy_is_told_where_training_measured_it(trained_bundle: Path, tmp_path: Path) -> None:
    provenance = dict(Bundle.load(trained_bundle).manifest.provenance)
    assert "Accuracy: not measured here" in card(trained_bundle)
    provenance["training"] = {**provenance["training"], "validation_ranking": RANKING}
    text = changed(trained_bundle, tmp_path / "bundle", provenance=provenance)
    assert "HR@10 0.0962, NDCG@10 0.0548 (popularity: 0.0174, 0.0083)" in text
    assert figures(text.partition("\n# ")[2]) - said(Bundle.load(tmp_path / "bundle")) == set()


def test_the_ranking_of_the_kept_epoch_is_handed_on() -> None:
    curve = [{"epoch": epoch, "train_seconds": 1.0, "validation_ranking": {"hr_10": epoch}} for epoch in (1, 2, 3)]
    assert _training_facts({"best_epoch": 2, "curve": curve})["validation_ranking"] == {"hr_10": 2}
    assert "validation_ranking" not in _training_facts({"best_epoch": 0, "curve": []})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parity": {NOT_MEASURED: "no GPU"}}, "Parity with eager PyTorch: not measured (no GPU)."),
        ({"scheme": "mine"}, UNKNOWN_SCHEME),
        ({"scheme": "shuffled"}, SCHEMES["shuffled"]),
    ],
)
def test_what_is_not_known_is_not_told(
    trained_bundle: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    assert sentence in changed(trained_bundle, tmp_path / "bundle", **changes)
