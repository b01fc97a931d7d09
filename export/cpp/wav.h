// A WAV file as samples.
#pragma once

#include <string>
#include <vector>

// Samples in [-1, 1] of a mono file of 16-bit or float samples.
// Throws std::runtime_error with one sentence: no such file, not WAV, another rate than wanted, more than one channel,
// another kind of sample.
std::vector<float> read_wav(const std::string& path, unsigned rate);
