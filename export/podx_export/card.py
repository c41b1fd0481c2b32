"""``README.md`` of a bundle: a model card as the Hugging Face Hub shows it, made from the bundle alone.

It is no part of the bundle: the manifest does not list it, so it changes no version, and podx never reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from podx.bundle.bundle import FORMER_USERS_FILE, USERS_FILE, Bundle
from podx.bundle.manifest import Manifest
from podx.bundle.users import UserTable
from podx.graphs.session import CPU
from podx.hub import CARD_FILE

NOT_MEASURED = "not_measured"
TASKS = {"sequential": "next item", "topn": "best of some candidates", "explanation": "why an item suits a user"}
SCHEMES = {
    "train-first": "Users and items are numbered by the training parts alone: numbers do not tell held-out items.",
    "shuffled": "Users and items are numbered at random, so numbers tell nothing.",
    "paper": "Users and items have the numbers of the data's file, or items are numbered by first appearance in full "
    "sequences, as in POD's published data. **This leaks:** such numbers tell held-out items, and figures of accuracy "
    "profit from it.",
    "one-token": "Each item is one token of its own, which tells nothing.",
    "collaborative": "Items are written as codes, made from who took what together in the training part.",
    "text": "Items are written as codes, made from their texts.",
}
"""What each id scheme tells."""
UNKNOWN_SCHEME = "How the ids came about, and whether they tell of held-out items, is not known to podx."

_CARD = """\
---
library_name: podx
tags:
- recommender-system
- pod
- t5
- onnx
{tasks_yaml}
---

# A POD recommender

A T5 that recommends (POD: Li, Zhang and Chen, CIKM 2023), exported by podx {version} to ONNX graphs. It answers from a
catalog, and every answer is an item of it.

| | |
|---|---|
{facts}

## Ids

{ids} (Scheme: `{scheme}`.)

## What was measured

{measured}

## How to load

```python
import podx

recommender = podx.load("FOLDER")  # this folder
{usage}
```

podx needs no torch: `pip install 'podx[cpu]'`, or `podx[gpu]`. The graphs run in any ONNX Runtime.

## What this card does not say

The license of this model and of the data it was trained on: it is for those who publish it to state.
"""


def write_card(folder: Path) -> None:
    """Write the card of the bundle in ``folder`` beside it."""
    (folder / CARD_FILE).write_text(card_of(Bundle.load(folder, verify=False)), encoding="utf-8")


def card_of(bundle: Bundle) -> str:
    """Text of the card."""
    manifest = bundle.manifest
    return _CARD.format(
        version=manifest.podx_version,
        tasks_yaml="\n".join(f"- {task}" for task in manifest.answered),
        facts="\n".join(f"| {name} | {value} |" for name, value in facts(bundle).items()),
        ids=SCHEMES.get(manifest.scheme, UNKNOWN_SCHEME),
        scheme=manifest.scheme,
        measured="\n".join(f"- {sentence}" for sentence in _measured(manifest)),
        usage=_usage(manifest, _users(bundle)),
    )


def facts(bundle: Bundle) -> dict[str, str]:
    """The card's table: what the bundle holds."""
    manifest, catalog = bundle.manifest, bundle.catalog
    listed, parameters = int(catalog.listed.sum()), manifest.provenance.get("parameters")
    training, users = manifest.provenance.get("training", {}), _users(bundle)
    return {
        "tasks": ", ".join(f"{task} ({TASKS[task]})" for task in manifest.answered),
        "items that can come back": f"{listed:,} of {len(catalog):,}",
        **({} if users is None else {"users": f"{len(users):,}", "interactions": f"{len(users.items):,}"}),
        "items read of a history": f"at most {manifest.max_history}",
        "prompt vectors": f"{manifest.prompts} a task"
        + (f", {manifest.user_prompts} a user" if manifest.user_prompts else ""),
        "one pass": "yes" if manifest.one_pass else "no",
        "precision": manifest.precision,
        **({} if parameters is None else {"parameters": f"{parameters:,}"}),
        **({"seed, updates": f"{training['seed']}, {training['updates']:,}"} if training.get("updates") else {}),
    }


def _users(bundle: Bundle) -> UserTable | None:
    """The users, where the bundle has any."""
    has = {USERS_FILE, FORMER_USERS_FILE} & bundle.manifest.files.keys()
    return bundle.users if has and len(bundle.users) else None


def _measured(manifest: Manifest) -> Iterator[str]:
    """Sentences with the figures of the manifest."""
    ranking = manifest.provenance.get("training", {}).get("validation_ranking")
    if ranking:
        yield (
            f"Accuracy on validation items, at training: HR@10 {ranking['hr_10']:.4f}, NDCG@10 "
            f"{ranking['ndcg_10']:.4f} (popularity: {ranking['popularity_hr_10']:.4f}, "
            f"{ranking['popularity_ndcg_10']:.4f}). They chose which epoch was kept. Test items: not measured."
        )
    else:
        yield "Accuracy: not measured here. `podx bench` does it, beside rows that learn nothing."
    parity = manifest.parity
    if "requests" not in parity:
        yield f"Parity with eager PyTorch: not measured ({parity.get(NOT_MEASURED, 'it is not noted')})."
        return
    yield (
        f"Parity with eager PyTorch in fp32, {parity['requests']} requests: largest difference of a log-probability "
        f"{parity['max_difference']:.1e}, equal lists {parity['equal_lists']:.1%}."
    )
    yield from (_cost(manifest, cost) for cost in parity.get("cost", ()))


def _cost(manifest: Manifest, cost: Mapping[str, Any]) -> str:
    return (
        f"{cost['task']}, {manifest.precision} against fp32 on a processor with {cost.get('instruction_set', CPU)}, "
        f"{cost['users']} users: {cost['overlap']:.1%} of the top 10 are the same; HR@10 of the last known item, which "
        f"training may have seen, {cost['hit_rate']:.3f} against {cost['fp32_hit_rate']:.3f}."
    )


def _usage(manifest: Manifest, users: UserTable | None) -> str:
    """A line for each task."""
    user = "..." if users is None else users.ids.raw(1)
    lines = {
        "sequential": f"recommender.recommend(user={user!r}, k=10)",
        "topn": f"recommender.rank(user={user!r}, candidates=[...], k=10)",
        "explanation": f"recommender.explain(user={user!r}, item=...)",
    }
    return "\n".join(lines[task] for task in manifest.answered)
