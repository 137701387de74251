"""Recordings: found, read, split, fetched, joined into streams; imports nothing else of ours."""
