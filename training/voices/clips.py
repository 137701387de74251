"""Clips of a word by as many voices as there are, each in a manner of its own: training's stand-in for recordings.

Clip number `i` is a function of what is said, of the voices that are installed, and of `i` alone. A vocal tract of
another length costs nothing: the voice speaks slower and lower than it shall, and its audio is played faster.
"""

import hashlib
import json
import math
import os
import subprocess
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from training.data import recordings
from training.data.recordings import SAMPLE_RATE, Clip, DataError
from training.voices import engines
from training.voices.voice import Manner, Speaker

VERSION = 1  # raise it when clips come out differently
VALIDATION_EVERY = 6  # so many clips, one is by a voice for validation
BATCH = 12  # clips that are made at once, at the least
MARGIN = SAMPLE_RATE // 10  # samples that stay before and after what is said
SHORTEST = 0.1  # seconds of speech
SILENT = 1e-3  # peak, of full scale
OUTLIER = 2.0  # times longer or shorter than the median, speaking rate accounted for
PEAK = 0.5
# espeak-ng's variants are settings of one synthesiser: they count as no more people than these.
MOST_PEOPLE = {"espeak-ng": 6}


@dataclass(frozen=True)
class Job:
    """One clip to be made."""

    path: Path
    text: str
    speaker: Speaker
    manner: Manner
    warp: float  # what stood at frequency f will be at f · warp


@dataclass(frozen=True)
class Made:
    """One clip that was made, or why not."""

    job: Job
    seconds: float  # of speech, times the rate at which it is said
    fault: str  # "" for a good one


def clips(
    word: str,
    n: int,
    say: Iterable[str] = (),
    language: str = "en",
    voices: Path | None = None,
    folder: Path = Path("runs/voices"),
) -> list[Clip]:
    """n clips of a word, int16 at 16 kHz, by voices for training and, one in six, by voices for validation.

    say: how it is said, several ways in equal parts; the word itself if empty. voices: the user's own voice files.
    What is there already is kept, so a run that was stopped goes on. Raises DataError.
    """
    texts, speakers = tuple(say) or (word,), engines.known(language, voices)
    kind = [VERSION, texts, language, [[s.engine, Path(s.voice).name] for s in speakers]]
    name = word.replace(" ", "_")
    place = folder / f"{name}-{hashlib.sha256(json.dumps(kind).encode()).hexdigest()[:12]}"
    try:
        (place / name).mkdir(parents=True, exist_ok=True)
        make_until(n, place, name, texts, speakers)
    except OSError as error:
        raise DataError(f"{place}: cannot be written ({error.strerror or error}); make room there") from None
    found = sorted(recordings.clips_of(place, words=True), key=lambda clip: number(clip.path))
    return found[:n]


def examples(text: str, language: str, voices: Path | None, folder: Path) -> list[Path]:
    """The text by one voice of each engine, as it is, for a person to hear. Raises DataError."""
    jobs = []
    for name, some in groupby(engines.known(language, voices), lambda speaker: speaker.engine):
        path = folder / f"{text.replace(' ', '_')}-{name.replace(' ', '-')}.wav"
        path.unlink(missing_ok=True)
        jobs.append(Job(path, text, next(iter(some)), Manner(), 1.0))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [one.job.path for one in map(make, jobs) if not one.fault]
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); name another folder") from None


def make_until(n: int, place: Path, name: str, texts: tuple[str, ...], speakers: list[Speaker]) -> None:
    """Clips in place/name/ and the list of those for validation, until there are n good ones."""
    groups = [by_engine(group) for group in engines.split(speakers)]
    tried, faults = 0, Counter[str]()
    if (state := place / "tried.json").exists():
        tried = json.loads(state.read_text())
    have = sum(number(path) < tried for path in (place / name).glob("*.wav"))  # later ones were not judged yet
    if have >= n:
        return
    with tqdm(total=n, initial=min(n, have), desc=f"{name} by many voices", unit="clip") as bar:
        while have < n:
            if tried > 3 * n + 60:
                raise DataError(
                    f"{name}: only {have} of {tried} clips are good ({commonest(faults)}); spell it otherwise"
                )
            numbers = range(tried, tried + max(BATCH, math.ceil((n - have) * 1.05)))
            jobs = [draw(i, place / name, texts, groups[i % VALIDATION_EVERY == VALIDATION_EVERY - 1]) for i in numbers]
            made = without_outliers(run(jobs, bar))
            for one in made:
                if one.fault:
                    one.job.path.unlink(missing_ok=True)
                    faults[one.fault] += 1
            tried = numbers.stop
            every = (f"{name}/{path.name}" for path in (place / name).glob("*.wav"))
            write(place / "validation_list.txt", "".join(f"{path}\n" for path in every if for_validation(Path(path))))
            write(state, json.dumps(tried))
            have = sum(not one.fault for one in made) + have
    if faults:
        tqdm.write(f"{name}: left out {sum(faults.values())} clips: {commonest(faults)}")


