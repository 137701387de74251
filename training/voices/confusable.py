"""Common words that sound like a keyword: what a detector of it will most often mistake for it.

How common words are is wordfreq's knowledge (Speer 2022, doi:10.5281/zenodo.7199437), of some forty languages.
"""

import functools
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

from training.voices import espeak
from training.voices.synthesize import distance

COMMON = 4000  # words, down to about twenty in a million
WORDS_AN_HOUR = 9000  # of one who talks
ALIKE = 0.34  # share of a keyword's sounds that may be others
SHORTEST_PART = 4  # sounds of a word in a phrase that is looked at by itself
EVERYDAY = 1e-4  # how often an everyday word is said, of all words
# espeak-ng's codes of languages that wordfreq calls otherwise
OTHERWISE = {"cmn": "zh", "hr": "sh", "sr": "sh", "bs": "sh"}


def has_words(language: str) -> bool:
    return bool(frequencies(language))


@functools.cache
def frequencies(language: str) -> dict[str, float]:
    """How often each word is said, of all words; none of a language that wordfreq does not know."""
    import wordfreq

    code = language.split("-")[0]
    code = OTHERWISE.get(code, code)
    return dict(wordfreq.get_frequency_dict(code)) if code in wordfreq.available_languages() else {}


@functools.cache
def common(language: str) -> tuple[tuple[str, str, float], ...]:
    """(word, its sounds, how often it is said), commonest first."""
    often = frequencies(language)
    words = sorted((w for w in often if w.isalpha() and len(w) > 1), key=lambda w: (-often[w], w))[:COMMON]
    return tuple(zip(words, sounds(words, language), (often[w] for w in words), strict=True))


def sounds(words: list[str], language: str) -> list[str]:
    """Each word in espeak-ng's letters for sounds, without marks of stress, length and shade."""
    command = ["espeak-ng", "-q", "-x", "-v", espeak.accent(language) or language]

    def read(part: list[str]) -> list[str]:
        done = subprocess.run(command, input="\n".join(part), capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        return lines if len(lines) == len(part) else [""] * len(part)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = [line for part in pool.map(read, batches(words)) for line in part]
    # 3 and 0 are vowels, other digits are shades; "happier" has "happy" in it
    return [re.sub(r"[\s',:;%|_!#1245-9]|\([a-z-]+\)", "", line).replace("I", "i") for line in said]


def batches(words: list[str]) -> list[list[str]]:
    return [words[i : i + 250] for i in range(0, len(words), 250)]


def times_an_hour(text: str, language: str) -> float:
    """How often a word is said by those who do not mean the detector; 0 for phrases, of which that is not known."""
    return frequencies(language).get(text.lower(), 0.0) * WORDS_AN_HOUR


def is_everyday(text: str, language: str) -> bool:
    """Whether it is a phrase of words that are all said every day."""
    words = text.lower().split()
    return len(words) > 1 and all(frequencies(language).get(word, 0.0) >= EVERYDAY for word in words)


def heard_in(text: str, language: str) -> list[str]:
    """Common words that have all of its sounds in them in their order, commonest first; other forms of itself not."""
    target = sounds([text], language)[0]
    return [word for word, said, _ in common(language) if target in said and said != target and text.lower() != word]


def confusable(text: str, language: str, n: int = 8) -> list[str]:
    """Common words nearest to it, or to a long word of it, commoner ones first among those as near."""
    parts = [text] if " " not in text else [text, *text.split()]
    found: dict[str, float] = {}
    for part, target in zip(parts, sounds(parts, language), strict=True):
        if len(target) < SHORTEST_PART and part != text or not target:
            continue
        for word, said, often in common(language):
            if word in text.lower().split() or target in said or text.lower() in word:
                continue
            share = distance(target, said) / len(target)
            if share <= ALIKE:
                found[word] = min(found.get(word, 9.0), share - 0.02 * min(10.0, often / EVERYDAY))
    chosen: list[str] = []
    for word in sorted(found, key=lambda word: (found[word], word)):
        if not any(word.startswith(other[: max(4, len(other) - 2)]) for other in chosen):  # another form of it
            chosen.append(word)
    return chosen[:n]
