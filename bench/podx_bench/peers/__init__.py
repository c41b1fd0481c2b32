"""Other inference libraries as engines, measured beside podx on the same weights.

They need versions of libraries that podx does not run with, so they live in an environment of their own, made by ``make
peers``. Two halves, which import nothing of one another:

- the bench's side (:mod:`~podx_bench.peers.place`, :mod:`~podx_bench.peers.prepare`, :mod:`~podx_bench.peers.plain`)
  finds that environment and has it convert the checkpoint, once per checkpoint;
- the peers' side (everything else) runs in that environment. It imports podx and one library, and nothing of
  ``podx_train``, whose transformers is another one.

SASRec is a peer of accuracy, not of speed, with an environment of its own again (``make peers-sasrec``):
``bench/sasrec/sasrec.py`` runs in it and writes its lists to a file.
"""
