"""Mistakes that whoever starts the listener can mend: one line each, which says how."""


class OptionsError(Exception):
    """A mistake of the user. The message is one line: what is wrong and what to do."""


class AudioError(Exception):
    """Audio that cannot be had. The message is one line: what, why, and what to do."""


class BundleError(Exception):
    """A bundle that must not be run. The message is one line: which file, what is wrong, what to do."""
