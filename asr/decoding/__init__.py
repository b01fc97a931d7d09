"""Search: encoder frames to symbols, symbols to words, words to files."""
