"""A checkpoint as a folder that Optimum's ``ORTModelForSeq2SeqLM.from_pretrained`` runs with plain ``generate``.

The encoder finds whole-word ids itself, and the tokenizer puts the task's prompt tokens in front, so nothing but text
goes in. The root of the folder words the first task; each other task has a tokenizer in a folder of its own.

There are no weights for PyTorch in it: transformers' T5 has no whole-word embeddings, so what it would load under the
name T5 would answer otherwise. PyTorch users load the checkpoint (:func:`podx_train.checkpoint.checkpoint`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from podx.errors import ExportError
from podx.text.templates import (
    ITEMS_PLACEHOLDER,
    USER_PLACEHOLDER,
    USER_PREFIX,
    Task,
    Template,
    bare_template,
)
from podx_export.blocks.graph import FP32, GraphBuilder
from podx_export.blocks.source import read_model
from podx_export.blocks.weights import WeightStore
from podx_export.layouts.fast_tokenizer import WORD_START, cuts_of, make_tokenizer, read_pieces
from podx_export.layouts.seq2seq import (
    BEGINS_ID,
    BEGINS_OTHER,
    CONTINUES,
    DECODER_MODEL,
    ENCODER_MODEL,
    TokenKinds,
    build_decoder_model,
    build_decoder_with_past_model,
    build_encoder_model,
    encoder_table,
)
from podx_train.checkpoint.checkpoint import Checkpoint
from podx_train.eager.generation import EXPLANATION_SEARCH, START_AND_END, SearchOptions
from podx_train.model.config import PodConfig

IDS_FILE = "ids.json"
"""Raw ids and how they are written; every folder of this layout has it."""


@dataclass(frozen=True)
class Words:
    """The words of a checkpoint's inputs and how sentencepiece cuts them: ids of users and items, and other words."""

    ids: list[str]
    id_tokens: list[list[int]]
    plain_tokens: list[list[int]]

    @classmethod
    def of(cls, source: Checkpoint) -> Words:
        ids = [user_word(number) for number in range(1, len(source.user_ids) + 1)]
        ids += [source.config.item_prefix + text for text in item_texts(source)]
        plain = [word for task in source.config.tasks for word in _template(source, task).words if "{" not in word]
        encode = source.tokenizer.encode_many
        return cls(ids, encode(ids), encode(plain))

    def kinds(self, source: Checkpoint, prompts: int) -> TokenKinds:
        """What each token is, prompt tokens included.

        Raises:
            ExportError: tokens alone do not tell ids from other words.
        """
        pieces = [source.tokenizer.piece(token) for token in range(source.tokenizer.vocab_size)]
        kinds = np.array([BEGINS_OTHER if piece.startswith(WORD_START) else CONTINUES for piece in pieces])
        kinds[[source.tokenizer.pad_id, source.tokenizer.eos_id, source.tokenizer.unk_id]] = BEGINS_OTHER
        first = {tokens[0] for tokens in self.id_tokens}
        kinds[list(first)] = BEGINS_ID
        told = all(kinds[tokens[0]] == BEGINS_ID and not kinds[tokens[1:]].any() for tokens in self.id_tokens)
        if not told or first & {tokens[0] for tokens in self.plain_tokens}:
            raise ExportError(
                "its tokens do not tell where an id begins: with words kept in inputs, export with --inference bare; "
                "else train with items written as numbers"
            )
        return TokenKinds(np.append(kinds, np.full(prompts, BEGINS_OTHER)).astype(np.int64))


def require_layout(source: Checkpoint, precision: str) -> None:
    """Refuse what plain ``generate`` cannot answer for.

    Raises:
        ExportError: all that stands against it.
    """
    config, faults = source.config, []
    if config.one_pass:
        faults.append("a one-pass model starts from the last item and scores siblings: train with --recipe paper")
    if config.user_prompts:
        faults.append("users have prompt vectors of their own (PeaPOD), which are no tokens: train with --method pod")
    if precision != FP32:
        faults.append(f"precision {precision}: this layout is written in fp32")
    try:
        read_pieces(source.tokenizer.path.read_bytes())
    except ExportError as error:
        faults.append(str(error))
    if faults:
        raise ExportError(
            "the layout transformers cannot hold this model; export a bundle of it (--layout bundle), or mend:"
            + "".join(f"\n  - {fault}" for fault in faults)
        )


