"""``asr train-branch``: letters on a frozen encoder, for the times of words (asr/models/branch.py).

The output of one encoder layer is computed once and kept; what is trained is a small head on it, in two parts:

1. CTC on the transcripts with the boundary between words. It finds which letters there are, but its peaks say little about
   where a word begins and ends (arXiv 2105.14849 explains why CTC is peaky).
2. Viterbi training, as hybrid systems do: the transcript is aligned without blank, every frame being a letter or a boundary,
   with posteriors divided by priors, and the head learns the frames by cross-entropy; and again, a few times.
   In these alignments loudness votes, too: a quiet frame is rather a boundary, a loud one is none. Only the training hears
   that; without it the boundary takes the quiet part of many words for itself.

At the end the priors are built into the head, and the median distance of aligned starts and ends from the first and last
loud frame of each training utterance is stored as the bias that alignment takes off again.

Shapes: T' encoder frames of 40 ms, D encoder width, V symbols of the branch.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from asr.decoding.alignment import WILDCARD_PENALTY, align_words
from asr.decoding.viterbi import AlignmentError, build_graph, viterbi
from asr.errors import UserError
from asr.models.branch import (
    BLANK,
    BOUNDARY,
    NEVER,
    AlignmentBranch,
    BranchConfig,
    save_branch,
    speller,
    symbol_count,
)
from asr.training.branch_data import LONGEST, Example, prepare, read_recordings

CTC_SHARE = 0.25  # of the training; the rest is Viterbi training
ROUNDS = 4  # alignments of the training data
BATCH = 16  # recordings
LEARNING_RATE = 2e-3
LEAST_PRIOR = 1e-3
IGNORED = -100  # target of a frame that is padding
CHECKPOINT = ".alignment-checkpoint.safetensors"
CHECKPOINT_SECONDS = 20.0


# ---------------------------------------------------------------- training


class BranchTraining:
    """The state of a training: step, seconds, weights, Adam's moments; everything random follows from seed and step."""

    def __init__(self, branch: AlignmentBranch, examples: Sequence[Example], spell: Any, seed: int = 0) -> None:
        self.branch, self.examples, self.spell, self.seed = branch, list(examples), spell, seed
        self.spelled = [[spell(word) for word in example.words] for example in self.examples]
        self.optimizer = torch.optim.AdamW(branch.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
        self.step, self.seconds, self.round = 0, 0.0, 0
        self.loss = float("nan")
        self.identity = ""  # what must be the same for a checkpoint to fit: data, model and shape
        V = branch.config.vocab_size
        self.log_prior = np.full(V, -np.log(V - 1))
        self.targets: list[Tensor] = []
        order = np.argsort([example.encoded.size(0) for example in self.examples])
        self.batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]

    def run(self, steps: int, minutes: float, checkpoint: Path | None = None, progress: Any = None) -> None:
        """Train until ``steps`` or ``minutes`` are over, from where the state is; afterwards `finish`."""
        self.branch.train()
        began = saved = time.monotonic() - self.seconds
        saved += self.seconds
        while (share := max(self.step / steps, self.seconds / (60 * minutes))) < 1:
            in_round = int((share - CTC_SHARE) / (1 - CTC_SHARE) * ROUNDS) + 1 if share >= CTC_SHARE else 0
            if in_round != self.round or in_round and not self.targets:
                self.round = in_round
                self.realign()
            for group in self.optimizer.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, (self.step + 1) / 30) * (1 - 0.95 * share)
            loss = self._frames() if self.targets else self._ctc()
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.branch.parameters(), 1.0)
            self.optimizer.step()
            self.loss = float(loss.detach())
            self.step += 1
            now = time.monotonic()
            self.seconds = now - began
            if progress:
                progress(self, max(self.step / steps, self.seconds / (60 * minutes)))
            if checkpoint is not None and now - saved > CHECKPOINT_SECONDS:
                self.save(checkpoint)
                saved = now

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.step))

    def _ctc(self) -> Tensor:
        batch = self.batches[int(self._rng().integers(len(self.batches)))]
        encoded = [self.examples[i].encoded.float() for i in batch]
        targets = [_with_boundaries(self.spelled[i]) for i in batch]
        frames = torch.tensor([len(x) * self.branch.config.split for x in encoded])
        log_probs = self.branch(torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True)).transpose(0, 1)
        lengths = torch.tensor([len(y) for y in targets])
        flat = torch.tensor([symbol for y in targets for symbol in y])
        loss = F.ctc_loss(log_probs, flat, frames, lengths, BLANK, "sum", zero_infinity=True)
        return loss / frames.sum()

    def _frames(self) -> Tensor:
        chosen = self._rng().integers(0, len(self.examples), size=BATCH)
        encoded = torch.nn.utils.rnn.pad_sequence([self.examples[i].encoded.float() for i in chosen], batch_first=True)
        targets = torch.nn.utils.rnn.pad_sequence([self.targets[i].long() for i in chosen], True, IGNORED)
        return F.cross_entropy(self.branch.logits(encoded).transpose(1, 2), targets, ignore_index=IGNORED)

    @torch.no_grad()
    def scores(self, example: Example) -> np.ndarray:
        """(split * T', V) log-likelihoods but for a constant a frame: posteriors without blank over priors."""
        logits = self.branch.logits(example.encoded.float()[None])[0]
        logits[:, BLANK] = NEVER
        return logits.log_softmax(-1).numpy() - self.log_prior.astype(np.float32)

    def realign(self) -> None:
        """New targets for every frame, and new priors from them."""
        self.targets = []
        counts = np.full(self.branch.config.vocab_size, 10.0)
        for example, spelled in zip(self.examples, self.spelled):
            scores = self.scores(example)
            scores[:, BOUNDARY] += example.votes
            scores = np.concatenate([scores, scores.max(1, keepdims=True) - WILDCARD_PENALTY], axis=1)
            graph = build_graph(spelled, scores.shape[1] - 1, None, BOUNDARY, False)
            frames = graph.symbols[viterbi(scores, graph)]
            counts += np.bincount(frames, minlength=len(counts))
            self.targets.append(torch.from_numpy(frames.astype(np.int16)))
        self.log_prior = np.log(np.maximum(counts / counts.sum(), LEAST_PRIOR))

    def finish(self) -> AlignmentBranch:
        """The trained branch: priors built in, biases measured on the training data."""
        branch = self.branch.eval()
        branch.divide_by_prior(torch.from_numpy(self.log_prior).float())
        late: dict[str, list[float]] = {"start": [], "end": []}
        for example in self.examples[:400]:
            with torch.no_grad():
                log_probs = branch(example.encoded.float()[None])[0].numpy()
            try:
                found = align_words(
                    log_probs,
                    example.words,
                    self.spell,
                    frame_seconds=branch.frame_seconds,
                    blank=None,
                    boundary=BOUNDARY,
                )
            except AlignmentError:
                continue
            for word, edge, seconds in example.edges:
                late[edge].append((found[word].start if edge == "start" else found[word].end) - seconds)
        config = branch.config
        config.start_bias, config.end_bias = (
            round(float(np.clip(np.median(late[edge] or [0.0]), -0.3, 0.3)), 4) for edge in ("start", "end")
        )
        return branch

    def save(self, path: Path) -> None:
        """Write the state, so that `restore` can go on."""
        tensors = {f"weight.{name}": value.detach().clone() for name, value in self.branch.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{name}": torch.as_tensor(value).clone() for name, value in state.items()}
        tensors["log_prior"] = torch.from_numpy(self.log_prior)
        if self.targets:
            tensors["targets"] = torch.cat(self.targets)
        values = {
            "step": str(self.step),
            "round": str(self.round),
            "seconds": str(self.seconds),
            "identity": self.identity,
        }
        temporary = path.with_name(path.name + ".tmp")
        try:
            save_file(tensors, temporary, metadata=values)
            temporary.replace(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None

    def restore(self, path: Path) -> bool:
        """Go on from a checkpoint; False if there is none that fits."""
        if not path.is_file():
            return False
        try:
            tensors = load_file(path)
            with safetensors.safe_open(path, "pt") as file:
                values = file.metadata() or {}
        except (safetensors.SafetensorError, OSError):
            return False
        if values.get("identity") != self.identity:
            return False
        self.branch.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("weight.")})
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, i, key = name.split(".")
                state.setdefault(int(i), {})[key] = value
        full = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state, "param_groups": full["param_groups"]})
        self.log_prior = tensors["log_prior"].numpy()
        self.step, self.round, self.seconds = int(values["step"]), int(values["round"]), float(values["seconds"])
        if "targets" in tensors:
            frames = [example.encoded.size(0) * self.branch.config.split for example in self.examples]
            self.targets = list(tensors["targets"].split(frames))
        return True


