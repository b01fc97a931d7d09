"""``asr align AUDIO TEXT --model M``: when each word of a known text was said, in recordings of any length."""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asr.decoding.alignment import MISSING_PRICE, AlignedWord, Aligner
from asr.decoding.results import WRITERS, Segment, Transcript, Word
from asr.decoding.viterbi import AlignmentError
from asr.errors import UserError
from asr.features import SAMPLE_RATE, SUBSAMPLING, Fbank, StreamingFbank
from asr.files import write_text
from asr.models.branch import layer_outputs, step_with_layer

FORMATS = ("ctm", "json", "srt", "textgrid")
WHOLE_SECONDS = 60.0  # shorter recordings go through the encoder at once
PAUSE_SECONDS = 0.8  # of silence, that ends a segment of the result
DOUBTFUL = 0.03  # the median confidence of the words of phone numbers is 0.2 to 0.8, that of other words or of silence below 0.03


@torch.inference_mode()
def layer_output(model: Any, fbank: Fbank, audio: np.ndarray, layer: int) -> Tensor:
    """(S,) float32 samples at 16 kHz of a whole recording -> (T', D) of an encoder layer (0: the output)."""
    if len(audio) <= WHOLE_SECONDS * SAMPLE_RATE:
        features, lengths = fbank(torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))[None])
        return layer_outputs(model.encoder, features, lengths, layer)[0][0]
    return torch.cat(list(stream_layer(model, fbank, [audio], layer)))


@torch.inference_mode()
def stream_layer(model: Any, fbank: Fbank, blocks: Iterable[np.ndarray], layer: int) -> Iterator[Tensor]:
    """As `layer_output` for blocks of samples, chunk by chunk: (U, D) each, the last with the frames that exist. Memory is
    constant."""
    encoder = model.encoder
    chunk, window = encoder.chunk_frames, encoder.window_frames
    stream = StreamingFbank(fbank)
    state = encoder.initial_state(1)
    features: Tensor | None = None

    def pieces() -> Iterator[tuple[Tensor, bool]]:
        for block in blocks:
            for part in torch.from_numpy(np.ascontiguousarray(block, dtype=np.float32)).split(5 * SAMPLE_RATE):
                yield stream.accept(part), False
        yield stream.finish(), True

    for new, last in pieces():
        features = new if features is None else torch.cat([features, new])
        at = 0
        while features.size(0) - at >= window or last and at < features.size(0):
            x = features[at : at + window]
            x = F.pad(x, (0, 0, 0, window - x.size(0)))
            frames = -(-min(chunk, features.size(0) - at) // SUBSAMPLING)
            _, kept, state = step_with_layer(encoder, x[None], state, layer)
            yield kept[0, :frames]
            at += chunk
        features = features[at:]


def align_recording(
    loaded: Any, aligner: Aligner, blocks: Iterable[np.ndarray], words: Sequence[str], skip_ends: bool = True
) -> list[AlignedWord]:
    """Times of the words of a text in a recording.

    Args:
        loaded: the model (`asr.models.folder.LoadedModel`).
        aligner: its branch.
        blocks: samples at 16 kHz, (S,) float32 each.
        words: the text.
        skip_ends: the recording may begin and end with what is not in the text.

    Raises:
        AlignmentError: no word can be spelled, or the recording is too short for the text.
    """
    parts = list(stream_layer(loaded.model, Fbank(loaded.features), blocks, aligner.layer))  # 90 MB an hour at D = 256
    if not parts:
        raise AlignmentError("there is no audio to align the text with")
    return aligner.align(aligner.log_probs(torch.cat(parts)), words, skip_ends, MISSING_PRICE)


def to_transcript(name: str, aligned: Sequence[AlignedWord], duration: float) -> Transcript:
    """Words with exp(score) for confidence (0: guessed), in segments between pauses."""
    words = [Word(w.word, w.start, w.end, math.exp(w.score)) for w in aligned]
    segments: list[list[Word]] = []
    for word in words:
        if segments and word.start - segments[-1][-1].end < PAUSE_SECONDS:
            segments[-1].append(word)
        else:
            segments.append([word])
    return Transcript.of(name, [replace(Segment.of(part), closed=part[-1].end) for part in segments], duration)


def textgrid(transcript: Transcript) -> str:
    """A Praat TextGrid with one tier of words; silences are empty intervals."""
    end = max([transcript.duration, *(word.end for word in transcript.words)])
    intervals: list[tuple[float, float, str]] = []
    at = 0.0
    for word in transcript.words:
        if word.start > at:
            intervals.append((at, word.start, ""))
        intervals.append((word.start, word.end, word.word))
        at = word.end
    if end > at:
        intervals.append((at, end, ""))
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.3f}", "tiers? <exists>",
        "size = 1", "item []:", "    item [1]:", '        class = "IntervalTier"', '        name = "words"',
        "        xmin = 0", f"        xmax = {end:.3f}", f"        intervals: size = {len(intervals)}",
    ]  # fmt: skip
    for i, (first, last, text) in enumerate(intervals, 1):
        quoted = text.replace('"', '""')
        lines += [f"        intervals [{i}]:", f"            xmin = {first:.3f}", f"            xmax = {last:.3f}"]
        lines.append(f'            text = "{quoted}"')
    return "\n".join(lines) + "\n"


