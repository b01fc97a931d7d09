"""The README of an export: what the files are, and how an application loads them."""

from __future__ import annotations

from typing import Any

from asr.models.folder import LoadedModel


def sherpa_readme(loaded: LoadedModel, manifest: dict[str, Any], settings: dict[str, Any]) -> str:
    """Text of README.md beside the ONNX files."""
    suffix = ".int8.onnx" if "int8" in manifest["precisions"] else ".onnx"
    tail = settings["tail_padding_samples"]
    penalty = settings["blank_penalty"]
    contract = settings["model_type"]
    hotwords = (
        "`--decoding-method=modified_beam_search --modeling-unit=bpe --bpe-vocab=bpe.vocab "
        "--hotwords-file=hotwords.txt`"
    )
    endpoint = (
        "\nThe model has an endpoint token, `<eou>`. sherpa-onnx shows it as a symbol like any other: an application "
        "that finds it at the\nend of `tokens` calls `reset` and takes it off the text.\n"
        if loaded.tokenizer.endpoint_id is not None
        else ""
    )
    history = (
        f"The LSTM predictor sees the last {settings['context_size']} symbols; what that costs is in the report of `asr verify`.\n"
        if loaded.model.config.predictor.kind == "lstm"
        else ""
    )
    return f"""# {name_of(loaded)} for sherpa-onnx

A streaming transducer in the `{contract}` contract of [sherpa-onnx](https://github.com/k2-fsa/sherpa-onnx), for its
unmodified runtime: Linux, Android, iOS, Raspberry Pi, WebAssembly.
{_numbers(loaded)}
| file | what |
| --- | --- |
| `encoder.onnx`, `decoder.onnx`, `joiner.onnx` | float32 |
| `*.int8.onnx` | the same with int8 weights, if they are here: a quarter of the size |
| `tokens.txt` | symbol and id |
| `bpe.vocab` | pieces and scores, for hotwords |
| `config.json` | the settings below, and the zeros to append at the end |
| `manifest.json` | hashes, versions, streaming numbers, how the files were checked |

**At the end of the audio append {tail} zero samples** ({tail / 16000:.2f} s) before `inputFinished`: the runtime
decodes whole windows only, and would keep the last words to itself. Samples are float32 in [-1, 1].
{history}{endpoint}
## Linux, macOS

```sh
sherpa-onnx --tokens=tokens.txt --encoder=encoder{suffix} --decoder=decoder{suffix} --joiner=joiner{suffix} \\
  --model-type={contract} --blank-penalty={penalty:g} --num-threads=1 recording.wav
```

This program appends a fixed piece of silence of its own: if the last word is missing, append {tail / 16000:.2f} s of zeros to
the recording.

```python
import numpy as np, sherpa_onnx
recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
    tokens="tokens.txt", encoder="encoder{suffix}", decoder="decoder{suffix}", joiner="joiner{suffix}",
    model_type="{contract}", blank_penalty={penalty:g}, num_threads=1)
stream = recognizer.create_stream()
for samples in blocks:                                       # float32, 16 kHz
    stream.accept_waveform(16000, samples)
    while recognizer.is_ready(stream): recognizer.decode_stream(stream)
stream.accept_waveform(16000, np.zeros({tail}, np.float32))
stream.input_finished()
while recognizer.is_ready(stream): recognizer.decode_stream(stream)
print(recognizer.get_result(stream), recognizer.timestamps(stream))
```

## Android

The `.aar` or the Kotlin sources of a sherpa-onnx release, the files in `assets/model`:

```kotlin
val config = OnlineRecognizerConfig(
    featConfig = FeatureConfig(sampleRate = 16000, featureDim = {settings["feature_dim"]}),
    modelConfig = OnlineModelConfig(
        transducer = OnlineTransducerModelConfig(
            encoder = "model/encoder{suffix}", decoder = "model/decoder{suffix}", joiner = "model/joiner{suffix}"),
        tokens = "model/tokens.txt", numThreads = 1, modelType = "{contract}"),
    enableEndpoint = true, blankPenalty = {penalty}f)
val recognizer = OnlineRecognizer(assetManager = assets, config = config)
val stream = recognizer.createStream()
stream.acceptWaveform(samples, sampleRate = 16000)           // FloatArray, again and again
while (recognizer.isReady(stream)) recognizer.decode(stream)
val text = recognizer.getResult(stream).text
if (recognizer.isEndpoint(stream)) recognizer.reset(stream)
// at the end
stream.acceptWaveform(FloatArray({tail}), sampleRate = 16000)
stream.inputFinished()
while (recognizer.isReady(stream)) recognizer.decode(stream)
val last = recognizer.getResult(stream).text
```

## iOS

`sherpa-onnx.xcframework` and `SherpaOnnx.swift` of a sherpa-onnx release, the files in the bundle:

```swift
let model = sherpaOnnxOnlineModelConfig(
  tokens: path("tokens.txt"),
  transducer: sherpaOnnxOnlineTransducerModelConfig(
    encoder: path("encoder{suffix}"), decoder: path("decoder{suffix}"), joiner: path("joiner{suffix}")),
  numThreads: 1, modelType: "{contract}")
var config = sherpaOnnxOnlineRecognizerConfig(
  featConfig: sherpaOnnxFeatureConfig(sampleRate: 16000, featureDim: {settings["feature_dim"]}), modelConfig: model,
  enableEndpoint: true, blankPenalty: {penalty:g})
let recognizer = SherpaOnnxRecognizer(config: &config)
recognizer.acceptWaveform(samples: samples, sampleRate: 16000)   // [Float], again and again
while recognizer.isReady() {{ recognizer.decode() }}
print(recognizer.getResult().text)
if recognizer.isEndpoint() {{ recognizer.reset() }}
// at the end
recognizer.acceptWaveform(samples: [Float](repeating: 0, count: {tail}), sampleRate: 16000)
recognizer.inputFinished()
while recognizer.isReady() {{ recognizer.decode() }}
print(recognizer.getResult().text)
```

## Hotwords

They need beam search and the pieces: {hotwords}, a phrase and its score a line (`call anna :2.0`).

## Checked

{manifest["verified"]["how"]}: largest difference {manifest["verified"]["onnxruntime_fp32_largest_difference"]:.1e}.
{manifest["verified"]["runtime"]}. For words on real audio:
`asr verify FOLDER --manifest MANIFEST`, whose result is then in `manifest.json`.
"""


