"""Configuration of the data room: corpora, batches, augmentation. Pure dataclasses, nothing heavy is imported.

Units are in the comments; a probability is per training item (an utterance, or several joined ones). All ranges
are ``[low, high]`` and drawn uniformly; everything random is a function of (recipe seed, epoch, item), never of the
worker that happens to do the work.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from asr.errors import UserError


@dataclass
class CorpusConfig:
    """One source of utterances (or of noise recordings)."""

    path: str = ""  # folder (manifest.jsonl, LibriSpeech, FSDD), manifest file, or lhotse cuts .jsonl[.gz]
    kind: str = "auto"  # auto | manifest | librispeech | fsdd | cuts
    split: str = ""  # keep only these splits / LibriSpeech parts, comma separated; empty = all
    speakers: list[str] = field(default_factory=list)  # keep only these speakers; empty = all
    exclude_speakers: list[str] = field(default_factory=list)  # drop these speakers
    limit: int = 0  # keep the first N utterances, 0 = all
    repeat: float = 1.0  # train only: passes per epoch; 0.5 = a random half each epoch


@dataclass
class SpeedConfig:
    """Resampling: changes rate and pitch together (Ko et al. 2015, "Audio augmentation for speech recognition")."""

    probability: float = 0.0  # of changing the speed at all
    factors: list[float] = field(default_factory=lambda: [0.9, 1.1])  # one is drawn; 1.1 = 10 % faster


@dataclass
class VolumeConfig:
    """Random gain; samples beyond full scale are clipped, as a microphone would."""

    probability: float = 0.0  # per item
    gain_db: list[float] = field(default_factory=lambda: [-20.0, 6.0])  # dB


@dataclass
class NoiseConfig:
    """Recorded noise, cropped or looped at a random place, added at a random signal-to-noise ratio."""

    probability: float = 0.0  # per item
    sources: list[str | CorpusConfig] = field(default_factory=list)  # noise recordings; no text
    snr_db: list[float] = field(default_factory=lambda: [5.0, 25.0])  # dB, over the whole item


@dataclass
class ReverbConfig:
    """Random room impulse responses from lhotse's fast generator (https://arxiv.org/abs/2208.04101)."""

    probability: float = 0.0  # per item
    rooms: int = 200  # number of different impulse responses; each is made once per worker, when first drawn
    max_t60: float = 0.8  # reverberation time, seconds; must exceed 0.1


@dataclass
class ConcatenateConfig:
    """Joins utterances into one longer item, with pauses of background noise at the utterance's own level between."""

    probability: float = 0.0  # that an utterance starts a joined item
    max_seconds: float = 20.0  # seconds before speed change; a random target up to it is drawn
    max_cuts: int = 0  # most utterances joined; 0 = no limit; a random target from 2 up to it is drawn
    pause_seconds: list[float] = field(default_factory=lambda: [0.1, 0.8])  # seconds between two utterances
    same_speaker: bool = False  # join only utterances of one speaker


@dataclass
class PaddingConfig:
    """Random background before and after the speech, so that silence means blanks and the last word may end anywhere."""

    probability: float = 0.0  # per item
    before_seconds: list[float] = field(default_factory=lambda: [0.0, 0.5])  # seconds
    after_seconds: list[float] = field(default_factory=lambda: [0.0, 1.0])  # seconds


@dataclass
class SpecAugmentConfig:
    """Masks on the features (Park et al. 2019, https://arxiv.org/abs/1904.08779), filled with the item's mean frame."""

    probability: float = 0.0  # per item
    time_masks: int = 10  # at most this many, fewer in short items
    max_time_frames: int = 100  # longest time mask, frames of 10 ms
    max_time_fraction: float = 0.15  # of an item's frames, in all time masks together
    frequency_masks: int = 2  # number
    max_frequency_bins: int = 27  # widest frequency mask, Mel bins


@dataclass
class AugmentConfig:
    """Order of work: speed, join, pad, reverb, noise, volume on samples; then SpecAugment on features."""

    speed: SpeedConfig = field(default_factory=SpeedConfig)
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    reverb: ReverbConfig = field(default_factory=ReverbConfig)
    concatenate: ConcatenateConfig = field(default_factory=ConcatenateConfig)
    padding: PaddingConfig = field(default_factory=PaddingConfig)
    specaugment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)