def render(form: str, transcript: Transcript, aligned: Sequence[AlignedWord]) -> str:
    """The output. JSON marks guessed words with ``"guessed": true``; elsewhere their confidence is 0."""
    if form == "textgrid":
        return textgrid(transcript)
    if form != "json":
        return WRITERS[form].render([transcript])
    found = transcript.to_dict()
    for entry, word in zip(found["words"], aligned):
        if word.guessed:
            entry["guessed"] = True
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def doubt(aligned: Sequence[AlignedWord]) -> str:
    """A sentence if the text is hardly what was said, else nothing: half of the words have next to no confidence."""
    known = [math.exp(word.score) for word in aligned if not word.guessed]
    if not known or median(known) >= DOUBTFUL:
        return ""
    return f"the text hardly fits the recording: half of its words have a confidence below {DOUBTFUL:g}"


def advice(words: Sequence[str]) -> str:
    """What to do about words that cannot be spelled: nothing is known if they have no digits."""
    return " (write digits as words)" if any(c.isdigit() for word in words for c in word) else ""


def read_text(text: str) -> list[str]:
    """Words of a text file, of standard input (``-``), or of the argument itself if it has a space and no such file is there.

    Dashes and other words without a letter or digit are left out.

    Raises:
        UserError: no such file, not UTF-8, no words in it.
    """
    if not text.strip():
        raise UserError("the text is empty: give a text file, - for standard input, or the words themselves in quotes")
    if text == "-":
        content = sys.stdin.read()
    else:
        path = Path(text)
        try:
            is_file = path.is_file()
        except (OSError, ValueError):  # too long for a name
            is_file = False
        if not is_file and not (" " in text.strip() and not path.suffix[1:].isalpha()):
            raise UserError(f"no such text file: {text}")
        try:
            content = path.read_text(encoding="utf-8-sig") if is_file else text
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {path} as text: {error}") from None
    words = [word for word in content.split() if any(unicodedata.category(c)[0] in "LN" for c in word)]
    if not words:
        raise UserError("the text has no words")
    return words


def align_command(argv: Sequence[str]) -> int:
    """``asr align AUDIO TEXT --model M``."""
    from asr.cli import Parser, check_output
    from asr.memory import keep_freed_memory

    parser = Parser(prog="asr align", description="Find when each word of a known text was said.")
    parser.add_argument("audio", metavar="AUDIO", help="a recording of any length")
    parser.add_argument(
        "text", metavar="TEXT", help="a text file, - for standard input, or the words themselves in quotes"
    )
    parser.add_argument(
        "--model", required=True, metavar="NAME|FOLDER", help="a model with an alignment branch (asr train-branch)"
    )
    parser.add_argument("--format", choices=FORMATS, default="ctm", help="of the output")
    parser.add_argument("--output", default=None, metavar="FILE", help="where it goes (standard output if left out)")
    parser.add_argument(
        "--exact-ends",
        action="store_true",
        help="the recording holds nothing but the text: no speech before or after it is skipped",
    )
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (torch's choice if left out)")
    options = parser.parse(argv)
    keep_freed_memory()
    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads must be at least 1, not {options.threads}")
    if options.output is not None:
        check_output(Path(options.output), [options.audio, options.text], folder=Path(options.output).parent)
    words = read_text(options.text)

    from asr.audio import audio_blocks
    from asr.models.folder import load_model
    from asr.pretrained import resolve

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    folder = resolve(options.model)
    loaded = load_model(folder)
    aligner = Aligner.load(folder, loaded.model, loaded.tokenizer)
    if aligner is None:
        raise UserError(
            f"{options.model} has no alignment branch: make one with asr train-branch --model {options.model}"
        )
    if not any(aligner.spell(word) for word in words):
        raise UserError(f"no word of the text can be spelled{advice(words)}")
    samples = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal samples
        for block in audio_blocks(options.audio, block_seconds=5.0):
            samples += len(block)
            yield block

    try:
        aligned = align_recording(loaded, aligner, counted(), words, not options.exact_ends)
    except AlignmentError as error:
        raise UserError(f"{options.audio}: {error}") from None
    duration = samples / SAMPLE_RATE
    aligned = [word._replace(end=min(word.end, max(duration, word.start + 0.001))) for word in aligned]
    transcript = to_transcript(options.audio, aligned, duration)
    guessed = [word.word for word in aligned if word.guessed]
    if guessed:
        named = ", ".join(dict.fromkeys(guessed[:5])) + (", …" if len(guessed) > 5 else "")
        print(f"{len(guessed)} words cannot be spelled, their times are guessed: {named}{advice(guessed)}", file=sys.stderr)
    if sentence := doubt(aligned):
        print(f"{options.audio}: {sentence}", file=sys.stderr)
    text = render(options.format, transcript, aligned)
    if options.output is None:
        print(text, end="")
    else:
        write_text(Path(options.output), text)
    return 0
