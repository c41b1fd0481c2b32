"""The share of exact answers, over a scripted recommender."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from podx.decoding.options import ItemSearchOptions
from podx.requests.types import Recommendation, Recommendations
from podx.text.templates import Task
from podx_bench.exactness.measure import ExactnessRecord, exactness_table, measure
from podx_bench.workload.work import WorkItem

REQUESTS = tuple(WorkItem(f"u{n}", ("a", "b")) for n in range(10))


class Scripted:
    """Certain about the first ``beams / 10`` users, all of them when it may retry; finds more with 50 beams."""

    def recommend_batch(
        self, requests: Sequence[object], k: int, search: ItemSearchOptions | None = None
    ) -> list[Recommendations]:
        assert search is not None
        sure = len(requests) if search.wants_certainty else int(search.beams) // 10
        found = "better" if search.beams == 50 else "usual"
        return [Recommendations([Recommendation(found, -1.0)] * k, exact=n < sure) for n in range(len(requests))]

    rank_batch = recommend_batch


@pytest.mark.parametrize("task", [Task.SEQUENTIAL, Task.TOPN])
def test_shares(task: Task) -> None:
    records = {record.search: record for record in measure(Scripted(), task, REQUESTS, (10, 50), k=2)}
    assert {name: record.exact for name, record in records.items()} == {
        "10 beams": 0.1,
        "50 beams": 0.5,
        "retry from 20 beams": 1.0,
        "auto": 1.0,
    }
    assert records["10 beams"].same_as_widest == 0.0
    assert records["50 beams"].same_as_widest == 1.0
    assert all(record.users == len(REQUESTS) and record.ms_per_user >= 0 for record in records.values())


def test_table_has_a_row_per_search() -> None:
    record = ExactnessRecord("topn", "20 beams", 1234, 0.875, 0.5, 3.25)
    table = exactness_table([record])
    assert table.rows == (("topn, 20 beams", "1,234", "87.5%", "50.0%", "3.25"),)
