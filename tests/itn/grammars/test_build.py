"""Building a profile: the same bytes each time, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

pytest.importorskip("pynini")
pytest.importorskip("kaldifst")

from itn import grammars
from itn.errors import ItnError
from itn.grammars import CATEGORIES, build
from itn.normalizer import check_files, read_manifest

FEW = ("ordinal", "whitelist")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_built_profile_is_what_the_run_time_reads(tmp_path):
    import kaldifst

    manifest = build.build("prose", tmp_path / "prose", FEW)
    assert read_manifest(tmp_path / "prose") == json.loads(json.dumps(manifest))
    assert manifest["profile"] == "prose" and manifest["style"]["name"] == "prose"
    assert manifest["options"]["number_threshold"] == 10 and manifest["options"]["off"] == ["fraction"]
    files = check_files(tmp_path / "prose", manifest)
    assert sorted(files) == sorted(FEW)
    for name, entry in manifest["files"].items():
        data = files[name].read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
        assert entry["states"] > 0 and entry["arcs"] > 0
        assert data[8:14] == b"vector", "kaldifst's stream constructor reads no other type"
    assert kaldifst.TextNormalizer(str(files["whitelist"]))("covid nineteen") == "covid-19"


@pytest.mark.parametrize("profile", ["prose", "nemo"])
def test_all_grammars_of_a_profile_fit_in_a_megabyte(tmp_path, profile):
    files = build.build(profile, tmp_path / profile)["files"]
    assert tuple(files) == CATEGORIES
    assert sum(entry["bytes"] for entry in files.values()) <= 1_048_576


def test_building_again_gives_the_same_bytes(tmp_path):
    build.build("nemo", tmp_path / "a", (*FEW, "telephone"))
    build.build("nemo", tmp_path / "b", ("telephone", *FEW))
    build.build("nemo", tmp_path / "a", (*FEW, "telephone"))
    script = f"from itn.grammars.build import build; build('nemo', {str(tmp_path / 'c')!r}, {(*FEW, 'telephone')!r})"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(tmp_path / "c")


def test_a_build_replaces_the_folder_as_a_whole(tmp_path):
    build.build("prose", tmp_path / "out", FEW)
    build.build("prose", tmp_path / "out", ("ordinal",))
    assert set(content(tmp_path / "out")) == {"ordinal.fst", "manifest.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_build_leaves_the_old_one(tmp_path, monkeypatch):
    build.build("prose", tmp_path / "out", FEW)
    before = content(tmp_path / "out")
    real = build.grammar

    def failing(category, style):
        if category == "whitelist":
            raise RuntimeError("no memory")
        return real(category, style)

    monkeypatch.setattr(build, "grammar", failing)
    with pytest.raises(RuntimeError):
        build.build("nemo", tmp_path / "out", FEW)
    with pytest.raises(RuntimeError):
        build.build("nemo", tmp_path / "new", FEW)
    assert content(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_does_not_overwrite_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ItnError, match="notes.txt"):
        build.build("prose", tmp_path, FEW)
    with pytest.raises(ItnError, match="not a folder"):
        build.build("prose", tmp_path / "notes.txt", FEW)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ItnError, match="no profile 'chicago'"):
        build.build("chicago", tmp_path / "out")
    with pytest.raises(ItnError, match="no category 'colour'"):
        build.build("prose", tmp_path / "out", ("colour",))
    wrong = tmp_path / "mine.yaml"
    wrong.write_text("number_treshold: 10\n")
    with pytest.raises(ItnError, match="number_treshold.*did you mean number_threshold"):
        build.build(str(wrong), tmp_path / "out", FEW)
    assert not (tmp_path / "out").exists()


def test_command(tmp_path, capsys):
    assert (
        build.main(
            ["--profile", "prose", "--profile", "nemo", "--out", str(tmp_path), "--categories", "whitelist"]
        )
        == 0
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nemo", "prose"]
    assert "1 grammars" in capsys.readouterr().out
    with pytest.raises(ItnError, match="no category"):
        build.main(["--out", str(tmp_path), "--categories", "colour"])


def test_without_pynini_one_sentence_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pynini", None)
    with pytest.raises(ItnError, match=r"emformer-asr\[grammar\]"):
        grammars.require_pynini()
    with pytest.raises(ItnError, match=r"emformer-asr\[grammar\]"):
        build.build("prose", tmp_path / "out")
