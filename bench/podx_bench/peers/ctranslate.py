"""CTranslate2: weights converted to its own format, beam search in C++."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from podx_bench.peers.searching import Hypotheses, Plan, Search, Source

COMPUTE_TYPES = {"ctranslate2": "float32", "ctranslate2-int8": "int8"}
VOCABULARY_FILE = "shared_vocabulary.json"


def convert(name: str, plain: Path, out: Path) -> None:
    """Write its model folder; int8 weights are quantised here, per row, as its converter does it."""
    from ctranslate2.converters import TransformersConverter

    shutil.rmtree(out)  # its converter wants to make the folder itself
    TransformersConverter(str(plain)).convert(str(out), quantization=COMPUTE_TYPES[name])


def open_search(name: str, plan: Plan) -> Search:
    """A search that sorts records by length and splits them itself (``max_batch_size``)."""
    import ctranslate2

    translator = ctranslate2.Translator(
        str(plan.folder), compute_type=COMPUTE_TYPES[name], inter_threads=1, intra_threads=plan.threads
    )
    tokens = json.loads((plan.folder / VOCABULARY_FILE).read_text(encoding="utf-8"))
    ids = {token: number for number, token in enumerate(tokens)}

    def search(sources: Sequence[Source]) -> list[Hypotheses]:
        results = translator.translate_batch(
            [[tokens[number] for number in source] for source in sources],
            max_batch_size=plan.batch_size or len(sources),
            beam_size=plan.beams,
            num_hypotheses=plan.k,
            length_penalty=1.0,
            max_input_length=0,
            max_decoding_length=plan.steps,
            min_decoding_length=plan.least,
        )
        return [[[ids[token] for token in one] for one in result.hypotheses] for result in results]

    return search
