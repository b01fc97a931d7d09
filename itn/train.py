"""Training of the tagger (torch), and its conversion to the int8 file that itn/tagger.py runs.

    itn train prepare --text TEXT_FOLDER --out exp/itn          # examples, pieces
    itn train fit --out exp/itn                                 # resumes where it was stopped
    itn train convert --out exp/itn                             # exp/itn/tagger.npz
    itn train score --out exp/itn                               # held-out sentences, word by word

Legend: B rows, T positions (words and two ends), P pieces of a word, D width, L labels.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import ItnError
from .evaluate import Counts, evaluate, packed, span_set
from .tagger import END, FORMAT, LOOKAHEAD, MAX_PIECES, SHAPES, Pieces, Tagger, scaled, shape_of


@dataclass(frozen=True)
class TaggerConfig:
    width: int = 160
    layers: int = 3
    heads: int = 4
    window: int = 32  # words a position looks back over, itself included
    feedforward: int = 4  # times the width
    dropout: float = 0.1  # of the words' embeddings, in training


class Layer(nn.Module):
    """The four products of one layer; the layers' sums start small (`std`)."""

    def __init__(self, width: int, feedforward: int, std: float):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, feedforward * width)
        self.down = nn.Linear(feedforward * width, width)
        nn.init.normal_(self.out.weight, std=std)
        nn.init.normal_(self.down.weight, std=std)


class TaggerNet(nn.Module):
    """The network of itn/tagger.py in float: causal, windowed, one head for each delay of the answer.

    forward(pieces (B, T, P) long with -1 where there is none, shapes (B, T) long with -1 at the ends) -> logits (B, T, 3, L): [b, i, k] is about word i - k.
    """

    def __init__(self, config: TaggerConfig, pieces: int, labels: int):
        super().__init__()
        width = config.width
        self.config = config
        self.labels = labels
        self.embedding = nn.Embedding(pieces, width)
        self.shape = nn.Embedding(len(SHAPES), width)
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.normal_(self.shape.weight, std=0.1)
        self.layers = nn.ModuleList(Layer(width, config.feedforward, 0.02 / math.sqrt(2 * config.layers)) for _ in range(config.layers))
        self.head = nn.Linear(width, (LOOKAHEAD + 1) * labels)
        self.dropout = nn.Dropout(config.dropout)

    def embed(self, pieces: Tensor, shapes: Tensor) -> Tensor:
        rows = self.embedding(pieces.clamp(min=0)) * (pieces >= 0).unsqueeze(-1)
        return rows.sum(2) + self.shape(shapes.clamp(min=0)) * (shapes >= 0).unsqueeze(-1)

    def bias(self, length: int, device: torch.device) -> Tensor:
        """(H, T, T): ALiBi inside the window, -inf outside."""
        heads, window = self.config.heads, self.config.window
        at = torch.arange(length, device=device)
        distance = at[:, None] - at[None, :]
        slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1, device=device) / heads)
        seen = (distance >= 0) & (distance < window)
        return (-slopes[:, None, None] * distance).masked_fill(~seen, -math.inf)

    def forward(self, pieces: Tensor, shapes: Tensor) -> Tensor:
        x = self.dropout(self.embed(pieces, shapes))
        batch, length, width = x.shape
        heads = self.config.heads
        bias = self.bias(length, x.device)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            q, k, v = layer.qkv(normed(x)).view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            x = x + layer.out(mixed.transpose(1, 2).reshape(batch, length, width))
            x = x + layer.down(F.relu(layer.up(normed(x))))
        return self.head(normed(x)).view(batch, length, LOOKAHEAD + 1, self.labels)


def normed(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), eps=1e-6)


