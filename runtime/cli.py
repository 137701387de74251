"""The command `earshot`, which the wheel installs."""

import sys
from collections.abc import Callable

from runtime import listen

USAGE = """usage: earshot COMMAND …

  earshot listen                     listen to the microphone for "happy"
  earshot listen --bundle jarvis     for another shipped keyword, or a folder that an export made
  earshot wav FILE …                 search recordings
  earshot devices                    show the microphones
  earshot bundles                    show the bundles that came with this package
  earshot bench                      time the bundles on this machine

listen and wav take --bundle NAME … and all options that `earshot listen --help` shows.
The microphone needs: pip install "earshot[mic]"
"""


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 something could not be read or written, 2 a mistake to be fixed."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if command not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(command, COMMANDS, 1, 0.5)
        listen.fail(f"{command}: no such command: " + (f"did you mean {close[0]}?" if close else "see earshot --help"))
    return COMMANDS[command](rest)


def _with_bundle(rest: list[str]) -> list[str]:
    """BUNDLE … out of --bundle NAME …, the default one where none is named."""
    bundles: list[str] = []
    while "--bundle" in rest:
        at = rest.index("--bundle")
        end = next((i for i in range(at + 1, len(rest)) if rest[i].startswith("-")), len(rest))
        if end == at + 1:
            listen.fail("--bundle: expected a name: see earshot bundles")
        bundles += rest[at + 1 : end]
        rest = rest[:at] + rest[end:]
    return [*(bundles or ["happy"]), *rest]


def _listen(rest: list[str]) -> int:
    return listen.main(rest if "--config" in rest else _with_bundle(rest))


def _wav(rest: list[str]) -> int:
    files = [rest.pop(0) for _ in range(next((i for i, one in enumerate(rest) if one.startswith("-")), len(rest)))]
    if not files and not {"-h", "--help"} & {*rest}:
        listen.fail("wav: name the files: earshot wav FILE …")
    return listen.main([*_with_bundle(rest), *(["--wav", *files] if files else [])])


def _devices(rest: list[str]) -> int:
    return listen.main(["--list-devices", *rest])


def _bundles(rest: list[str]) -> int:
    from runtime.bundle.shipped import folder, shipped

    for name, keywords in shipped().items():
        print(f"{name}: {', '.join(keywords)}")
    if not shipped():
        listen.fail(f"no bundle in {folder()}: make export writes them, and make wheel packs them")
    return 0


def _bench(rest: list[str]) -> int:
    from runtime import bench

    return bench.main(rest)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "listen": _listen,
    "wav": _wav,
    "devices": _devices,
    "bundles": _bundles,
    "bench": _bench,
}

if __name__ == "__main__":
    sys.exit(main())
