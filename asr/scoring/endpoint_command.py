"""``asr evaluate --endpoints``: how late, how early and how harmless a model's endpoints are."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from asr.cli import Parser, _model_options, _recognizer, _search_options, check_token
from asr.errors import UserError
from asr.memory import keep_freed_memory


def endpoints_command(argv: Sequence[str]) -> int:
    """Scores endpoint settings on long recordings made of a manifest's utterances; one line a setting.

    Raises:
        UserError: a bad option, manifest, model or noise.
    """
    parser = Parser(
        prog="asr evaluate --endpoints",
        description="Stream long recordings, made of the utterances of a manifest with pauses between them, and compare the "
        "endpoints with the true ends of speech (by energy). Latencies are seconds of audio, chunk and look-ahead included.",
    )
    _model_options(parser)
    parser.add_argument("--manifest", required=True, metavar="FILE", help="manifest.jsonl, its folder, or lhotse cuts")
    parser.add_argument("--split", default=None, help="only this split of the manifest")
    parser.add_argument("--limit", type=int, default=None, help="only its first utterances")
    parser.add_argument(
        "--trailing-silence", nargs="+", default=["0.5", "0.8", "1.2"], metavar="SECONDS",
        help="silences that end a segment, each scored; none: only the other rules",
    )  # fmt: skip
    parser.add_argument("--min-speech", type=float, default=0.0, help="seconds of words before silence may end a segment")
    parser.add_argument("--max-segment", type=float, default=20.0, help="seconds after which a segment is cut")
    parser.add_argument("--no-token", action="store_true", help="ignore the model's endpoint token")
    parser.add_argument(
        "--token-threshold", nargs="+", type=float, default=[0.0], metavar="P",
        help="the token's least probability, 0 to 1; each is scored with each silence",
    )  # fmt: skip
    parser.add_argument("--reset-predictor", action="store_true", help="forget the predictor's context at endpoints")
    parser.add_argument("--pauses", nargs=2, type=float, default=[1.0, 4.0], metavar="SECONDS", help="shortest and longest")
    parser.add_argument("--utterances", type=int, default=25, help="in a recording")
    parser.add_argument("--noise", default=None, metavar="FOLDER", help="noise under the recordings, for utterances without edges")
    parser.add_argument("--snr", type=float, default=None, metavar="DB", help="of --noise: dB from it to the speech (25)")
    parser.add_argument("--seed", type=int, default=0, help="of order, pauses and noise")
    parser.add_argument("--map", nargs="+", action="extend", default=[], metavar="a=b", help="replace word a by b on both sides")
    _search_options(parser)
    parser.add_argument("--format", choices=("txt", "json"), default="txt", help="of the scores")
    options = parser.parse(argv)
    keep_freed_memory()
    if options.no_token and any(options.token_threshold):
        raise UserError("--token-threshold is of no use with --no-token")
    if options.snr is not None and options.noise is None:
        raise UserError("--snr needs --noise")

    from asr.scoring.endpoints import endpoint_table, evaluate_endpoints
    from asr.scoring.wer import parse_map
    from asr.streaming import EndpointConfig

    mapping = parse_map(options.map)
    configs = [
        EndpointConfig(
            trailing_silence=_silence(value),
            max_segment=options.max_segment,
            reset_predictor=options.reset_predictor,
            min_speech=options.min_speech,
            use_token=not options.no_token,
            token_threshold=threshold,
        )
        for value in options.trailing_silence
        for threshold in options.token_threshold
    ]
    recognizer = _recognizer(options)
    check_token(recognizer, *options.token_threshold)
    evaluations = evaluate_endpoints(
        recognizer,
        options.manifest,
        configs,
        split=options.split,
        utterances=options.utterances,
        limit=options.limit,
        pauses=(options.pauses[0], options.pauses[1]),
        noise=options.noise,
        snr_db=25.0 if options.snr is None else options.snr,
        seed=options.seed,
        map=mapping,
        progress=_progress if sys.stderr.isatty() else None,
    )
    if options.format == "json":
        print(json.dumps([evaluation.to_dict() for evaluation in evaluations], indent=2))
        return 0
    first = evaluations[0]
    print(
        f"{first.score.utterances} utterances in {first.seconds:.0f} s of audio, pauses of {options.pauses[0]:g} to "
        f"{options.pauses[1]:g} s; seconds from the true end of speech"
    )
    print(endpoint_table(evaluations), end="")
    return 0


def _silence(value: str) -> float | None:
    if value == "none":
        return None
    try:
        return float(value)
    except ValueError:
        raise UserError(f"--trailing-silence takes seconds or none, not {value!r}") from None


def _progress(done: int, total: int) -> None:
    print(f"\r{done}/{total} s", end="\n" if done >= total else "", file=sys.stderr, flush=True)