def number(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def for_validation(path: Path) -> bool:
    return number(path) % VALIDATION_EVERY == VALIDATION_EVERY - 1


def commonest(faults: Counter[str]) -> str:
    return ", ".join(f"{count} × {fault}" for fault, count in faults.most_common(3))


def write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def by_engine(speakers: list[Speaker]) -> list[tuple[float, list[Speaker]]]:
    """The speakers of each engine and how often it is chosen: as the square root of how many people it has, so that
    one with a single natural voice is still heard beside one with hundreds."""
    found = []
    for name, some in groupby(speakers, lambda speaker: speaker.engine):
        group = list(some)
        people = len({speaker.person for speaker in group})
        found.append((math.sqrt(min(people, MOST_PEOPLE.get(name, people))), group))
    return found


def draw(i: int, folder: Path, texts: tuple[str, ...], groups: list[tuple[float, list[Speaker]]]) -> Job:
    """Who says clip i, and how."""
    rng = np.random.default_rng([VERSION, i])
    weights = np.array([weight for weight, _ in groups])
    group = groups[int(rng.choice(len(groups), p=weights / weights.sum()))][1]
    speaker = group[int(rng.integers(len(group)))]
    warp = math.exp(rng.uniform(math.log(0.88), math.log(1.14)))
    rate, pitch = (math.exp(rng.normal(0, spread)) for spread in (0.15, 0.12))
    manner = Manner(min(1.5, max(0.67, rate)), min(1.4, max(0.7, pitch)), rng.uniform(0.3, 2))
    text = texts[int(rng.integers(len(texts)))]
    if rng.random() < 0.15:
        text = text.replace(" ", ", ")  # a pause between the words, as one who calls makes
    text += str(rng.choice(["", ".", "!", "?", ","], p=[0.3, 0.2, 0.25, 0.15, 0.1]))
    name = speaker.person.replace(" ", "-").replace("/", "-")
    return Job(folder / f"{name}_nohash_{i}.wav", text, speaker, manner, warp)


def run(jobs: list[Job], bar: tqdm) -> list[Made]:
    """All clips that are not there yet, in processes, as engines keep things in memory that no thread may share. An
    engine that crashes its process is tried once more; then the rest of its clips are left out."""
    done: dict[Job, Made] = {}
    order = sorted(jobs, key=lambda job: (job.speaker.engine, job.speaker.voice))  # so that voices are loaded once
    pool = ProcessPoolExecutor(os.cpu_count())
    try:
        for _, some in groupby(order, lambda job: job.speaker.engine):
            group = list(some)
            for _ in range(2):
                left = [job for job in group if job not in done]
                try:
                    for made in pool.map(make, left, chunksize=4):
                        done[made.job] = made
                        bar.update(not made.fault and bar.n < bar.total)
                except BrokenProcessPool:
                    pool = ProcessPoolExecutor(os.cpu_count())
    finally:
        pool.shutdown(cancel_futures=True)
    return [done.get(job, Made(job, 0, f"{job.speaker.engine} crashed")) for job in jobs]


def make(job: Job) -> Made:
    """Say, warp, trim and write a clip, or read it if it is there. Raises OSError where it cannot be written."""
    rate = job.manner.rate
    if job.path.exists():
        audio = recordings.to_float(recordings.read(job.path))
    else:
        asked = Manner(rate / job.warp, job.manner.pitch / job.warp, job.manner.stress)
        try:
            said, hertz = engines.ENGINES[job.speaker.engine].speak(job.text, job.speaker, asked)
            audio = soxr.resample(said, hertz * job.warp, SAMPLE_RATE)
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError, soundfile.SoundFileError) as error:
            return Made(job, 0, f"{job.speaker.engine}: {' '.join(str(error).split())[:80]}")
        if not np.isfinite(audio).all() or float(np.abs(audio).max(initial=0)) < SILENT:
            return Made(job, 0, f"{job.speaker.engine} said nothing")
        audio = trimmed(audio)
        recordings.write(job.path, audio)
    start, end = recordings.spoken_part(audio)
    seconds = (end - start) / SAMPLE_RATE
    return Made(job, seconds * rate, "" if seconds >= SHORTEST else "too short")


def trimmed(audio: np.ndarray) -> np.ndarray:
    """From a tenth of a second before what is said until as long after it, silence where the voice has less."""
    start, end = recordings.spoken_part(audio)
    padded = np.pad(audio, MARGIN)
    return padded[start : end + 2 * MARGIN] * (PEAK / float(np.abs(audio).max()))


def without_outliers(made: list[Made]) -> list[Made]:
    """The same, those far longer or shorter than the median marked as faulty: garbled, spelt out or broken off."""
    good = [one.seconds for one in made if not one.fault]
    middle = float(np.median(good)) if good else 0.0

    def judged(one: Made) -> Made:
        if one.fault or middle / OUTLIER <= one.seconds <= middle * OUTLIER:
            return one
        return Made(one.job, one.seconds, f"{one.job.speaker.engine} too {'long' if one.seconds > middle else 'short'}")

    return [judged(one) for one in made]
