"""A bundle's files, looked through before any of them is used.

A bundle is taken only when everything about it is as the contract says: a detector that loads but hears nothing is
worse than one that refuses to start. Every refusal is a `BundleError` of one line that names the file and the fix.
"""

import functools
import importlib
import json
import os
import re
import stat
from typing import Any, NoReturn

from runtime.bundle.onnx_scan import ScanError, scan
from runtime.bundle.onnx_sizes import check_sizes
from runtime.bundle.operating_points import LOWEST_THRESHOLD, MOST_POINTS, is_good
from runtime.errors import BundleError
from runtime.sample_rate import SAMPLE_RATE

CONTRACT_VERSION = "1"
MANIFEST = "manifest.json"
C_MODEL = ".bin"  # how the names of models for the C engine end
LARGEST_MANIFEST = 1 << 20  # bytes; real ones have a few thousand
LARGEST_FILE = 16 << 20  # bytes; of a model or a report; real ones have a million
MOST_FILES = 100
MOST_KEYWORDS = 32
LONGEST_KEYWORD = 100  # characters
LONGEST_REFRACTORY = 1_000_000  # hops
LONGEST_MESSAGE = 480  # characters of a refusal
LONGEST_HOP = SAMPLE_RATE  # samples: one second


def refuse(name: str, problem: str, fix: str) -> NoReturn:
    line = " ".join(f"{name}: {problem[:300]}: {fix}".split())
    # Names in a bundle are a stranger's: an escape sequence among them would command the terminal.
    raise BundleError("".join(c if c.isprintable() else "?" for c in line)[-LONGEST_MESSAGE:])


def read_file(folder: str, name: str, largest: int) -> bytes:
    """Content of one plain file of the bundle. A link is refused: it may lead out of the bundle."""
    path = os.path.join(folder, name)
    # Between a look at a path and its opening somebody may put a pipe or a link there: the flags keep it from holding
    # us up and from being followed, and what was opened is looked at again.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        _check_plain(path, os.lstat(path), largest)
        with open(os.open(path, flags), "rb") as file:
            _check_plain(path, os.fstat(file.fileno()), largest)
            return file.read(largest + 1)
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror})", "name the folder of a complete, readable bundle")
    except ValueError:
        refuse(path, "is no path", "name the folder of a bundle")


def _check_plain(path: str, info: os.stat_result, largest: int) -> None:
    if not stat.S_ISREG(info.st_mode):
        refuse(path, "not a plain file", "copy the bundle again, with its files instead of links")
    if info.st_size > largest:
        refuse(path, f"{info.st_size} bytes, more than the {largest} allowed", "export the bundle again")


def _object(path: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. One key twice means one thing to this reader and another to the next, so it is refused."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            refuse(path, f"says {json.dumps(key)[:80]} twice", "copy or export the bundle again")
        found[key] = value
    return found


def read_manifest(folder: str) -> dict[str, Any]:
    """The manifest, with every field the runtime uses checked for type and range."""
    path = os.path.join(folder, MANIFEST)
    try:
        text = read_file(folder, MANIFEST, LARGEST_MANIFEST).decode()
        manifest: Any = json.loads(text, object_pairs_hook=functools.partial(_object, path))
    except (ValueError, RecursionError):
        refuse(path, "not JSON, half-written or damaged", "copy or export the bundle again")

    def check(good: bool, problem: str) -> None:
        if not good:
            refuse(path, problem, "export the bundle again")

    check(isinstance(manifest, dict), "not a JSON object")
    version = manifest.get("earshot_version")
    if version != CONTRACT_VERSION:
        refuse(path, f'earshot_version is {json.dumps(version)[:40]}, this runtime knows "{CONTRACT_VERSION}"',
                "use the runtime/ folder that came with the exporter, or export the bundle again")

    check(manifest.get("sample_rate") == SAMPLE_RATE, f"sample_rate is not {SAMPLE_RATE}")
    hop = manifest.get("hop_samples")
    check(type(hop) is int and 1 <= hop <= LONGEST_HOP, f"hop_samples is not a whole number in 1…{LONGEST_HOP}")
    refractory = manifest.get("refractory_hops")
    check(type(refractory) is int and 1 <= refractory <= LONGEST_REFRACTORY,
          f"refractory_hops is not a whole number in 1…{LONGEST_REFRACTORY}")

    keywords = manifest.get("keywords")
    check(isinstance(keywords, list) and 1 <= len(keywords) <= MOST_KEYWORDS
          and all(isinstance(k, str) and 1 <= len(k) <= LONGEST_KEYWORD and k.isprintable() for k in keywords),
          f"keywords is not a list of 1…{MOST_KEYWORDS} names")
    check(len(set(keywords)) == len(keywords), "keywords names one twice")
    threshold = manifest.get("threshold")
    check(isinstance(threshold, list) and len(threshold) == len(keywords)
          and all(type(t) in (int, float) and LOWEST_THRESHOLD <= t <= 1 for t in threshold),
          f"threshold is not one number in {LOWEST_THRESHOLD}…1 per keyword")
    if "operating_points" in manifest:
        check(is_good(manifest["operating_points"], len(keywords)),
              f"operating_points is not a list of 0…{MOST_POINTS} points per keyword, of five numbers in range each")

    files = manifest.get("files")
    check(isinstance(files, dict) and 1 <= len(files) <= MOST_FILES, "files is not a table of files")
    for name, entry in files.items():
        # A name with a slash, or "..", would lead out of the bundle.
        check(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name) is not None and name != MANIFEST,
              f"files names {json.dumps(name)[:80]}, which is not a plain file name")
        check(isinstance(entry, dict) and type(entry.get("bytes")) is int and 0 <= entry["bytes"] <= LARGEST_FILE
              and isinstance(entry.get("sha256"), str) and re.fullmatch("[0-9a-f]{64}", entry["sha256"]) is not None,
              f"files has no good bytes and sha256 for {name}")
    check(isinstance(manifest.get("default_model"), str), "default_model is not a file name")

    states = manifest.get("states")
    check(isinstance(states, list)
          and all(isinstance(s, dict) and isinstance(s.get("name"), str) and isinstance(s.get("shape"), list)
                  and all(type(n) is int and n > 0 for n in s["shape"]) for s in states),
          "states is not a list of names and shapes")
    check(len({s["name"] for s in states} | {"audio"}) == len(states) + 1, "states has two of one name")
    return dict(manifest)


