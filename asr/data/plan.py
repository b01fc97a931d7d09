"""The order of an epoch: which utterances form an item, which items a batch, which batch goes to which rank.

A plan is a pure function of (durations, settings, seed, epoch, world size). That makes resuming exact and instant: a
position in the plan is one integer, and no audio is touched to get there (lhotse issues 750, 785, 1080 and 1327 tell
what replaying a sampler costs). Everything that changes how long an item is (joining, pauses, speed, padding) is
decided here, so that the batch budget holds for the audio as it will be; the rest is drawn by the worker from
``item_rng``. Nothing is dropped: left-over items form smaller batches, and a batch is split where the number of batches
is not a multiple of the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from asr.data.config import AugmentConfig, DataConfig
from asr.errors import UserError

_ORDER, _ITEM, _STEPS = 1, 2, 3  # what a random stream is for; part of its seed


class Item(NamedTuple):
    """One row of a batch: an utterance, or several joined ones, with every choice that changes its length."""

    cuts: tuple[int, ...]  # positions in the corpus
    number: int  # position in the epoch, the seed of all other random choices
    speed: float  # 1.1 = 10 % shorter
    pauses: tuple[float, ...]  # seconds between neighbours, one less than cuts
    before: float  # seconds of background before
    after: float  # seconds of background after
    seconds: float  # of the finished item


@dataclass
class Corpus:
    """What planning needs to know of the utterances, in corpus order."""

    seconds: np.ndarray  # (N,) duration of each utterance
    speakers: np.ndarray  # (N,) small integers, equal for equal speakers
    sources: list[tuple[int, int, float]] = field(default_factory=list)  # (first, end, passes per epoch)


def item_rng(seed: int, epoch: int, number: int) -> np.random.Generator:
    """The random stream of one item's worker-side choices; the same in any process."""
    return np.random.default_rng([seed, epoch, _ITEM, number])


def plan_epoch(
    corpus: Corpus, config: DataConfig, seed: int, epoch: int, world_size: int = 1
) -> list[list[Item]]:
    """Batches of one epoch in global order: rank r of W takes batches r, r + W, …; their number is a multiple of W.

    Raises UserError when there are fewer items than ranks.
    """
    rng = np.random.default_rng([seed, epoch, _ORDER])
    groups = _join(_shuffled(corpus, rng), corpus, config.augment, rng)
    items = _items(groups, corpus, config, rng)
    batches = bucket_batches(items, config.max_seconds, config.max_utterances, config.num_buckets)
    batches = _split_to_multiple(batches, world_size)
    # Batches of one bucket are neighbours: the ranks of a step get similar lengths and don't wait for each other.
    steps = [batches[i : i + world_size] for i in range(0, len(batches), world_size)]
    order = np.random.default_rng([seed, epoch, _STEPS]).permutation(len(steps))
    return [batch for i in order for batch in steps[i]]


def plan_in_order(
    seconds: np.ndarray, max_seconds: float, max_utterances: int, world_size: int
) -> list[list[Item]]:
    """Batches for validation: every utterance once, unchanged, sorted by length; same layout as ``plan_epoch``."""
    order = np.argsort(seconds, kind="stable")
    items = [Item((int(c),), n, 1.0, (), 0.0, 0.0, float(seconds[c])) for n, c in enumerate(order)]
    return _split_to_multiple(_fill(items, max_seconds, max_utterances), world_size)


def _shuffled(corpus: Corpus, rng: np.random.Generator) -> np.ndarray:
    """Positions of the epoch's utterances: each source its number of passes, then one shuffle over all."""
    parts = []
    for first, end, repeat in corpus.sources or [(0, len(corpus.seconds), 1.0)]:
        whole, rest = divmod(repeat, 1.0)
        positions = np.arange(first, end)
        parts += [positions] * int(whole)
        if rest > 0:
            parts.append(rng.permutation(positions)[: max(1, round(rest * len(positions)))])
    return rng.permutation(np.concatenate(parts))


