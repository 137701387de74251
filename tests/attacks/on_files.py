"""Attacks by the files of a bundle, its manifest and a model's metadata."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import toy
from attack import MODEL, Attack, change_model, fires, put, rewrite

from runtime.bundle.detector import Detector

# Files


def tampered(folder: Path) -> None:
    data = (folder / MODEL).read_bytes()
    offset = np.float32(5.0).tobytes()
    assert data.count(offset) == 1
    (folder / MODEL).write_bytes(data.replace(offset, np.float32(-5.0).tobytes()))


def bomb(folder: Path) -> None:
    """What a gigabyte zipped to one megabyte looks like when it is unpacked; 8 MiB will do."""
    path = folder / "manifest.json"
    path.write_text(path.read_text() + " " * (8 << 20))


def deep(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[:-1] + ', "deep": ' + "[" * 200_000 + "]" * 200_000 + "}")


def outside(folder: Path) -> bytes:
    """A model beside the bundle that fires always."""
    tampered(folder)
    content = (folder / MODEL).read_bytes()
    (folder.parent / "outside.onnx").write_bytes(content)
    return content


def leads_to(name: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        content, path = outside(folder), name.format(folder.parent)
        if path.startswith("sub/"):
            (folder / "sub").symlink_to(folder.parent, target_is_directory=True)
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        rewrite(folder, files={path: entry}, default_model=path)

    return build


def linked(folder: Path) -> None:
    content = outside(folder)
    put(folder, MODEL, content)
    (folder / MODEL).unlink()
    (folder / MODEL).symlink_to(folder.parent / "outside.onnx")


def linked_manifest(folder: Path) -> None:
    (folder / "manifest.json").rename(folder.parent / "elsewhere.json")
    (folder / "manifest.json").symlink_to(folder.parent / "elsewhere.json")


def too_many(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    more = {f"f{number}": manifest["files"][MODEL] for number in range(5000)}
    rewrite(folder, files=manifest["files"] | more)


def twice(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text('{"default_model": "innocent.onnx", ' + path.read_text()[1:])


def sparse(folder: Path) -> None:
    os.truncate(folder / "report.md", 17 << 20)
    content = b"# report\n" + bytes((17 << 20) - 9)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["report.md"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    rewrite(folder, files=manifest["files"])


# Manifest and metadata


def nan_threshold(folder: Path) -> None:
    toy.write_bundle(folder, threshold=[float("nan")])


def deaf_threshold(folder: Path) -> None:
    """Zero in the detector's float32: every score is high, and what stays high is told once."""
    toy.write_bundle(folder, threshold=[1e-46])


def deaf(engine: Any) -> bool:
    detector = Detector(engine.thresholds, engine.refractory_hops)
    sound = [np.zeros(1280, np.float32)] * 30 + [np.ones(1280, np.float32)]
    return [bool(detector.step(engine.step(hop))) for hop in sound] == [True] + [False] * 30


def many_keywords(folder: Path) -> None:
    """20 000 thresholds to look at, hop by hop."""
    gains = ", ".join(["100.0"] * 20_000)
    graph = toy.GRAPH.replace("float[1,1] score", "float[1,20000] score").replace("[1] gain = {100.0}",
                                                                                   f"[20000] gain = {{{gains}}}")
    toy.write_bundle(folder, graph, keywords=[f"k{n}" for n in range(20_000)], threshold=[0.5] * 20_000)


def commanding_keyword(folder: Path) -> None:
    toy.write_bundle(folder, keywords=["\x1b]0;owned\x07"])


def low_threshold_in_manifest(folder: Path) -> None:
    rewrite(folder, threshold=[0.001])


def metadata_twice(folder: Path) -> None:
    change_model(folder, lambda model: model.metadata_props.insert(
        0, onnx.StringStringEntryProto(key="threshold", value="[0.001]")))


def states_of_another(folder: Path) -> None:
    rewrite(folder, states=[{"name": "level", "shape": [1, 1]}, {"name": "tail", "shape": [1, 480]}])



NAME = ('check(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name) is not None and name != MANIFEST', "check(True")
LINKS = [('getattr(os, "O_NOFOLLOW", 0)', "0"), ("os.lstat(path), largest", "os.stat(path), largest")]
TOLD = ("        if told != manifest.get(key):\n", "        if False:\n")

ATTACKS = {
    "tampered": Attack(tampered, "its SHA-256 is not the one in", [
        ('sha256(found) != entry["sha256"]', "False")], fires),
    "manifest as a bomb": Attack(bomb, "more than the 1048576 allowed", [
        ("    if info.st_size > largest:\n", "    if False:\n"), ("file.read(largest + 1)", "file.read()")]),
    "manifest too deep": Attack(deep, "not JSON", [
        ("    except (ValueError, RecursionError):\n        refuse(path, \"not JSON", "    except ValueError:\n"
         "        refuse(path, \"not JSON")], lambda engine: False),
    "path upwards": Attack(leads_to("../outside.onnx"), "not a plain file name", [NAME], fires),
    "absolute path": Attack(leads_to("{}/outside.onnx"), "not a plain file name", [NAME], fires),
    "linked folder": Attack(leads_to("sub/outside.onnx"), "not a plain file name", [NAME], fires),
    "linked model": Attack(linked, "not a plain file", LINKS, fires),
    "linked manifest": Attack(linked_manifest, "not a plain file", LINKS),
    "thousands of files": Attack(too_many, "files is not a table of files", [
        ("1 <= len(files) <= MOST_FILES", "True")]),
    "a key twice": Attack(twice, 'says "default_model" twice', [
        (", object_pairs_hook=functools.partial(_object, path)", "")]),
    "large file": Attack(sparse, "files has no good bytes", [("LARGEST_FILE = 16 << 20", "LARGEST_FILE = 17 << 20")]),
    "threshold NaN": Attack(nan_threshold, "threshold is not one number in 0.001…1", [
        ("type(t) in (int, float) and LOWEST_THRESHOLD <= t <= 1 for t", "type(t) in (int, float) for t"), TOLD],
        lambda engine: np.isnan(engine.thresholds[0])),
    "threshold that is deaf": Attack(deaf_threshold, "threshold is not one number in 0.001…1", [
        ("LOWEST_THRESHOLD <= t <= 1", "0 < t <= 1")], deaf),
    "thousands of keywords": Attack(many_keywords, "keywords is not a list of 1…32 names", [
        ("MOST_KEYWORDS = 32", "MOST_KEYWORDS = 20_000")], lambda engine: len(engine.keywords) == 20_000),
    "keyword that commands the terminal": Attack(commanding_keyword, "keywords is not a list of 1…32 names", [
        (" and k.isprintable() for k in", " for k in")], lambda engine: "\x1b" in engine.keywords[0]),
    "threshold of the manifest alone": Attack(low_threshold_in_manifest, "threshold in its metadata is not the one", [
        TOLD], lambda engine: engine.thresholds[0] == 0.001),
    "metadata twice": Attack(metadata_twice, "has a key twice in its metadata", [
        ("        if key in metadata:\n", "        if False:\n")]),
    "states of another": Attack(states_of_another, "its states are not those in", [
        ("    check(listed == [(state.name, state.shape) for state in states]", "    check(True")],
        before_loading=False),
}
