"""``python bench/sasrec/sasrec.py DATA --out FILE.json``: SASRec from RecTools, on the split podx trains on.

SASRec (Kang and McAuley, ICDM 2018) is not generative: it scores every item of the catalogue by one product. Runs in
the environment that ``make peers-sasrec`` makes; the training loop, network and ranking are the library's. Ours are
three parts that it lets one replace: rows are padded to the longest of their batch and not to the longest allowed; the
softmax over the catalogue is computed where there is a target and not on pads (the same value); and validation ranks
the catalogue, so that the epoch with the best NDCG@10 is kept.
"""

from __future__ import annotations

import argparse
import logging
import math
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, Timer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet
from rectools.models.nn.transformers.lightning import TransformerLightningModule
from rectools.models.nn.transformers.sasrec import SASRecDataPreparator
from sasrec_data import (
    NAME,
    as_lists,
    content_mark,
    read_sequences,
    require_place,
    seen_interactions,
    validation_mask,
    write_result,
)

from podx.errors import PodxError

CRITERION = "val_ndcg"
CUTOFF = 10
PAD = 0
LIBRARIES = ("rectools", "torch", "pytorch-lightning", "numpy", "pandas")
Batch = dict[str, torch.Tensor]


class ShortRows(SASRecDataPreparator):
    """Pads a batch to its longest row. Positions count from the end and pads are masked, so no value changes."""

    def _collate_fn_train(self, batch: list[Any]) -> Batch:
        return _cut(super()._collate_fn_train(batch))

    def _collate_fn_val(self, batch: list[Any]) -> Batch:
        return _cut(super()._collate_fn_val(batch))

    def _collate_fn_recommend(self, batch: list[Any]) -> Batch:
        return _cut(super()._collate_fn_recommend(batch))


def _cut(batch: Batch) -> Batch:
    """Cut columns off the left that are padding in every row; what is one column wide (validation targets) stays."""
    rows = batch["x"]
    width = max(1, int((rows != PAD).sum(dim=1).max()))
    return {name: values[:, -width:] if values.shape[1] == rows.shape[1] else values for name, values in batch.items()}


class RankingModule(TransformerLightningModule):
    """The library's training step, but for the softmax; validation by rank in the whole catalogue."""

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of a batch. Softmax: over the catalogue, at the places that have a target."""
        if self.loss != "softmax":
            return super().training_step(batch, batch_idx)
        items = self.torch_model.item_model.get_all_embeddings()
        states = self.torch_model.encode_sessions(batch, items)
        wanted = batch["y"] != PAD
        loss = torch.nn.functional.cross_entropy(states[wanted] @ items.T, batch["y"][wanted])
        self.log(self.train_loss_name, loss, on_step=False, on_epoch=True, batch_size=int(wanted.sum()))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Cross-entropy and NDCG@10 of the held-out item, the history not counted as answers."""
        items = self.torch_model.item_model.get_all_embeddings()
        scores = self.torch_model.encode_sessions(batch, items)[:, -1, :] @ items.T
        target = batch["y"][:, -1:]
        loss = torch.nn.functional.cross_entropy(scores, target[:, 0])
        own = scores.gather(1, target)
        scores = scores.scatter(1, batch["x"], -math.inf)  # pads are column 0, which is no item
        place = 1 + (scores > own).sum(dim=1)
        gain = torch.where(place <= CUTOFF, 1 / torch.log2(place + 1.0), 0.0).mean()
        self.log(self.val_loss_name, loss, on_epoch=True, batch_size=len(target))
        self.log(CRITERION, gain, on_epoch=True, batch_size=len(target))