def _join(order: np.ndarray, corpus: Corpus, augment: AugmentConfig, rng: np.random.Generator) -> list[tuple]:
    """Groups ``(positions, pauses)``; every position of ``order`` is in exactly one group."""
    config = augment.concatenate
    if config.probability <= 0:
        return [((int(c),), ()) for c in order]
    count = len(order)
    starts = rng.random(count) < config.probability
    targets = rng.random(count) * config.max_seconds
    most = rng.integers(2, max(config.max_cuts, 2) + 1, count) if config.max_cuts else np.full(count, count)
    pauses = _uniform(rng, config.pause_seconds, count)
    seconds = corpus.seconds[order]
    # Partners come from a queue: of everything left, or of the speaker's own utterances.
    keys = corpus.speakers[order] if config.same_speaker else np.zeros(count, dtype=np.int64)
    queues: dict[int, list[int]] = {}
    for place in range(count - 1, -1, -1):
        queues.setdefault(int(keys[place]), []).append(place)
    used = np.zeros(count, dtype=bool)
    groups = []
    for place in range(count):
        if used[place]:
            continue
        queue = queues[int(keys[place])]
        queue.pop()  # the head of its queue is this very place: all earlier ones are used
        used[place] = True
        members, gaps, total = [int(order[place])], [], float(seconds[place])
        while starts[place] and queue and len(members) < most[place]:
            partner = queue[-1]
            longer = total + float(pauses[partner]) + float(seconds[partner])
            if longer > targets[place]:
                break
            queue.pop()
            used[partner] = True
            members.append(int(order[partner]))
            gaps.append(float(pauses[partner]))
            total = longer
        groups.append((tuple(members), tuple(gaps)))
    return groups


def _items(groups: list[tuple], corpus: Corpus, config: DataConfig, rng: np.random.Generator) -> list[Item]:
    augment, count = config.augment, len(groups)
    speeds = np.asarray(augment.speed.factors, dtype=float)[
        rng.integers(len(augment.speed.factors), size=count)
    ]
    speeds = np.where(rng.random(count) < augment.speed.probability, speeds, 1.0)
    padded = rng.random(count) < augment.padding.probability
    before = np.where(padded, _uniform(rng, augment.padding.before_seconds, count), 0.0)
    after = np.where(padded, _uniform(rng, augment.padding.after_seconds, count), 0.0)
    items = []
    for number, (cuts, pauses) in enumerate(groups):
        speech, gaps = float(corpus.seconds[list(cuts)].sum()), sum(pauses)
        speed, lead, tail = float(speeds[number]), float(before[number]), float(after[number])
        seconds = speech / speed + gaps + lead + tail
        if seconds > config.max_seconds:  # stretched beyond a whole batch: the item as it was recorded fits
            speed, lead, tail, seconds = 1.0, 0.0, 0.0, speech + gaps
        items.append(Item(cuts, number, speed, pauses, lead, tail, seconds))
    return items


def _uniform(rng: np.random.Generator, bounds: list[float], count: int) -> np.ndarray:
    return rng.uniform(bounds[0], bounds[1], count)


def bucket_batches(
    items: list[Item], max_seconds: float, max_utterances: int, num_buckets: int
) -> list[list[Item]]:
    """Batches of similar durations, bucket after bucket; in each, items keep their (random) order.

    Bucket edges hold equal shares of the total duration, as in lhotse's dynamic bucketing. A batch costs its number of
    items times its longest item, in seconds; an item longer than the budget is a batch of its own.
    """
    seconds = np.array([item.seconds for item in items])
    ordered = np.sort(seconds)
    shares = np.cumsum(ordered) / ordered.sum()
    edges = ordered[
        np.minimum(np.searchsorted(shares, np.arange(1, num_buckets) / num_buckets), len(ordered) - 1)
    ]
    buckets: list[list[Item]] = [[] for _ in range(num_buckets)]
    for item, bucket in zip(items, np.searchsorted(edges, seconds), strict=True):
        buckets[bucket].append(item)
    batches, rest = [], []
    for bucket in buckets:
        filled = _fill(bucket, max_seconds, max_utterances)
        if filled:
            rest += (
                filled.pop()
            )  # not full, most likely: its items are merged with the neighbours' left-overs
        batches += filled
    return batches + _fill(sorted(rest, key=lambda item: item.seconds), max_seconds, max_utterances)


def _fill(items: list[Item], max_seconds: float, max_utterances: int) -> list[list[Item]]:
    batches: list[list[Item]] = []
    batch: list[Item] = []
    longest = 0.0
    for item in items:
        longest = max(longest, item.seconds)
        full = max_utterances and len(batch) >= max_utterances
        if batch and (full or (len(batch) + 1) * longest > max_seconds):
            batches.append(batch)
            batch, longest = [], item.seconds
        batch.append(item)
    return [*batches, batch] if batch else batches


def _split_to_multiple(batches: list[list[Item]], world_size: int) -> list[list[Item]]:
    """Halves the batches with most items until every rank gets the same number of batches."""
    if sum(map(len, batches)) < world_size:
        raise UserError(f"{sum(map(len, batches))} utterances cannot be shared among {world_size} processes.")
    batches = list(batches)
    while len(batches) % world_size:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        batch = batches[largest]
        if len(batch) == 1:
            raise UserError(
                f"{len(batches)} utterances cannot be shared evenly among {world_size} processes."
            )
        batches[largest : largest + 1] = [batch[::2], batch[1::2]]
    return batches
