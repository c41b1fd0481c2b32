"""podx: recommendations from a POD model, served by ONNX Runtime without torch.

import podx
rec = podx.load("bundle/")
rec.recommend(user="A1YJEY40YUW4SE", k=10)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from podx.decoding.options import ItemSearchOptions, TextSearchOptions
from podx.errors import ClosedError, OverloadedError, PodxError, RequestTimeoutError, SwapError
from podx.requests.types import (
    ExplainRequest,
    Explanation,
    GeneratedItem,
    RankRequest,
    Recommendation,
    RecommendRequest,
)

if TYPE_CHECKING:
    from podx.recommender import Recommender, load
    from podx.serving.batcher import Batcher

__version__ = "0.1.0"
__all__ = [
    "Batcher",
    "ClosedError",
    "ExplainRequest",
    "Explanation",
    "GeneratedItem",
    "ItemSearchOptions",
    "OverloadedError",
    "PodxError",
    "RankRequest",
    "RecommendRequest",
    "Recommendation",
    "Recommender",
    "RequestTimeoutError",
    "SwapError",
    "TextSearchOptions",
    "__version__",
    "load",
]


def __getattr__(name: str) -> object:
    """Load the runtime when it is first used, so that importing podx stays quick."""
    if name in ("Recommender", "load"):
        from podx import recommender

        return getattr(recommender, name)
    if name == "Batcher":
        from podx.serving.batcher import Batcher

        return Batcher
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
