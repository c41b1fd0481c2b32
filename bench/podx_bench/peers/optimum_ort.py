"""Optimum: the three graphs it exports on ONNX Runtime, searched by transformers ``generate`` in PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers import GenerationConfig

from podx_bench.peers.searching import Hypotheses, Plan, Search, in_batches

PROVIDER = "CPUExecutionProvider"


def convert(name: str, plain: Path, out: Path) -> None:
    """Export encoder, first step and later steps as graphs of their own: a merged decoder has an If around each."""
    from optimum.onnxruntime import ORTModelForSeq2SeqLM

    ORTModelForSeq2SeqLM.from_pretrained(plain, export=True, use_cache=True, use_merged=False).save_pretrained(out)


def session_options(threads: int, spin: bool) -> onnxruntime.SessionOptions:
    """As podx's own sessions are opened."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    return options


def open_search(name: str, plan: Plan) -> Search:
    """A search by ``generate`` with the settings of the eager engines."""
    from optimum.onnxruntime import ORTModelForSeq2SeqLM

    torch.set_num_threads(plan.threads)
    model = ORTModelForSeq2SeqLM.from_pretrained(
        plan.folder,
        use_cache=True,
        use_merged=False,
        provider=PROVIDER,
        session_options=session_options(plan.threads, plan.spin),
    )
    settings = GenerationConfig(
        num_beams=plan.beams,
        num_return_sequences=plan.k,
        max_new_tokens=plan.steps,
        min_new_tokens=plan.least,
        early_stopping=False,
        do_sample=False,
        decoder_start_token_id=model.config.decoder_start_token_id,
        pad_token_id=model.config.pad_token_id,
        eos_token_id=model.config.eos_token_id,
    )

    def search(input_ids: np.ndarray, attention_mask: np.ndarray) -> list[Hypotheses]:
        with torch.inference_mode():
            sequences = model.generate(
                input_ids=torch.from_numpy(input_ids),
                attention_mask=torch.from_numpy(attention_mask),
                generation_config=settings,
            )
        return sequences[:, 1:].reshape(len(input_ids), plan.k, -1).tolist()

    return in_batches(search, plan)
