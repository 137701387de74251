"""Synthesised speech as negatives: sentences of dictionary words, thick with words that sound like the keyword.

Real recordings of near-misses are rare (who records "happen" for a detector of "happy"?), and a model that has not
heard them takes them for the keyword. espeak-ng, flite and SVOX Pico read them in many voices, speeds and pitches. What
they say is never a keyword, nor a word that has the keyword's sounds in it. Needs espeak-ng, flite and a word list
(Debian: wamerican), and Pico, which comes with its voices from PyPI (ttspico).
"""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import soundfile
from tqdm import tqdm

from training.data.recordings import DataError

VERSION = 5
WORDS = Path("/usr/share/dict/american-english")
MISSING = "apt-get install espeak-ng flite wamerican; pip install ttspico; or set data.synthetic = data.voices = 0"
ESPEAK_VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
ESPEAK_VARIANTS = tuple(f"+{sex}{n}" for sex, most in (("m", 8), ("f", 5)) for n in range(1, most + 1))
FLITE_VOICES = ("slt", "rms", "awb", "kal16")
PICO_VOICES, ONE_PICO = ("en-US", "en-GB"), Lock()  # its library keeps things in static memory
# What running speech is mostly made of, and a dictionary is not.
COMMON = """
the be to of and a in that have I it for not on with he as you do at this but his by from they we say her she or an
will my one all would there their what so up out if about who get which go me when make can like time no just him
know take people into year your good some could them see other than then now look only come its over think also
back after use two how our work first well way even new want because any these give day most us please turn coffee
light off kitchen set open play stop what's weather today tomorrow hot cold small large half cup happen maybe hey
copy
""".split()  # noqa: SIM905

Text = Callable[[np.random.Generator], str]

ALIKE = 1500  # how many of the most similar words count as near-misses
OFTEN = 12  # … and of the common words, as these are what a kitchen hears: "coffee" for "happy"


