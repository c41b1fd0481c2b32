"""``recommend_numbers.onnx`` as a service in any language runs it: numbers of users and items in, of items out.

:class:`podx.Recommender` has no need of it: it writes tokens itself, for it has graphs that read nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from podx.bundle import signature as sig
from podx.decoding.items import ItemResults
from podx.decoding.options import ItemSearchOptions
from podx.graphs.model import search_feeds
from podx.graphs.session import GraphSession
from podx.requests.batch import Numbers
from podx.requests.encoder import allowed_row
from podx.text.inputs import pad_rows


@dataclass(frozen=True)
class NumberBatch:
    """Requests for items, by number; see :func:`podx.bundle.signature.number_inputs`.

    Attributes:
        users: -1 for one whom the model does not know.
        histories: of any length, oldest first; empty where the model is asked for the best of ``allowed``, unless it
            is a one-pass model.
        denied, allowed: as in :class:`podx.requests.batch.ItemBatch`; items of the history come back unless denied.
        user_rows: users whose prompt vectors are averaged, where that is not the user alone.
    """

    users: Sequence[int]
    histories: Sequence[Numbers]
    denied: Sequence[Numbers]
    allowed: Sequence[Numbers | None]
    user_rows: Sequence[Sequence[int]] | None = None

    def feeds(self) -> dict[str, Numbers]:
        """All inputs that some model reads and that have no default."""
        users = np.array(self.users, dtype=np.int64)
        rows = np.maximum(users, 0)[:, None] if self.user_rows is None else pad_rows(self.user_rows, sig.NO_NUMBER)
        return {
            sig.USER: users,
            sig.HISTORY: pad_rows(self.histories, sig.NO_NUMBER),
            sig.USER_ROWS: rows,
            sig.EXCLUDED_ITEMS: pad_rows(self.denied, sig.NO_NUMBER),
            sig.ALLOWED_ITEMS: pad_rows([allowed_row(items) for items in self.allowed], sig.NO_NUMBER),
        }


def recommend_by_numbers(session: GraphSession, batch: NumberBatch, k: int, options: ItemSearchOptions) -> ItemResults:
    """Run ``recommend_numbers.onnx`` on a batch.

    Args:
        session: of the graph, see :meth:`podx.graphs.model.GraphModel.session`.
        k: answers wanted, at most the number of items.
        options: scores are over what the model was trained for.
    """
    feeds = {name: array for name, array in batch.feeds().items() if name in session.inputs}
    outputs = session.run({**feeds, **search_feeds(options, k)}, to_host=session.outputs)
    return ItemResults(outputs[sig.ITEMS], outputs[sig.SCORES], outputs[sig.EXACT])
