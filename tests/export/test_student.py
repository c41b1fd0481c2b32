"""A distilled student goes the way of any checkpoint: export, parity, recommendation."""

from __future__ import annotations

from pathlib import Path

import podx
from podx.bundle.bundle import Bundle
from podx_export.pipeline import export_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.model.student import StudentShape
from podx_train.options import Source, TrainOptions
from podx_train.training.distill import DistillOptions, distill_model
from podx_train.training.train import train_model


def test_teacher_student_bundle(world: Dataset, tmp_path: Path) -> None:
    options = TrainOptions(max_updates=6, lr=5e-3, prompts=2, device="cpu", validation_users=20)
    train_model(world, tmp_path / "teacher", options, Source(pieces=170, layers=(2, 4)))
    distilling = DistillOptions(StudentShape(decoder_layers=2, encoder_layers=1, d_ff=96))
    distill_model(tmp_path / "teacher", world, tmp_path / "student", distilling, options)
    sizes = {}
    for name in ("teacher", "student"):
        export_checkpoint(tmp_path / name, tmp_path / f"{name}-bundle", parity_users=4)  # fails without parity
        sizes[name] = (tmp_path / f"{name}-bundle" / "weights.bin").stat().st_size
    bundle = Bundle.load(tmp_path / "student-bundle")
    assert bundle.manifest.parity is not None
    assert sizes["student"] < 0.8 * sizes["teacher"]
    recommender = podx.load(tmp_path / "student-bundle", threads=1)
    found = recommender.recommend("user-4", k=5)
    assert len({answer.item for answer in found}) == 5
    seen = {world.item_ids[number - 1] for number in world.sequence(5).tolist()}
    assert not seen & {answer.item for answer in found}
