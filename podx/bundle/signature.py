"""Names, axes and dtypes of every graph tensor.

The exporter writes them, the runtime feeds them; nobody else spells them.

Axes: ``batch`` users · ``source`` tokens of the longest input · ``memory`` = prompt vectors + source ·
``user_neighbours`` rows that a user's own prompt vectors are the mean of · ``beams`` live beams per user · ``past``
cache slots filled before this step · ``slots`` = past + beams · ``output_tokens`` tokens that are scored.

Of the text decoders: ``rows`` = batch · beams · ``width`` steps that the cache has room for · ``copied`` and
``written`` vectors of it · ``candidates`` best tokens that are given for each beam.

The decoder's cache keeps one **slot** per beam and step and never moves it. Which slots lie on a beam's path is said
by :data:`DISTANCE`, so reordering beams moves a few integers instead of the cache. That of a text decoder keeps a row
per beam, with the whole path in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

ElementType = Literal["int64", "float32", "bool"]
Axis = str | int

INPUT_IDS = "input_ids"
WHOLE_WORD_IDS = "whole_word_ids"
ATTENTION_MASK = "attention_mask"
TASK_ID = "task_id"
USER = "user"
HISTORY = "history"
USER_ROWS = "user_rows"
MEMORY_MASK = "memory_mask"
TOKENS = "tokens"
DISTANCE = "distance"
OUTPUT_TOKENS = "output_tokens"
LOG_PROBS = "log_probs"
COPIED = "copied"
WRITTEN = "written"
CANDIDATES = "candidates"
BEST_TOKENS = "best_tokens"

EXCLUDED_ITEMS = "excluded_items"
ALLOWED_ITEMS = "allowed_items"
BEAMS = "beams"
K = "k"
MOST_BEAMS = "most_beams"
LENGTH_PENALTY = "length_penalty"
ITEMS = "items"
SCORES = "scores"
EXACT = "exact"

NO_NUMBER = -1
"""Fills up a row of :data:`HISTORY`, :data:`EXCLUDED_ITEMS`, :data:`ALLOWED_ITEMS` (a row of it alone sets no limit) or
:data:`USER_ROWS`; no user."""

NOT_ON_PATH = -1
"""Value in :data:`DISTANCE` of a place in the cache that a beam must not see."""

ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
ITEM_DECODER_FILE = "decoder_items.onnx"
TEXT_DECODER_FILE = "decoder_text.onnx"
"""Scores every token and gives the best."""
EXPLANATION_DECODER_FILE = "decoder_explanations.onnx"
"""The same for the tokens of explanations alone."""
RECOMMEND_FILE = "recommend.onnx"
NUMBERS_FILE = "recommend_numbers.onnx"
"""The whole search, from numbers of users and items in place of their tokens."""
CUDA_GRAPH_FILE = "recommend_captured.onnx"
"""The whole search for CUDA graphs, under the name that format version 1 gives it."""
EXACT_FILE = "recommend_exact.onnx"
"""The search of one-pass models that widens until the answer is certain."""
LEAST_ROWS = "least_rows"
"""Initializer of ``recommend.onnx``, int64 [1]: rows of a step where no beam is alive. CUDA cannot attend over none."""
WEIGHTS_FILE = "weights.bin"
USER_PROMPTS_FILE = "user_prompts.bin"


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output: its name, element type, and axes (a text names a dynamic axis)."""

    name: str
    dtype: ElementType
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class ModelShape:
    """What a graph's tensors depend on. ``head_dim`` is T5's ``d_kv``."""

    decoder_layers: int
    heads: int
    head_dim: int
    vocab_size: int


def cross_key(layer: int) -> str:
    """Cross-attention keys of a decoder layer, computed by the encoder graph."""
    return f"cross_key.{layer}"


def cross_value(layer: int) -> str:
    """Cross-attention values of a decoder layer, computed by the encoder graph."""
    return f"cross_value.{layer}"


def past_key(layer: int) -> str:
    """Self-attention keys of the earlier steps."""
    return f"past_key.{layer}"


def past_value(layer: int) -> str:
    """Self-attention values of the earlier steps."""
    return f"past_value.{layer}"


def present_key(layer: int) -> str:
    """Self-attention keys, this step's slots appended."""
    return f"present_key.{layer}"


def present_value(layer: int) -> str:
    """Self-attention values, this step's slots appended."""
    return f"present_value.{layer}"


def _per_layer(
    shape: ModelShape, names: Sequence[Callable[[int], str]], length: str, rows: str = "batch"
) -> list[TensorSpec]:
    axes: tuple[Axis, ...] = (rows, shape.heads, length, shape.head_dim)
    return [TensorSpec(name(layer), "float32", axes) for layer in range(shape.decoder_layers) for name in names]


def encoder_inputs(user_rows: bool = False) -> list[TensorSpec]:
    """What the encoder graph reads.

    Args:
        user_rows: the model has prompt vectors of each user. Their table has a row per user number, and row 0 for one
            of whom nothing is known; a user's vectors are the mean of the named rows. A known user names its own alone.
    """
    text: tuple[Axis, ...] = ("batch", "source")
    users = [TensorSpec(USER_ROWS, "int64", ("batch", "user_neighbours"))] if user_rows else []
    return [
        TensorSpec(INPUT_IDS, "int64", text),
        TensorSpec(WHOLE_WORD_IDS, "int64", text),
        TensorSpec(ATTENTION_MASK, "int64", text),
        TensorSpec(TASK_ID, "int64", ("batch",)),
        *users,
    ]


