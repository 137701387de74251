"""Running other programs, what the commands of this folder share, and their error."""

import argparse
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class DeployError(Exception):
    """The message is one line: what is wrong and what to do. code: the exit code."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def need(*programs: str) -> None:
    """Raises DeployError unless all of them are installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise DeployError(f"{', '.join(missing)}: not installed: make image-system")


def run(*command: str | Path, text: str = "", what: str = "", **options: Any) -> str:
    """The output of a command. text: its standard input; options: of subprocess.run.

    Raises DeployError with `what` and the command's last line when it fails.
    """
    try:
        process = subprocess.run(command, input=text, capture_output=True, text=True, **options)
    except FileNotFoundError:
        raise DeployError(f"{command[0]}: not installed: make image-system") from None
    if process.returncode:
        last = ((process.stderr + process.stdout).strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise DeployError(f"{what + ': ' if what else ''}{Path(command[0]).name} failed: {last}")
    return process.stdout


def add_bundles(parser: argparse.ArgumentParser) -> None:
    """The bundles that go to a device, as arguments of a command."""
    default = ROOT / "dist" / "happy-ensemble"
    words = "folder of a bundle (default: dist/happy-ensemble)"
    parser.add_argument("bundles", nargs="*", metavar="BUNDLE", type=Path, default=[default], help=words)
