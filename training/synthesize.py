"""Synthesised speech as negatives: sentences of dictionary words, thick with words that sound like the keyword.

Real recordings of near-misses are rare (who records "happen" for a detector of "happy"?), and a model that has not
heard them takes them for the keyword. espeak-ng and flite read them in many voices, speeds and pitches. What they say
is never a keyword, nor a word that has the keyword's sounds in it. Needs espeak-ng, flite and a word list (Debian:
wamerican-small).
"""

import hashlib
import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from training.data import DataError

VERSION = 2
WORDS = Path("/usr/share/dict/american-english-small")
MISSING = "apt-get install espeak-ng flite wamerican-small, or set data.synthetic = 0 in the recipe"
ESPEAK_VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
ESPEAK_VARIANTS = tuple(f"+{sex}{n}" for sex, most in (("m", 8), ("f", 5)) for n in range(1, most + 1))
FLITE_VOICES = ("slt", "rms", "awb", "kal16")
# What running speech is mostly made of, and a dictionary is not.
COMMON = """
the be to of and a in that have I it for not on with he as you do at this but his by from they we say her she or an
will my one all would there their what so up out if about who get which go me when make can like time no just him
know take people into year your good some could them see other than then now look only come its over think also
back after use two how our work first well way even new want because any these give day most us please turn coffee
light off kitchen set open play stop what's weather today tomorrow hot cold small large half cup happen maybe hey
copy
""".split()  # noqa: SIM905

ALIKE = 400  # how many of the most similar words count as near-misses


def phonemes(words: list[str]) -> list[str]:
    """Each word in espeak-ng's phoneme letters, without marks of stress and length."""
    run = ["espeak-ng", "-q", "-x", "-v", "en-us"]
    out = subprocess.run(run, input="\n".join(words), capture_output=True, text=True, check=True).stdout.splitlines()
    if len(out) != len(words):
        raise DataError(f"espeak-ng read {len(words)} words as {len(out)}; install espeak-ng 1.51 or newer")
    return [re.sub(r"[\s',:;%|_!]", "", line) for line in out]


def distance(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def vocabulary(keywords: tuple[str, ...]) -> tuple[list[str], list[str], list[str]]:
    """What may be said: (all words, those among them that sound most like a keyword, common words)."""
    words = [w for w in WORDS.read_text().split() if re.fullmatch("[a-z]{2,12}", w)]
    spoken, targets = phonemes(words + COMMON), phonemes(list(keywords))

    def unlike(sounds: str) -> float:
        """Distance to the nearest keyword, as a share of the longer of both; 1 where the lengths say enough."""
        near = [target for target in targets if abs(len(sounds) - len(target)) < 3]
        return min((distance(sounds, t) / max(len(sounds), len(t)) for t in near), default=1.0)

    allowed = [
        (word, sounds)
        for word, sounds in zip(words + COMMON, spoken, strict=True)
        if not any(target in sounds for target in targets) and not any(k in word for k in keywords)
    ]
    pairs = sorted((unlike(sounds), word) for word, sounds in allowed if word not in COMMON)
    every = {word for word, _ in allowed}
    return [word for word in words if word in every], [w for _, w in pairs[:ALIKE]], [w for w in COMMON if w in every]


def sentence(words: list[str], alike: list[str], common: list[str], rng: np.random.Generator) -> str:
    share = rng.choice([0.1, 0.3, 0.7])
    said = []
    for _ in range(int(rng.integers(2, 11))):
        kind = rng.random()
        said.append(str(rng.choice(alike if kind < share else common if kind < 0.5 + share / 2 else words)))
    return " ".join(said)


def speak(path: Path, text: str, rng: np.random.Generator) -> None:
    """One utterance into a WAV file, in a random voice."""
    if rng.random() < 0.5:
        voice = str(rng.choice(ESPEAK_VOICES)) + str(rng.choice(ESPEAK_VARIANTS))
        how = ["-v", voice, "-s", str(rng.integers(120, 220)), "-p", str(rng.integers(20, 80))]
        command = ["espeak-ng", *how, "-w", str(path), text]
    else:
        how = [
            f"duration_stretch={rng.uniform(0.75, 1.25):.2f}",
            f"int_f0_target_mean={rng.uniform(80, 230):.0f}",
            f"int_f0_target_stddev={rng.uniform(8, 40):.0f}",
        ]
        options = [part for setting in how for part in ("--setf", setting)]
        command = ["flite", "-voice", str(rng.choice(FLITE_VOICES)), *options, "-t", text, "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True)


def utterances(keywords: tuple[str, ...], n: int, folder: Path = Path("runs/synthetic")) -> list[Path]:
    """n WAV files of speech without the keywords; made once, then found again. Raises DataError."""
    if n == 0:
        return []
    name = hashlib.sha256(json.dumps([VERSION, keywords]).encode()).hexdigest()[:16]
    place = folder / name
    paths = [place / f"{i:05d}.wav" for i in range(n)]
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    if not missing:
        return paths
    place.mkdir(parents=True, exist_ok=True)
    try:
        words = vocabulary(keywords)

        def make(i: int) -> None:
            rng = np.random.default_rng([VERSION, i])
            partial = paths[i].with_suffix(".partial.wav")
            speak(partial, sentence(*words, rng), rng)
            partial.replace(paths[i])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(tqdm(pool.map(make, missing), total=len(missing), desc="synthesising speech", unit="utterance"))
    except (OSError, subprocess.CalledProcessError) as error:
        raise DataError(f"cannot synthesise speech ({error}); {MISSING}") from None
    return paths