def _with_boundaries(spelled: Sequence[Sequence[int]]) -> list[int]:
    symbols = [BOUNDARY]
    for ids in spelled:
        symbols += [*ids, BOUNDARY]
    return symbols


# ---------------------------------------------------------------- command


def branch_command(argv: Sequence[str]) -> int:
    """``asr train-branch --model M --manifest DATA… --out FOLDER``: a branch for the times of words."""
    from asr.cli import Parser
    from asr.memory import keep_freed_memory

    parser = Parser(
        prog="asr train-branch",
        description="Train a small head on a model's encoder that tells when words were said. The model stays as it is.",
    )
    parser.add_argument("--model", required=True, metavar="NAME|FOLDER", help="a shipped model or a model folder")
    parser.add_argument(
        "--manifest", required=True, nargs="+", action="extend", default=[], metavar="DATA",
        help="manifest.jsonl, its folder, or lhotse cuts",
    )  # fmt: skip
    parser.add_argument("--split", default="train", help="split of the manifests; '' for all")
    parser.add_argument(
        "--out",
        default=None,
        metavar="FOLDER",
        help="where the model with its branch goes (the model's folder if left out)",
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="most time for training, after the encoder has run")
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--symbols", choices=("letters", "tokens"), default="letters", help="what the branch tells")
    parser.add_argument("--layer", type=int, default=1, help="encoder layer it listens to, 1 = first; 0 = the output")
    parser.add_argument("--hidden", type=int, default=256, help="units of its hidden layer")
    parser.add_argument("--context", type=int, default=2, help="encoder frames that it sees before and after a frame")
    parser.add_argument("--split-frames", type=int, default=2, choices=(1, 2, 4), help="frames for each 40 ms")
    parser.add_argument(
        "--join", type=float, default=6.0, help="join short recordings to at most this many seconds; 0: not"
    )
    parser.add_argument(
        "--copies", type=int, default=3, help="of each recording; all but one with another pitch and tone"
    )
    parser.add_argument("--any-text", action="store_true", help="also utterances that the model's tokens cannot write")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse(argv)
    keep_freed_memory()
    for name in ("minutes", "steps", "copies", "threads"):
        if not getattr(options, name) > 0:
            raise UserError(f"--{name} must be above 0, not {getattr(options, name):g}")
    if not 0 <= options.join <= LONGEST:
        raise UserError(f"--join must be from 0 to {LONGEST:g} seconds, not {options.join:g}")

    from asr.models.folder import load_model
    from asr.pretrained import resolve

    torch.set_num_threads(options.threads)
    folder = resolve(options.model)
    loaded = load_model(folder)
    out = _target(folder, options.out)
    config = BranchConfig(
        symbols=options.symbols,
        vocab_size=symbol_count(options.symbols, loaded.tokenizer),
        input_dim=loaded.model.encoder.dim,
        layer=options.layer,
        hidden=options.hidden,
        context=options.context,
        split=options.split_frames,
    )
    if options.layer > len(loaded.model.encoder.layers):
        raise UserError(f"--layer {options.layer}: the encoder has {len(loaded.model.encoder.layers)} layers")
    spell = speller(config, loaded.tokenizer)
    recordings = read_recordings(
        options.manifest, options.split or None, None if options.any_text else loaded.tokenizer
    )
    shown = _Shown()
    examples = prepare(loaded, recordings, config, spell, options.join, options.seed, options.copies, shown.encoding)
    torch.manual_seed(options.seed)
    training = BranchTraining(AlignmentBranch(config), examples, spell, options.seed)
    training.identity = _identity(recordings, config, options, folder)
    checkpoint = out / CHECKPOINT
    if training.restore(checkpoint):
        print(f"going on from step {training.step}", file=sys.stderr)
    try:
        training.run(options.steps, options.minutes, checkpoint, shown.training)
    except KeyboardInterrupt:
        training.save(checkpoint)
        raise
    branch = training.finish()
    hours = sum(example.encoded.size(0) for example in examples) * 0.04 / 3600
    extra = {
        "manifests": list(options.manifest), "split": options.split, "recordings": len(recordings),
        "copies": options.copies, "hours": round(hours, 3), "steps": training.step, "minutes": round(training.seconds / 60, 2),
        "loss": round(training.loss, 4), "seed": options.seed,
    }  # fmt: skip
    save_branch(out, branch, extra)
    checkpoint.unlink(missing_ok=True)
    print(
        f"{out}: {sum(p.numel() for p in branch.parameters())} parameters, {training.step} steps in "
        f"{training.seconds / 60:.1f} minutes, loss {training.loss:.3f}; starts {1000 * branch.config.start_bias:.0f} ms and "
        f"ends {1000 * branch.config.end_bias:.0f} ms late in training, which alignment takes off"
    )
    return 0


