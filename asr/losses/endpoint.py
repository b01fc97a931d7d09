"""Early and late penalty of the endpoint token, an edit of the transducer lattice.

The edge that emits the endpoint token at frame t loses

    max(0, early * (t_ref - t)) + max(0, late * (t - t_ref - t_buf))    nats,

t_ref the frame of the true end of speech, t_buf a span without penalty behind it. The model's probabilities and the other
labels' edges are as they were: training moves the token to where its paths still score, and a model that says it late
has to be very sure. Source: Li et al. 2020, "Towards fast and accurate streaming end-to-end ASR" (arXiv 2004.11544), of
one talker; Lu et al. 2022 (arXiv 2201.09979) use it for each channel of a multi-talker transducer.

Shapes: B utterances, T encoder frames (40 ms), U labels, R cells a frame (U + 1, or the band).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NONE = -1  # in `EndpointPenalty.frames`: this label is no endpoint token


class EndpointPenalty(NamedTuple):
    """What a lattice is told.

    Attributes:
        frames: (B, U) integers: t_ref of each label that is an endpoint token (counted from 0), negative for all others.
            An utterance may hold several, one a turn.
        early, late: nats a frame.
        buffer: t_buf in frames.
    """

    frames: Tensor
    early: float
    late: float
    buffer: float = 0.0

    def scores(self, frames: int, starts: Tensor | None = None, width: int | None = None) -> Tensor:
        """What is added to the label edges of the cells (t, u), float64 of (B, T, R); at most 0.

        frames: T. starts (B, T) int64 and width R: the band; None: the full lattice, R = U + 1.
        """
        if self.frames.dim() != 2:
            raise ValueError(f"frames of endpoints must be (B, U), found shape {tuple(self.frames.shape)}")
        reference = F.pad(self.frames, (0, 1), value=NONE)  # the last position has no label
        device = reference.device
        t = torch.arange(frames, device=device).view(1, frames, 1)
        if starts is None:
            reference = reference.unsqueeze(1)  # (B, 1, U + 1)
        else:
            assert width is not None
            cells = starts.unsqueeze(2) + torch.arange(width, device=device)
            reference = reference.gather(1, cells.flatten(1)).view(cells.shape)
        late_by = (t - reference).to(torch.float64)
        penalty = self.early * (-late_by).clamp(min=0.0) + self.late * (late_by - self.buffer).clamp(min=0.0)
        return torch.where(reference >= 0, -penalty, 0.0)


def check_endpoint(endpoint: EndpointPenalty | None, targets: Tensor) -> EndpointPenalty | None:
    """The penalty on the device of ``targets`` (B, U); None where there is nothing to do.

    Raises:
        ValueError: another shape, or penalties below 0.
    """
    if endpoint is None or not (endpoint.early or endpoint.late):
        return None
    if endpoint.frames.shape != targets.shape:
        raise ValueError(
            f"frames of endpoints have shape {tuple(endpoint.frames.shape)}, targets {tuple(targets.shape)}"
        )
    if endpoint.frames.is_floating_point():
        raise ValueError(f"frames of endpoints must be integers, not {endpoint.frames.dtype}")
    if not (endpoint.early >= 0 and endpoint.late >= 0 and endpoint.buffer >= 0):
        raise ValueError(f"endpoint penalties must not be negative: {endpoint.early}, {endpoint.late}, {endpoint.buffer}")
    return endpoint._replace(frames=endpoint.frames.to(targets.device))
