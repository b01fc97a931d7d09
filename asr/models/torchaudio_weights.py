"""Weights of torchaudio's Emformer RNN-T, renamed for our modules. Needs no torchaudio: it maps state dicts.

torchaudio's blank is the last symbol, ours is symbol 0: rows of the embedding and of the joiner's output are
permuted so that our symbol i+1 is torchaudio's symbol i (`asr.importing.pieces` does the same to the tokens).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from asr.errors import UserError

LAYER_NAMES = {
    "layer_norm_input": "norm_in",
    "attention.out_proj": "out",
    "pos_ff.0": "norm_ffn",
    "pos_ff.1": "ffn_in",
    "pos_ff.4": "ffn_out",
    "layer_norm_output": "norm_out",
}
TRANSDUCER_NAMES = {
    "transcriber.input_linear": "encoder.input_linear",
    "transcriber.output_linear": "joiner.encoder_linear",
    "transcriber.layer_norm": "joiner.encoder_norm",
    "predictor.embedding": "predictor.embedding",
    "predictor.input_layer_norm": "predictor.norm",
    "predictor.linear": "joiner.predictor_linear",
    "predictor.output_layer_norm": "joiner.predictor_norm",
    "joiner.linear": "joiner.output",
}


def blank_first(rows: Tensor) -> Tensor:
    """(V, …) rows with the blank last -> the same rows with the blank first."""
    return torch.cat([rows[-1:], rows[:-1]])


def emformer_layers_from_torchaudio(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of ``torchaudio.models.Emformer`` -> the ``layers.*`` entries of our ``Emformer``.

    Query and key|value projections become one matrix. Raises UserError on an unknown entry.
    """
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        head, _, rest = name.partition("emformer_layers.")
        index, _, rest = rest.partition(".")
        module, _, kind = rest.rpartition(".")
        if head or not index.isdigit():
            raise UserError(f"unknown entry '{name}' in the torchaudio Emformer weights")
        if module == "attention.emb_to_query":
            key_value = state.get(name.replace("emb_to_query", "emb_to_key_value"))
            if key_value is None:
                raise UserError(f"the torchaudio Emformer weights have '{name}' without its emb_to_key_value")
            result[f"layers.{index}.qkv.{kind}"] = torch.cat([value, key_value])
        elif module in LAYER_NAMES:
            result[f"layers.{index}.{LAYER_NAMES[module]}.{kind}"] = value
        elif module != "attention.emb_to_key_value":
            raise UserError(f"unknown entry '{name}' in the torchaudio Emformer weights")
    return result


def transducer_from_torchaudio(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of ``torchaudio.models.emformer_rnnt_base`` -> state dict of our ``Transducer`` of the same
    shape.

    ``encoder.mean`` and ``encoder.istd`` are not in it (load with ``strict=False``, or add them): torchaudio
    normalises outside its model. Raises UserError on an unknown entry.
    """
    result: dict[str, Tensor] = {}
    transformer = "transcriber.transformer."
    lstm = "predictor.lstm_layers."
    layers = {name.removeprefix(transformer): v for name, v in state.items() if name.startswith(transformer)}
    for name, value in emformer_layers_from_torchaudio(layers).items():
        result[f"encoder.{name}"] = value
    for name, value in state.items():
        if name.startswith(transformer):
            continue
        if name.startswith(lstm):
            result["predictor.layers." + name.removeprefix(lstm)] = value
            continue
        module, _, kind = name.rpartition(".")
        if module not in TRANSDUCER_NAMES:
            raise UserError(f"unknown entry '{name}' in the torchaudio transducer weights")
        if module in ("predictor.embedding", "joiner.linear"):
            value = blank_first(value)
        result[f"{TRANSDUCER_NAMES[module]}.{kind}"] = value
    return result
