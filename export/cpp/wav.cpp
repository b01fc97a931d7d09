#include "wav.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace {

// Little-endian number at an offset; the caller has checked the length.
template <typename T>
T number(const std::vector<char>& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));  // every platform this runs on is little-endian, as WAV is
  return value;
}

bool is_tag(const std::vector<char>& bytes, size_t at, const char* tag) {
  return at + 4 <= bytes.size() && std::memcmp(bytes.data() + at, tag, 4) == 0;
}

}  // namespace

std::vector<float> read_wav(const std::string& path, unsigned rate) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!is_tag(bytes, 0, "RIFF") || !is_tag(bytes, 8, "WAVE")) throw std::runtime_error(path + " is not a WAV file");
  constexpr uint16_t kPcm = 1, kFloat = 3, kExtensible = 0xFFFE;
  uint16_t format = 0, channels = 0, bits = 0;
  uint32_t found_rate = 0;
  for (size_t at = 12; at + 8 <= bytes.size();) {
    const size_t begin = at + 8;
    size_t size = number<uint32_t>(bytes, at + 4);
    if (is_tag(bytes, at, "fmt ") && size >= 16 && begin + size <= bytes.size()) {
      format = number<uint16_t>(bytes, begin);
      channels = number<uint16_t>(bytes, begin + 2);
      found_rate = number<uint32_t>(bytes, begin + 4);
      bits = number<uint16_t>(bytes, begin + 14);
      if (format == kExtensible && size >= 26) format = number<uint16_t>(bytes, begin + 24);
    } else if (is_tag(bytes, at, "data")) {
      if (channels != 1 || found_rate != rate) {
        throw std::runtime_error(path + " has " + std::to_string(channels) + " channels at " +
                                 std::to_string(found_rate) + " Hz, it must be mono at " + std::to_string(rate) + " Hz");
      }
      size = std::min(size, bytes.size() - begin);  // a recorder that was stopped leaves a length that is too large
      std::vector<float> samples;
      if (format == kPcm && bits == 16) {
        samples.resize(size / 2);
        for (size_t i = 0; i < samples.size(); ++i) samples[i] = number<int16_t>(bytes, begin + 2 * i) / 32768.0f;
      } else if (format == kFloat && bits == 32) {
        samples.resize(size / 4);
        for (size_t i = 0; i < samples.size(); ++i) samples[i] = number<float>(bytes, begin + 4 * i);
      } else {
        throw std::runtime_error(path + ": samples must be 16-bit integers or 32-bit floats");
      }
      return samples;
    }
    at = begin + size + size % 2;  // chunks are padded to even lengths
  }
  throw std::runtime_error(path + " has no samples");
}
