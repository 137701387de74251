"""Festival: voices of several languages by diphones and by statistical models. A free licence like MIT's.

Starting it costs ten times what an utterance does, so it stays, a process at the other end of a pipe.
"""

import functools
import math
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from training.voices.voice import Manner, OneAProcess, Speaker, load, matches

NAME = "Festival"
INSTALL = "apt-get install festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts"
LANGUAGES = {
    "english": "en-us",  # which all of Debian's are
    "american_english": "en-us",
    "british_english": "en-gb",
    "spanish": "es",
    "italian": "it",
    "czech": "cs",
    "finnish": "fi",
    "russian": "ru",
    "catalan": "ca",
    "hindi": "hi",
    "marathi": "mr",
    "telugu": "te",
}
PITCH = 105  # Hz, the mean of its diphone voices
SPREAD = 14
DONE = "said"


def missing() -> bool:
    return shutil.which("festival") is None


@OneAProcess
def interpreter() -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(["festival", "--pipe"], text=True, **pipes)  # type: ignore[call-overload]


def tell(commands: str) -> str:
    """What Festival prints for Scheme commands. Raises OSError when it has died."""
    process = interpreter()
    assert process.stdin and process.stdout
    process.stdin.write(f'{commands}\n(format t "\\n{DONE}\\n") (fflush nil)\n')
    process.stdin.flush()
    lines = []
    while (line := process.stdout.readline()) and line.strip() != DONE:
        lines.append(line)
    if not line:
        interpreter.forget()
        raise OSError("festival has ended")
    return "".join(lines)


@functools.cache
def voices() -> tuple[tuple[str, str], ...]:
    """(name, language) of all that are installed."""
    each = '(mapcar (lambda (v) (format t "%s %s\\n" v (cadr (assoc \'language (cadr (voice.description v))))))'
    rows = re.findall(r"^(\w+) (\w+)$", tell(f"{each} (voice.list))"), re.MULTILINE)
    return tuple((name, LANGUAGES[language]) for name, language in sorted(rows) if language in LANGUAGES)


def person(voice: str) -> str:
    """cmu_us_slt_arctic_hts is slt, as in other engines; kal_diphone is kal."""
    arctic = re.match(r"cmu_\w\w_(\w+?)_", voice)
    return arctic[1] if arctic else voice.split("_")[0]


def speakers(language: str, folder: Path | None = None) -> list[Speaker]:
    if missing():
        return []
    return [Speaker(NAME, voice, person(voice)) for voice, code in voices() if matches(code, language)]


def speak(text: str, speaker: Speaker, manner: Manner) -> tuple[np.ndarray, int]:
    quoted = text.replace("\\", "").replace('"', "")
    pitch, spread = PITCH * manner.pitch, SPREAD * manner.pitch * manner.stress
    with tempfile.TemporaryDirectory(prefix="earshot-") as folder:
        tell(
            f"""(voice_{speaker.voice})
(Parameter.set 'Duration_Stretch {1 / manner.rate:.3f})
(set! int_lr_params '((target_f0_mean {pitch:.1f}) (target_f0_std {spread:.1f}) (model_f0_mean 170) (model_f0_std 34)))
(if (boundp 'hts_engine_params) (set! hts_engine_params (append hts_engine_params
  '(("-r" {manner.rate:.3f}) ("-fm" {12 * math.log2(manner.pitch):.2f})))))
(utt.save.wave (SynthText "{quoted}") "{folder}/said.wav" 'riff)"""
        )
        return load(f"{folder}/said.wav")