class Examples:
    """A packed file of itn.data with the pieces of its words looked up once."""

    def __init__(self, path: Path, pieces: Pieces):
        with np.load(path) as stored:
            words = stored["words"].tobytes().decode().split("\n")
            self.types, self.labels, self.offsets = stored["types"], stored["labels"], stored["offsets"]
        # one row more: the end of the stream
        self.pieces = np.full((len(words) + 1, MAX_PIECES), -1, np.int16)
        self.shapes = np.full(len(words) + 1, -1, np.int8)
        for i, word in enumerate(words):
            rows = pieces(word)
            self.pieces[i, : len(rows)] = rows
            self.shapes[i] = shape_of(word)
        self.pieces[-1, 0] = END
        self.end = len(words)
        self.lengths = np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.lengths)

    def batches(self, words: int, rng: random.Random) -> list[np.ndarray]:
        """Rows of about the same length, about `words` positions a batch, in random order."""
        order = np.argsort(self.lengths + np.array([rng.random() for _ in range(len(self))]) * 3, kind="stable")
        found, start = [], 0
        while start < len(order):
            longest, end = 0, start
            while end < len(order) and max(longest, self.lengths[order[end]] + LOOKAHEAD) * (end - start + 1) <= words:
                longest = max(longest, self.lengths[order[end]] + LOOKAHEAD)
                end += 1
            found.append(order[start : max(end, start + 1)])
            start = max(end, start + 1)
        rng.shuffle(found)
        return found

    def batch(self, rows: np.ndarray, longest: int = 126) -> tuple[Tensor, Tensor, Tensor]:
        """(pieces (B, T, P), shapes (B, T), targets (B, T, 3) with -100 where there is nothing to say)."""
        lengths = np.minimum(self.lengths[rows], longest)
        total = 1 + int(lengths.max()) + LOOKAHEAD  # the edges of the stream are positions, too
        types = np.full((len(rows), total), self.end, np.int64)
        targets = np.full((len(rows), total, LOOKAHEAD + 1), -100, np.int64)
        for i, (row, n) in enumerate(zip(rows, lengths)):
            start = self.offsets[row]
            types[i, 1 : n + 1] = self.types[start : start + n]
            for k in range(LOOKAHEAD + 1):
                targets[i, 1 + k : 1 + n + k, k] = self.labels[start : start + n]
        pieces = self.pieces[types]
        used = max(1, int((pieces >= 0).any((0, 1)).sum()))
        return (
            torch.from_numpy(pieces[..., :used].astype(np.int64)), torch.from_numpy(self.shapes[types].astype(np.int64)), torch.from_numpy(targets),
        )  # fmt: skip


DELAY_WEIGHTS = (0.5, 0.7, 1.0)


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return sum(
        weight * F.cross_entropy(logits[:, :, k].flatten(0, 1), targets[:, :, k].flatten(), ignore_index=-100)
        for k, weight in enumerate(DELAY_WEIGHTS)
    )  # type: ignore[return-value]


@torch.inference_mode()
def score(net: TaggerNet, examples: Examples, words: int = 8192) -> dict[str, float]:
    """Label accuracy at each delay, span precision, recall and F1 and the share of sentences whose labels are all right (at the last delay)."""
    from .data import LABELS

    net.eval()
    right = np.zeros(LOOKAHEAD + 1)
    count = hits = said = true = exact = 0
    for rows in examples.batches(words, random.Random(0)):
        pieces, shapes, targets = examples.batch(rows)
        best = net(pieces, shapes).argmax(-1)
        for k in range(LOOKAHEAD + 1):
            known = targets[:, :, k] >= 0
            right[k] += float((best[:, :, k] == targets[:, :, k])[known].sum())
        count += int(known.sum())
        for b in range(len(rows)):
            valid = targets[b, :, LOOKAHEAD] >= 0
            guess = span_set([LABELS[i] for i in best[b, :, LOOKAHEAD][valid].tolist()])
            gold = span_set([LABELS[i] for i in targets[b, :, LOOKAHEAD][valid].tolist()])
            hits, said, true, exact = hits + len(guess & gold), said + len(guess), true + len(gold), exact + (guess == gold)
    net.train()
    precision, recall = hits / max(1, said), hits / max(1, true)
    return {
        **{f"label_{k}": right[k] / max(1, count) for k in range(LOOKAHEAD + 1)},
        "precision": precision, "recall": recall, "f1": 2 * precision * recall / max(1e-9, precision + recall), "sentences": exact / max(1, len(examples)),
    }  # fmt: skip