def read_verified(folder: str, files: dict[str, dict[str, Any]], model: str) -> bytes:
    """The very bytes of the model, after their SHA-256 and that of every other listed file was found right.

    Another listed file may be missing when it is no ONNX model: a device needs no TorchScript and no report.
    """
    path = os.path.join(folder, MANIFEST)
    models = [name for name in files if name.endswith((".onnx", C_MODEL))]
    if model not in models:
        choice = f"choose one of {', '.join(models)}" if models else "export the bundle again"
        refuse(path, f"lists no model {json.dumps(model)[:80]}", choice)
    content = b""
    for name, entry in files.items():
        needed = name == model or name.endswith(".onnx")
        if not needed and not os.path.lexists(os.path.join(folder, name)):
            continue
        found = read_file(folder, name, LARGEST_FILE)
        where = os.path.join(folder, name)
        if len(found) != entry["bytes"]:
            refuse(where, f"{len(found)} bytes where {MANIFEST} says {entry['bytes']}, half-written or changed",
                    "copy or export the bundle again")
        if sha256(found) != entry["sha256"]:
            refuse(where, f"its SHA-256 is not the one in {MANIFEST}, damaged or changed",
                    "copy or export the bundle again")
        if name == model:
            content = found
    return content


def sha256(content: bytes) -> str:
    """By Python's own code where it can be had: hashlib loads OpenSSL, 4 MB that nothing else here needs."""
    for module in ("_sha2", "_sha256", "hashlib"):  # Python 3.12 and later; before; whatever else there is
        try:
            return str(importlib.import_module(module).sha256(content).hexdigest())
        except ImportError:
            continue
    raise AssertionError("every Python has hashlib")


def check_content(model: str, content: bytes, manifest: dict[str, Any]) -> None:
    """All that can be known of a model's bytes before they are loaded."""
    inputs = {"audio": (1, manifest["hop_samples"])} | {s["name"]: tuple(s["shape"]) for s in manifest["states"]}
    try:
        graph = scan(content)
        check_sizes(graph, inputs)
    except ScanError as error:
        refuse(model, str(error), "export the bundle again")
    for key in ("earshot_version", "sample_rate", "hop_samples", "keywords", "threshold", "refractory_hops",
                "operating_points"):
        if key == "operating_points" and key not in manifest and key not in graph.metadata:
            continue  # nobody has measured them
        if key not in graph.metadata:
            refuse(model, f"its metadata lacks {key}", "export the bundle again")
        try:
            told = graph.metadata[key] if key == "earshot_version" else json.loads(graph.metadata[key])
        except (ValueError, RecursionError):
            told = None
        if told != manifest.get(key):
            refuse(model, f"{key} in its metadata is not the one in {MANIFEST}", "export the bundle again")
