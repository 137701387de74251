"""Synthesised speech: one interface, one module an engine, clips of a word by many voices; imports training.data."""