def need(path: Path, hint: str) -> Path:
    """The path, if it is there. Raises ItnError with what to do."""
    if not path.exists():
        raise ItnError(f"no {path}: {hint}")
    return path


def prepare(arguments: argparse.Namespace) -> None:
    """Examples for training and development, and the pieces."""
    import sentencepiece

    from . import data

    out, text = Path(arguments.out), Path(arguments.text)
    for name in (*data.WRITTEN.values(), *data.SPOKEN.values()):
        need(text / name, "--text is the folder of the text corpora (recipes/itn/README.md)")
    need(data.RECIPE / "carriers.txt", "training needs a clone of the repository")
    out.mkdir(parents=True, exist_ok=True)
    say = data.Verbaliser()
    rng = random.Random(1)
    for source in (*data.WRITTEN, *data.SPOKEN):
        if (out / f"dev_{source}.npz").exists():
            continue
        found = list(data.real_sentences(text, source, True, say, rng))
        rng.shuffle(found)
        count = data.pack((data.cased(s, rng) for s in found[:2000]), out / f"dev_{source}.npz")
        print(f"dev {source}: {count} sentences", flush=True)
    made = data.examples(text, arguments.seed, say, sizes(arguments.examples))
    count = data.pack(progress(made, arguments.examples, "examples"), out / f"train_{arguments.seed}.npz")
    print(f"train: {count} examples", flush=True)
    if not (out / "pieces.json").exists():
        with np.load(out / f"train_{arguments.seed}.npz") as stored:
            words = stored["words"].tobytes().decode().lower().split("\n")
            counts = np.bincount(stored["types"], minlength=len(words))
        lines = (" ".join([word] * int(math.ceil(math.sqrt(n)))) for word, n in zip(words, counts))
        import io

        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines, model_writer=model, vocab_size=arguments.pieces, model_type="bpe", character_coverage=0.9999,
            normalization_rule_name="identity", minloglevel=2, unk_piece="<unk>", bos_id=-1, eos_id=-1,
        )  # fmt: skip
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        pieces = ["<unk>", "<end>", *(p for p in pieces if p != "<unk>")]
        (out / "pieces.json").write_text(json.dumps(pieces, ensure_ascii=False))


def sizes(total: int) -> dict[str, int]:
    """How many examples of each kind (see `itn.data.examples`)."""
    shares = {"real": 0.24, "written": 0.02, "resampled": 0.15, "plain": 0.12, "carriers": 0.20, "pairs": 0.06, "negatives": 0.08, "alone": 0.13}
    return {kind: round(total * share) for kind, share in shares.items()}


def progress(items, total: int, what: str):
    start = shown = time.monotonic()
    for i, item in enumerate(items, 1):
        yield item
        if time.monotonic() - shown > 20:
            shown = time.monotonic()
            print(f"  {i:,}/{total:,} {what}, {i / (shown - start):.0f} a second", flush=True)


