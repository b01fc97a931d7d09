"""Audio-seconds per second the training loader delivers, with and without augmentation, cache and workers.

    python benchmarks/data_loading.py [--corpus FOLDER] [--noise FOLDER] [--limit 400] [--workers 0 2] [--format json]

``FOLDER``s hold a manifest.jsonl. Each case runs in a process of its own, one thread a process, two epochs: the second one
shows what the audio cache and ready-made impulse responses give. The stages of the work, on one core, come first; their
rates, and those per CPU-second, hardly depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from asr.data.audio_cache import read_cut
from asr.data.augment import Rooms, background, change_speed, reverberate, spec_augment
from asr.data.config import AugmentConfig, CorpusConfig, DataConfig, NoiseConfig, SpecAugmentConfig
from asr.data.corpora import load_cuts
from asr.data.dataset import cut_text
from asr.data.loader import make_train_loader
from asr.errors import UserError
from asr.features import Fbank
from asr.tokens import Tokenizer


def loader_case(corpus: CorpusConfig, noise: str, workers: int, augment: bool, cache: bool) -> dict:
    """Two epochs of one configuration; rates in audio-seconds per second."""
    torch.set_num_threads(1)
    config = DataConfig(train=[corpus], workers=workers, cache_audio=cache, max_seconds=200.0, num_buckets=20)
    if augment:
        config.augment = AugmentConfig(noise=NoiseConfig(0.5, [CorpusConfig(noise)] if noise else []))
        config.augment.noise.probability = 0.5 if noise else 0.0
        config.augment.speed.probability, config.augment.volume.probability = 0.67, 0.5
        config.augment.concatenate.probability, config.augment.padding.probability = 0.2, 0.5
        config.augment.reverb.probability, config.augment.reverb.rooms = 0.3, 100
        config.augment.specaugment.probability = 0.9
    tokenizer = Tokenizer.train([cut_text(cut) for cut in load_cuts(corpus)], 100)
    loader = make_train_loader(config, tokenizer)
    result = {"workers": workers, "augment": augment, "cache": cache}
    for epoch in ("first", "second"):
        seconds, began, cpu = 0.0, time.perf_counter(), time.process_time()
        for batch in loader:
            seconds += batch.seconds
        result[f"{epoch}_epoch"] = seconds / (time.perf_counter() - began)
        if not workers:  # what a busy machine does not stretch
            result[f"{epoch}_epoch_cpu"] = seconds / (time.process_time() - cpu)
    loader.close()
    return result


def stage_rates(corpus: CorpusConfig) -> dict[str, float]:
    """Audio-seconds per second of each stage alone, one core, utterance by utterance."""
    torch.set_num_threads(1)
    cuts = list(load_cuts(corpus))[:60]
    waves = [read_cut(cut) for cut in cuts]
    total = sum(map(len, waves)) / 16000
    rng = np.random.default_rng(0)
    room, fbank, masks = Rooms(0, 0.8).response(0), Fbank(), SpecAugmentConfig()
    features = [fbank(torch.from_numpy(wave)[None], None)[0][0].numpy() for wave in waves]

    def rate(work: Callable, items: list) -> float:
        best = min(_timed(work, items) for _ in range(3))
        return total / best

    return {
        "read": rate(read_cut, cuts),
        "speed 1.1": rate(lambda wave: change_speed(wave, 1.1), waves),
        "reverb": rate(lambda wave: reverberate(wave, room), waves),
        "background": rate(lambda wave: background(wave, len(wave), rng), waves),
        "features": rate(lambda wave: fbank(torch.from_numpy(wave)[None], None), waves),
        "specaugment": rate(lambda rows: spec_augment(rows, masks, rng), features),
    }


def _timed(work: Callable, items: list) -> float:
    began = time.process_time()  # one thread: CPU time is what it takes on an idle machine
    for item in items:
        work(item)
    return time.process_time() - began


def _alone(function: Callable, *arguments):
    """Runs in a fresh process, so that no case finds what another one decoded."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(function, arguments)


def _loader_process(*arguments) -> dict:
    multiprocessing.current_process()._config["daemon"] = (
        False  # pool processes may not have workers otherwise
    )
    return loader_case(*arguments)


def _real_speech(name: str) -> str:
    """A folder of $ASR_DATA or of ../shared/data beside the clone, or an empty string."""
    for folder in (os.environ.get("ASR_DATA"), Path(__file__).resolve().parents[2] / "shared" / "data"):
        if folder and (Path(folder) / name / "manifest.jsonl").is_file():
            return str(Path(folder) / name)
    return ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--corpus",
        default=_real_speech("librispeech"),
        help="folder with manifest.jsonl, or anything asr.data reads; default: librispeech in $ASR_DATA or ../shared/data",
    )
    parser.add_argument("--split", default="train")
    parser.add_argument("--noise", default=_real_speech("noise"), help="folder of noise recordings")
    parser.add_argument("--limit", type=int, default=400, help="utterances (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--format", choices=["table", "json"], default="table")
    arguments = parser.parse_args(argv)
    if not arguments.corpus:
        parser.error("no real speech here: give --corpus FOLDER, or set ASR_DATA")
    os.environ["OMP_NUM_THREADS"] = "1"
    corpus = CorpusConfig(arguments.corpus, split=arguments.split, limit=arguments.limit)
    try:
        stages = _alone(stage_rates, corpus)
        cases = [
            _alone(_loader_process, corpus, arguments.noise, workers, augment, cache)
            for workers in arguments.workers
            for augment, cache in ((False, False), (True, False), (True, True))
        ]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    if arguments.format == "json":
        print(
            json.dumps(
                {"machine": machine, "unit": "audio-seconds per second", "stages": stages, "loader": cases}
            )
        )
        return 0
    print(f"{machine}; audio-seconds per second\n\n| stage, one core | rate |\n| --- | ---: |")
    for name, value in stages.items():
        print(f"| {name} | {value:.0f} |")
    columns = ("first_epoch", "second_epoch", "first_epoch_cpu", "second_epoch_cpu")
    print("\n| workers | augmentation | cache | first epoch | second | first, per CPU-second | second |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for case in cases:
        cells = [str(case["workers"]), *("on" if case[key] else "off" for key in ("augment", "cache"))]
        cells += [f"{case[key]:.0f}" if key in case else "" for key in columns]
        print(f"| {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
