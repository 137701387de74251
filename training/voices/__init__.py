"""Synthesised speech; imports training.data."""