class BestWeights(Callback):
    """Keeps the weights of the best validation so far, and says how each went."""

    def __init__(self) -> None:
        self.best, self.best_epoch, self.epochs = -1.0, 0, 0
        self.weights: dict[str, torch.Tensor] | None = None
        self._started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, keep, print."""
        self.epochs += 1
        reached = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if reached[CRITERION] > self.best:
            self.best, self.best_epoch = reached[CRITERION], self.epochs
            self.weights = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
        print(
            f"epoch {self.epochs}: validation loss {reached['val_loss']:.4f}, NDCG@{CUTOFF} {reached[CRITERION]:.4f}, "
            f"{(time.monotonic() - self._started) / 60:.1f} minutes",
            flush=True,
        )


def last_of_each(interactions: pd.DataFrame) -> np.ndarray:
    """Which interactions are for validation."""
    return validation_mask(interactions[Columns.User].to_numpy(), interactions[Columns.Datetime].to_numpy())


def make_model(options: argparse.Namespace) -> SASRecModel:
    """The model with its trainer: stopped by time, epochs, or ``--patience`` validations without a better one."""
    model = SASRecModel(
        n_blocks=options.blocks,
        n_heads=options.heads,
        n_factors=options.factors,
        dropout_rate=options.dropout,
        session_max_len=options.max_length,
        loss=options.loss,
        n_negatives=options.negatives,
        lr=options.lr,
        batch_size=options.batch_size,
        use_key_padding_mask=True,  # as in the authors' own code, and what lets rows be cut
        item_net_block_types=(IdEmbeddingsItemNet,),
        data_preparator_type=ShortRows,
        lightning_module_type=RankingModule,
        get_val_mask_func=last_of_each,
        recommend_torch_device=options.device,
    )
    model._trainer = Trainer(  # the documented place for a trainer of one's own
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        max_epochs=options.epochs,
        num_sanity_val_steps=0,
        deterministic="warn",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
        callbacks=[
            BestWeights(),
            EarlyStopping(CRITERION, mode="max", patience=options.patience),
            Timer(duration=timedelta(minutes=options.minutes), interval="step", verbose=False),
        ],
    )
    return model


def train(options: argparse.Namespace, dataset: Dataset) -> tuple[SASRecModel, BestWeights]:
    """Train within the bounds and put the best weights in place."""
    seed_everything(options.seed, verbose=False)
    model = make_model(options).fit(dataset)
    kept = next(callback for callback in model.fit_trainer.callbacks if isinstance(callback, BestWeights))
    if kept.weights is not None:
        model.lightning_model.load_state_dict(kept.weights)
    return model, kept


def run(options: argparse.Namespace) -> None:
    """Train, answer for every test user, write the file."""
    require_place(options.out)
    torch.set_num_threads(options.threads)
    sequences = read_sequences(options.data)
    seen = seen_interactions(sequences)
    frame = {Columns.User: seen.users, Columns.Item: seen.items, Columns.Weight: 1.0, Columns.Datetime: seen.times}
    dataset = Dataset.construct(pd.DataFrame(frame))
    started = time.monotonic()
    model, kept = train(options, dataset)
    minutes = (time.monotonic() - started) / 60
    users = np.fromiter(sequences, dtype=np.int64)
    found = model.recommend(users, dataset, k=options.k, filter_viewed=True, on_unsupported_targets="ignore")
    found = found.sort_values([Columns.User, Columns.Rank])
    lists = as_lists(users, found[Columns.User].to_numpy(), found[Columns.Item].to_numpy())
    content = {
        "name": NAME,
        "seed": options.seed,
        "users": users.tolist(),
        "lists": lists,
        "minutes": minutes,
        "epochs": kept.epochs,
        "best_epoch": kept.best_epoch,
        "validation_ndcg_10": kept.best if kept.best_epoch else None,
        "sequences_sha256": content_mark(options.data),
        "options": {name: value for name, value in vars(options).items() if name not in ("data", "out", "seed")},
        "environment": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
    }
    write_result(options.out, content)
    print(f"best of {kept.epochs} epochs: {kept.best_epoch}, {minutes:.1f} minutes; written: {options.out}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    made.add_argument("data", type=Path, help="dataset folder")
    made.add_argument("--out", type=Path, required=True, help="JSON file to write")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--minutes", type=float, default=12.0, help="training ends after so long")
    made.add_argument("--epochs", type=int, default=200, help="or after so many epochs")
    made.add_argument("--patience", type=int, default=10, help="or after so many without a better validation NDCG@10")
    made.add_argument("--factors", type=int, default=64, help="width of the embeddings")
    made.add_argument("--heads", type=int, default=2)
    made.add_argument("--blocks", type=int, default=2)
    made.add_argument("--dropout", type=float, default=0.3)
    made.add_argument("--loss", choices=("softmax", "sampled_softmax", "gBCE", "BCE"), default="softmax")
    made.add_argument("--negatives", type=int, default=256, help="per target, for losses other than softmax")
    made.add_argument("--max-length", type=int, default=50, help="last items of a history that are read")
    made.add_argument("--batch-size", type=int, default=128)
    made.add_argument("--lr", type=float, default=3e-3)
    made.add_argument("--threads", type=int, default=1, help="of PyTorch")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("-k", type=int, default=10, help="items per list")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; bad input is one line and status 2."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    try:
        run(parser().parse_args(arguments))
    except PodxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
