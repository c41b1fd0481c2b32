"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real interaction files and T5's sentencepiece model; it lies beside the checkout, if at all."""
    folder = Path(os.environ.get("PODX_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the real data folder ../shared/data is not beside this checkout (or set PODX_SHARED_DATA)")
    return folder