def torchscript_readme(loaded: LoadedModel, manifest: dict[str, Any], settings: dict[str, Any]) -> str:
    """Text of README.md beside the TorchScript files."""
    name = "model.int8.pt" if "int8" in manifest["precisions"] else "model.pt"
    return f"""# {name_of(loaded)} as a TorchScript program

One self-contained file: PCM in, symbol ids and times out. Features, normalisation, encoder, predictor, joiner and greedy
search are inside; the state goes in and comes out, so one loaded file serves any number of streams.
{_numbers(loaded)}
| file | what |
| --- | --- |
| `model.pt` | float32 |
| `model.int8.pt` | the same with int8 weights, if it is here: ARM (engine qnnpack), x86 with VNNI (older x86 may saturate sums of 16 bits) |
| `manifest.json` | hashes, versions, streaming numbers, how the files were checked |

## Doors

N streams, S samples, K symbols found, U = {loaded.model.encoder.chunk} encoder frames (40 ms) a chunk, W =
{loaded.model.encoder.window_frames} feature frames (10 ms) a window, which moves on by
{loaded.model.encoder.chunk_frames}.

| method | |
| --- | --- |
| `initial_state(N) -> state` | streams that have heard nothing |
| `accept(pcm (N, S) float32 at 16 kHz in [-1, 1], state) -> symbols, state` | any S; streams of a call advance together |
| `finish(state) -> symbols, state` | the words that are left; pads by itself |
| `pieces() -> list of strings` | text of every id; U+2581 stands for a space |
| `chunk_frames`, `window_frames`, `blank_penalty` | attributes; the last one can be set after loading |
| `initial_model_state(N)`, `step(features (N, W, 80), valid (N), state) -> tokens (N, U), log_probs (N, U), state` | \
a batch of streams of any ages, features from elsewhere |
| `initial_encoder_state(N)`, `encode(features (N, W, 80), state) -> (N, U, J), state` | a decoder of one's own: with \
`initial_predictor_state(N)`, `predict(y (N), state) -> (N, J), state` and `join(…, J) -> logits (…, V)` |

`symbols` is (tokens, frames, log_probs, streams), all of length K: ids, encoder frames of 40 ms from the start of the
stream, log-probabilities, and the row of the batch. At an endpoint nothing has to be done: the state lives on, the text
begins anew. The blank penalty is {settings["blank_penalty"]:g}. The first calls are slow (torch plans them): send a second of silence
through a stream of its own first.
{_endpoint(loaded)}
## Python

```python
torch.set_num_threads(1)                                     # a chunk is too small to share
program = torch.jit.load("{name}")
pieces, state = program.pieces(), program.initial_state(1)
def show(symbols): print("".join(pieces[t] for t in symbols.tokens).replace("\\u2581", " "), end="", flush=True)
for pcm in blocks:                                           # float tensors (S,)
    symbols, state = program.accept(pcm[None], state)
    show(symbols)
symbols, state = program.finish(state)
show(symbols)
```

## C++ (Linux, Android, iOS: LibTorch)

A whole program that streams a WAV file is in the toolkit's `export/cpp`; its core:

```cpp
#include <torch/script.h>
c10::InferenceMode guard;
at::set_num_threads(1);
auto program = torch::jit::load("{name}");
auto state = program.get_method("initial_state")({{1}});
auto out = program.get_method("accept")({{pcm, state}}).toTuple();        // pcm: float tensor (1, S)
auto symbols = out->elements()[0].toTuple();
auto tokens = symbols->elements()[0].toTensor(), frames = symbols->elements()[1].toTensor();
state = out->elements()[1];
auto rest = program.get_method("finish")({{state}}).toTuple();            // at the end
```

On ARM choose the int8 engine before loading: `at::globalContext().setQEngine(at::QEngine::QNNPACK);`

## Android

Through the C++ above with the NDK. The Java binding cannot hand the state back: it takes the names off tuples. For Kotlin or Java choose
the sherpa-onnx or ExecuTorch export.

## Checked

{manifest["verified"]["how"]}: largest difference {manifest["verified"]["fp32_largest_difference"]:.1e}. For words on real
audio: `asr verify FOLDER --manifest MANIFEST`, whose result is then in `manifest.json`. The file
was written by the torch of `manifest.json`; an older runtime may not read it, and no phone has run it here.
"""


