"""A model folder is written whole or not at all, loads to the same numbers, and says what is wrong."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from asr.errors import UserError
from asr.features import FeatureConfig
from asr.models import folder as room
from asr.models.emformer import EmformerConfig
from asr.models.folder import FILES, load_model, save_model
from asr.models.joiner import JoinerConfig
from asr.models.predictor import PredictorConfig
from asr.models.transducer import ModelConfig, Transducer
from asr.tokens import Tokenizer


def make_model(vocab_size: int) -> Transducer:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=vocab_size,
        encoder=EmformerConfig(dim=16, heads=2, ffn_dim=16, layers=2, memory_size=2),
        predictor=PredictorConfig(kind="stateless", embed_dim=8),
        joiner=JoinerConfig(dim=8),
        ctc=True,
    )
    return Transducer(config)


@pytest.fixture(scope="module")
def tokens() -> Tokenizer:
    return Tokenizer.train(["zero one two three"], 6, "word", endpoint=True)


@pytest.fixture
def saved(tmp_path: Path, tokens: Tokenizer) -> Path:
    model = make_model(tokens.vocab_size)
    return save_model(tmp_path / "some" / "model", model, tokens, FeatureConfig(), "# A card\n", {"wer": 1.5})


def fails(path: Path, pattern: str) -> None:
    with pytest.raises(UserError, match=pattern) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def edit(path: Path, change) -> None:
    config = yaml.safe_load((path / "config.yaml").read_text())
    change(config)
    (path / "config.yaml").write_text(yaml.safe_dump(config))


def test_round_trip(saved, tokens):
    assert sorted(p.name for p in saved.iterdir()) == sorted(FILES)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]  # nothing temporary is left
    loaded = load_model(saved)
    model = make_model(tokens.vocab_size).eval()
    assert not loaded.model.training and loaded.model.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    x, lengths, y = torch.randn(2, 40, 80), torch.tensor([40, 40]), torch.tensor([[1, 2], [3, 4]])
    assert torch.equal(loaded.model(x, lengths, y)[0], model(x, lengths, y)[0])
    assert loaded.tokenizer.pieces == tokens.pieces and loaded.features == FeatureConfig()
    assert loaded.folder == saved and loaded.config["extra"] == {"wer": 1.5}
    assert loaded.config["streaming"]["chunk_ms"] == 160 and loaded.config["streaming"]["window_frames"] == 20
    assert (saved / "README.md").read_text() == "# A card\n"
    assert (saved / "model.safetensors").stat().st_mode & 0o444 == 0o444  # others may read it


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 1e-2)])
def test_half_precision_storage(saved, tmp_path, tokens, dtype, tolerance):
    model = make_model(tokens.vocab_size)
    half = save_model(tmp_path / "half", model, tokens, FeatureConfig(), "", dtype=dtype)
    # the header of the file takes the same room in both
    sizes = [(path / "model.safetensors").stat().st_size for path in (half, saved)]
    parameters = sum(value.numel() for value in model.state_dict().values())
    assert sizes[1] - sizes[0] > 1.9 * parameters
    state = load_model(half).model.state_dict()
    for name, value in model.state_dict().items():
        assert state[name].dtype == value.dtype
        torch.testing.assert_close(state[name], value, atol=tolerance, rtol=tolerance)
    with pytest.raises(UserError, match="cannot be stored as 'int8'"):
        save_model(tmp_path / "x", model, tokens, FeatureConfig(), "", dtype="int8")


def test_bad_weights_are_not_saved(tmp_path, tokens):
    model = make_model(tokens.vocab_size)
    with torch.no_grad():
        model.joiner.output.bias[0] = 1e6
    with pytest.raises(
        UserError, match=r"cannot be saved as float16: joiner\.output\.bias holds values beyond"
    ):
        save_model(tmp_path / "m", model, tokens, FeatureConfig(), "", dtype="float16")
    with torch.no_grad():
        model.joiner.output.bias[0] = float("nan")
    with pytest.raises(UserError, match=r"joiner\.output\.bias holds NaN"):
        save_model(tmp_path / "m", model, tokens, FeatureConfig(), "")
    with pytest.raises(UserError, match="the model has 9 symbols, the tokenizer 6"):
        save_model(tmp_path / "m", make_model(9), tokens, FeatureConfig(), "")
    assert list(tmp_path.iterdir()) == []


def test_existing_folder(saved, tokens):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    model = make_model(tokens.vocab_size)
    with pytest.raises(UserError, match="exists already"):
        save_model(saved, model, tokens, FeatureConfig(), "new")
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    save_model(saved, model, tokens, FeatureConfig(), "new", overwrite=True)
    assert (saved / "README.md").read_text() == "new" and load_model(saved)
    (saved / "thesis.tex").write_text("the only copy")
    with pytest.raises(UserError, match=r"it holds files that are not a model's \(thesis\.tex\)"):
        save_model(saved, model, tokens, FeatureConfig(), "newer", overwrite=True)
    assert (saved / "thesis.tex").exists()
    file = saved.parent / "file"
    file.write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        save_model(file, model, tokens, FeatureConfig(), "", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_failure_leaves_no_half_folder(saved, tokens, monkeypatch, overwrite):
    """A full disk while any of the files is written: the old model stays, nothing new appears."""
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    target = saved if overwrite else saved.parent / "other"

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    for owner, name in ((room, "save_file"), (room, "dump_yaml"), (Tokenizer, "save"), (Path, "rename")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(UserError, match="cannot save .*: No space left on device"):
                save_model(target, make_model(6), tokens, FeatureConfig(), "new", overwrite=overwrite)
        assert [p.name for p in saved.parent.iterdir()] == ["model"]
        assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


def test_interrupted_while_replacing(saved, tokens, monkeypatch):
    """The second of the two renames fails: the old folder is put back."""
    rename, calls = Path.rename, []

    def second_fails(self, target):
        calls.append(self)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(UserError, match="Input/output error"):
        save_model(saved, make_model(6), tokens, FeatureConfig(), "new", overwrite=True)
    assert (saved / "README.md").read_text() == "# A card\n"
    assert load_model(saved)


def test_missing_and_foreign_folders(saved, tmp_path):
    fails(tmp_path / "nowhere", "no such model folder")
    fails(
        tmp_path, "is not a model folder: it has no model.safetensors, config.yaml, tokens.model, tokens.txt"
    )
    (saved / "README.md").unlink()  # the card is for people
    assert load_model(saved)
    (saved / "tokens.txt").unlink()
    fails(saved, "has no tokens.txt")


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda c: c.update(format_version=2), "model format version 2, this program reads version 1"),
        (lambda c: c.pop("format_version"), "model format version None"),
        (lambda c: c.pop("architecture"), "missing key 'architecture'"),
        (lambda c: c["architecture"].update(name="whisper"), "unknown architecture 'whisper'"),
        (
            lambda c: c["architecture"]["encoder"].update(dimm=3),
            "unknown key 'encoder.dimm' .* 'encoder.dim'",
        ),
        (
            lambda c: c["architecture"]["encoder"].update(dim="a"),
            "key 'encoder.dim' .*: expected int, not 'a'",
        ),
        (lambda c: c["architecture"]["encoder"].update(chunk_ms=150), "chunk_ms is 150"),
        (lambda c: c["architecture"]["encoder"].update(dim=32), "has shape .* where the architecture has"),
        (lambda c: c["architecture"]["encoder"].update(layers=3), "lacks encoder"),
        (lambda c: c["architecture"].update(ctc=False), "has the unknown ctc_head.bias, ctc_head.weight"),
        (lambda c: c["architecture"].update(vocab_size=7), "config.yaml has 7 symbols, tokens.model 6"),
        (lambda c: c.update(feature_hash="0123"), r"another definition of 'kaldi' features \(hash 0123\)"),
        (lambda c: c["features"].update(kind="plp"), "unknown features.kind 'plp'"),
        (lambda c: c["streaming"].update(chunk_ms=320), "streaming numbers do not agree"),
    ],
)
def test_wrong_config(saved, change, pattern):
    edit(saved, change)
    fails(saved, pattern)


def test_damaged_files(saved, tmp_path, tokens):
    def damaged(name: str, data: bytes) -> Path:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(saved, copy)
        (copy / name).write_bytes(data)
        return copy

    weights = (saved / "model.safetensors").read_bytes()
    fails(damaged("model.safetensors", weights[:-100]), "cannot read .*model.safetensors")
    fails(damaged("model.safetensors", b""), "cannot read .*model.safetensors")
    fails(damaged("model.safetensors", pickle.dumps({"a": 1})), "cannot read .*model.safetensors")
    fails(damaged("tokens.model", b"abc"), "not a SentencePiece model")
    fails(damaged("config.yaml", b"a: [1"), "is not valid YAML")
    fails(damaged("tokens.txt", b"<blk> 0\n"), "does not list the pieces of tokens.model")
    fails(damaged("tokens.txt", b"\xff\xfe"), "does not list the pieces of tokens.model")
    other = Tokenizer.train(["one two"], 6, "word")
    copy = damaged("tokens.model", other.model)
    (copy / "tokens.txt").write_text(other.table(), encoding="utf-8")
    fails(copy, "config.yaml has 6 symbols, tokens.model 3")
    state = load_file(saved / "model.safetensors")
    state["joiner.output.bias"] = state["joiner.output.bias"].to(torch.int64)
    save_file(state, copy / "model.safetensors")
    tokens.save(copy)
    fails(copy, r"joiner\.output\.bias is of type torch\.int64 where torch\.float32 belongs")
    state["joiner.output.bias"] = torch.full_like(state["joiner.output.bias"], float("nan"), dtype=torch.float32)
    save_file(state, copy / "model.safetensors")
    fails(copy, r"joiner\.output\.bias holds NaN or infinity")


def test_nothing_is_unpickled(saved, monkeypatch):
    def forbidden(*arguments, **options):
        raise AssertionError("unpickled something")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, forbidden)
    assert load_model(saved)
