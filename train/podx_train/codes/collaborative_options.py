"""Options of collaborative codes, apart from the clustering, whose libraries are slow to import."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from podx.errors import ConfigError


class LastCode(StrEnum):
    """What tells an item from the others of its cluster; the value is its name on the command line."""

    OWN = "own"
    SHARED = "shared"


@dataclass(frozen=True)
class CollaborativeOptions:
    """How items are clustered and written.

    Attributes:
        clusters: most children of a cluster.
        leaf_size: most items of a cluster that is not split further.
        last: ``own``, every item has a last code of its own (``<i_4711>``, 4711 being its number); ``shared``, its
            place in its cluster (``<p_12>``), the item that occurs most in training being ``<p_0>``.
        nearness: items d apart in a user's sequence add d ** -nearness to their edge; 0 counts users, as in the paper.
            Near items are worth more: what comes next is to be guessed.
        fill: how full clusters are planned to be; below 1 leaves room for clusters of unequal size.
        regularisation: added to every item's degree, in mean degrees.
        seed: of every random choice.

    Raises:
        ConfigError: an option is out of its range.
    """

    clusters: int = 32
    leaf_size: int = 50
    last: LastCode = LastCode.OWN
    nearness: float = 1.0
    fill: float = 0.75
    regularisation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every option."""
        if self.clusters < 2 or self.leaf_size < 2:
            raise ConfigError(f"clusters ({self.clusters}) and leaf_size ({self.leaf_size}) must be at least 2")
        if not 0.5 < self.fill <= 1 or self.nearness < 0 or self.regularisation < 0 or self.seed < 0:
            raise ConfigError("fill must lie in (0.5, 1]; nearness, regularisation and seed must be at least 0")
