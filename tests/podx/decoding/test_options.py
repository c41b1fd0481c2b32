"""Search options refuse what makes no sense, by name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from podx.decoding.options import ItemSearchOptions, TextSearchOptions
from podx.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"beams": 0}, "beams"),
        ({"score_over": "everything"}, "score_over"),
        ({"length_penalty": math.nan}, "length_penalty"),
        ({"length_penalty": math.inf}, "length_penalty"),
        ({"length_penalty": -11.0}, "length_penalty"),
    ],
)
def test_item_search_options(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        ItemSearchOptions(**options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"beams": 0, "groups": 1}, "beams"),
        ({"beams": 7, "groups": 3}, r"beams \(7\).*groups \(3\)"),
        ({"groups": 0}, "groups"),
        ({"diversity_penalty": -0.1}, "diversity_penalty"),
        ({"diversity_penalty": math.nan}, "diversity_penalty"),
        ({"max_length": 1, "min_length": 0}, "max_length"),
        ({"max_length": 8, "min_length": 9}, r"max_length \(8\).*min_length \(9\)"),
        ({"length_penalty": math.nan}, "length_penalty"),
    ],
)
def test_text_search_options(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        TextSearchOptions(**options)


def test_groups_are_computed_only_when_they_differ() -> None:
    assert TextSearchOptions(beams=21, groups=3).computed_groups == 1
    assert TextSearchOptions(beams=21, groups=3, diversity_penalty=0.5).computed_groups == 3
    assert TextSearchOptions(beams=21, groups=3).beams_per_group == 7
