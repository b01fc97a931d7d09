"""The token that recipes/digits/endpoint.py adds to the shipped model: what it leaves as it was, and what raising it does."""

from __future__ import annotations

import math

import torch

import asr
from asr.models.folder import load_model
from asr.pretrained import resolve
from recipes.digits.endpoint import START, add_endpoint, raise_token


@torch.inference_mode()
def test_the_added_token_leaves_the_digits_as_they_were_and_can_be_raised(tmp_path):
    add_endpoint("digits", tmp_path / "start")
    raise_token(tmp_path / "start", tmp_path / "raised", 2.0)
    old, new, raised = (load_model(folder) for folder in (resolve("digits"), tmp_path / "start", tmp_path / "raised"))
    assert new.tokenizer.endpoint_id == new.tokenizer.vocab_size - 1 == old.tokenizer.vocab_size
    places = [new.tokenizer.pieces.index(piece) for piece in old.tokenizer.pieces]  # of the old symbols
    encoded = torch.randn(1, 6, old.model.encoder.dim, generator=torch.Generator().manual_seed(1))
    said = old.tokenizer.encode("nine three")
    before = old.model.joiner(encoded, old.model.predict(torch.tensor([said])))
    after, more = (
        loaded.model.joiner(encoded, loaded.model.predict(torch.tensor([loaded.tokenizer.encode("nine three")])))
        for loaded in (new, raised)
    )
    torch.testing.assert_close(after[..., places], before)
    odds = (more.softmax(-1)[..., -1].logit() - after.softmax(-1)[..., -1].logit()).exp()
    torch.testing.assert_close(odds, torch.full_like(odds, math.exp(2.0)), rtol=1e-3, atol=0)
    assert asr.load(str(tmp_path / "raised")).tokenizer.decode(range(12)).count(" ") == 9


def test_the_recipe_starts_from_that_folder():
    from asr.config import load_yaml

    recipe = load_yaml("recipes/digits/endpoint.yaml")
    assert recipe["tokens"]["path"] == recipe["init_from"]["path"] == str(START)
