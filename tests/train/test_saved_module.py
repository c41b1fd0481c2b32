"""Archives of torch.save from strangers: the weights come out, and what is wrong is a CheckpointError that helps."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from podx.errors import CheckpointError
from podx_train.published import saved_module
from podx_train.published.safe_pickle import Name
from podx_train.published.saved_module import read_module
from tests.train.saved_pod import Payload, save_whole, solomon


@pytest.fixture
def saved(tmp_path: Path, t5_config) -> Path:
    return save_whole(solomon(t5_config), tmp_path / "model.pt")


def rewrite(source: Path, out: Path, change: dict[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive with some parts replaced (None: left out)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w", compression) as new:
        for info in old.infolist():
            name = info.filename.split("/", 1)[1]
            content = change.get(name, old.read(info))
            if content is not None:
                new.writestr(info.filename, content)
    return out


def test_every_tensor_is_what_torch_saved(tmp_path: Path, t5_config) -> None:
    model = solomon(t5_config)
    with torch.no_grad():  # views with an offset and turned strides, and other types of numbers
        model.prompt_embeddings.weight = nn.Parameter(torch.randn(16, 9)[:, 3:].T)
        model.whole_word_embeddings.weight = nn.Parameter(torch.randn(7, 16).to(torch.bfloat16))
        model.decoder.final_layer_norm.weight = nn.Parameter(torch.randn(16, dtype=torch.float64))
    saved = read_module(save_whole(model, tmp_path / "model.pt"))
    assert saved.class_name == "module.Solomon"
    assert saved.attributes["prompts_per_task"] == 2
    assert saved.config["d_model"] == 16
    expected = dict(model.named_parameters(remove_duplicate=False))
    assert saved.parameters.keys() == expected.keys()
    values = saved.tensors(list(expected))
    for name, parameter in expected.items():
        assert torch.equal(values[name], parameter.detach().float()), name
    with pytest.raises(CheckpointError, match="no parameter nowhere"):
        saved.tensors(["nowhere"])


def test_older_pickle_protocols_are_read_alike(tmp_path: Path, t5_config) -> None:
    model = solomon(t5_config)
    first = read_module(save_whole(model, tmp_path / "a.pt"))
    second = read_module(save_whole(model, tmp_path / "b.pt", pickle_protocol=4))
    assert first.parameters.keys() == second.parameters.keys()
    assert first.config == second.config


def test_files_that_are_no_archives(tmp_path: Path, t5_config) -> None:
    with pytest.raises(CheckpointError, match="there is no file"):
        read_module(tmp_path / "none.pt")
    legacy = tmp_path / "legacy.pt"
    torch.save(torch.zeros(2), legacy, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"older than 1\.6"):
        read_module(legacy)
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"not one of torch\.save"):
        read_module(other)
    weights = tmp_path / "weights.pt"
    torch.save(solomon(t5_config).state_dict(), weights)
    with pytest.raises(CheckpointError, match="weights alone"):
        read_module(weights)
    script = tmp_path / "script.pt"
    with zipfile.ZipFile(script, "w") as file:
        file.writestr("script/data.pkl", b"\x80\x02N.")
        file.writestr("script/constants.pkl", b"\x80\x02).")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_module(script)


def test_truncated_at_any_place(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    for length in range(0, len(content) - 1, max(1, len(content) // 23)):
        cut = tmp_path / "cut.pt"
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_module(cut)


def test_altered_bytes_are_noticed(saved: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith("/data/0"))
        start = info.header_offset
    content = bytearray(saved.read_bytes())
    content[start + 400] ^= 0xFF
    (tmp_path / "x.pt").write_bytes(content)
    module = read_module(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="copy it again"):
        module.tensors(list(module.parameters))


def test_sizes_that_are_not_true(saved: Path, tmp_path: Path) -> None:
    module = read_module(rewrite(saved, tmp_path / "short.pt", {"data/0": b"\0" * 8}))
    with pytest.raises(CheckpointError, match="8 bytes where"):
        module.tensors(list(module.parameters))
    module = read_module(rewrite(saved, tmp_path / "lacks.pt", {"data/0": None}))
    with pytest.raises(CheckpointError, match="lacks its part"):
        module.tensors(list(module.parameters))
    with pytest.raises(CheckpointError, match="not one of"):
        read_module(rewrite(saved, tmp_path / "no.pt", {"data.pkl": None}))
    with pytest.raises(CheckpointError, match="big-endian"):
        read_module(rewrite(saved, tmp_path / "big.pt", {"byteorder": b"big"}))


def test_archives_that_grow_are_refused(saved: Path, tmp_path: Path) -> None:
    bomb = rewrite(saved, tmp_path / "bomb.pt", {"data/0": b"\0" * 50_000_000}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1_000_000
    with pytest.raises(CheckpointError, match="compressed"):
        read_module(bomb)
    with zipfile.ZipFile(saved) as archive:
        size = next(i for i in archive.infolist() if i.filename.endswith("/data/0")).file_size
    content = saved.read_bytes()
    place = content.index(b"PK\x01\x02")  # entries of the directory at the end that lie about the size
    lying = content[:place] + content[place:].replace(size.to_bytes(4, "little"), (1 << 31).to_bytes(4, "little"))
    (tmp_path / "lying.pt").write_bytes(lying)
    with pytest.raises(CheckpointError, match="more than it does"):
        read_module(tmp_path / "lying.pt")


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((4, 3), (3, 1), 0),
        ((1 << 40,), (0,), 0),
        ((2,), (10,), 0),
        ((2,), (1,), 9),
        ((-1,), (1,), 0),
        ((2, 2), (1,), 0),
    ],
)
def test_views_beyond_their_numbers(size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> None:
    storage = saved_module._storage(("storage", Name("torch", "FloatStorage"), "0", "cpu", 10))
    with pytest.raises(ValueError, match="tensor"):
        saved_module._view(storage, offset, size, stride, False, {})


@pytest.mark.parametrize(
    "wrong", [("storage",), "storage", ("module", 1, "0", "cpu", 1), ("storage", 3, "0", "cpu", 1)]
)
def test_references_that_torch_does_not_write(wrong: Any) -> None:
    with pytest.raises(ValueError, match="reference to a storage"):
        saved_module._storage(wrong)


def test_modules_that_hold_themselves(tmp_path: Path) -> None:
    one = nn.Linear(2, 2)
    one._modules["self"] = one
    torch.save(one, tmp_path / "loop.pt")
    with pytest.raises(CheckpointError, match="nested without end"):
        read_module(tmp_path / "loop.pt")
    many = nn.Linear(2, 2)
    for _ in range(40):  # 2 ** 40 paths through 40 modules
        many = nn.Sequential(many, many)
    torch.save(many, tmp_path / "many.pt")
    with pytest.raises(CheckpointError, match="too many"):
        read_module(tmp_path / "many.pt")


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_run(protocol: int, tmp_path: Path, t5_config) -> None:
    model = solomon(t5_config)
    model.extra = {"deep": [Payload(os.system, f"touch {tmp_path / 'ran'}")]}
    path = save_whole(model, tmp_path / "model.pt", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"model\.pt: asks to run posix\.system.* Nothing was run"):
        read_module(path)
    assert not (tmp_path / "ran").exists()
