"""Item ids from what items are called: codes by residual k-means over vectors of their texts.

TIGER (Rajput et al. 2023, arXiv 2305.05065, section 3.1) writes an item as the codes of a quantiser over a sentence
encoder's vector, learned with it. Here nothing is learned but the centres: k-means splits the items, then what is left
of their vectors within each cluster, and so on. Items that nobody took yet so have codes as good as any others'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_union
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from podx.errors import ConfigError, DataError
from podx_train.codes.collaborative import Codes, Report, tree_codes
from podx_train.codes.options import ClusterOptions
from podx_train.codes.spectral import VECTORS, Floats, IntArray
from podx_train.console import quiet_transformers

LEAST_WITH_TEXT = 0.5  # of all items; where fewer have text, the file is another catalog's
WIDTH = 128  # of vectors without a model
MOST_FEATURES = 50_000  # words and pairs of words, and as many parts of words
MOST_CHARACTERS = 4_000  # of an item's text, without a model
MOST_TOKENS = 256  # of each of its texts, with one
BATCH = 32  # texts


def item_vectors(
    texts: Sequence[Sequence[str]], model: str | None = None, seed: int = 0, report: Report = lambda done, total: None
) -> Floats:
    """A vector of each item, [items, width], of length 1, or 0 where it has no text.

    Args:
        texts: texts of each item, of which there may be none. Without a model they are read as one.
        model: folder or Hub name of a sentence encoder, whose vectors are averaged; None: :func:`tfidf`.
        seed, report: of :func:`tfidf`; of a model, told how many texts are read, and of how many.
    """
    if model is None:
        texts = [["\n".join(of_item)] if of_item else () for of_item in texts]
    flat = [text for of_item in texts for text in of_item]
    found = tfidf(flat, seed) if model is None else encoded(flat, model, report)
    vectors = np.zeros((len(texts), found.shape[1]))
    np.add.at(vectors, np.repeat(np.arange(len(texts)), [len(of_item) for of_item in texts]), found)
    return normalize(vectors)


def tfidf(texts: Sequence[str], seed: int = 0) -> Floats:
    """Latent semantic analysis: unit rows of TF-IDF over words, pairs of words and 3 to 5 letters, in WIDTH columns."""
    kinds = ({"ngram_range": (1, 2), "token_pattern": r"\w+|\S"}, {"analyzer": "char_wb", "ngram_range": (3, 5)})
    shared = {"sublinear_tf": True, "max_features": MOST_FEATURES, "strip_accents": "unicode", "dtype": np.float32}
    union = make_union(*(TfidfVectorizer(**kind, **shared) for kind in kinds))
    features = union.fit_transform([text[:MOST_CHARACTERS] for text in texts])
    with threadpool_limits(limits=1):
        width = max(1, min(WIDTH, *(size - 1 for size in features.shape)))
        directions, strengths, _ = randomized_svd(features, width, random_state=seed)
    return normalize((directions * strengths).astype(np.float64))


def encoded(texts: Sequence[str], name: str, report: Report = lambda done, total: None) -> Floats:
    """Mean of a sentence encoder's last states over a text's tokens, [texts, width], rows of length 1."""
    import torch  # it and transformers take seconds

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer, encoder = _load(name)
    encoder = encoder.to(device, torch.float32).eval()
    shape = {"padding": True, "truncation": True, "max_length": min(MOST_TOKENS, tokenizer.model_max_length)}
    order = np.argsort([-len(text) for text in texts], kind="stable")
    rows = []
    for start in range(0, len(texts), BATCH):
        batch = [texts[place] for place in order[start : start + BATCH].tolist()]
        inputs = tokenizer(batch, return_tensors="pt", **shape).to(device)
        mask = inputs["attention_mask"]
        with torch.inference_mode():
            states = encoder(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
        rows.append((states * mask[..., None]).sum(1).cpu().numpy())  # normalised, the mean is the sum
        report(start + len(batch), len(texts))
    return normalize(np.concatenate(rows).astype(np.float64))[np.argsort(order)]


def _load(name: str) -> tuple[Any, Any]:
    """Tokenizer and encoder, of a T5 its encoder; only safetensors files are read, never pickles."""
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(name)
            model, info = AutoModel.from_pretrained(name, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ConfigError(
            f"the text model {name!r} cannot be loaded: give a folder with config.json, weights and tokenizer, or the "
            f"name of a model that this machine can download ({str(error).strip().splitlines()[0]})"
        ) from error
    if missing := [key for key in info["missing_keys"] if not key.startswith(("decoder.", "pooler."))]:
        raise ConfigError(f"the weights of the text model {name!r} lack {min(missing)}: give another")
    return tokenizer, model.get_encoder() if hasattr(model, "decoder") else model


def text_codes(vectors: Floats, popularity: IntArray, options: ClusterOptions, report: Report) -> Codes:
    """The codes of every item, as :func:`podx_train.codes.collaborative.tree_codes` makes them.

    Args:
        vectors: of each item, [items, width]. Items whose row is 0 fill up the smallest clusters, at random.

    Raises:
        DataError: most items have no text.
    """
    with_text = np.flatnonzero(vectors.any(axis=1))
    if len(with_text) < LEAST_WITH_TEXT * len(vectors):
        raise DataError(
            f"only {len(with_text)} of {len(vectors)} items have text: check that the file has the dataset's raw item "
            f"ids and its text fields (--item-column, --text-column), or make codes from training (--collaborative)"
        )

    def places(members: IntArray, count: int, random: np.random.Generator) -> Floats:
        residuals = vectors[members] - vectors[members].mean(axis=0)
        axes = np.linalg.eigh(residuals.T @ residuals)[1][:, ::-1]
        return normalize(residuals @ axes[:, : round(VECTORS * count)])  # the shares of the main directions count

    return tree_codes(with_text, popularity, places, options, report)
