"""OpenVINO: the plain T5 converted by Optimum Intel, searched by transformers ``generate``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig

from podx_bench.peers.searching import Hypotheses, Plan, Search, in_batches


def convert(_: str, plain: Path, out: Path) -> None:
    """Write encoder and decoder in OpenVINO's format, weights in float32."""
    from optimum.intel import OVModelForSeq2SeqLM

    model = OVModelForSeq2SeqLM.from_pretrained(plain, export=True, compile=False, stateful=False, load_in_8bit=False)
    model.save_pretrained(out)


def open_search(_: str, plan: Plan) -> Search:
    """A search of padded batches. OpenVINO keeps the cache, and reorders it by its own operators."""
    from optimum.intel import OVModelForSeq2SeqLM

    torch.set_num_threads(plan.threads)
    settings = {"INFERENCE_NUM_THREADS": plan.threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = OVModelForSeq2SeqLM.from_pretrained(plan.folder, device="CPU", ov_config=settings)
    search = GenerationConfig(
        num_beams=plan.beams,
        num_return_sequences=plan.k,
        max_new_tokens=plan.steps,
        min_new_tokens=plan.least,
        early_stopping=False,
        **{name: getattr(model.config, name) for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id")},
    )

    def padded(ids: np.ndarray, mask: np.ndarray) -> list[Hypotheses]:
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        found = model.generate(**inputs, generation_config=search)[:, 1:]
        lists: list[Hypotheses] = found.reshape(len(ids), plan.k, -1).tolist()
        return lists

    return in_batches(padded, plan)
