"""Figures that papers report, as data. They are facts to stand beside our own rows; none was measured here.

Tables 2, 3, 4, 5 and 6 of POD (Prompt Distillation for Efficient LLM-based Recommendation, CIKM 2023), and leak-free
figures of other papers on Beauty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from podx.text.templates import Task

SPORTS, BEAUTY, TOYS = "Sports", "Beauty", "Toys"
COUNTS = {SPORTS: (35_598, 18_357), BEAUTY: (22_363, 12_101), TOYS: (19_412, 11_924)}
"""Users and items of the datasets, by which they are known again."""
POD, P5 = "POD", "P5"
NUMBERED = (POD, P5)
"""Methods that read and write item numbers, and so profit from what the paper's numbering gives away."""


@dataclass(frozen=True)
class Published:
    """A row of a paper. ``metrics``: by the names of our own. ``time``: as printed, where the table has one."""

    source: str
    dataset: str
    task: Task
    method: str
    metrics: Mapping[str, float]
    time: str | None = None


def _rows(
    source: str, task: Task, columns: Sequence[str], methods: Mapping[str, Sequence[Sequence[float]]]
) -> tuple[Published, ...]:
    """Rows of a table whose three groups of columns are Sports, Beauty and Toys."""
    return tuple(
        Published(source, dataset, task, method, dict(zip(columns, values, strict=True)))
        for method, groups in methods.items()
        for dataset, values in zip((SPORTS, BEAUTY, TOYS), groups, strict=True)
    )


_HITS = ("hr_5", "ndcg_5", "hr_10", "ndcg_10")
TABLE_2 = _rows(
    "POD, Table 2",
    Task.SEQUENTIAL,
    _HITS,
    {
        "Caser": ((.0116, .0072, .0194, .0097), (.0205, .0131, .0347, .0176), (.0166, .0107, .0270, .0141)),
        "HGN": ((.0189, .0120, .0313, .0159), (.0325, .0206, .0512, .0266), (.0321, .0221, .0497, .0277)),
        "GRU4Rec": ((.0129, .0086, .0204, .0110), (.0164, .0099, .0283, .0137), (.0097, .0059, .0176, .0084)),
        "BERT4Rec": ((.0115, .0075, .0191, .0099), (.0203, .0124, .0347, .0170), (.0116, .0071, .0203, .0099)),
        "FDSA": ((.0182, .0122, .0288, .0156), (.0267, .0163, .0407, .0208), (.0228, .0140, .0381, .0189)),
        "SASRec": ((.0233, .0154, .0350, .0192), (.0387, .0249, .0605, .0318), (.0463, .0306, .0675, .0374)),
        "S3-Rec": ((.0251, .0161, .0385, .0204), (.0387, .0244, .0647, .0327), (.0443, .0294, .0700, .0376)),
        P5: ((.0272, .0169, .0361, .0198), (.0503, .0370, .0659, .0421), (.0648, .0567, .0709, .0587)),
        POD: ((.0496, .0396, .0576, .0419), (.0537, .0395, .0688, .0443), (.0691, .0599, .0742, .0610)),
    },
)  # fmt: skip
LOGGED_HR_1 = {SPORTS: .0296, BEAUTY: .0235, TOYS: .0515}  # fmt: skip
"""POD's sequential HR@1, which Table 2 lacks, from its published logs."""

