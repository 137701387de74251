"""Recordings: folders, splits, Debian packages, streams; imports no other folder of the project."""