def fit(arguments: argparse.Namespace) -> None:
    """Train on exp/itn/train_*.npz until the steps are done or the minutes are over; saves and resumes."""
    from .data import LABELS

    out = Path(arguments.out)
    pieces = Pieces(json.loads(need(out / "pieces.json", "run itn train prepare first").read_text()))
    torch.manual_seed(arguments.seed)
    config = TaggerConfig(width=arguments.width, layers=arguments.layers, dropout=arguments.dropout)
    net = TaggerNet(config, len(pieces.index), len(LABELS))
    decay = [p for p in net.parameters() if p.dim() > 1]
    rest = [p for p in net.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=1.0, betas=(0.9, 0.98), fused=True)
    checkpoint = out / "checkpoint.pt"
    step, spent = 0, 0.0
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(stored["net"])
        optimiser.load_state_dict(stored["optimiser"])
        step, spent = stored["step"], stored["seconds"]
        print(f"resumes at step {step}", flush=True)
    else:
        print(f"{sum(p.numel() for p in net.parameters()):,} parameters", flush=True)
    dev = {path.stem[4:]: Examples(path, pieces) for path in sorted(out.glob("dev_*.npz"))}
    start = time.monotonic() - spent
    shown, total, positions = time.monotonic(), 0.0, 0
    shards = sorted(out.glob("train_*.npz"))
    if not shards:
        raise ItnError(f"no examples in {out}: run itn train prepare first")
    examples: Examples | None = None

    def rate() -> float:
        """Share of the run that is over: by steps or by the clock."""
        by_clock = (time.monotonic() - start) / (60 * arguments.minutes) if arguments.minutes else 0.0
        return max(step / arguments.steps, by_clock)

    def save() -> None:
        temporary = checkpoint.with_suffix(".part")
        torch.save({"net": net.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "seconds": time.monotonic() - start}, temporary)
        temporary.replace(checkpoint)

    def epochs() -> Iterator[np.ndarray]:
        """Batches of one shard after the other, without end."""
        nonlocal examples
        epoch = step  # a resumed run goes on with another shard
        while True:
            examples = Examples(shards[epoch % len(shards)], pieces)
            yield from examples.batches(arguments.words, random.Random(step + arguments.seed))
            epoch += 1

    for sign in (signal.SIGINT, signal.SIGTERM):  # a background shell ignores the first
        signal.signal(sign, signal.default_int_handler)
    try:
        for rows in epochs():
            share = rate()
            if share >= 1:
                break
            assert examples is not None
            warm = min(1.0, (step + 1) / 300)
            for group in optimiser.param_groups:
                group["lr"] = arguments.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
            batch = examples.batch(rows)
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(batch[0], batch[1])
            loss = loss_of(logits.float(), batch[2])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            step += 1
            total += float(loss.detach())
            positions += batch[1].numel()
            if step % 200 == 0:
                now = time.monotonic()
                left = (now - start) * (1 / share - 1) / 60 if share else 0.0
                print(f"step {step} {100 * share:.1f} % loss {total / 200:.4f} {positions / (now - shown):.0f} words/s, {left:.0f} minutes left", flush=True)
                shown, total, positions = now, 0.0, 0
            if step % 2000 == 0:
                save()
                torch.save({"net": net.state_dict()}, out / f"step-{step}.pt")  # for convert --average
                show(dev, net)
    except KeyboardInterrupt:
        save()
        print(f"stopped at step {step}; the same command goes on", flush=True)
        raise SystemExit(130) from None
    save()
    show(dev, net)


def show(dev: dict[str, Examples], net: TaggerNet) -> None:
    """The scores of every development set, a line each."""
    for name, examples in dev.items():
        print(f"  {name}: " + " ".join(f"{k} {100 * v:.2f}" for k, v in score(net, examples).items()), flush=True)


