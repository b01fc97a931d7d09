"""Stand-ins for torchaudio's bundle, made here: random weights of its factory, pieces trained as its own were,
statistics of a real recording; and its pipeline around them."""

from __future__ import annotations

import dataclasses
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from torch import Tensor

from asr.importing.torchaudio_bundle import LIBRISPEECH, Asset, Bundle
from asr.models.emformer import EmformerConfig
from asr.models.joiner import JoinerConfig
from asr.models.predictor import PredictorConfig
from asr.models.transducer import ModelConfig

SMALL = ModelConfig(
    vocab_size=301,
    encoder=EmformerConfig(dim=64, heads=4, ffn_dim=128, layers=3, left_context_ms=320),
    predictor=PredictorConfig(embed_dim=48, hidden_dim=48, layers=2),
    joiner=JoinerConfig(dim=96),
)


def sentences(count: int = 3000, seed: int = 1) -> list[str]:
    """Babble with enough syllables for thousands of BPE pieces; always the same."""
    draw = random.Random(seed)
    syllables = [a + b + c for a in "bdfgklmnprstvwz" for b in "aeiou" for c in ("", "n", "r", "st", "'s")]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(5000)]
    return [" ".join(draw.choices(words, k=10)) for _ in range(count)]


def pieces(size: int) -> bytes:
    """A SentencePiece model in the layout of torchaudio's: <s> 0, <pad> 1, </s> 2, <unk> 3."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences()), model_writer=model, vocab_size=size, model_type="bpe",
        character_coverage=1.0, bos_id=0, pad_id=1, eos_id=2, unk_id=3, minloglevel=2, num_threads=1,
    )  # fmt: skip
    return model.getvalue()


def statistics() -> tuple[list[float], list[float]]:
    """Mean and inverse standard deviation of 80 bins, of the size that speech has."""
    bins = np.arange(80)
    return (16.0 + 3.0 * np.cos(bins / 20.0)).tolist(), (0.31 + 0.03 * np.cos(bins / 9.0)).tolist()


def small_bundle() -> Bundle:
    """The description of a small model in torchaudio's form."""
    assets = {name: Asset(getattr(LIBRISPEECH, name).path) for name in ("weights", "statistics", "pieces")}
    return dataclasses.replace(LIBRISPEECH, model=SMALL, **assets)


def factory(config: ModelConfig) -> Any:
    """torchaudio's model of the same shape, with the random weights of its factory."""
    from torchaudio.models.rnnt import emformer_rnnt_model

    encoder, predictor = config.encoder, config.predictor
    return emformer_rnnt_model(
        input_dim=80,
        encoding_dim=config.joiner.dim,
        num_symbols=config.vocab_size,
        segment_length=4 * encoder.chunk,
        right_context_length=4 * encoder.look_ahead,
        time_reduction_input_dim=encoder.dim // 4,
        time_reduction_stride=4,
        transformer_num_heads=encoder.heads,
        transformer_ffn_dim=encoder.ffn_dim,
        transformer_num_layers=encoder.layers,
        transformer_dropout=encoder.dropout,
        transformer_activation=encoder.activation,
        transformer_left_context_length=encoder.left_context,
        transformer_max_memory_size=encoder.memory_size,
        transformer_weight_init_scale_strategy=encoder.init_scale,
        transformer_tanh_on_mem=True,
        symbol_embedding_dim=predictor.embed_dim,
        num_lstm_layers=predictor.layers,
        lstm_layer_norm=True,
        lstm_layer_norm_epsilon=1e-3,
        lstm_dropout=predictor.dropout,
    ).eval()


def speaking(model: Any, symbols: float = 1.5) -> Any:
    """Make random weights speak in answer to the audio: large weights in the joiner, a blank likely enough that only
    some frames emit, and special pieces that are never emitted, as training makes what it never sees."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(7)
        weight = model.joiner.linear.weight
        weight.copy_(torch.randn(weight.shape, generator=generator) * symbols / weight.size(1) ** 0.5)
        model.joiner.linear.bias.zero_()
        model.joiner.linear.bias[:4] = -20.0
        model.joiner.linear.bias[-1] = 2.0 * symbols
    return model


def write_files(bundle: Bundle, model: Any, folder: Path) -> Path:
    """The three files of a bundle, in the server's folders; returns ``folder``."""
    for asset in bundle.assets:
        (folder / asset.path).parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / bundle.weights.path)
    (folder / bundle.pieces.path).write_bytes(pieces(bundle.model.vocab_size - 1))
    mean, istd = statistics()
    (folder / bundle.statistics.path).write_text(json.dumps({"mean": mean, "invstddev": istd}))
    return folder


def extractor(bundle: Bundle, folder: Path, streaming: bool = False) -> Any:
    """torchaudio's own feature extractor on these files."""
    from torchaudio.pipelines import rnnt_pipeline

    rnnt = rnnt_pipeline.RNNTBundle("", lambda: None, "", "", 4, 0, 16000, 400, 80, 160, 16, 4)
    rnnt._global_stats_path = str(folder / bundle.statistics.path)
    download, rnnt_pipeline.torchaudio.utils._download_asset = rnnt_pipeline.torchaudio.utils._download_asset, str
    try:
        return rnnt.get_streaming_feature_extractor() if streaming else rnnt.get_feature_extractor()
    finally:
        rnnt_pipeline.torchaudio.utils._download_asset = download


def spell(bundle: Bundle, folder: Path, tokens: list[int]) -> str:
    """The text of tokens by torchaudio's own token processor, which leaves the first, the blank, out."""
    from torchaudio.pipelines.rnnt_pipeline import _SentencePieceTokenProcessor

    blank = bundle.model.vocab_size - 1
    return str(_SentencePieceTokenProcessor(str(folder / bundle.pieces.path))([blank, *tokens]))


def normalise(features: Tensor) -> Tensor:
    """(T, 80) raw features -> what torchaudio's extractors give."""
    mean, istd = statistics()
    return (features - torch.tensor(mean)) * torch.tensor(istd)


def greedy(model: Any, encoded: Tensor) -> tuple[list[int], list[int]]:
    """torchaudio's own predictor and joiner, the best symbol of each frame of encoded (1, T, J), blank last: tokens
    and their frames."""
    one = torch.tensor([1])
    blank = model.joiner.linear.out_features - 1
    predicted, _, state = model.predict(torch.tensor([[blank]]), one, None)
    tokens: list[int] = []
    frames: list[int] = []
    for t in range(encoded.size(1)):
        logits = model.join(encoded[:, t : t + 1], one, predicted, one)[0]
        token = int(logits[0, 0, 0].argmax())
        if token != blank:
            tokens.append(token)
            frames.append(t)
            predicted, _, state = model.predict(torch.tensor([[token]]), one, state)
    return tokens, frames
