"""The language model: both doors give the same numbers, and its folder is checked."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from asr.config import dump_yaml, load_yaml
from asr.errors import UserError
from asr.features import FeatureConfig
from asr.models.folder import save_model
from asr.models.lm import LanguageModel, LanguageModelConfig, load_lm, save_lm
from asr.tokens import Tokenizer
from tests.toy import toy_model, toy_tokenizer

CONFIGS = {
    "tied, projected": LanguageModelConfig(6, 10, 2, 0.1, True),
    "tied, same width": LanguageModelConfig(8, 8, 1, 0.0, True),
    "untied": LanguageModelConfig(6, 10, 2, 0.1, False),
}


def make(name: str = "tied, projected", vocab_size: int = 9) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(vocab_size, CONFIGS[name]).eval()
    torch.nn.init.normal_(model.bias)
    return model


def tokenizer(words: str = "low mid high") -> Tokenizer:
    return Tokenizer.train([words] * 3, 4, "word")


@pytest.mark.parametrize("name", CONFIGS)
def test_step_gives_what_forward_gives(name: str) -> None:
    model = make(name)
    tokens, lengths = torch.randint(1, 9, (3, 7)), torch.tensor([7, 4, 0])
    with torch.inference_mode():
        whole, rows = model(tokens, lengths)
        assert whole.shape == (3, 8, 9) and rows.tolist() == [8, 5, 1]
        state, symbol = model.initial_state(3), torch.zeros(3, dtype=torch.int64)
        assert all(x.shape == (3, model.layers, model.hidden_dim) for x in state)  # batch first
        for u in range(8):
            log_probs, state = model.step(symbol, state)
            torch.testing.assert_close(log_probs, whole[:, u], rtol=1e-5, atol=1e-5)
            symbol = tokens[:, min(u, 6)]
    torch.testing.assert_close(whole.exp().sum(2), torch.ones(3, 8))


def test_losses_are_those_of_tokens_and_end_and_padding_adds_nothing() -> None:
    model = make()
    tokens, lengths = torch.tensor([[3, 1, 4, 1], [5, 8, 7, 7]]), torch.tensor([4, 2])
    with torch.inference_mode():
        log_probs, _ = model(tokens, lengths)
        losses = model.losses(tokens, lengths)
        alone = model.losses(tokens[1:, :2], lengths[1:])
    expected = -sum(log_probs[1, u, y] for u, y in enumerate([5, 8, 0]))
    torch.testing.assert_close(losses[1].sum(), expected)
    assert losses[1, 3:].tolist() == [0.0, 0.0] and bool((losses[0] > 0).all())
    torch.testing.assert_close(losses[1, :3], alone[0])


def test_all_sentences_have_probability_one() -> None:
    """Over three symbols, the sentences of at most 6 tokens and the unfinished ones of 6 make up everything."""
    torch.manual_seed(1)
    model = LanguageModel(3, LanguageModelConfig(4, 5, 1, 0.0, True)).eval()
    total = 0.0
    for length in range(7):
        tokens = torch.tensor(list(product([1, 2], repeat=length)), dtype=torch.int64).reshape(2**length, length)
        with torch.inference_mode():
            losses = model.losses(tokens, torch.full((2**length,), length))
        total += float((-losses.sum(1)).exp().sum())
    total += float((-losses[:, :-1].sum(1)).exp().sum() - (-losses.sum(1)).exp().sum())
    assert total == pytest.approx(1.0, abs=1e-5)


def test_tied_weights_are_one_matrix() -> None:
    tied, untied = make("tied, same width"), make("untied")
    assert [name for name in tied.state_dict() if "output" in name or "project" in name] == []
    assert "project.weight" in make("tied, projected").state_dict()
    assert untied.state_dict()["output.weight"].shape == (9, 10)
    tied.losses(torch.tensor([[1, 2]]), torch.tensor([2])).sum().backward()
    assert tied.embedding.weight.grad is not None
    assert bool((tied.embedding.weight.grad[8] != 0).any())  # never read, but predicted


def test_step_is_scriptable() -> None:
    model = make()
    scripted = torch.jit.script(model)
    state, symbol = model.initial_state(2), torch.tensor([0, 3])
    with torch.inference_mode():
        for _ in range(3):
            log_probs, after = model.step(symbol, state)
            other, other_after = scripted.step(symbol, state)
            torch.testing.assert_close(other, log_probs)
            torch.testing.assert_close(other_after.cell, after.cell)
            state, symbol = after, symbol + 1
        tokens, lengths = torch.tensor([[1, 2]]), torch.tensor([2])
        torch.testing.assert_close(scripted.losses(tokens, lengths), model.losses(tokens, lengths))


def test_dropout_is_for_training_only() -> None:
    model = make()
    tokens, lengths = torch.randint(1, 9, (1, 5)), torch.tensor([5])
    assert torch.equal(model(tokens, lengths)[0], model(tokens, lengths)[0])
    model.train()
    assert not torch.equal(model(tokens, lengths)[0], model(tokens, lengths)[0])


def test_impossible_widths_are_named() -> None:
    for values, word in (({"layers": 0}, "layers is 0"), ({"dropout": 1.0}, "dropout is 1.0")):
        with pytest.raises(UserError, match=word):
            LanguageModelConfig(**values)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="1 symbols"):
        LanguageModel(1, LanguageModelConfig())


@pytest.mark.parametrize("name", CONFIGS)
def test_folder_gives_the_same_model_back(tmp_path: Path, name: str) -> None:
    model, tokens = make(name, 4), tokenizer()
    folder = save_lm(tmp_path / "lm", model, tokens, "# card\n", {"note": 1})
    assert {p.name for p in folder.iterdir()} == {
        "model.safetensors", "config.yaml", "tokens.model", "tokens.txt", "README.md",
    }  # fmt: skip
    loaded = load_lm(folder, tokens)
    assert loaded.config["extra"] == {"note": 1} and not loaded.model.training
    arguments = torch.tensor([[1, 2, 3]]), torch.tensor([3])
    assert torch.equal(loaded.model(*arguments)[0], model(*arguments)[0])
    with pytest.raises(UserError, match="exists already"):
        save_lm(folder, model, tokens, "")
    save_lm(folder, model, tokens, "", overwrite=True)


def test_bad_folders_say_what_is_wrong(tmp_path: Path) -> None:
    tokens = tokenizer()
    folder = save_lm(tmp_path / "lm", make("untied", 4), tokens, "")
    with pytest.raises(UserError, match="no such language-model folder"):
        load_lm(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has other tokens .* than the acoustic model"):
        load_lm(folder, tokenizer("one two three"))
    with pytest.raises(UserError, match="the model has 9 symbols, the tokenizer 4"):
        save_lm(tmp_path / "other", make(), tokens, "")
    with pytest.raises(UserError, match="not overwritten: it holds 'emformer_transducer'"):
        save_model(tmp_path / "acoustic", toy_model(), toy_tokenizer(), FeatureConfig(), "")
        save_lm(tmp_path / "acoustic", make("untied", 4), tokens, "", overwrite=True)
    with pytest.raises(UserError, match="not a language model"):
        load_lm(tmp_path / "acoustic")

    config, weights = load_yaml(folder / "config.yaml"), load_file(folder / "model.safetensors")
    architecture = config["architecture"]
    for changes, words in (
        ({"format_version": 2}, "format version 2"),
        ({"architecture": {**architecture, "layers": 1}}, "does not fit"),
        ({"architecture": {**architecture, "vocab_size": 5}}, "does not hold the tokens"),
        ({"architecture": {**architecture, "depth": 5}}, "unknown key 'depth'"),
        ({"architecture": {**architecture, "vocab_size": "four"}}, "vocab_size is 'four'"),
        ({"architecture": None}, "missing key 'architecture'"),
    ):
        dump_yaml({**config, **changes}, folder / "config.yaml")
        with pytest.raises(UserError, match=words):
            load_lm(folder)
    dump_yaml(config, folder / "config.yaml")
    save_file({**weights, "bias": torch.full((4,), torch.nan)}, folder / "model.safetensors")
    with pytest.raises(UserError, match="bias holds NaN"):
        load_lm(folder)
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="cannot read"):
        load_lm(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="it has no model.safetensors"):
        load_lm(folder)
