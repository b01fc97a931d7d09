"""Log-Mel filterbank: the numbers kaldi, lhotse, icefall and sherpa-onnx compute, batched and streaming.

Legend: B streams or utterances, S samples (16 kHz), T feature frames of 10 ms, F = 80 Mel bins.

The definition of our models (``kind="kaldi"``): 25 ms povey window, 10 ms shift, edges by reflection (``snip_edges``
False), DC removal and pre-emphasis per frame, 512-point power spectrum, 80 triangles between 20 and 7600 Hz
in the Mel domain, natural logarithm with floor FLT_EPSILON, samples in [-1, 1]. Frame t covers samples ``160
t - 120 … 160 t + 279``, so a stream of S samples has ``(S + 80) // 160`` frames. Equal to kaldi-native-fbank
(which sherpa-onnx runs) and to ``torchaudio.compliance.kaldi.fbank(num_mel_bins=80, dither=0,
snip_edges=False, low_freq=20, high_freq=-400, energy_floor=0)`` up to the rounding of single precision.

``kind="torchaudio_rnnt"``, for the imported public model only, is the offline extractor of torchaudio's RNN-T
pipelines without its normalisation, which lives in the model: 400-point power spectrum under a periodic Hann
window, 80 triangles between 0 and 8000 Hz, and a logarithm with linear parts (`piecewise_log`). Frame t is
centred: it covers samples ``160 t - 200 … 160 t + 199``, mirrored at both ends without repeating the sample at
the edge, so a stream of S > 0 samples has ``S // 160 + 1`` frames, 5 ms earlier than kaldi's. torchaudio's own
*streaming* extractor treats every window of 200 ms as if it were a whole recording, so that three of its twenty
frames (the first, second and last) see mirrored samples in the middle of speech: it disagrees with the extractor
the model was trained with, and is not imitated. Here a stream gets the frames of the whole recording.

No ``from __future__ import annotations`` here: ``torch.jit.script`` reads the annotations.
"""

import dataclasses
import hashlib
import json
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.jit import Final

from asr.errors import UserError

SAMPLE_RATE = 16000  # Hz
FRAME_SHIFT = 160  # samples
FRAME_LENGTH = 400  # samples
NUM_MEL_BINS = 80
FRAME_MS = 10  # a feature frame
SUBSAMPLING = 4  # feature frames in an encoder frame
ENCODER_FRAME_MS = 40

FFT_LENGTH = 512
LOW_HZ, HIGH_HZ = 20.0, 7600.0
PREEMPHASIS = 0.97
FLOOR = 1.1920928955078125e-07  # FLT_EPSILON; its logarithm is -15.9424, what silence gives

TORCHAUDIO_FFT_LENGTH = 400  # points, of torchaudio_rnnt
TORCHAUDIO_HIGH_HZ = 8000.0
TORCHAUDIO_GAIN = 32767.0**2  # to powers of int16 samples: 10^(dB / 20) of its 2 * 20 * log10(32767) dB

KINDS = ("kaldi", "torchaudio_rnnt")


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
    """Which feature definition a model was trained with."""

    kind: str = "kaldi"  # "kaldi", or "torchaudio_rnnt" for the imported public model only

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"unknown features.kind {self.kind!r}: choose one of {', '.join(KINDS)}")


def feature_definition(config: FeatureConfig) -> dict:
    """The whole definition as plain values; two models with equal definitions see equal numbers."""
    common: dict[str, object] = {
        "kind": config.kind,
        "sample_rate": SAMPLE_RATE,
        "sample_range": 1.0,
        "frame_shift": FRAME_SHIFT,
        "frame_length": FRAME_LENGTH,
        "dither": 0.0,
        "spectrum": "power",
        "mel_bins": NUM_MEL_BINS,
        "mel_norm": None,
        "cmvn": None,
    }
    if config.kind == "torchaudio_rnnt":
        return common | {
            "centred": True,
            "edges": "mirrored, edge sample once",
            "window": "hann, periodic",
            "fft": TORCHAUDIO_FFT_LENGTH,
            "mel_scale": "htk-log10",
            "low_hz": 0.0,
            "high_hz": TORCHAUDIO_HIGH_HZ,
            "gain": TORCHAUDIO_GAIN,
            "log": "piecewise, e",
        }
    return common | {
        "snip_edges": False,
        "remove_dc": True,
        "preemphasis": PREEMPHASIS,
        "window": "povey",
        "fft": FFT_LENGTH,
        "mel_scale": "htk-ln",
        "low_hz": LOW_HZ,
        "high_hz": HIGH_HZ,
        "log": "natural",
        "floor": "FLT_EPSILON",
    }


