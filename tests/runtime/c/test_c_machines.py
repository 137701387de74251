"""The C engine on the CPUs of Raspberry Pis, under qemu-user: the scores of this machine's."""

import shutil
import subprocess

import numpy as np
import pytest
from c_files import OPTIMISED, audio, scores, weights

from export.forms.binary import FLOAT32, INT8
from runtime.c import library
from runtime.c.library import CEngine

EXAMPLE = library.HERE / "examples" / "scores.c"
# Compiler and its flags, emulator and its CPU. Debian has no compiler for Raspberry Pi OS's armv6 with floats in
# registers: its calls pass them in others, and the code between the calls is the same.
MACHINES = {
    "aarch64": ("aarch64-linux-gnu-gcc", (), "qemu-aarch64-static", "cortex-a53"),
    "armv7 NEON": ("arm-linux-gnueabihf-gcc", ("-mfpu=neon-vfpv4",), "qemu-arm-static", "cortex-a7"),
    "armv7": ("arm-linux-gnueabihf-gcc", (), "qemu-arm-static", "cortex-a9"),
    "armv6": (
        "arm-linux-gnueabi-gcc",
        ("-march=armv6", "-mfpu=vfp", "-mfloat-abi=softfp"),
        "qemu-arm-static",
        "arm1176",
    ),
}


@pytest.fixture
def emulated(compiled, tmp_path):
    """Scores of 24 seconds by a machine's name and a model.bin."""

    def emulated(machine: str, content: bytes) -> np.ndarray:
        compiler, flags, emulator, cpu = MACHINES[machine]
        for program in (compiler, emulator):
            if not shutil.which(program):
                pytest.skip(f"no {program}: make machines-system")
        sources = f"-I{library.HERE}", str(library.SOURCES[0])
        program = compiled(EXAMPLE, *OPTIMISED, "-static", *flags, *sources, compiler=compiler)
        (tmp_path / "model.bin").write_bytes(content)
        (tmp_path / "audio.f32").write_bytes(audio().tobytes())
        command = [emulator, "-cpu", cpu, program, "model.bin", "audio.f32"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return np.array([line.split() for line in done.stdout.splitlines()], np.float32)

    return emulated


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("model", ["happy-tiny", "happy-ensemble"])
@pytest.mark.parametrize("kind", [FLOAT32, INT8], ids=["float", "int8"])
def test_scores_are_this_machines(emulated, machine, model, kind):
    content = weights(model, kind)
    difference = np.abs(emulated(machine, content) - scores(CEngine(content), audio()))
    # Where a value lies between two steps of int8's rounding, the last bit of a float decides.
    assert difference.max() < (1e-3 if kind == INT8 else 1e-5) and difference.mean() < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_broken_weights_are_refused_there_too(compiled, tmp_path, machine):
    compiler, flags, emulator, cpu = MACHINES[machine]
    if not shutil.which(compiler) or not shutil.which(emulator):
        pytest.skip(f"no {compiler}: make machines-system")
    program = compiled("hostile.c", "-std=c99", "-O2", "-static", *flags, compiler=compiler)
    (tmp_path / "model.bin").write_bytes(weights("happy-tiny", INT8))
    command = [emulator, "-cpu", cpu, program, "flipped", "model.bin", "500"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split()[0] == "501", done.stderr