def _target(folder: Path, out: str | None) -> Path:
    """The folder to write to; a new one gets the model's files first."""
    from asr.models.folder import FILES

    if out is None or Path(out).resolve() == folder.resolve():
        return folder
    target = Path(out)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            source, copy = folder / name, target / name
            if not source.is_file():
                continue
            if not copy.exists():
                shutil.copyfile(source, copy)
            elif copy.read_bytes() != source.read_bytes():
                raise UserError(f"{target} holds another model than {folder}: choose another --out")
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None
    return target


def _identity(recordings: Sequence[Any], config: BranchConfig, options: Any, folder: Path) -> str:
    weights = (folder / "model.safetensors").stat()
    parts = [repr(config), f"{options.join} {options.seed} {options.copies} {weights.st_size} {weights.st_mtime_ns}"]
    parts += [f"{item.id} {' '.join(words)}" for item, words in recordings]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _Shown:
    """Progress on standard error: a line that updates itself in a terminal, else one every ten seconds."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.last = self.began = time.monotonic()

    def _show(self, line: str, last: bool) -> None:
        now = time.monotonic()
        if not last and now - self.last < (0.5 if self.terminal else 10.0):
            return
        self.last = now
        print(
            f"\r\x1b[K{line}" if self.terminal else line,
            end="\n" if last or not self.terminal else "",
            file=sys.stderr,
            flush=True,
        )

    def encoding(self, done: int, total: int) -> None:
        """Recordings that went through the encoder."""
        left = (time.monotonic() - self.began) / done * (total - done)
        self._show(f"encoder: {done}/{total} recordings, ETA {left:.0f} s", done == total)

    def training(self, training: BranchTraining, share: float) -> None:
        """A step of training."""
        part = f"alignment {training.round}/{ROUNDS}" if training.round else "CTC"
        left = training.seconds / max(share, 1e-6) * (1 - share)
        rate = training.step / max(training.seconds, 1e-6)
        self._show(
            f"step {training.step}, {part}, loss {training.loss:.3f}, {rate:.1f} steps/s, {100 * min(share, 1):.0f} %, ETA {left:.0f} s",
            share >= 1,
        )
