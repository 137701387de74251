"""Recordings of a keyword, by the microphone or from files, checked take by take; imports training.data."""
