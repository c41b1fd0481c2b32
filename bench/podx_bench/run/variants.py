"""More bundles of the same model in a run, as of another precision: each is an engine of its own beside ``podx``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from podx.bundle.bundle import Bundle
from podx.errors import ConfigError
from podx_bench.engines import ENGINES, OURS, EngineKind

FORM = "NAME=FOLDER"
_SAME = ("tasks", "prompts", "user_prompts", "max_history", "whole_word_rows", "scheme", "shape")
"""What the manifests of two bundles of one model have in common."""


def parse_variants(texts: Sequence[str]) -> dict[str, Path]:
    """``NAME=FOLDER``, each name once; a ConfigError where not."""
    variants: dict[str, Path] = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if not folder or not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"--variant must be {FORM}, as in int8=bundle-int8, not {text!r}")
        if name in variants:
            raise ConfigError(f"--variant {name} is given twice: each variant needs a name of its own")
        variants[name] = Path(folder)
    return variants


def load_variants(folders: Mapping[str, Path], bundle: Bundle) -> dict[str, Bundle]:
    """Open the bundles, by the name of their engine.

    Raises:
        BundleError: a folder is no bundle, or is damaged.
        ConfigError: a bundle is not of the same model as ``bundle``, or its engine's name is taken.
    """
    variants = {}
    for name, folder in folders.items():
        engine = f"{OURS}-{name}"
        if engine in ENGINES:
            raise ConfigError(f"--variant {name} would be engine {engine}, which is another one: choose another name")
        variants[engine] = Bundle.load(folder)
        require_same_model(variants[engine], bundle, name)
    return variants


def require_same_model(variant: Bundle, bundle: Bundle, name: str) -> None:
    """Refuse, with a ConfigError that says what differs, a bundle that does not answer the same requests."""
    differing = [key for key in _SAME if getattr(variant.manifest, key) != getattr(bundle.manifest, key)]
    if not np.array_equal(variant.catalog.items.raw_ids, bundle.catalog.items.raw_ids):
        differing.append("items")
    if not np.array_equal(variant.users.ids.raw_ids, bundle.users.ids.raw_ids):
        differing.append("users")
    if differing:
        raise ConfigError(
            f"--variant {name} is not of the same model as the bundle ({', '.join(differing)} differ): "
            f"export both from one checkpoint"
        )


def variant_kind(engine: str, bundle: Bundle) -> EngineKind:
    """The engine of a variant: podx on that bundle."""
    summary = f"podx as above, on the bundle exported with precision {bundle.manifest.precision}"
    return replace(ENGINES[OURS], name=engine, summary=summary, reference=OURS, bundle=bundle.path, loads=OURS)