@dataclass
class DataConfig:
    """Corpora, batch budget and augmentation of a recipe."""

    train: list[str | CorpusConfig] = field(default_factory=list)  # sources; a string is a path
    dev: list[str | CorpusConfig] = field(default_factory=list)  # never augmented or filtered
    max_seconds: float = 200.0  # of a batch and rank: utterances x longest utterance, seconds
    max_utterances: int = 0  # most items in a batch; 0 = no limit beyond max_seconds
    num_buckets: int = 30  # duration classes; more = less padding, less mixing
    min_utterance_seconds: float = 0.1  # shorter training utterances are dropped and counted
    max_utterance_seconds: float = 20.0  # longer training utterances are dropped and counted
    workers: int = 2  # worker processes; 0 = work in the training process; batches are the same either way
    prefetch: int = 4  # batches each worker prepares ahead
    cache_audio: bool = False  # keep decoded audio as int16 in memory shared by the workers (115 MB an hour)
    disjoint_speakers: bool = True  # refuse a speaker who is in train and in dev
    strict_text: bool = True  # drop utterances the tokens cannot write; False: drop the characters
    endpoint: bool = False  # append the tokenizer's endpoint token to every utterance
    skip_unreadable: bool = True  # leave out training audio that cannot be read, and name it; false = stop
    statistics: str = ""  # JSON file with mean/std of features; empty = measured before training
    statistics_seconds: float = 3600.0  # seconds of training audio to measure mean/std on
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def validate(self) -> None:
        """Raises UserError for values that contradict one another; the loaders call this."""
        if self.max_seconds <= 0 or self.num_buckets < 1 or self.workers < 0 or self.prefetch < 1:
            raise UserError("data: max_seconds must be > 0, num_buckets and prefetch >= 1 and workers >= 0.")
        if self.max_utterance_seconds > self.max_seconds:
            raise UserError(
                f"data.max_utterance_seconds ({self.max_utterance_seconds:g}) is longer than a whole batch, "
                f"data.max_seconds ({self.max_seconds:g}): raise the second or lower the first."
            )
        if self.min_utterance_seconds >= self.max_utterance_seconds:
            raise UserError("data.min_utterance_seconds must be below data.max_utterance_seconds.")
        if self.max_utterances < 0 or self.min_utterance_seconds < 0 or not self.statistics_seconds > 0:
            raise UserError(
                "data: max_utterances and min_utterance_seconds must be >= 0 and statistics_seconds > 0."
            )
        augment = self.augment
        for name, value in (
            ("concatenate.max_cuts", augment.concatenate.max_cuts),
            ("specaugment.time_masks", augment.specaugment.time_masks),
            ("specaugment.max_time_frames", augment.specaugment.max_time_frames),
            ("specaugment.frequency_masks", augment.specaugment.frequency_masks),
            ("specaugment.max_frequency_bins", augment.specaugment.max_frequency_bins),
        ):
            if value < 0:
                raise UserError(f"data.augment.{name} must not be negative, it is {value}.")
        if augment.concatenate.max_cuts == 1:
            raise UserError("data.augment.concatenate.max_cuts is 1: it must be 0 (no limit) or at least 2.")
        if not augment.concatenate.max_seconds > 0:
            raise UserError(
                f"data.augment.concatenate.max_seconds must be > 0, it is {augment.concatenate.max_seconds:g}."
            )
        if not 0.0 <= augment.specaugment.max_time_fraction <= 1.0:
            raise UserError(
                "data.augment.specaugment.max_time_fraction is "
                f"{augment.specaugment.max_time_fraction:g}: it must lie in [0, 1]."
            )
        if augment.concatenate.probability > 0 and augment.concatenate.max_seconds > self.max_seconds:
            raise UserError("data.augment.concatenate.max_seconds must not exceed data.max_seconds.")
        for name in ("speed", "volume", "noise", "reverb", "concatenate", "padding", "specaugment"):
            probability = getattr(augment, name).probability
            if not 0.0 <= probability <= 1.0:
                raise UserError(f"data.augment.{name}.probability is {probability:g}: it must lie in [0, 1].")
        if not augment.speed.factors or not all(0.5 <= f <= 2.0 for f in augment.speed.factors):
            raise UserError(
                "data.augment.speed.factors must be a non-empty list of factors between 0.5 and 2."
            )
        for name, bounds in (
            ("volume.gain_db", augment.volume.gain_db),
            ("noise.snr_db", augment.noise.snr_db),
            ("concatenate.pause_seconds", augment.concatenate.pause_seconds),
            ("padding.before_seconds", augment.padding.before_seconds),
            ("padding.after_seconds", augment.padding.after_seconds),
        ):
            if len(bounds) != 2 or bounds[0] > bounds[1]:
                raise UserError(
                    f"data.augment.{name} must be [low, high] with low <= high, not {list(bounds)}."
                )
            if name.endswith("seconds") and bounds[0] < 0:
                raise UserError(f"data.augment.{name} must not be negative, it is {list(bounds)}.")
        if augment.noise.probability > 0 and not augment.noise.sources:
            raise UserError(
                "data.augment.noise has a probability but no sources: name a manifest of noise recordings."
            )
        if augment.reverb.probability > 0 and (augment.reverb.max_t60 <= 0.1 or augment.reverb.rooms < 1):
            raise UserError("data.augment.reverb needs max_t60 > 0.1 seconds and at least one room.")
