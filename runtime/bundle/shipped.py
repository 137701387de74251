"""Bundles by name: those that came with the package, or in a checkout those that `make export` wrote."""

import json
import os

from runtime.errors import BundleError

DEFAULTS = ("happy-ensemble", "jarvis-small", "computer-wide")  # one for each keyword: what goes into the wheel
MANIFEST = "manifest.json"
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def folder() -> str:
    """Where the bundles lie that may be called by name."""
    if __name__.startswith("runtime."):  # in the wheel the package is called earshot
        return os.path.join(os.path.dirname(_PACKAGE), "dist")
    return os.path.join(_PACKAGE, "bundles")


def shipped() -> dict[str, list[str]]:
    """Name of a bundle → its keywords; the defaults first."""
    found = {}
    for name in os.listdir(folder()) if os.path.isdir(folder()) else []:
        try:
            with open(os.path.join(folder(), name, MANIFEST), encoding="utf-8") as file:
                found[name] = [str(keyword) for keyword in json.load(file)["keywords"]]
        except (OSError, ValueError, KeyError, TypeError):  # no bundle
            continue
    order = {name: number for number, name in enumerate(DEFAULTS)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def find(bundle: str) -> str:
    """The folder of a bundle: itself, or that of a shipped bundle of this name or keyword. Raises BundleError."""
    if os.path.isfile(os.path.join(bundle, MANIFEST)):
        return bundle
    if os.path.basename(bundle) == "model.safetensors" or os.path.isfile(os.path.join(bundle, "model.safetensors")):
        raise BundleError(f"{bundle}: this is a checkpoint: python -m export {bundle} --out dist makes a bundle of it")
    if os.path.lexists(bundle):
        return bundle  # the manifest's reader says what is wrong with it
    known = shipped()
    for name, keywords in known.items():
        if bundle == name or bundle in keywords:
            return os.path.join(folder(), name)
    there = f"there are {', '.join(known)}" if known else "make export writes those of the shipped models to dist"
    raise BundleError(
        f"{os.path.join(bundle, MANIFEST)}: cannot be read (No such file or directory): {there}; or name a folder that "
        "an export made"
    )
