"""Scores: manifests in, word error rates and aligned reports out."""
