"""Prompt vectors of a user, made from similar users (PeaPOD, Ramos, Wu and Lipani).

User embeddings are given and frozen. The embedding of the target user asks (Q), those of its most similar users answer
(K, V): scaled dot-product attention in several heads, nothing around it. The heads side by side go through one linear
layer to P vectors, which stand between the task's prompt vectors and the text.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from podx.errors import CheckpointError
from podx_train.model.config import PodConfig

EMBEDDINGS, NEIGHBOURS, KNOWN = "embeddings", "neighbours", "known"
FROZEN = (EMBEDDINGS, NEIGHBOURS, KNOWN)
"""Arrays that are given, not trained; see :class:`UserPrompts`."""

BLOCK_USERS = 1024
MEAN_SAMPLE = 256


class UserPrompts(nn.Module):
    """User numbers → prompt vectors.

    With ``heads`` 0 there is no attention: a multi-layer perceptron reads the user's own embedding, Linear(width →
    width) and ReLU in place of it, then the same last layer.

    A user without an embedding, and user 0, has the mean of the vectors of all users who have one. In training mode
    that mean is estimated from :data:`MEAN_SAMPLE` random users, with gradients; its draw follows torch's generator.

    Attributes:
        embeddings: float32 [users + 1, width], row u of user number u; row 0 is unused.
        neighbours: int32 [users + 1, n], user numbers, see :func:`podx_train.users.neighbours.nearest_users`.
        known: bool [users + 1], who has an embedding.

    The three are frozen buffers, which no trainer state holds; :meth:`fill` sets them.
    """

    embeddings: Tensor
    neighbours: Tensor
    known: Tensor

    def __init__(self, config: PodConfig, model_width: int) -> None:
        super().__init__()
        rows, width = config.user_count + 1, config.user_width
        self.count, self.heads, self._model_width = config.user_prompts, config.user_heads, model_width
        near = torch.zeros(rows, config.neighbours, dtype=torch.int32)
        self.register_buffer(EMBEDDINGS, torch.zeros(rows, width), persistent=False)
        self.register_buffer(NEIGHBOURS, near, persistent=False)
        self.register_buffer(KNOWN, torch.zeros(rows, dtype=torch.bool), persistent=False)
        if self.heads:
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        else:
            self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, self.count * model_width)
        self._mean: tuple[object, Tensor] | None = None

    @classmethod
    def of(cls, config: PodConfig, model_width: int) -> UserPrompts | None:
        """What a configuration asks for; None where users have no vectors of their own."""
        return cls(config, model_width) if config.user_prompts else None

    @torch.no_grad()
    def fill(self, arrays: Mapping[str, Tensor], where: object) -> None:
        """Set the frozen arrays, by :data:`FROZEN`.

        Raises:
            CheckpointError: one is missing or of another shape; ``where`` is what to name.
        """
        for name in FROZEN:
            buffer, given = getattr(self, name), arrays.get(name)
            if given is None or given.shape != buffer.shape or given.dtype != buffer.dtype:
                raise CheckpointError(f"{where} does not fit the checkpoint's configuration ({name}): copy it again")
            buffer.copy_(given)
        self._mean = None

    def train(self, mode: bool = True) -> UserPrompts:
        """As every module; weights may change from here on, so the mean is forgotten."""
        self._mean = None
        super().train(mode)
        return self

    def forward(self, users: Tensor) -> Tensor:
        """Prompt vectors, [batch, P, d].

        Args:
            users: int64 [batch], user numbers, 0 for one that is not known.
        """
        vectors = self._of_known(users)
        absent = ~self.known[users]
        if not bool(absent.any()):
            return vectors
        return torch.where(absent[:, None, None], self.mean().to(vectors.dtype), vectors)

    def mean(self) -> Tensor:
        """The vectors of a user without an embedding, [P, d]: the mean over all who have one."""
        everyone = self.known.nonzero()[:, 0]
        if not len(everyone):
            raise CheckpointError("no user has an embedding yet: fill the model's user embeddings first")
        if self.training:
            chosen = torch.randint(len(everyone), (min(MEAN_SAMPLE, len(everyone)),), device="cpu")
            return self._of_known(everyone[chosen.to(everyone.device)]).mean(dim=0)
        state = [(weight._version, weight.data_ptr()) for weight in self.parameters()]
        if self._mean is None or self._mean[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                blocks = [self._of_known(block).double().sum(dim=0) for block in everyone.split(BLOCK_USERS)]
                self._mean = state, (torch.stack(blocks).sum(dim=0) / len(everyone)).float()
        return self._mean[1]

    @torch.no_grad()
    def table(self) -> Tensor:
        """The vectors of every user by number, float32 [users + 1, P, d]; row 0 is :meth:`mean`."""
        everyone = torch.arange(len(self.known), device=self.known.device)
        return torch.cat([self(block).float().cpu() for block in everyone.split(BLOCK_USERS)])

    def _of_known(self, users: Tensor) -> Tensor:
        """Vectors of users who have an embedding, [batch, P, d]; of others some that mean nothing."""
        embeddings = self.embeddings[users]
        context = self._attend(embeddings, users) if self.heads else functional.relu(self.hidden(embeddings))
        vectors: Tensor = self.out(context).view(len(users), self.count, self._model_width)
        return vectors

    def _attend(self, embeddings: Tensor, users: Tensor) -> Tensor:
        """The heads side by side, [batch, width]."""
        near = self.embeddings[self.neighbours[users].long()]  # [batch, n, width]
        query = self._split(self.query(embeddings)[:, None])
        mixed = functional.scaled_dot_product_attention(
            query, self._split(self.key(near)), self._split(self.value(near))
        )
        return mixed.transpose(1, 2).reshape(embeddings.shape)

    def _split(self, rows: Tensor) -> Tensor:
        """[batch, rows, width] → [batch, heads, rows, width / heads]."""
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)
