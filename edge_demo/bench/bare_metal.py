"""The C engine on microcontrollers, emulated: flash, RAM and instructions of a hop.

    python -m edge_demo.bench.bare_metal dist/happy-tiny dist/happy-small

Each bundle's model.int8.bin becomes an image with its keywords.wav (runtime/c/examples/bare_metal) that runs on qemu's
MPS2 boards. With `-icount shift=0` an instruction takes a nanosecond there, and SysTick counts them.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ENGINE = Path(__file__).resolve().parents[2] / "runtime" / "c"
EXAMPLE = ENGINE / "examples" / "bare_metal"
COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
FLAGS = ("-std=gnu99", "-O3", "-ffp-contract=fast", "-fno-trapping-math", "-DEARSHOT_LANES=1")
WARNINGS = ("-Wall", "-Wextra", "-Werror")
LINKED = ("-nostartfiles", "--specs=nano.specs", "-ffunction-sections", "-Wl,--gc-sections")
MEMORY = 1 << 20  # bytes that the image has for the engine; it says what it needs
TICK = 40  # nanoseconds of SysTick: the boards' clock has 25 MHz
CLOCK = 120e6  # Hz, of the microcontroller that the table thinks of
CYCLES = 2  # of an instruction, on average, with what waits for flash and the floating-point unit: assumed


@dataclass(frozen=True)
class Board:
    machine: str  # qemu's name
    flags: tuple[str, ...]


BOARDS = {
    "Cortex-M4F": Board("mps2-an386", ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")),
    "Cortex-M7": Board("mps2-an500", ("-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16")),
}


@dataclass(frozen=True)
class Run:
    scores: NDArray[np.float32]  # (hops, keywords)
    code: int  # bytes of flash besides the weights
    memory: int  # bytes of the engine
    stack: int  # bytes of it that were used
    instructions: int  # of a hop, on average


class BareMetalError(Exception):
    """An image that cannot be built or run. The message is one line."""


def run(board: Board, weights: Path, samples: NDArray[np.int16], keywords: int = 1) -> Run:
    """samples: the recording. Raises BareMetalError."""
    with tempfile.TemporaryDirectory() as scratch:
        image, recording = Path(scratch) / "image.elf", Path(scratch) / "recording.s16"
        recording.write_bytes(samples.astype("<i2").tobytes())
        build(board, weights, recording, image)
        said = emulate(board, image)
        bits = [int(line, 16) for line in re.findall(r"^score (\w+)$", said, re.MULTILINE)]
        told = re.findall(r"^(memory|stack|ticks) (\d+)$", said, re.MULTILINE)
        numbers = {name: int(number) for name, number in told}
        if len(numbers) < 3:
            raise BareMetalError(f"{board.machine}: {' '.join(said.split())[-200:]}")
        scores = np.array(bits, np.uint32).view(np.float32).reshape(-1, keywords)
        return Run(scores, code_of(image), numbers["memory"], numbers["stack"], numbers["ticks"] * TICK)


def build(board: Board, weights: Path, recording: Path, image: Path) -> None:
    sources = [str(EXAMPLE / name) for name in ("main.c", "mps2.c", "data.S")] + [str(ENGINE / "earshot.c")]
    files = [f'-DWEIGHTS="{weights.resolve()}"', f'-DRECORDING="{recording}"', f"-DMEMORY={MEMORY}", f"-I{ENGINE}"]
    linked = [*LINKED, "-T", str(EXAMPLE / "mps2.ld"), "-o", str(image)]
    checked([COMPILER, *board.flags, *FLAGS, *WARNINGS, *files, *sources, *linked])


def emulate(board: Board, image: Path) -> str:
    """All that the image prints: semihosting writes to standard error."""
    target = ["-semihosting-config", "enable=on,target=native", "-icount", "shift=0", "-kernel", str(image)]
    return checked([EMULATOR, "-M", board.machine, "-display", "none", "-monitor", "none", "-serial", "none", *target])


def code_of(image: Path) -> int:
    listed = checked([COMPILER.replace("gcc", "size"), "-A", str(image)])
    return sum(int(size) for size in re.findall(r"^\.(?:text|data)\s+(\d+)", listed, re.MULTILINE))


def checked(command: list[str]) -> str:
    """What a command prints, both ways. Raises BareMetalError."""
    if not shutil.which(command[0]):
        raise BareMetalError(f"no {command[0]}: make machines-system")
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    if done.returncode:
        raise BareMetalError(f"{command[0]}: {' '.join(done.stdout.split())[-300:]}")
    return done.stdout


def samples_of(path: Path) -> NDArray[np.int16]:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)


def row(name: str, bundle: Path) -> str:
    weights = bundle / "model.int8.bin"
    found, size = run(BOARDS[name], weights, samples_of(bundle / "keywords.wav")), weights.stat().st_size
    ram, busy = found.memory + found.stack, found.instructions * CYCLES / (CLOCK * 0.08)
    return (
        f"| {bundle.name} | {name} | {found.code / 1024:.1f} | {size / 1024:.1f} | {(found.code + size) / 1024:.1f} | "
        f"{ram / 1024:.1f} | {found.instructions:,} | {busy:.1%} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="folder with model.int8.bin")
    bundles = parser.parse_args().bundles
    print("| model, int8 | CPU | code KiB | weights KiB | flash KiB | RAM KiB | instructions a hop | busy at 120 MHz |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    try:
        for bundle in bundles:
            for name in BOARDS:
                print(row(name, bundle), flush=True)
    except (BareMetalError, OSError) as error:
        print(f"bare_metal: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