def quantised(weight: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """A linear weight (out, in) as int8 (in, out) and the scale of every output."""
    scale = weight.abs().amax(1).clamp(min=1e-8) / 127
    return torch.round(weight / scale[:, None]).to(torch.int8).T.contiguous().numpy(), scale.numpy().astype(np.float32)


@torch.inference_mode()
def convert(arguments: argparse.Namespace) -> None:
    """The checkpoint as the int8 file of itn/tagger.py."""
    from .data import LABELS

    out = Path(arguments.out)
    names = json.loads(need(out / "pieces.json", "run itn train prepare first").read_text())
    paths = [Path(p) for p in arguments.average] or [out / "checkpoint.pt"]
    nets = [torch.load(need(path, "run itn train fit first"), weights_only=True)["net"] for path in paths]
    stored = {name: torch.stack([net[name] for net in nets]).mean(0) for name in nets[0]}
    config = TaggerConfig(width=stored["embedding.weight"].shape[1], layers=sum(k.endswith("qkv.weight") for k in stored))
    net = TaggerNet(config, len(names), len(LABELS))
    net.load_state_dict(stored)
    net.eval()
    arrays: dict[str, np.ndarray] = {}

    def put(name: str, linear: nn.Linear) -> None:
        arrays[f"{name}.weight"], arrays[f"{name}.scale"] = quantised(linear.weight)
        arrays[f"{name}.bias"] = linear.bias.numpy()

    for i, layer in enumerate(net.layers):
        assert isinstance(layer, Layer)
        for name in ("qkv", "out", "up", "down"):
            put(f"{i}.{name}", getattr(layer, name))
    put("head", net.head)
    embedding = net.embedding.weight
    scale = embedding.abs().amax(1).clamp(min=1e-8) / 127
    arrays["embedding"] = torch.round(embedding / scale[:, None]).to(torch.int8).numpy()
    arrays["embedding_scale"] = scale.numpy().astype(np.float32)
    arrays["shape"] = net.shape.weight.numpy().astype(np.float32)
    try:
        arrays = scaled(arrays, config.heads, config.window)
    except ValueError as error:
        raise ItnError(str(error)) from None
    meta = {
        "format": FORMAT, "labels": list(LABELS), "pieces": names, "confidence": list(arguments.confidence), "start": True, **asdict(config), "parameters": sum(p.numel() for p in net.parameters()),
    }  # fmt: skip
    arrays["meta"] = np.frombuffer(json.dumps(meta, ensure_ascii=False).encode(), np.uint8)
    path = Path(arguments.to or out / "tagger.npz")
    temporary = path.with_suffix(".part")
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def report(arguments: argparse.Namespace) -> None:
    """How good the int8 tagger is on the held-out sentences of every source."""
    out = Path(arguments.out)
    tagger = Tagger.load(arguments.tagger or need(out / "tagger.npz", "run itn train convert first"))
    total = Counts()
    for path in sorted(out.glob("dev_*.npz")):
        counts = evaluate(tagger, packed(path, tagger.labels, arguments.sentences))
        for category, numbers in counts.by_category.items():
            total.by_category[category] = [a + b for a, b in zip(total.by_category.get(category, [0, 0, 0]), numbers)]
        print(f"{path.stem[4:]}: {counts}", flush=True)
    for category, (hits, found, true) in sorted(total.by_category.items()):
        print(f"  {category:<12} F1 {200 * hits / max(1, found + true):5.1f} %, {true} spans")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="itn train", description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("prepare", prepare), ("fit", fit), ("convert", convert), ("score", report)):
        command = commands.add_parser(name, help=(run.__doc__ or "").strip(), allow_abbrev=False)
        command.add_argument("--out", required=True, help="the folder of the run")
        command.add_argument("--seed", type=int, default=1)
        command.set_defaults(run=run)
        if name == "prepare":
            command.add_argument("--text", required=True, help="the folder of text corpora")
            command.add_argument("--examples", type=int, default=600_000)
            command.add_argument("--pieces", type=int, default=4000)
        elif name == "fit":
            command.add_argument("--steps", type=int, default=60_000)
            command.add_argument("--minutes", type=float, default=0.0, help="end after so many minutes (the learning rate falls in time)")
            command.add_argument("--words", type=int, default=4096, help="positions a batch")
            command.add_argument("--lr", type=float, default=2e-3)
            command.add_argument("--width", type=int, default=TaggerConfig.width)
            command.add_argument("--layers", type=int, default=TaggerConfig.layers)
            command.add_argument("--dropout", type=float, default=TaggerConfig.dropout)
        elif name == "score":
            command.add_argument("--tagger", help="the file to score (default: tagger.npz of the run)")
            command.add_argument("--sentences", type=int, default=None, help="so many of each source")
        else:
            command.add_argument("--to", help="the file to write")
            command.add_argument("--average", nargs="+", default=[], metavar="CHECKPOINT", help="the mean of these instead of the run's last one")
            command.add_argument("--confidence", type=float, nargs=2, default=(0.98, 0.9), help="what decides a word 0 and 1 words after it")
    arguments = parser.parse_args(argv)
    arguments.run(arguments)
    return 0
