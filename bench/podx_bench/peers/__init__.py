"""Other inference libraries as engines, measured beside podx on the same weights.

They need versions of libraries that podx does not run with, so they live in an environment of their own, made by ``make
peers``. :mod:`~podx_bench.peers.prepare` has that environment convert the checkpoint, once per checkpoint, in the
bench's own process. All else runs in that environment: it imports podx and one library, and nothing of ``podx_train``,
whose transformers is another one.
"""
