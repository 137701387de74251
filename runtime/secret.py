"""Secrets in files: the dashboard's token and the broker's password."""

import argparse
import os
import secrets

from runtime.errors import OptionsError
from runtime.files import read_plain, replace

LARGEST_FILE = 4096  # bytes
SHORTEST_TOKEN = 16  # characters
FEWEST_STEPS = 6  # different characters of a token that do not just go on from the one before, as in 1111 and 1234
EXAMPLE = "openssl rand -hex 16"


def read_secrets(options: argparse.Namespace) -> list[str]:
    """Put what the files hold into options.mqtt_password and options.dashboard_token, None where none is wanted.

    A token's file that is not there is made, with a token in it. Returns the files made. Raises OptionsError.
    """
    made = []
    options.mqtt_password = options.dashboard_token = None
    if options.mqtt is not None and options.mqtt_password_file is not None:
        options.mqtt_password = _read(options.mqtt_password_file)
    if options.dashboard is not None and options.dashboard_token_file is not None:
        path = options.dashboard_token_file
        if not os.path.lexists(path):
            _make(path)
            made.append(path)
        options.dashboard_token = _read(path)
        if _can_be_guessed(options.dashboard_token):
            raise OptionsError(f"{path}: a token of less than {SHORTEST_TOKEN} characters, or of a few that repeat, "
                               f"can be guessed: write another one there, for example of: {EXAMPLE}")
    return made


def _read(path: str) -> str:
    """The first line of a file. Raises OptionsError."""
    try:
        content, status = read_plain(path, LARGEST_FILE)
        secret = content.decode().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise OptionsError(f"{path}: cannot be read ({reason}): name a readable file with the secret in it") from None
    if status.st_mode & 0o027:  # a service's may be root's, and readable for its group
        raise OptionsError(f"{path}: others may read or change it, and it holds a secret: chmod 600 {path}")
    if not secret:
        raise OptionsError(f"{path}: its first line is empty: write the secret there")
    return secret


def _make(path: str) -> None:
    try:
        replace(path, f"{secrets.token_hex(16)}\n".encode(), 0o600)
    except OSError as error:
        raise OptionsError(f"{path}: is not there and cannot be made ({error.strerror}): write a secret into it, for "
                           f"example of: {EXAMPLE}") from None


def _can_be_guessed(token: str) -> bool:
    """Whether it is short, one piece said again and again, or a few keys in a row. No dictionary is asked."""
    steps = {b for a, b in zip(token, token[1:], strict=False) if abs(ord(a) - ord(b)) > 1}
    return len(token) < SHORTEST_TOKEN or token in (token + token)[1:-1] or len(steps) < FEWEST_STEPS
