"""``podx`` with a model that runs no graph: ``python -m tests.podx.server.launch serve BUNDLE``."""

import os
import sys
import time
from typing import Any

import podx.snapshot
from podx.cli import main
from podx.text.inputs import Batch
from tests.podx.fakes import FakeGraphModel

DELAY = "PODX_TEST_DELAY_S"


class SlowModel(FakeGraphModel):
    """Takes as long as the environment says."""

    def encode(self, batch: Batch, task_id: int) -> Any:
        """Sleep first."""
        time.sleep(float(os.environ.get(DELAY, "0")))
        return super().encode(batch, task_id)


if __name__ == "__main__":
    podx.snapshot.GraphModel = SlowModel  # type: ignore[assignment,misc]
    sys.argv[0] = "podx"
    main()
