"""Lists for everybody: Parquet in, Parquet out. ``podx score``, and :class:`Scorer` for Ray, Spark and others.

Needs ``podx[score]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from podx.errors import DependencyError

if TYPE_CHECKING:
    from podx.scoring.run import Scored, score
    from podx.scoring.scorer import Scorer

__all__ = ["Scored", "Scorer", "score"]


def __getattr__(name: str) -> object:
    """Import pyarrow only when it is used, so that ``podx --help`` needs none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from podx.scoring import run, scorer
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"podx.scoring needs {error.name}, which is not installed: pip install 'podx[score]'"
        ) from error
    return getattr(scorer if name == "Scorer" else run, name)
