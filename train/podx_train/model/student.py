"""A smaller PodT5 cut out of a trained one: fewer layers, narrower feed-forward layers, all else as it was.

Layers are taken evenly spaced from the first to the last ("shrink and fine-tune", Shleifer and Rush 2020).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from podx.errors import ConfigError
from podx.flags import flag_of, option
from podx_train.model.adapters import build_model
from podx_train.model.config import PodConfig
from podx_train.model.pod_t5 import PodT5

SHAPE_FIELDS = {"decoder_layers": "num_decoder_layers", "encoder_layers": "num_layers", "d_ff": "d_ff"}
"""What a student may have otherwise, as the backbone's configuration names it."""
_LAYER_FIELDS = {"encoder": "num_layers", "decoder": "num_decoder_layers"}
_LAYER_NAME = re.compile(r"^backbone\.(encoder|decoder)\.block\.(\d+)\.")
_FEED_FORWARD = re.compile(r"^(.*\.DenseReluDense\.)(wi|wi_0|wi_1|wo)\.weight$")


@dataclass(frozen=True)
class StudentShape:
    """What of a teacher's shape a student has otherwise; None: the same as the teacher."""

    decoder_layers: int | None = option(None, "Decoder layers of the student.", required=True)
    encoder_layers: int | None = option(None, "Its encoder layers; default: the teacher's.")
    d_ff: int | None = option(None, "Inner width of its feed-forward layers; default: the teacher's.")

    def config(self, teacher: PodConfig) -> PodConfig:
        """The student's configuration.

        Raises:
            ConfigError: the student would be larger than the teacher, or have nothing left.
        """
        backbone = dict(teacher.backbone)
        for field, name in SHAPE_FIELDS.items():
            value = getattr(self, field)
            if value is None:
                continue
            if not 1 <= value <= backbone[name]:
                flag = flag_of(self, field)
                raise ConfigError(f"{flag} must lie between 1 and the teacher's {backbone[name]}, not {value}")
            backbone[name] = value
        return dataclasses.replace(teacher, backbone=backbone)


def kept_layers(layers: int, kept: int) -> list[int]:
    """Numbers of the layers, from 0, that a stack of ``kept`` takes from one of ``layers``; the first is among them."""
    return [int(place) for place in np.round(np.linspace(0, layers - 1, kept))]


def kept_units(matrices: Mapping[str, Tensor], kept: int) -> Tensor:
    """Inner units of a feed-forward layer that a narrower one keeps, int64 [kept], ascending.

    Those with the largest product of norms of the weights that lead into the unit (both matrices where it is gated) and
    out of it.

    Args:
        matrices: ``wi`` (or ``wi_0`` and ``wi_1``) [inner, d] and ``wo`` [d, inner].
    """
    product = torch.linalg.vector_norm(matrices["wo"], dim=0)
    for name, matrix in matrices.items():
        if name != "wo":
            product = product * torch.linalg.vector_norm(matrix, dim=1)
    return torch.sort(torch.topk(product, kept).indices).values


@torch.no_grad()
def cut_out(teacher: PodT5, config: PodConfig) -> PodT5:
    """A student of shape ``config`` with the teacher's weights, in float32 on the CPU."""
    student = build_model(config)
    kept = {
        stack: kept_layers(teacher.config.backbone[name], config.backbone[name])
        for stack, name in _LAYER_FIELDS.items()
    }
    weights = {name: weight.detach().cpu() for name, weight in teacher.named_parameters()}
    for name, parameter in student.named_parameters():
        origin = _origin(name, kept)
        weight = weights[origin]
        same = weight.shape == parameter.shape
        parameter.copy_(weight if same else _narrowed(origin, weights, int(config.backbone["d_ff"])))
    return student


def _origin(name: str, kept: Mapping[str, list[int]]) -> str:
    """Name that a student's weight has in the teacher."""
    match = _LAYER_NAME.match(name)
    if match is None:
        return name
    stack, layer = match[1], int(match[2])
    return f"backbone.{stack}.block.{kept[stack][layer]}.{name[match.end() :]}"


def _narrowed(name: str, weights: Mapping[str, Tensor], d_ff: int) -> Tensor:
    """A feed-forward matrix of the teacher with the units that the student keeps."""
    match = _FEED_FORWARD.match(name)
    if match is None:
        raise ConfigError(f"the student's {name} has another shape than the teacher's: only layers and d_ff may differ")
    layer, part = match[1], match[2]
    whole = {p: weights[f"{layer}{p}.weight"] for p in ("wi", "wi_0", "wi_1", "wo") if f"{layer}{p}.weight" in weights}
    units = kept_units(whole, d_ff)
    return whole[part][:, units] if part == "wo" else whole[part][units]
