"""What each study varies: its values, and the options of ``podx train`` and ``podx export`` that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from podx.errors import ConfigError
from podx_bench.published import DROPPED, KEPT
from podx_train.model.config import DEFAULT_USER_HEADS

DEFAULT_K = (1, 3, 5, 10, 20, 50)
"""Numbers of prompt vectors of the POD paper's Figure 4."""
DEFAULT_HEADS = (0, 1, 2, 4, 8)
OWN_OPTIONS = ("--out", "--resume", "--max-minutes", "--device")
"""Options of podx train that every study sets itself."""
PEAPOD = ("--method", "peapod")


@dataclass(frozen=True)
class Point:
    """One value of a sweep. ``train``, ``export``: the options of podx train and podx export that make it."""

    label: str
    train: tuple[str, ...] = ()
    export: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """A study.

    Attributes:
        name: of its sub-command. title: of its report. axis: what is varied, in words.
        points: its values; those with the same ``train`` share one training.
        sets: options of podx train that the values set.
        note: what a reader must know.
    """

    name: str
    title: str
    axis: str
    points: tuple[Point, ...]
    sets: tuple[str, ...]
    note: str

    def refuse(self, extra: Sequence[str]) -> None:
        """Check the options that a user adds for podx train.

        Raises:
            ConfigError: one of them is the study's own to set.
        """
        refuse_options(extra, (*OWN_OPTIONS, *self.sets))


def refuse_options(extra: Sequence[str], own: Sequence[str]) -> None:
    """Check that none of a study's own options stands after ``--``.

    Raises:
        ConfigError: one does; all of them are named.
    """
    given = {text.partition("=")[0] for text in extra}
    taken = [name for name in own if name in given]
    if taken:
        raise ConfigError(f"{', '.join(taken)} after -- conflicts with the study, which sets it: leave it out")


def k_sweep(values: Sequence[int]) -> Sweep:
    """Numbers of continuous prompt vectors, the POD paper's section 5.6."""
    return Sweep(
        name="k",
        title="Number of continuous prompt vectors (the paper's Figure 4)",
        axis="prompt vectors K",
        points=tuple(Point(str(value), ("--prompts", str(value))) for value in values),
        sets=("--prompts",),
        note="The paper, on Sports: recommendation gains with K, explanation is best with 1 or 3; it takes K = 3.",
    )


def heads_sweep(values: Sequence[int], without_prompts: bool) -> Sweep:
    """Attention heads of PeaPOD over similar users; and its model without the tasks' prompt vectors."""
    points = [Point(_heads_label(value), (*PEAPOD, "--user-heads", str(value))) for value in values]
    if without_prompts:
        heads = str(DEFAULT_USER_HEADS)
        points.append(Point(f"{heads}, no task prompts", (*PEAPOD, "--user-heads", heads, "--prompts", "0")))
    return Sweep(
        name="heads",
        title="PeaPOD: attention heads over similar users",
        axis="heads",
        points=tuple(points),
        sets=("--method", "--user-heads", "--prompts"),
        note="0 heads: a multi-layer perceptron over the user's own vector. No task prompts: --prompts 0.",
    )


def _heads_label(value: int) -> str:
    return str(value) if value else "0 (MLP)"


def inference_sweep() -> Sweep:
    """One training, exported with the discrete template and without: the POD paper's Table 6."""
    return Sweep(
        name="inference",
        title="Discrete template at inference (the paper's Table 6)",
        axis="discrete template",
        points=(Point(KEPT, export=("--inference", "discrete")), Point(DROPPED)),
        sets=("--inference",),
        note="One training, exported twice. Kept: continuous and discrete prompt; dropped: the continuous one alone.",
    )
