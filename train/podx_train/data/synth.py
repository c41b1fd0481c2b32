"""A small world with structure that a tiny model learns in two minutes, for the demo and for tests.

Items live in clusters. Inside a cluster each item has one successor, so that successors form a ring. A user has a main
and a side cluster and walks: mostly on to the successor, else to any unseen item of a preferred cluster, now and
then anywhere. All rings and clusters are alike, so no item is popular: popularity is an honest but weak baseline.
Each cluster talks of its own features in its own words, each item of one of them, so explanations can be learnt too.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from podx.errors import ConfigError
from podx.flags import check, option

CLUSTER_SIZE = 30
MIN_LENGTH, MAX_LENGTH = 8, 14  # items per user
FOLLOW_SUCCESSOR = 0.75
MAIN_CLUSTER = 0.85  # of the jumps that do not follow a successor
SIDE_CLUSTER = 0.1  # the rest of the jumps goes anywhere
FIRST_DAY = 1_400_000_000  # seconds since 1970
DAY = 86_400
MAX_PAUSE_DAYS = 30

INTERACTIONS_FILE = "interactions.csv"
COLUMNS = ("user", "item", "timestamp", "review")

THEMES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("guitar", ("neck", "tuner", "pickup", "bridge", "fretboard", "strap"), ("smooth", "precise")),
    ("kettle", ("spout", "lid", "switch", "boiler", "handle", "filter"), ("sturdy", "quick")),
    ("tent", ("zipper", "pole", "canopy", "groundsheet", "vestibule", "mesh"), ("waterproof", "light")),
    ("novel", ("plot", "hero", "ending", "dialogue", "narrator", "prologue"), ("gripping", "clever")),
    ("drill", ("battery", "chuck", "trigger", "motor", "charger", "grip"), ("powerful", "reliable")),
    ("camera", ("lens", "sensor", "viewfinder", "shutter", "display", "flash"), ("sharp", "fast")),
)
OPENINGS = ("Came quickly.", "Good value.", "Would order again!", "No complaints so far.")
REASONS = (
    "The {feature} of this {noun} is {adjective}.",
    "I like that the {feature} is so {adjective}.",
    "What convinced me is the {feature}, it is {adjective}.",
)


@dataclass(frozen=True)
class SynthOptions:
    """Size and seed of the world."""

    users: int = option(300, "Number of users.")
    items: int = option(120, "Number of items.")
    seed: int = option(0, "Seed of every random choice.", least=0)

    def __post_init__(self) -> None:
        """Check that there is room for a main and a side cluster, and for the k-core to hold."""
        check(self)
        if self.items < 2 * CLUSTER_SIZE:
            raise ConfigError(f"items is {self.items}: the world needs at least {2 * CLUSTER_SIZE}, two clusters")
        if self.users < self.items:
            raise ConfigError(
                f"users is {self.users} and items {self.items}: give at least as many users as items, so that each "
                f"item is met often enough to be learnt"
            )


@dataclass(frozen=True, eq=False)
class World:
    """The structure behind the data.

    Attributes:
        cluster: [items] cluster of each item.
        successor: [items] the item that tends to follow each item.
        preferred: [users, 2] main and side cluster of each user.
    """

    cluster: NDArray[np.int64]
    successor: NDArray[np.int64]
    preferred: NDArray[np.int64]


def make_world(options: SynthOptions, random: np.random.Generator) -> World:
    """Draw clusters, rings of successors and preferences."""
    order = random.permutation(options.items)
    groups = np.array_split(order, options.items // CLUSTER_SIZE)
    cluster = np.empty(options.items, dtype=np.int64)
    successor = np.empty(options.items, dtype=np.int64)
    for number, members in enumerate(groups):
        cluster[members] = number
        successor[members] = np.roll(members, -1)
    main = random.permutation(np.arange(options.users) % len(groups))
    side = (main + random.integers(1, len(groups), size=options.users)) % len(groups)
    return World(cluster, successor, np.stack([main, side], axis=1))


def walk(world: World, user: int, random: np.random.Generator) -> list[int]:
    """One user's distinct items in order of time."""
    length = int(random.integers(MIN_LENGTH, MAX_LENGTH + 1))
    unseen = np.ones(len(world.cluster), dtype=np.bool_)
    items: list[int] = []
    while len(items) < length:
        follower = int(world.successor[items[-1]]) if items else -1
        if follower >= 0 and unseen[follower] and random.random() < FOLLOW_SUCCESSOR:
            item = follower
        else:
            item = _jump(world, user, unseen, random)
        unseen[item] = False
        items.append(item)
    return items


def _jump(world: World, user: int, unseen: NDArray[np.bool_], random: np.random.Generator) -> int:
    """An unseen item of the user's main or side cluster, or of any."""
    draw = random.random()
    pool = unseen
    if draw < MAIN_CLUSTER + SIDE_CLUSTER:
        wanted = world.preferred[user, 0 if draw < MAIN_CLUSTER else 1]
        pool = unseen & (world.cluster == wanted)
    candidates = np.flatnonzero(pool if pool.any() else unseen)
    return int(random.choice(candidates))


def write_review(world: World, item: int, random: np.random.Generator) -> str:
    """A review of two sentences, the second about the item's own feature."""
    noun, features, adjectives = THEMES[world.cluster[item] % len(THEMES)]
    sentence = REASONS[random.integers(len(REASONS))]
    feature = features[item % len(features)]
    reason = sentence.format(noun=noun, feature=feature, adjective=adjectives[item // len(features) % len(adjectives)])
    return f"{OPENINGS[random.integers(len(OPENINGS))]} {reason}"


def interactions_csv(options: SynthOptions) -> str:
    """The world's interactions as CSV text with the columns user, item, timestamp and review."""
    random = np.random.default_rng(options.seed)
    world = make_world(options, random)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for user in range(options.users):
        day = int(random.integers(MAX_PAUSE_DAYS))
        for item in walk(world, user, random):
            day += int(random.integers(1, MAX_PAUSE_DAYS + 1))
            writer.writerow((f"u{user + 1}", f"i{item + 1}", FIRST_DAY + day * DAY, write_review(world, item, random)))
    return buffer.getvalue()


def synth_provenance(options: SynthOptions) -> dict[str, object]:
    """What ``dataset.json`` says of the source."""
    return {"name": "synthetic world", "world": asdict(options)}
