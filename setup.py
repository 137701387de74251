"""The wheel `earshot`: runtime/ and the Wyoming server under that name, with a bundle of each shipped keyword.

Settings are in pyproject.toml. Sources say `runtime`, as in a checkout; what is copied into the wheel says `earshot`.
Bundles are those in dist/, which `make export` writes; without them the wheel has none.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from runtime.bundle.shipped import DEFAULTS, MANIFEST  # noqa: E402

FOLDERS = {"runtime": "earshot", "edge_demo/home_assistant": "earshot/home_assistant"}
DATA = ("*.html", "py.typed", "c/earshot.[ch]")
IMPORT = re.compile(r"^(\s*(?:from|import) )(?:edge_demo\.home_assistant|runtime)\b", re.MULTILINE)


def name_in_wheel(match: re.Match[str]) -> str:
    return match[1] + ("earshot.home_assistant" if "home_assistant" in match[0] else "earshot")


class Build(build_py):
    """Copies, renamed; setuptools knows of no packages."""

    def run(self) -> None:
        shutil.rmtree(Path(self.build_lib) / "earshot", ignore_errors=True)  # of an older build
        for source, target in FOLDERS.items():
            for path in sorted((ROOT / source).rglob("*")):
                to = Path(self.build_lib) / target / path.relative_to(ROOT / source)
                if path.suffix == ".py":
                    to.parent.mkdir(parents=True, exist_ok=True)
                    to.write_text(IMPORT.sub(name_in_wheel, path.read_text("utf-8")), "utf-8")
                elif any(path.match(pattern) for pattern in DATA):
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, to)
        for name in DEFAULTS:
            bundle, to = ROOT / "dist" / name, Path(self.build_lib) / "earshot" / "bundles" / name
            if not (bundle / MANIFEST).is_file():
                print(f"warning: {bundle} is not there, and not in the wheel: make export writes it", file=sys.stderr)
                continue
            files = json.loads((bundle / MANIFEST).read_text("utf-8"))["files"]
            to.mkdir(parents=True, exist_ok=True)
            for file in (*(file for file in files if file.endswith((".onnx", ".bin", ".wav"))), MANIFEST):
                shutil.copyfile(bundle / file, to / file)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [str(path) for path in (Path(self.build_lib) / "earshot").rglob("*") if path.is_file()]


setup(packages=["earshot"], package_dir={"earshot": "runtime"}, cmdclass={"build_py": Build})