def executorch_readme(loaded: LoadedModel, manifest: dict[str, Any]) -> str:
    """Text of README.md beside the ExecuTorch files."""
    name = "model.int8.pte" if "int8" in manifest["precisions"] else "model.pte"
    methods = manifest["methods"]
    rows = "\n".join(
        f"| `{method}` | {_arguments(entry['inputs'])} | {_arguments(entry['outputs'])} |"
        for method, entry in methods.items()
    )
    states = len(methods["predict"]["inputs"]) - 1
    encoder = loaded.model.encoder
    penalty = manifest["constants"]["blank_penalty"]
    return f"""# {name_of(loaded)} as an ExecuTorch program

Encoder step, predictor and joiner of a streaming transducer as methods of one program, on XNNPACK: Android, iOS, Linux.
{_numbers(loaded)}
| file | what |
| --- | --- |
| `model.pte` | float32 |
| `model.int8.pte` | the same with int8 weights, if it is here |
| `tokens.txt` | symbol and id; U+2581 stands for a space |
| `manifest.json` | hashes, versions, streaming numbers, shapes, how the files were checked |

## Methods

| method | takes | gives |
| --- | --- | --- |
{rows}

Constants are methods without arguments: {", ".join(f"`{key}`" for key in manifest["constants"])}. All states begin as zeros
and are handed back as they came. Features are those of
[kaldi-native-fbank](https://github.com/csukuangfj/kaldi-native-fbank) with its defaults, 80 bins, `high_freq = -400`,
`snip_edges = false`, `dither = 0`, for samples in [-1, 1]; normalisation is inside. A window of {encoder.window_frames}
feature frames (10 ms) gives {encoder.chunk} encoder frames (40 ms), the next one begins {encoder.chunk_frames} frames later. At
the end of the audio fill the window up with zero features; ceil(frames left / 4) of its encoder frames count.

## Search

At most one symbol an encoder frame, 0 is the blank:

```python
import torch
from executorch.runtime import Runtime

program = Runtime.get().load_program("{name}")
encode, predict, join = (program.load_method(name) for name in ("encode", "predict", "join"))

def zeros(method):                                           # the states: all inputs but the first
    meta = method.metadata
    infos = [meta.input_tensor_meta(i) for i in range(1, meta.num_inputs())]
    return [torch.zeros(info.sizes(), dtype=torch.int64 if info.dtype() == 4 else torch.float32) for info in infos]

pieces = [line.rsplit(" ", 1)[0] for line in open("tokens.txt", encoding="utf-8")]
states, history = zeros(encode), zeros(predict)
predicted, *history = predict.execute([torch.zeros(1, dtype=torch.int64), *history])
for window, count in windows:                                # features (1, {encoder.window_frames}, 80), encoder frames that exist
    encoded, *states = encode.execute([window, *states])
    frame = 0
    while frame < count:
        logits = join.execute([encoded, predicted])[0][0, frame:count]
        logits[:, 0] -= {penalty:g}                                     # the blank penalty
        found = logits.argmax(1)
        if not found.any(): break
        at = int(found.nonzero()[0])
        print(pieces[found[at]].replace("\\u2581", " "), end="", flush=True)
        predicted, *history = predict.execute([found[at : at + 1], *history])
        frame += at + 1
```

At an endpoint nothing has to be done: the state lives on, the text begins anew. Each stream has its own states; streams
share the program by turns.
{_endpoint(loaded)}
## C++ (Linux, Android with the NDK)

```cpp
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
using namespace executorch::extension;
Module program("{name}");                                    // link extension_module, extension_tensor, xnnpack_backend,
auto symbol = make_tensor_ptr({{1}}, std::vector<int64_t>{{0}});  // portable or optimized ops
auto out = program.execute("predict", {{symbol{", state…" if states else ""}}});
auto predicted = out->at(0).toTensor();                      // and the {states} states behind it
auto encoded = program.execute("encode", {{window, cache, past}});     // copy the outputs: the next call overwrites them
auto logits = program.execute("join", {{encoded->at(0), predicted}});
```

## Android (Java, Kotlin: org.pytorch:executorch-android)

```kotlin
val program = Module.load(path)
val out = program.execute("encode", EValue.from(window), EValue.from(cache), EValue.from(past))
val encoded = out[0].toTensor()
val logits = program.execute("join", EValue.from(encoded), EValue.from(predicted))[0].toTensor().dataAsFloatArray
```

## iOS (ExecuTorch Swift package, products `executorch`, `backend_xnnpack`, `kernels_optimized`)

```swift
let program = Module(filePath: path)
try program.load("encode")
let out: [Value] = try program.execute("encode", [window, cache, past])
```

## Checked

{manifest["verified"]["how"]}: largest difference {manifest["verified"]["fp32_largest_difference"]:.1e}. For words on real
audio: `asr verify FOLDER --manifest MANIFEST`, whose result is then in `manifest.json`. The
program was written by the versions of `manifest.json`; no phone has run it here.
"""


def name_of(loaded: LoadedModel) -> str:
    """The model's name: its folder's."""
    return loaded.folder.resolve().name


def _endpoint(loaded: LoadedModel) -> str:
    if loaded.tokenizer.endpoint_id is None:
        return ""
    return (
        f"\nSymbol {loaded.tokenizer.endpoint_id}, `<eou>`, is the model's endpoint token: it ends the word and the segment, and is "
        "no text.\n"
    )


def _arguments(entries: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{entry['name']} ({', '.join(map(str, entry['shape']))}) {entry['type']}" for entry in entries
    )


def _numbers(loaded: LoadedModel) -> str:
    config = loaded.model.config
    return (
        f"{loaded.model.num_parameters() / 1e6:.1f} M parameters, {config.vocab_size} symbols, chunks of "
        f"{config.encoder.chunk_ms} ms with a look-ahead of {config.encoder.look_ahead_ms} ms, 16 kHz mono.\n"
    )
