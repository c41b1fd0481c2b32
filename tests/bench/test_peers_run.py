"""The peers on a tiny untrained model, against transformers; what needs their environment is skipped without it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from transformers import GenerationConfig, T5ForConditionalGeneration

from podx.errors import CheckpointError, ConfigError
from podx.text.templates import Task
from podx_bench.engines import eager as eager_engines
from podx_bench.engines.eager import EagerEngine
from podx_bench.harness.child import EngineError
from podx_bench.peers import place, prepare
from podx_bench.peers.prepare import plain_config, write_plain
from podx_bench.peers.searching import PeerEngine, Plan, Search, Source, pad
from podx_bench.run.options import BenchOptions
from podx_bench.run.run import BenchRun, Inputs
from podx_bench.workload.work import WorkItem
from podx_train.checkpoint.checkpoint import Checkpoint, load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.options import Source as ModelSource
from podx_train.options import TrainOptions
from podx_train.training.train import train_model
from tests.bench.world import BEAMS, K, Made, context_of

EXACT = ("ctranslate2", "ort-beamsearch", "openvino-t5")
SEARCHER = """
import json, sys
from importlib import import_module
from pathlib import Path
from podx_bench.peers.place import MODULES
from podx_bench.peers.searching import Plan
asked = json.load(sys.stdin)
plan = Plan(**{**asked["plan"], "checkpoint": Path(asked["plan"]["checkpoint"])})
name = asked["name"]
print(json.dumps(import_module(MODULES[name]).open_search(name, plan)(asked["sources"])))
"""


@pytest.fixture(scope="module")
def loaded(made: Made) -> Checkpoint:
    return load_checkpoint(made.checkpoint)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this module's own, so that its conversions are made and then shared."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def random_sources(vocabulary: int) -> list[Source]:
    """Records of different length."""
    random = np.random.default_rng(5)
    return [random.integers(3, vocabulary, size=size).tolist() for size in (9, 4, 12, 7, 5)]


def transformers_lists(plain: Path, sources: Sequence[Source], plan: Plan) -> list[list[list[int]]]:
    """What transformers finds without a catalogue, on one batch."""
    model = T5ForConditionalGeneration.from_pretrained(plain).eval()
    settings = GenerationConfig(
        num_beams=plan.beams,
        num_return_sequences=plan.k,
        max_new_tokens=plan.steps,
        min_new_tokens=plan.least,
        early_stopping=False,
        decoder_start_token_id=0,
        pad_token_id=model.config.pad_token_id,
        eos_token_id=model.config.eos_token_id,
    )
    ids, mask = (torch.from_numpy(array) for array in pad(sources, plan.pad_id))
    with torch.inference_mode():
        sequences = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    lists: list[list[list[int]]] = sequences[:, 1:].reshape(len(sources), plan.k, -1).tolist()
    return lists


# --- the checkpoint as a plain T5 ---------------------------------------------------------------------------------


def test_a_plain_t5_is_the_backbone(loaded: Checkpoint, tmp_path: Path) -> None:
    write_plain(loaded, tmp_path)
    model = T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    ids, start = torch.tensor([random_sources(100)[0]]), torch.tensor([[0, 5, 6]])
    with torch.inference_mode():
        wanted = loaded.model.backbone(input_ids=ids, decoder_input_ids=start).logits
        found = model(input_ids=ids, decoder_input_ids=start).logits
    assert torch.equal(found, wanted)
    tokenizer = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert tokenizer["extra_ids"] + loaded.tokenizer.vocab_size == model.config.vocab_size


def test_a_t5_that_older_transformers_cannot_describe_is_refused(loaded: Checkpoint) -> None:
    config = loaded.config
    backbone = {**config.backbone, "scale_decoder_outputs": not config.tied_output}
    with pytest.raises(ConfigError, match="the peers cannot run this model"):
        plain_config(type(config)(backbone, tied_output=config.tied_output))


def test_a_checkpoint_of_another_model_is_refused(made: Made, cache: Path, tmp_path: Path) -> None:
    options = TrainOptions(epochs=0, device="cpu", prompts=5, tasks=(Task.SEQUENTIAL,))
    train_model(Dataset.load(made.data), tmp_path / "other", options, ModelSource(preset="tiny", pieces=120))
    with pytest.raises(CheckpointError, match="not exported from this checkpoint"):
        prepare.plain_folder(made.bundle, tmp_path / "other")
    assert not (cache / "podx").exists()


# --- what a peer is given and what is made of its answer ----------------------------------------------------------


def test_a_peer_gets_as_many_source_tokens_and_steps_as_podx(made: Made, loaded: Checkpoint) -> None:
    seen: list[list[Source]] = []
    plans: list[Plan] = []

    def open_search(plan: Plan) -> Search:
        plans.append(plan)

        def search(sources: Sequence[Source]) -> list[list[list[int]]]:
            seen.append(list(sources))
            spelled = loaded.tokenizer.encode("7")
            return [[[*spelled, 1, 0], [5, 5, 5]] for _ in sources]

        return search

    engine = PeerEngine(context_of(made), open_search)
    (answer,) = engine.run([WorkItem("user-2", ("item-4", "item-9"))])
    wanted = loaded.encoder().encode(Task.SEQUENTIAL, 3, [5, 10]).input_ids.tolist()
    assert seen == [[[wanted[0]] * loaded.config.prompts + wanted]]
    assert answer.items == ("item-6", None)  # item number 7, and a text that is none
    (plan,) = plans
    assert (plan.beams, plan.k, plan.threads, plan.batch_size) == (BEAMS, K, 1, None)
    assert (plan.steps, plan.least) == (loaded.catalog().trie.depth + 1, loaded.catalog().trie.depth)


def test_a_peer_explains_with_the_width_and_lengths_of_podx(made: Made, loaded: Checkpoint) -> None:
    plans: list[Plan] = []
    words = loaded.tokenizer.encode("it is nice")

    def open_search(plan: Plan) -> Search:
        plans.append(plan)
        return lambda sources: [[[*words, 1]] for _ in sources]

    engine = PeerEngine(replace(context_of(made), task=Task.EXPLANATION), open_search)
    (answer,) = engine.run([WorkItem("user-2", ("item-4",))])
    assert answer.text is not None and answer.text.strip() == loaded.tokenizer.decode(words)
    (plan,) = plans
    assert (plan.beams, plan.k, plan.steps, plan.least) == (7, 1, 49, 9)


# --- torch.compile, which needs no environment of its own -----------------------------------------------------------


REALLY_COMPILE = os.environ.get("PODX_TEST_COMPILE")


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "eager"},  # the graphs alone, without the C++ code that is made of them
        pytest.param(
            eager_engines.COMPILE_OPTIONS,
            marks=pytest.mark.skipif(not REALLY_COMPILE, reason="takes minutes: set PODX_TEST_COMPILE=1"),
            id="c++",
        ),
    ],
)
def test_the_compiled_engine_answers_as_the_eager_one_and_compiles_nothing_later(
    options: dict[str, Any], made: Made, loaded: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eager_engines, "COMPILE_OPTIONS", options)
    torch._dynamo.reset()
    counters.clear()
    eager = EagerEngine(context_of(made), "encode-once", constrained=True)
    engine = EagerEngine(context_of(made), "encode-once", constrained=True, compiled=True)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 1 and not counters["graph_break"]
    items = loaded.item_ids
    for size, length in ((1, 3), (1, 1), (4, 2), (9, 3)):
        requests = [WorkItem(f"user-{n}", tuple(items[n : n + length])) for n in range(size)]
        assert engine.run(requests) == eager.run(requests)
    assert counters["stats"]["unique_graphs"] == graphs


# --- with the environment -----------------------------------------------------------------------------------------


@pytest.mark.slow  # torch and transformers are loaded anew to convert and to search
@pytest.mark.parametrize("name", [*EXACT, "ctranslate2-int8"])
def test_a_peer_finds_what_transformers_finds(
    name: str, made: Made, loaded: Checkpoint, cache: Path, peers_environment: None
) -> None:
    folder = prepare.prepare_peer(name, context_of(made)).checkpoint
    assert folder is not None and cache in folder.parents
    plan = {"bundle": "", "task": "sequential", "device": "cpu", "threads": 1, "beams": BEAMS, "k": K}
    plan |= {"steps": 4, "least": 3}
    plan["checkpoint"] = str(folder)
    sources = random_sources(loaded.config.backbone["vocab_size"])
    plain = prepare.plain_folder(made.bundle, made.checkpoint)
    wanted = transformers_lists(plain, sources, Plan(**plan))  # type: ignore[arg-type]
    for batch_size in (None, 2):
        asked = {"name": name, "plan": {**plan, "batch_size": batch_size}, "sources": sources}
        done = subprocess.run(
            [str(place.interpreter()), "-c", SEARCHER], input=json.dumps(asked), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert {len(one) for lists in found for one in lists} == {4}
        pairs = [pair for lists in zip(found, wanted, strict=True) for pair in zip(*lists, strict=True)]
        shared = [len({*map(tuple, a)} & {*map(tuple, b)}) / K for a, b in zip(found, wanted, strict=True)]
        if name in EXACT:  # but for near ties, which rounding may order either way
            assert np.mean(shared) == 1.0 and np.mean([a == b for a, b in pairs]) > 0.9
        else:
            assert np.mean(shared) > 0.5


@pytest.mark.parametrize("task", [Task.SEQUENTIAL, Task.EXPLANATION])
def test_peers_are_timed_in_a_run(task: Task, made: Made, cache: Path, peers_environment: None, tmp_path: Path) -> None:
    engines = ("ctranslate2", "ctranslate2-int8")
    options = BenchOptions(
        tasks=(task,),
        engines=engines,
        batch_sizes=(1, 4),
        speed_users=4,
        rounds=1,
        threads=1,
        accuracy=False,
    )
    results = BenchRun(Inputs(made.bundle, made.data, made.checkpoint), tmp_path, options).measure()
    assert {(record.engine, record.batch_size) for record in results.speed} == {(e, s) for e in engines for s in (1, 4)}
    assert all(record.p50_ms > 0 for record in results.speed)
    assert "only its speed is comparable" in results.engines["ctranslate2"]


def test_optimum_answers_as_encode_once(made: Made, cache: Path, peers_environment: None, tmp_path: Path) -> None:
    options = BenchOptions(
        tasks=(Task.SEQUENTIAL, Task.TOPN),
        engines=("encode-once", "optimum"),
        batch_sizes=(4,),
        speed_users=4,
        rounds=1,
        threads=1,
        eager_users=30,
    )
    results = BenchRun(Inputs(made.bundle, made.data, made.checkpoint), tmp_path, options).measure()
    rows = [record for record in results.accuracy if record.engine == "optimum"]
    assert {(row.task, row.overlap, row.overlap_with) for row in rows} == {
        (task, 1.0, "encode-once") for task in options.tasks
    }
    assert [record.engine for record in results.speed].count("optimum") == 2


def test_a_conversion_that_fails_tells_what_the_library_said(tmp_path: Path, peers_environment: None) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text('{"model_type": "t5"}')
    (tmp_path / "out").mkdir()
    with pytest.raises(EngineError, match=r"(?s)conversion for ctranslate2 died.*run `make peers`.*safetensors"):
        prepare.convert("ctranslate2", tmp_path / "plain", tmp_path / "out")