TABLE_3 = _rows(
    "POD, Table 3",
    Task.TOPN,
    ("hr_1", *_HITS),
    {
        "MF": (
            (.0314, .1404, .0848, .2563, .1220), (.0311, .1426, .0857, .2573, .1224),
            (.0233, .1066, .0641, .2003, .0940),
        ),
        "MLP": (
            (.0351, .1520, .0927, .2671, .1296), (.0317, .1392, .0848, .2542, .1215),
            (.0252, .1142, .0688, .2077, .0988),
        ),
        P5: (
            (.0567, .1514, .1049, .2196, .1269), (.0571, .1566, .1078, .2317, .1318),
            (.0451, .1322, .0889, .2023, .1114),
        ),
        POD: (
            (.0895, .2086, .1506, .2873, .1756), (.0829, .1926, .1391, .2670, .1629),
            (.0567, .1433, .1009, .2082, .1215),
        ),
    },
)  # fmt: skip
TABLE_4 = _rows(
    "POD, Table 4",
    Task.EXPLANATION,
    ("bleu_4", "rouge_1", "rouge_2", "rouge_l"),
    {
        "Att2Seq": (
            (0.5305, 12.2800, 1.2107, 9.1312), (0.7889, 12.6590, 1.6820, 9.7481), (1.6238, 13.2245, 2.9942, 10.7398),
        ),
        "NRT": (
            (0.4793, 11.0723, 1.1304, 7.6674), (0.8295, 12.7815, 1.8543, 9.9477), (1.9084, 13.5231, 3.6708, 11.1867),
        ),
        "PETER": (
            (0.7112, 12.8944, 1.3283, 9.8635), (1.1541, 14.8497, 2.1413, 11.4143), (1.9861, 14.2716, 3.6718, 11.7010),
        ),
        POD: (
            (1.0013, 14.0168, 2.0436, 11.1236), (1.0630, 15.2517, 1.5737, 11.3283), (2.3053, 12.2889, 3.8512, 10.3923),
        ),
    },
)  # fmt: skip


@dataclass(frozen=True)
class Strategy:
    """A row of Table 5: a way to form batches, on Sports and one V100S, each at its largest batch size."""

    name: str
    time: str
    epochs: int
    time_per_epoch: str


TABLE_5 = (Strategy("sample-mixed", "15h59m", 13, "1h14m"), Strategy("task-alternated", "6h55m", 22, "19m"))

KEPT, DROPPED = "kept", "dropped"
"""The discrete template at inference, Table 6: continuous and discrete prompt, or the continuous one alone."""
_TABLE_6 = "POD, Table 6"
_TEXT = ("bleu_4", "rouge_2", "rouge_l")
TABLE_6 = tuple(
    Published(_TABLE_6, SPORTS, task, method, dict(zip(columns, values, strict=True)), time)
    for method, task, columns, values, time in (
        (KEPT, Task.SEQUENTIAL, _HITS, (.0509, .0411, .0583, .0432), "24m6s"),
        (DROPPED, Task.SEQUENTIAL, _HITS, (.0496, .0396, .0576, .0419), "22m17s"),
        (KEPT, Task.TOPN, _HITS, (.2079, .1508, .2882, .1763), "48m31s"),
        (DROPPED, Task.TOPN, _HITS, (.2086, .1506, .2873, .1756), "47m13s"),
        (KEPT, Task.EXPLANATION, _TEXT, (1.0012, 2.0436, 11.1202), "9m30s"),
        (DROPPED, Task.EXPLANATION, _TEXT, (1.0013, 2.0436, 11.1236), "8m59s"),
    )
)  # fmt: skip

_LEAK_FREE = "other papers, as quoted by later ones"
LEAK_FREE = tuple(
    Published(_LEAK_FREE, BEAUTY, Task.SEQUENTIAL, method, dict(zip(columns, values, strict=True)))
    for method, columns, values in (
        ("train-first numbers", _HITS, (.0430, .0288, .0602, .0368)),
        ("collaborative ids (CID)", _HITS, (.0489, .0318, .0680, .0357)),
        ("CID + a token per item", _HITS, (.0512, .0356, .0732, .0427)),
        ("TIGER", _HITS, (.0454, .0321, .0648, .0384)),
        ("LETTER-TIGER", _HITS, (.0431, .0286, .0672, .0364)),
        ("ActionPiece", _HITS, (.0511, .0340, .0775, .0424)),
        ("SASRec, sampled softmax", ("hr_10", "ndcg_10"), (.0921, .0531)),
    )
)  # fmt: skip
"""Sequential recommendation without the leak of the paper's numbering; seen in secondary copies."""


def known_dataset(users: int, items: int) -> str | None:
    """Name of a dataset of the paper by its counts; None: none of them."""
    return next((name for name, counts in COUNTS.items() if counts == (users, items)), None)


def published_rows(dataset: str, task: Task) -> list[Published]:
    """The rows of Table 2, 3 or 4 on a dataset, in the paper's order."""
    table = {Task.SEQUENTIAL: TABLE_2, Task.TOPN: TABLE_3, Task.EXPLANATION: TABLE_4}[task]
    return [row for row in table if row.dataset == dataset]