def phonemes(words: list[str]) -> list[str]:
    """Each word in espeak-ng's letters for sounds, without marks of stress, length and shade."""
    run = ["espeak-ng", "-q", "-x", "-v", "en-us"]

    def read(part: list[str]) -> list[str]:
        out = subprocess.run(run, input="\n".join(part), capture_output=True, text=True, check=True).stdout.splitlines()
        if len(out) != len(part):
            raise DataError(f"espeak-ng read {len(part)} words as {len(out)}; install espeak-ng 1.51 or newer")
        return [re.sub(r"[\s',:;%|_!0-9]", "", line).replace("I", "i") for line in out]  # "happier" has "happy" in it

    parts = [words[i : i + 500] for i in range(0, len(words), 500)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = tqdm(pool.map(read, parts), total=len(parts), desc="how words sound", unit="500 words")
        return [sounds for part in said for sounds in part]


# espeak-ng's letters: vowels, stops, fricatives, what hums; and what lips make
KINDS = ("aAeEiIoOuUVQ03@Y&", "pbtdkg?", "fvszSZTDCJh", "mnNlrRwjL", "pbfv")


def cost(x: str, y: str) -> float:
    """Of taking one sound for another: half as much within a kind, and half for an h, which is hardly heard."""
    if x == y:
        return 0.0
    alike = any(x in kind and y in kind for kind in KINDS) or ("h" in (x, y) and not {x, y} & set(KINDS[0]))
    return 0.5 if alike else 1.0


def distance(target: str, sounds: str) -> float:
    """What it costs to find `target` somewhere within `sounds`: Levenshtein's distance to the nearest part (Sellers
    1980). "happy" is half a sound from what is in "nappies" and a whole one from what is in "cappuccino"."""
    row = [0.0] * (len(sounds) + 1)
    for x in target:
        gone = 0.5 if x == "h" else 1.0
        last, row[0] = row[0], row[0] + gone
        for j, y in enumerate(sounds, 1):
            last, row[j] = row[j], min(row[j] + gone, row[j - 1] + 1, last + cost(x, y))
    return min(row)


def vocabulary(keywords: tuple[str, ...]) -> tuple[list[str], list[str], list[str]]:
    """What may be said: (all words, those among them that have a keyword's sounds in them but for a few, nearest first;
    common words, nearest first)."""
    words = [w for w in WORDS.read_text().split() if re.fullmatch("[a-z]{2,14}", w)]
    spoken, targets = phonemes(words + COMMON), phonemes(list(keywords))
    allowed = {
        word: min(distance(target, sounds) / len(target) for target in targets)
        for word, sounds in zip(words + COMMON, spoken, strict=True)
        if not any(target in sounds for target in targets) and not any(k in word for k in keywords)
    }
    words, common = ([w for w in some if w in allowed] for some in (words, COMMON))
    alike = sorted(words, key=lambda word: (allowed[word], hashlib.sha256(word.encode()).digest()))
    return words, alike[:ALIKE], sorted(common, key=lambda word: (allowed[word], word))


def sentence(words: list[str], alike: list[str], common: list[str], rng: np.random.Generator) -> str:
    """Near-misses among common words, as "a cup of cappuccino", and any others."""
    share = rng.choice([0.15, 0.3, 0.6])
    said = []
    for _ in range(int(rng.integers(2, 11))):
        kind = rng.random()
        if kind < share:
            near = common[:OFTEN] if rng.random() < 0.3 else alike
            said.append(near[int(len(near) * rng.random() ** 2)])  # the nearest most often
        else:
            said.append(str(rng.choice(common if kind < 0.5 + share / 2 else words)))
    return " ".join(said)


def pico_speaks(path: Path, text: str, rng: np.random.Generator) -> None:
    from ttspico import TtsEngine  # only who trains needs it

    with ONE_PICO:
        engine = TtsEngine(str(rng.choice(PICO_VOICES)))
        engine.rate, engine.pitch = int(rng.integers(75, 135)), int(rng.integers(65, 150))
        audio = engine.speak(text)
    soundfile.write(path, np.frombuffer(audio, np.int16), 16_000)


def speak(path: Path, text: str, rng: np.random.Generator) -> None:
    """One utterance into a WAV file, in a random voice."""
    kind = rng.random()
    if kind < 0.3:
        pico_speaks(path, text, rng)
        return
    if kind < 0.65:
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


def clips(keyword: str, n: int, folder: Path = Path("runs/synthetic")) -> list[Path]:
    """n WAV files of the keyword, each by a random voice; made once, then found again. Raises DataError."""
    place = folder / f"{keyword.replace(' ', '_')}-{VERSION}"
    return spoken(place, n, keyword, lambda: lambda _: keyword, (1,))


def utterances(keywords: tuple[str, ...], n: int, folder: Path = Path("runs/synthetic")) -> list[Path]:
    """n WAV files of speech without the keywords; made once, then found again. Raises DataError."""
    place = folder / hashlib.sha256(json.dumps([VERSION, keywords]).encode()).hexdigest()[:16]

    def texts() -> Text:
        words = vocabulary(keywords)
        return lambda rng: sentence(*words, rng)

    return spoken(place, n, "sentences", texts)


def spoken(
    place: Path, n: int, what: str, texts: Callable[[], Text], seed: tuple[int, ...] = ()
) -> list[Path]:
    """n WAV files in a folder. `texts` is called once if any is missing; it returns what gives each its text."""
    paths = [place / f"{i:05d}.wav" for i in range(n)]
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    if not missing:
        return paths
    place.mkdir(parents=True, exist_ok=True)
    try:
        text = texts()

        def make(i: int) -> None:
            rng = np.random.default_rng([VERSION, i, *seed])
            partial = paths[i].with_suffix(".partial.wav")
            speak(partial, text(rng), rng)
            partial.replace(paths[i])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(tqdm(pool.map(make, missing), total=len(missing), desc=f"synthesising {what}", unit="clip"))
    except (OSError, ImportError, subprocess.CalledProcessError) as error:
        raise DataError(f"cannot synthesise speech ({error}); {MISSING}") from None
    return paths
