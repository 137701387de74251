"""Thresholds, written into a configuration file that a person has laid out."""

import json
import os
import tomllib

from runtime.errors import OptionsError
from runtime.files import replace
from runtime.options import read_config


def save_thresholds(path: str, thresholds: dict[str, float]) -> None:
    """Write thresholds by keyword into a configuration file, and leave everything else in it as it is.

    The new file replaces the old one at once, so that a power cut leaves either, and the new one once this returns.
    Raises OptionsError when it cannot be written, or when the file is laid out in a way that this cannot edit safely.
    """
    path = os.path.realpath(path)
    before = read_config(path)
    with open(path, encoding="utf-8", newline="") as file:
        old = file.read()
    lines = old.splitlines(keepends=True)
    # A JSON text is a TOML text, and repr of a float in 0…1 is a TOML float.
    merged = {**before.get("threshold", {}), **thresholds}
    pairs = ", ".join(f"{json.dumps(keyword, ensure_ascii=False)} = {score!r}" for keyword, score in merged.items())
    line = f"threshold = {{{pairs}}}\n"
    places = [i for i, text in enumerate(lines) if text.split("=")[0].strip() == "threshold" and "=" in text]
    if places:
        lines[places[0]] = line
    else:  # before everything else: a key after a [table] would belong to it
        lines.insert(0, line)
    content = "".join(lines)
    try:
        is_only_change = tomllib.loads(content) == {**tomllib.loads(old), "threshold": merged}
    except ValueError:
        is_only_change = False
    if not is_only_change:
        raise OptionsError(f"{path}: its threshold cannot be replaced safely: write by hand: {line.strip()}")
    try:
        replace(path, content.encode(), os.stat(path).st_mode & 0o777)
    except OSError as error:
        raise OptionsError(f"{path}: cannot be written ({error.strerror}): "
                           "let the listener's user write in its folder") from None
