"""A small transducer with random weights that emits symbols: what the tests of decoding and streaming run."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from asr.features import Fbank, FeatureConfig
from asr.models.emformer import EmformerConfig
from asr.models.joiner import JoinerConfig
from asr.models.predictor import PredictorConfig
from asr.models.transducer import ModelConfig, Transducer
from asr.streaming.recognizer import Recognizer
from asr.tokens import Tokenizer

TEXTS = [
    "one two three four five six seven eight nine zero",
    "nothing is lost when a stream is cut into segments",
]


@lru_cache
def toy_tokenizer(endpoint: bool = False) -> Tokenizer:
    return Tokenizer.train(TEXTS, 48, "bpe", endpoint=endpoint)


@lru_cache
def toy_model(
    predictor: str = "lstm", emit: float = 0.25, memory: int = 2, endpoint: bool = False
) -> Transducer:
    """A model that emits at about a share ``emit`` of the encoder frames of `babble`."""
    torch.manual_seed(3)
    config = ModelConfig(
        vocab_size=toy_tokenizer(endpoint).vocab_size,
        encoder=EmformerConfig(
            dim=32, heads=2, ffn_dim=64, layers=3, chunk_ms=160, look_ahead_ms=40, left_context_ms=320,
            memory_size=memory,
        ),
        predictor=PredictorConfig(kind=predictor, embed_dim=24, hidden_dim=24, layers=2),
        joiner=JoinerConfig(dim=32),
    )  # fmt: skip
    model = Transducer(config).eval()
    features, lengths = Fbank()(torch.from_numpy(babble(8.0, seed=9))[None])
    model.encoder.set_statistics(features[0].mean(0), features[0].std(0))
    with torch.no_grad():
        model.joiner.output.weight *= 12.0  # far apart logits: ties between equal computations do not matter
        tokenizer = toy_tokenizer(endpoint)
        starts = [i for i in range(1, tokenizer.vocab_size) if tokenizer.is_word_start(i)]
        model.joiner.output.bias[starts] += 6.0  # words of a few pieces
        logits = model(features, lengths, torch.zeros(1, 0, dtype=torch.int64))[0][0, :, 0]  # (T', V)
        lead = logits[:, 1:].amax(1) - logits[:, 0]
        model.joiner.output.bias[0] += lead.quantile(1.0 - emit)
    return model


def toy_recognizer(**options: Any) -> Recognizer:
    own = {name: options.pop(name) for name in ("blank_penalty", "search", "fusion", "phrases") if name in options}
    return Recognizer(
        toy_model(**options),
        toy_tokenizer(options.get("endpoint", False)),
        FeatureConfig(),
        **own,
    )


def babble(seconds: float, seed: int = 0, rate: int = 16000) -> np.ndarray:
    """Syllables of noise and tones with gaps, (S,) float32: enough change for a random model to emit."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * rate)
    t = np.arange(samples) / rate
    audio = 0.002 * rng.normal(size=samples)
    at = 0.0
    while at < seconds:
        length = rng.uniform(0.05, 0.3)
        inside = (t >= at) & (t < at + length)
        pitch = rng.uniform(90, 3000)
        sound = np.sin(2 * np.pi * pitch * t[inside]) * rng.uniform(0.05, 0.4)
        audio[inside] += sound + rng.uniform(0.01, 0.2) * rng.normal(size=int(inside.sum()))
        at += length + rng.uniform(0.0, 0.25)
    return np.clip(audio, -1, 1).astype(np.float32)


def cut_words(transcript):
    """The words of a transcript as its segments have them: one that a segment's end cut in two is two."""
    return [word for segment in transcript.segments for word in segment.words]
