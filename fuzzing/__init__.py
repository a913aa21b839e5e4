"""Fuzzing of every reader: targets, their corpora, what was found, and the command that runs them (docs/fuzzing.md)."""
