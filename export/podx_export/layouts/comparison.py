"""Does a folder of the layout transformers answer like the eager model? From text to scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from podx.errors import ParityError
from podx_export.layouts.seq2seq import DECODER_MODEL, DECODER_WITH_PAST_MODEL, ENCODER_MODEL
from podx_export.layouts.transformers_folder import input_text
from podx_export.verify.parity import MAX_DIFFERENCE, STEPS, eager_log_probs
from podx_export.verify.samples import draw
from podx_train.checkpoint.checkpoint import Checkpoint

_CPU = "CPUExecutionProvider"
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


def compare_folder(source: Checkpoint, folder: Path, users: int, seed: int = 0) -> float:
    """Largest difference of a log-probability along random tokens, of ``users`` users of each task.

    Raises:
        ParityError: it is more than a float32 export may show.
    """
    random = np.random.default_rng(seed)
    sessions = {
        name: onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=[_CPU])
        for name in (ENCODER_MODEL, DECODER_MODEL, DECODER_WITH_PAST_MODEL)
    }
    largest = 0.0
    for place, task in enumerate(source.config.tasks):
        sample = draw(source, task, users)
        batch = sample.encode(source)
        tokenizer = Tokenizer.from_file(str((folder / task if place else folder) / "tokenizer.json"))
        texts = [
            input_text(source, task, int(user), items) for user, items in zip(sample.users, sample.items, strict=True)
        ]
        tokens = random.integers(2, source.tokenizer.vocab_size, size=(batch.size, STEPS))
        tokens[:, 0] = source.config.backbone["decoder_start_token_id"]
        ours = _log_probs(sessions, *_encode(tokenizer, texts, source.tokenizer.pad_id), tokens)
        largest = max(largest, float(np.abs(eager_log_probs(source, task, batch, tokens[:, None])[:, 0] - ours).max()))
    if not largest <= MAX_DIFFERENCE:
        raise ParityError(
            f"the folder does not answer like the eager model: largest difference of a log-probability {largest:.2e} "
            f"(allowed {MAX_DIFFERENCE:.0e}); nothing was written"
        )
    return largest


def _encode(tokenizer: Tokenizer, texts: list[str], pad_id: int) -> tuple[IntArray, IntArray]:
    """Tokens and mask, int64 [batch, source]."""
    tokenizer.enable_padding(pad_id=pad_id)
    encoded = tokenizer.encode_batch(texts)
    ids, mask = ([getattr(row, name) for row in encoded] for name in ("ids", "attention_mask"))
    return np.array(ids, dtype=np.int64), np.array(mask, dtype=np.int64)


def _log_probs(sessions: dict[str, Any], ids: IntArray, mask: IntArray, tokens: IntArray) -> FloatArray:
    """[batch, steps, vocabulary]: two tokens by the first decoder, the others one by one."""
    (hidden,) = sessions[ENCODER_MODEL].run(None, {"input_ids": ids, "attention_mask": mask})
    first = {"encoder_attention_mask": mask, "encoder_hidden_states": hidden, "input_ids": tokens[:, :2]}
    logits, state = _run(sessions[DECODER_MODEL], first)
    steps = [logits]
    for step in range(2, tokens.shape[1]):
        past = {name.replace("present", "past_key_values"): value for name, value in state.items()}
        inputs = {"encoder_attention_mask": mask, "input_ids": tokens[:, step : step + 1], **past}
        logits, after = _run(sessions[DECODER_WITH_PAST_MODEL], inputs)
        state |= after
        steps.append(logits)
    scores = np.concatenate(steps, axis=1)
    scores = scores - scores.max(axis=-1, keepdims=True)
    result: FloatArray = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return result


def _run(session: Any, inputs: dict[str, Any]) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Logits, and what the next step reads."""
    names = [output.name for output in session.get_outputs()]
    logits, *states = session.run(None, inputs)
    return logits, dict(zip(names[1:], states, strict=True))
