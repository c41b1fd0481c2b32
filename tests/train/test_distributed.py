from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model

PROCESSES = 2
TIME_LIMIT_SECONDS = 120

WORKER = """
import hashlib, json, os, sys
from pathlib import Path
from podx_train.training import clock
from podx_train.batches.batching import BatchBuilder
from podx_train.training.loop import Trainer
from podx_train.data.dataset import Dataset
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model

# every process tells progress at each update: its sums are a collective call, which all must join in
clock.TELL_SECONDS = 0.0
data, out, backbone, notes = sys.argv[1:]
shares = []
build, run = BatchBuilder.build, Trainer.run

def noted_build(self, plan, stream, rank=0, world=1):
    built = build(self, plan, stream, rank, world)
    shares.append((rank, world, built.batch.input_ids.tolist()))
    return built

def noted_run(self):
    result = run(self)
    digest = hashlib.sha256()
    for parameter in self.model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    note = {"digest": digest.hexdigest(), "losses": [e["validation_loss"] for e in result.curve], "first": shares[0]}
    Path(notes, f"{self._processes.rank}.json").write_text(json.dumps(note))
    return result

BatchBuilder.build, Trainer.run = noted_build, noted_run
# the second process is split off here, where torchrun would start both and each would load torch
other = os.fork()
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if other else "1"
options = TrainOptions(epochs=1, batch_size=9, device="cpu", max_minutes=5)
train_model(Dataset.load(data), out, options, Source(backbone=backbone))
if other:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.slow
def test_two_processes_train_like_one(world, backbone_folder: Path, tmp_path: Path) -> None:
    """Batches are shared out and gradients averaged, so two gloo processes take the steps that one takes."""
    world.save(tmp_path / "data")
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "notes").mkdir()
    arguments = [str(tmp_path / name) for name in ("worker.py", "data", "two")]
    as_torchrun = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    as_torchrun |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(PROCESSES)) | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, *arguments, str(backbone_folder), str(tmp_path / "notes")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | as_torchrun,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    notes = [json.loads((tmp_path / "notes" / f"{rank}.json").read_text()) for rank in range(PROCESSES)]
    assert notes[0]["digest"] == notes[1]["digest"]
    assert notes[0]["losses"] == notes[1]["losses"]
    (rank_a, world_a, rows_a), (rank_b, world_b, rows_b) = (note["first"] for note in notes)
    assert (rank_a, rank_b, world_a, world_b) == (0, 1, PROCESSES, PROCESSES)
    assert (len(rows_a), len(rows_b)) == (5, 4)  # nine rows shared out

    options = TrainOptions(epochs=1, batch_size=9, device="cpu")
    alone = train_model(world, tmp_path / "one", options, Source(backbone=str(backbone_folder)))
    for together, single in zip(notes[0]["losses"], alone.curve, strict=True):
        assert together == pytest.approx(single["validation_loss"], rel=1e-3)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert torch.allclose(one["prompts"], two["prompts"], atol=1e-4)
    assert ran.stderr.count("epoch 1:") == 1  # only the first process speaks
    assert ran.stderr.count("epoch 1, batch 2 of") == 1
