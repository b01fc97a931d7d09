// stream_wav MODEL.pt RECORDING.wav: a recording through an exported program, 160 ms at a time, as from a microphone.
//
// A line for every word once the next one begins: start and end in seconds of the stream, and the word.

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>
#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "wav.h"

namespace {

constexpr unsigned kRate = 16000;                    // samples a second
constexpr size_t kBlock = 2560;                      // samples handed over at once
constexpr double kFrame = 0.04;                      // seconds of an encoder frame
const std::string kEndpoint = "<eou>";
const std::string kSpace = "\xE2\x96\x81";           // U+2581: a piece that begins with it begins a word

// Puts pieces together to words and prints them.
class Words {
 public:
  explicit Words(std::vector<std::string> pieces) : pieces_(std::move(pieces)) {}

  // Symbols of one stream as the program gives them: (tokens, frames, log_probs, streams), all (K,).
  void add(const c10::IValue& symbols) {
    const auto& parts = symbols.toTupleRef().elements();
    const at::Tensor tokens = parts[0].toTensor(), frames = parts[1].toTensor();
    for (int64_t i = 0; i < tokens.size(0); ++i) {
      const std::string& piece = pieces_.at(tokens.const_data_ptr<int64_t>()[i]);
      if (piece == kEndpoint) {  // ends the word and is none itself
        flush();
        continue;
      }
      const double time = frames.const_data_ptr<int64_t>()[i] * kFrame;
      const bool begins = piece.rfind(kSpace, 0) == 0;
      if (begins) flush();
      if (!open_) start_ = time;
      open_ = true;
      word_ += begins ? piece.substr(kSpace.size()) : piece;
      end_ = time + kFrame;
    }
  }

  // Prints the word that is being put together.
  void flush() {
    if (!word_.empty()) std::printf("%.2f %.2f %s\n", start_, end_, word_.c_str());
    std::fflush(stdout);
    word_.clear();
    open_ = false;
  }

 private:
  std::vector<std::string> pieces_;
  std::string word_;
  bool open_ = false;  // a word has begun, perhaps with a piece without letters
  double start_ = 0, end_ = 0;
};

void run(const std::string& model, const std::string& recording) {
  std::vector<float> samples = read_wav(recording, kRate);
  if (samples.empty()) throw std::runtime_error(recording + ": there is no audio in it");
  c10::InferenceMode guard;
  at::set_num_threads(1);  // the products of one chunk are too small to share
  torch::jit::Module program = torch::jit::load(model);
  std::vector<std::string> pieces;
  for (const c10::IValue& piece : program.get_method("pieces")({}).toListRef()) pieces.push_back(piece.toStringRef());
  Words words(std::move(pieces));

  torch::jit::Method accept = program.get_method("accept");
  c10::IValue state = program.get_method("initial_state")({int64_t{1}});
  for (size_t at = 0; at < samples.size(); at += kBlock) {
    const int64_t size = std::min(kBlock, samples.size() - at);
    const at::Tensor pcm = at::from_blob(samples.data() + at, {1, size}, at::kFloat);
    const c10::IValue out = accept({pcm, state});
    words.add(out.toTupleRef().elements()[0]);
    state = out.toTupleRef().elements()[1];
  }
  words.add(program.get_method("finish")({state}).toTupleRef().elements()[0]);
  words.flush();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: stream_wav MODEL.pt RECORDING.wav\n");
    return 2;
  }
#ifdef __GLIBC__
  // Every step replaces a state of megabytes: keep what is freed instead of asking the system for pages again.
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
#endif
  try {
    run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    const std::string text = error.what();
    std::fprintf(stderr, "error: %s\n", text.substr(0, text.find('\n')).c_str());
    return 2;
  }
  return 0;
}