def feature_hash(config: FeatureConfig) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the feature definition; stored in model folders."""
    text = json.dumps(feature_definition(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def num_frames(samples: int, kind: str = "kaldi") -> int:
    """Feature frames (10 ms) of a whole stream of ``samples`` samples."""
    if kind == "torchaudio_rnnt":
        return samples // FRAME_SHIFT + 1 if samples else 0
    return (samples + FRAME_SHIFT // 2) // FRAME_SHIFT


def encoder_frames(frames: Any) -> Any:
    """Encoder frames (40 ms) of feature frames (10 ms), a number or a tensor of integers: ceil(frames / 4)."""
    return -(-frames // SUBSAMPLING)


def povey_window() -> Tensor:
    """(400,) float64: a Hann window to the power 0.85, symmetric, zero at both ends."""
    n = torch.arange(FRAME_LENGTH, dtype=torch.float64)
    return (0.5 - 0.5 * torch.cos(2 * math.pi * n / (FRAME_LENGTH - 1))).pow(0.85)


def mel_matrix() -> Tensor:
    """(256, 80) float64: triangles over the power-spectrum bins, in the Mel domain, not normalised."""
    low, high = (1127.0 * math.log1p(hz / 700.0) for hz in (LOW_HZ, HIGH_HZ))
    edges = low + torch.arange(NUM_MEL_BINS + 2, dtype=torch.float64) * (high - low) / (NUM_MEL_BINS + 1)
    hertz = torch.arange(FFT_LENGTH // 2, dtype=torch.float64) * (SAMPLE_RATE / FFT_LENGTH)
    bins = 1127.0 * torch.log1p(hertz / 700.0)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0.0)


def torchaudio_mel_matrix() -> Tensor:
    """(201, 80) float32: ``torchaudio.functional.melscale_fbanks(201, 0.0, 8000.0, 80, 16000)``, bit for bit.

    Single precision throughout, as there: a weight near the foot of a triangle is a small difference of large
    frequencies, and computed more exactly it would be another.
    """
    hertz = torch.linspace(0, SAMPLE_RATE // 2, TORCHAUDIO_FFT_LENGTH // 2 + 1)
    mels = torch.linspace(0.0, 2595.0 * math.log10(1.0 + TORCHAUDIO_HIGH_HZ / 700.0), NUM_MEL_BINS + 2)
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    distance = edges[None] - hertz[:, None]  # (201, 82), from every bin to every edge
    width = edges[1:] - edges[:-1]
    return torch.minimum(-distance[:, :-2] / width[:-1], distance[:, 2:] / width[1:]).clamp(min=0.0)


def piecewise_log(x: Tensor) -> Tensor:
    """torchaudio's ``_piecewise_linear_log``: x / e up to e, log(x) / e up to e^e, log(x) above.

    The middle part is an accident of torchaudio's code, which divides what is at most e *after* the logarithm has
    been put in place; the public model was trained with it.
    """
    y = torch.where(x > math.e, x.log(), x)
    return torch.where(y > math.e, y, y / math.e)


class FbankState(NamedTuple):
    """What B streams that started together carry from block to block."""

    carry: Tensor  # (B, C) samples that later frames need, from the first of frame `frames` on; batch axis 0
    samples: int  # received so far, per stream
    frames: int  # given out so far, per stream


class Fbank(nn.Module):
    """Filterbank with two doors, whole utterances (``forward``) and streams (``step``, ``finish``), over the
    same arithmetic.

    Both doors give the same bits on a CPU, for any block size. Runs on any device, is scriptable, and is not
    affected by autocast or
    TF32: the Mel product is done in double precision.
    """

    # TorchScript reads constants from the class or the object, not from the file.
    shift: Final[int] = FRAME_SHIFT
    length: Final[int] = FRAME_LENGTH
    mels: Final[int] = NUM_MEL_BINS
    tile: Final[int] = 8  # rows of one matrix product, see _mel
    preemphasis: Final[float] = PREEMPHASIS
    floor: Final[float] = FLOOR
    gain: Final[float] = TORCHAUDIO_GAIN
    kaldi: Final[bool]  # else torchaudio_rnnt
    fft: Final[int]
    bins: Final[int]  # of the spectrum that have a weight
    edge: Final[int]  # times that mirroring repeats the sample at the edge beyond itself: 1 or 0
    left: Final[int]  # samples of frame 0 that lie before the stream
    right: Final[int]  # most samples a frame can reach beyond the end
    beyond: Final[int]  # samples after its 160th that the first frame needs
    first: Final[int]  # samples needed before frame 0 is complete
    rounding: Final[int]  # frames of S samples: (S + rounding) // 160
    window: Tensor
    dc: Tensor
    mel: Tensor

    def __init__(self, config: FeatureConfig = FeatureConfig()) -> None:
        super().__init__()
        kaldi = config.kind == "kaldi"
        window = povey_window().float() if kaldi else torch.hann_window(FRAME_LENGTH)
        self.kaldi = kaldi
        self.fft = FFT_LENGTH if kaldi else TORCHAUDIO_FFT_LENGTH
        self.bins = FFT_LENGTH // 2 if kaldi else TORCHAUDIO_FFT_LENGTH // 2 + 1  # kaldi's last bin has weight 0
        self.edge = 1 if kaldi else 0
        self.rounding = FRAME_SHIFT // 2 if kaldi else FRAME_SHIFT
        self.left = (FRAME_LENGTH - FRAME_SHIFT) // 2 if kaldi else FRAME_LENGTH // 2
        self.right = FRAME_LENGTH // 2
        self.beyond = FRAME_LENGTH - FRAME_SHIFT - self.left
        # Frame 0 begins with mirrored samples: the farthest of them may come later than its own last sample.
        self.first = max(FRAME_LENGTH - self.left, self.left + 1 - self.edge)
        self.register_buffer("window", window, persistent=False)
        # DC removal after pre-emphasis: (f[n] - m) - 0.97 (f[n-1] - m) = (f[n] - 0.97 f[n-1]) - 0.03 m. The
        # window is zero at n = 0, so the special first sample of a frame (pre-emphasised with itself) never
        # counts, and pre-emphasis can be done on the signal.
        self.register_buffer("dc", (povey_window() * -(1.0 - PREEMPHASIS)).float(), persistent=False)
        self.register_buffer("mel", mel_matrix().float() if kaldi else torchaudio_mel_matrix(), persistent=False)

    def forward(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features of whole utterances; each is what it gives alone, reflected at its own end.

        Args:
            audio: (B, S) float samples in [-1, 1].
            lengths: (B,) int64 samples; all S when left out.

        Returns:
            (B, T, 80) float32 features with T = `num_frames` of S, zero beyond an utterance's end, and (B,)
            int64 frames.

        Raises:
            ValueError: a length beyond S, or audio that is not (B, S).
        """
        if audio.dim() != 2:
            raise ValueError(f"audio must be (B, S), not of {audio.dim()} dimensions")
        B, S = audio.shape
        if lengths is None:
            lengths = torch.full((B,), S, dtype=torch.long, device=audio.device)
        elif (
            lengths.device.type == "cpu" and B > 0 and int(lengths.max()) > S
        ):  # no such check on a GPU: it would wait for it
            raise ValueError(f"a length of {int(lengths.max())} samples in a batch of {S}")
        lengths = lengths.to(audio.device)
        frames = torch.div(lengths + self.rounding, self.shift, rounding_mode="floor") * (lengths > 0)
        T = (S + self.rounding) // self.shift if S > 0 else 0
        if B == 0 or T == 0:
            return torch.zeros(B, T, self.mels, device=audio.device), frames
        audio = audio.to(torch.float32)
        # Reflection has period 2 S: … 1 0 | 0 1 … S-1 | S-1 S-2 …, or 2 S - 2 if the edges are not repeated;
        # utterances shorter than the reach are reflected again and again.
        length = lengths.clamp(min=1)[:, None]
        left = self._reflect(
            torch.arange(-self.left, 0, device=audio.device)[None].expand(B, self.left), length
        )
        tail = length + torch.arange(self.right, device=audio.device)[None]
        padded = torch.cat([audio.gather(1, left), audio, audio.new_zeros(B, self.right)], dim=1)
        padded = padded.scatter(1, tail + self.left, audio.gather(1, self._reflect(tail, length)))
        y = self._frames(padded, T)
        outside = torch.arange(T, device=audio.device)[None] >= frames[:, None]
        return y.masked_fill(outside[:, :, None], 0.0), frames

    @torch.jit.export
    def initial_state(self, batch: int) -> FbankState:
        """State of ``batch`` streams that start together."""
        return FbankState(torch.zeros(batch, 0, device=self.window.device), 0, 0)

    @torch.jit.export
    def step(self, audio: Tensor, state: FbankState) -> tuple[Tensor, FbankState]:
        """Frames that the next (B, S') samples complete; S' may be anything, 0 and 1 included.

        Frame t is given out as soon as its last sample has arrived, 160 t + 279 (torchaudio_rnnt: 160 t + 199, and
        one sample later for t = 0): (B, T', 80), T' often 0.
        """
        carry = torch.cat([state.carry, audio.to(torch.float32)], dim=1)
        samples = state.samples + audio.size(1)
        if samples < self.first:
            return audio.new_zeros(audio.size(0), 0, self.mels, dtype=torch.float32), FbankState(
                carry, samples, 0
            )
        if state.frames == 0:
            skip = 1 - self.edge
            carry = torch.cat([carry[:, skip : skip + self.left].flip(1), carry], dim=1)
        new = (samples - self.beyond) // self.shift - state.frames
        y = self._frames(carry, new)
        return y, FbankState(carry[:, new * self.shift :], samples, state.frames + new)

    @torch.jit.export
    def finish(self, state: FbankState) -> Tensor:
        """The last frames (B, T', 80), completed by reflection at the end of the stream."""
        if state.frames == 0:
            return self.forward(state.carry, None)[0]
        new = (state.samples + self.rounding) // self.shift - state.frames
        end = state.carry.size(1) - 1 + self.edge  # the carry holds 240 samples or more from frame 1 on
        tail = state.carry[:, end - self.right : end].flip(1)
        return self._frames(torch.cat([state.carry, tail], dim=1), new)

    def _reflect(self, index: Tensor, length: Tensor) -> Tensor:
        period = 2 * (length - 1 + self.edge)
        index = torch.remainder(index, period.clamp(min=1))  # period 0: a single sample, not repeated
        return torch.minimum(index, period - self.edge - index)

    def _frames(self, audio: Tensor, T: int) -> Tensor:
        """(B, S') samples, the first of them the first of frame 0 -> (B, T, 80)."""
        B = audio.size(0)
        if T <= 0:
            return torch.zeros(B, 0, self.mels, device=audio.device)
        audio = audio[:, : (T - 1) * self.shift + self.length]
        if self.kaldi:
            mean = audio.unfold(1, self.length, self.shift).mean(dim=2, keepdim=True)
            sharp = nn.functional.pad(audio[:, 1:] - self.preemphasis * audio[:, :-1], (1, 0))
            frames = sharp.unfold(1, self.length, self.shift) * self.window + mean * self.dc
        else:
            frames = audio.unfold(1, self.length, self.shift) * self.window
        spectrum = torch.fft.rfft(frames, n=self.fft)[:, :, : self.bins]
        power = spectrum.real.square() + spectrum.imag.square()
        y = self._mel(power.reshape(B * T, self.bins))
        y = y.clamp(min=self.floor).log() if self.kaldi else piecewise_log(y * self.gain)
        return y.view(B, T, self.mels)

    def _mel(self, power: Tensor) -> Tensor:
        """(N, bins) -> (N, 80).

        A matrix product's order of summation depends on its number of rows: tiles of one size make a frame's
        bits independent of the frames around it. Double precision keeps autocast and TF32 out.
        """
        dtype = torch.float32 if power.device.type == "mps" else torch.float64
        N = power.size(0)
        tiles = (N + self.tile - 1) // self.tile
        rows = nn.functional.pad(power, (0, 0, 0, tiles * self.tile - N)).to(dtype)
        weights = self.mel.to(dtype).expand(tiles, self.bins, self.mels)
        y = torch.bmm(rows.view(tiles, self.tile, self.bins), weights)
        return y.view(tiles * self.tile, self.mels)[:N].to(torch.float32)


class StreamingFbank:
    """Features of one stream, block by block: what a session holds. Streams may share the module."""

    def __init__(self, fbank: Fbank | None = None) -> None:
        self.fbank = Fbank() if fbank is None else fbank
        self.state = self.fbank.initial_state(1)

    def accept(self, samples: Tensor) -> Tensor:
        """(S',) samples in [-1, 1] -> (T', 80) frames they complete."""
        with torch.no_grad():
            y, self.state = self.fbank.step(samples.to(self.state.carry.device)[None], self.state)
        return y[0]

    def finish(self) -> Tensor:
        """(T', 80) last frames; afterwards the object is ready for another stream."""
        with torch.no_grad():
            y = self.fbank.finish(self.state)
        self.state = self.fbank.initial_state(1)
        return y[0]