def number_inputs(user: bool, history: bool, user_rows: bool) -> list[TensorSpec]:
    """What ``recommend_numbers.onnx`` reads in place of the encoder's inputs, of which a model may lack some.

    ``user``: a user's number, or :data:`NO_NUMBER` for one whom the model does not know. ``history``: item numbers,
    oldest first, filled up with :data:`NO_NUMBER`; the last ones are read, as many as the model was trained to read.
    A model of two tasks takes a request without a history for one of the best among its allowed items (top-N).
    """
    specs = [
        (user, TensorSpec(USER, "int64", ("batch",))),
        (history, TensorSpec(HISTORY, "int64", ("batch", "taken"))),
        (user_rows, TensorSpec(USER_ROWS, "int64", ("batch", "user_neighbours"))),
    ]
    return [spec for wanted, spec in specs if wanted]


def memory_tensors(shape: ModelShape) -> list[TensorSpec]:
    """What the encoder graph gives and every decoder step reads: the extended mask and cross-attention K and V."""
    mask = TensorSpec(MEMORY_MASK, "int64", ("batch", "memory"))
    return [mask, *_per_layer(shape, (cross_key, cross_value), "memory")]


def past_tensors(shape: ModelShape) -> list[TensorSpec]:
    """The decoder's cache before a step."""
    return _per_layer(shape, (past_key, past_value), "past")


def present_tensors(shape: ModelShape) -> list[TensorSpec]:
    """The decoder's cache after a step, in the order of :func:`past_tensors`."""
    return _per_layer(shape, (present_key, present_value), "slots")


def step_inputs(items_only: bool) -> list[TensorSpec]:
    """What changes from step to step. ``items_only``: the decoder that scores only :data:`OUTPUT_TOKENS`."""
    specs = [
        TensorSpec(TOKENS, "int64", ("batch", "beams")),
        TensorSpec(DISTANCE, "int64", ("batch", "beams", "slots")),
    ]
    if items_only:
        specs.append(TensorSpec(OUTPUT_TOKENS, "int64", ("output_tokens",)))
    return specs


def log_probs_tensor(shape: ModelShape, items_only: bool) -> TensorSpec:
    """Log-probabilities of the next token, over the output tokens."""
    last: Axis = "output_tokens" if items_only else shape.vocab_size
    return TensorSpec(LOG_PROBS, "float32", ("batch", "beams", last))


def text_step_inputs() -> list[TensorSpec]:
    """What changes from step to step of a text decoder.

    ``distance``: how many steps ago each place of a row was filled, or will be in this step. ``copied``, ``written``:
    places (row, head, step) of vectors of the cache that are copied, and where they go; then where those of this step
    do, row by row and head by head. ``candidates``: how many tokens are wanted for each beam.
    """
    return [
        TensorSpec(TOKENS, "int64", ("batch", "beams")),
        TensorSpec(DISTANCE, "int64", ("width",)),
        TensorSpec(COPIED, "int64", ("copied", 3)),
        TensorSpec(WRITTEN, "int64", ("written", 3)),
        TensorSpec(CANDIDATES, "int64", (1,)),
    ]


def text_cache(shape: ModelShape, after: bool = False) -> list[TensorSpec]:
    """A text decoder's cache, which has room for this step already: before it, or ``after`` it, when that is filled.

    The one may lie where the other does.
    """
    return _per_layer(shape, (present_key, present_value) if after else (past_key, past_value), "width", "rows")


def text_step_outputs() -> list[TensorSpec]:
    """What a text decoder gives beside the cache: the most probable next tokens of each beam, best first.

    Of equal ones that of the lowest number comes first. There are fewer than ``candidates`` only where fewer tokens are
    scored.
    """
    axes: tuple[Axis, ...] = ("batch", "beams", "candidates")
    return [TensorSpec(LOG_PROBS, "float32", axes), TensorSpec(BEST_TOKENS, "int64", axes)]


def filter_inputs() -> list[TensorSpec]:
    """What ``recommend.onnx`` reads beside the encoder's inputs: item numbers, rows filled up with :data:`NO_NUMBER`.

    ``excluded_items``: never to be returned. ``allowed_items``: the only ones that may be, unless the row holds
    nothing but :data:`NO_NUMBER`; a row that names no item of the catalog (0, say) allows none.
    """
    return [
        TensorSpec(EXCLUDED_ITEMS, "int64", ("batch", "excluded")),
        TensorSpec(ALLOWED_ITEMS, "int64", ("batch", "allowed")),
    ]


def search_inputs() -> list[TensorSpec]:
    """Inputs of ``recommend.onnx`` that have a default: width of the search, answers wanted, length penalty."""
    return [TensorSpec(BEAMS, "int64", (1,)), TensorSpec(K, "int64", (1,)), TensorSpec(LENGTH_PENALTY, "float32", (1,))]


def most_beams_input() -> TensorSpec:
    """Of ``recommend_exact.onnx``, with a default: prefixes of a level that it follows at most to make sure."""
    return TensorSpec(MOST_BEAMS, "int64", (1,))


def answer_tensors() -> list[TensorSpec]:
    """What ``recommend.onnx`` gives, best first; item 0 where there are fewer than k.

    ``exact``: whether these are for certain the k items of the catalog to which the model gives the highest scores.
    """
    return [
        TensorSpec(ITEMS, "int64", ("batch", "answers")),
        TensorSpec(SCORES, "float32", ("batch", "answers")),
        TensorSpec(EXACT, "bool", ("batch",)),
    ]
