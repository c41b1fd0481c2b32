"""From a model that the published code saved to recommendations of the runtime."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import T5Config

import podx
from podx.text.templates import Task
from podx_export.pipeline import export_checkpoint
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.published.import_pod import import_pod
from tests.train.saved_pod import save_whole, solomon

RANKED = 40


def test_imported_exported_recommended(world: Dataset, untrained: Path, tmp_path: Path) -> None:
    """The bundle ranks candidates as the saved model's own log-probabilities do."""
    tokenizer = load_checkpoint(untrained).tokenizer
    theirs = solomon(
        T5Config(
            vocab_size=tokenizer.vocab_size,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
        ),
        rows=512,
    )
    world.save(tmp_path / "data")
    import_pod(save_whole(theirs, tmp_path / "model.pt"), tmp_path / "data", tmp_path / "checkpoint", tokenizer.path)
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle", parity_users=4)

    recommender = podx.load(tmp_path / "bundle", threads=1)
    user, history = "user-4", ["item-3", "item-200", "item-17"]
    search = podx.ItemSearchOptions(beams=RANKED)
    candidates = [f"item-{n}" for n in range(RANKED)]
    found = recommender.recommend(user, history, 5, allow=candidates, exclude_seen=False, search=search)
    assert len(found) == 5
    encoder, catalog = load_checkpoint(untrained).encoder(), load_checkpoint(untrained).catalog()
    batch = encoder.collate([encoder.encode(Task.SEQUENTIAL, 5, [4, 201, 18])])
    arrays = [torch.from_numpy(a) for a in (batch.input_ids, batch.whole_word_ids, batch.attention_mask)]
    output_tokens = torch.tensor(sorted({t for n in range(1, 301) for t in catalog.target(n)} | {tokenizer.eos_id}))
    scores = {}
    for number in range(1, RANKED + 1):
        tokens = [*catalog.target(number), tokenizer.eos_id]
        with torch.no_grad():
            logits = theirs.next_token_logits("sequential", *arrays, torch.tensor([tokens]))[0]
        over_catalog = torch.log_softmax(logits[:, output_tokens].double(), dim=-1)
        columns = torch.searchsorted(output_tokens, torch.tensor(tokens))
        scores[f"item-{number - 1}"] = float(over_catalog.gather(1, columns[:, None]).mean())
    best = sorted(scores, key=lambda item: -scores[item])[:5]
    assert [answer.item for answer in found] == best
    for answer in found:
        assert abs(answer.score - scores[answer.item]) < 1e-4