def fill_folder(source: Checkpoint, folder: Path) -> None:
    """Write every file of the layout into an empty folder."""
    words = Words.of(source)
    _write_graphs(source, words, folder)
    _write_json(folder / "config.json", t5_config(source.config))
    _write_json(folder / IDS_FILE, _ids(source))
    proto, prompts = read_pieces(source.tokenizer.path.read_bytes()), prompt_tokens(source.config)
    every = [token for of_task in prompts.values() for token in of_task]
    cuts = cuts_of(proto, words.ids, words.id_tokens)
    for place, (task, of_task) in enumerate(prompts.items()):
        own = folder / task if place else folder
        own.mkdir(exist_ok=True)
        tokenizer = make_tokenizer(proto, every, of_task, cuts)
        tokenizer.save(str(own / "tokenizer.json"))
        _write_json(own / "tokenizer_config.json", _tokenizer_config(source, every))
        _write_json(own / "generation_config.json", _generation_config(source, task))


def _write_graphs(source: Checkpoint, words: Words, folder: Path) -> None:
    """Weights lie where Optimum looks for them: in a file named after a graph; those of both decoders in one."""
    model = read_model(source.model)
    table = encoder_table(model, source.tokenizer.vocab_size)
    kinds = words.kinds(source, len(table) - source.tokenizer.vocab_size)
    builders: Mapping[str, Sequence[Callable[[WeightStore], GraphBuilder]]] = {
        ENCODER_MODEL: [lambda weights: build_encoder_model(model, table, kinds, weights)],
        DECODER_MODEL: [
            lambda weights: build_decoder_model(model, weights),
            lambda weights: build_decoder_with_past_model(model, weights),
        ],
    }
    for name, graphs in builders.items():
        weights = WeightStore(folder / f"{name}.onnx_data")
        for build in graphs:
            graph = build(weights)
            (folder / f"{graph.name}.onnx").write_bytes(graph.model().SerializeToString())
        weights.close()
    for path in folder.glob("*.onnx"):
        onnx.checker.check_model(str(path))


def user_word(number: int) -> str:
    """How a user is written."""
    return f"{USER_PREFIX}{number}"


def item_texts(source: Checkpoint) -> list[str]:
    """What the model writes for item 1, 2, …; in inputs the prefix comes before it."""
    return source.item_texts or [str(number) for number in range(1, len(source.item_ids) + 1)]


def _template(source: Checkpoint, task: Task) -> Template:
    return source.config.parsed_templates().get(task) or bare_template(task)


def input_text(source: Checkpoint, task: Task, user: int, items: npt.NDArray[np.int64]) -> str:
    """What goes into the tokenizer, of a user and items by number."""
    texts = item_texts(source)
    written = [source.config.item_prefix + texts[item - 1] for item in items]
    words = _template(source, task).words
    parts = {USER_PLACEHOLDER: [user_word(user)], ITEMS_PLACEHOLDER[task]: written}
    return " ".join(word for part in words for word in parts.get(part, [part]))


def prompt_tokens(config: PodConfig) -> dict[Task, list[str]]:
    """The tokens that stand for each task's prompt vectors, in the order of their ids."""
    return {task: [f"<{task}_{place}>" for place in range(1, config.prompts + 1)] for task in config.tasks}


def t5_config(config: PodConfig) -> dict[str, Any]:
    """The backbone's ``config.json`` as transformers before version 5 and from it on read it."""
    return {
        **config.backbone,
        "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "model_type": "t5",
        "tie_word_embeddings": config.tied_output,
        "use_cache": True,
    }


def _ids(source: Checkpoint) -> dict[str, Any]:
    """How raw ids are written, and what stands where in the text of each task."""
    users = {raw: user_word(number) for number, raw in enumerate(source.user_ids, start=1)}
    return {
        "inputs": {task: " ".join(_template(source, task).words) for task in source.config.tasks},
        "item_prefix": source.config.item_prefix,
        "items": dict(zip(source.item_ids, item_texts(source), strict=True)),
        "users": users,
    }


def _tokenizer_config(source: Checkpoint, prompts: list[str]) -> dict[str, Any]:
    tokenizer = source.tokenizer
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": tokenizer.piece(tokenizer.eos_id),
        "pad_token": tokenizer.piece(tokenizer.pad_id),
        "unk_token": tokenizer.piece(tokenizer.unk_id),
        "additional_special_tokens": prompts,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
    }


def _generation_config(source: Checkpoint, task: Task) -> dict[str, Any]:
    """What ``generate`` does when it is told nothing: the search that podx compares itself with."""
    depth, texts = source.catalog().trie.depth, task is Task.EXPLANATION
    search = EXPLANATION_SEARCH if texts else SearchOptions(max_length=depth + START_AND_END)
    return {
        **{name: source.config.backbone[name] for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id")},
        "do_sample": False,
        "early_stopping": search.early_stopping,
        "length_penalty": search.length_penalty,
        "max_length": search.max_length,
        "min_length": search.min_length,
        "num_beams": search.num_beams,
        "num_return_sequences": search.num_return,
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
