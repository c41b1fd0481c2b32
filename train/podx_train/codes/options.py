"""Options of codes made by clustering, apart from the clustering, whose libraries are slow to import."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from podx.errors import ConfigError
from podx.flags import check, option


class LastCode(StrEnum):
    """What tells an item from the others of its cluster; the value is its name on the command line."""

    OWN = "own"
    SHARED = "shared"


@dataclass(frozen=True)
class ClusterOptions:
    """How items are clustered and written.

    Attributes:
        last: ``own``, every item has a last code of its own (``<i_4711>``, 4711 being its number); ``shared``, its
            place in its cluster (``<p_12>``), the item that occurs most in training being ``<p_0>``.
        fill: how full clusters are planned to be; below 1 leaves room for clusters of unequal size.
        nearness: of collaborative codes: items d apart in a user's sequence add d ** -nearness to their edge; 0 counts
            users, as in the paper. Near items are worth more: what comes next is to be guessed.
        regularisation: of collaborative codes: added to every item's degree, in mean degrees.

    Raises:
        ConfigError: an option is out of its range.
    """

    clusters: int = option(32, "Most children of a cluster.", least=2)
    leaf_size: int = option(50, "Most items of a last cluster.", least=2)
    last: LastCode = option(LastCode.OWN, "Last code: each item's own, or its place in its cluster, shared.")
    nearness: float = 1.0
    fill: float = 0.75
    regularisation: float = 0.1
    seed: int = option(0, "Seed of every random choice.", least=0)

    def __post_init__(self) -> None:
        """Check every option."""
        check(self)
        if not 0.5 < self.fill <= 1 or self.nearness < 0 or self.regularisation < 0:
            raise ConfigError("fill must lie in (0.5, 1]; nearness and regularisation must be at least 0")
