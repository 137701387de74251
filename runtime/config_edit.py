"""Operating points, written into a configuration file that a person has laid out."""

import json
import os
import tomllib
from collections.abc import Iterable

from runtime.errors import OptionsError
from runtime.files import replace
from runtime.options import OPERATING_POINT, read_config


def save_operating_points(path: str, name: str, values: dict[str, float], keywords: Iterable[str] = ()) -> None:
    """Write values by keyword into a configuration file, and leave everything else in it as it is.

    name: "threshold" or "false-accepts"; what the file has of the other for these keywords goes. keywords: all that the
    listener knows, to each of which a number for every keyword is written where one of them gets something else.

    The new file replaces the old one at once, so that a power cut leaves either, and the new one once this returns.
    Raises OptionsError when it cannot be written, or when the file is laid out in a way that this cannot edit safely.
    """
    path = os.path.realpath(path)
    before = read_config(path)
    with open(path, encoding="utf-8", newline="") as file:
        old = file.read()
    (other,) = {*OPERATING_POINT} - {name}
    rest = dict(before.get(other, {}))
    if "" in rest:
        every = rest.pop("")
        rest = {**dict.fromkeys(keywords, every), **rest}
    tables = {
        name: {**before.get(name, {}), **values},
        other: {keyword: value for keyword, value in rest.items() if keyword not in values},
    }
    lines = old.splitlines(keepends=True)
    for key, table in tables.items():
        _put(lines, key, table)
    content = "".join(lines)
    wanted = {key: value for key, value in tomllib.loads(old).items() if key not in tables}
    wanted |= {key: table for key, table in tables.items() if table}
    try:
        is_only_change = tomllib.loads(content) == wanted
    except ValueError:
        is_only_change = False
    if not is_only_change:
        raise OptionsError(f"{path}: its {name} cannot be replaced safely: write by hand: {_line(name, tables[name])}")
    try:
        replace(path, content.encode(), os.stat(path).st_mode & 0o777)
    except OSError as error:
        raise OptionsError(f"{path}: cannot be written ({error.strerror}): "
                           "let the listener's user write in its folder") from None


def _line(key: str, table: dict[str, float]) -> str:
    # A JSON text is a TOML text, and repr of a float is a TOML float.
    pairs = ", ".join(f"{json.dumps(keyword, ensure_ascii=False)} = {value!r}" for keyword, value in table.items())
    return f"{key} = {{{pairs}}}"


def _put(lines: list[str], key: str, table: dict[str, float]) -> None:
    """Replace the line of a key, remove it for an empty table, or add it."""
    places = [i for i, text in enumerate(lines) if text.split("=")[0].strip() == key and "=" in text]
    if places:
        lines[places[0] : places[0] + 1] = [_line(key, table) + "\n"] if table else []
    elif table:  # before everything else: a key after a [table] would belong to it
        lines.insert(0, _line(key, table) + "\n")
