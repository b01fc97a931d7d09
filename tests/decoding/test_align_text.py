"""Known texts that are not quite what was said, with exact times: words of one speaker spliced with pauses of another room."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import asr
from asr.decoding.alignment import Aligner
from asr.pretrained import resolve
from benchmarks.alignment import known_text, layer_output, read_pauses, read_words, splice


@pytest.fixture(scope="module")
def strings(real_data):
    """(log-probabilities, [(word, start, end)]) of strings of six digits."""
    recognizer = asr.load("digits")
    aligner = Aligner.load(resolve("digits"), recognizer.model, recognizer.tokenizer)
    rng = np.random.default_rng(1)
    words = read_words(real_data / "fsdd", "test", 30.0)
    pauses = read_pauses(real_data / "speechocean762", "dev")
    found = []
    for first in range(0, 90, 6):
        audio, truth = splice([words[(first + k) * 37 % len(words)] for k in range(6)], pauses, rng)
        with torch.inference_mode():
            encoded = layer_output(recognizer.model, recognizer.fbank, audio, aligner.layer)
        found.append((aligner.log_probs(encoded), truth))
    return aligner, found


def mean_error(aligner, texts):
    pairs = [pair for log_probs, text in texts for pair in known_text(aligner, log_probs, text)]
    return np.abs(pairs).mean(0)


def test_the_whole_text(strings):
    aligner, found = strings
    assert (mean_error(aligner, found) < 0.05).all()


def test_a_word_that_the_text_lacks_leaves_the_others_where_they_are(strings):
    aligner, found = strings
    texts = [(log_probs, truth[: k % 6] + truth[k % 6 + 1 :]) for k, (log_probs, truth) in enumerate(found)]
    assert (mean_error(aligner, texts) < 0.1).all()  # without a price for what is not in the text: 0.4 s


def test_a_word_that_was_not_said_leaves_the_others_where_they_are(strings):
    aligner, found = strings
    texts = [(log_probs, [*truth[: k % 7], ("seven", None, None), *truth[k % 7 :]]) for k, (log_probs, truth) in enumerate(found)]
    assert (mean_error(aligner, texts) < 0.1).all()
