"""Which voices are here, how to get others, how fast they are, and how they understand a word.

python -m training.voices                          # every engine, its voices, clips a second
python -m training.voices "hey juniper"            # phonemes, warnings, what may be mistaken for it
python -m training.voices "hey juniper" --listen heard    # and one WAV file by each engine
"""

import argparse
import sys
import time
from pathlib import Path

from training.data.recordings import DataError
from training.voices import clips, engines, pronunciation

SECONDS = 3.0  # for which an engine speaks to measure its speed


def table(language: str, folder: Path | None) -> list[str]:
    """A line for each engine."""
    lines = [f"{'engine':10} {'voices':>6} {'people':>6} {'for validation':>15} {'clips a second':>15}"]
    for engine in engines.ENGINES.values():
        found = engine.speakers(language, folder)
        if engine.missing():
            lines.append(f"{engine.NAME:10} is not installed: {engine.INSTALL}")
        elif not found:
            lines.append(f"{engine.NAME:10} has no voice for {language!r} here: {engine.INSTALL}")
        else:
            people = {speaker.person for speaker in found}
            held = {person for person in people if engines.share(person) < engines.VALIDATION}
            speed = clips_a_second(found)
            lines.append(f"{engine.NAME:10} {len(found):6} {len(people):6} {len(held):15} {speed:15.1f}")
    return lines


def clips_a_second(speakers: list[clips.Speaker]) -> float:
    """Of one process, voices loaded."""
    group = [(1.0, speakers[:8])]  # so that each was loaded when the clock starts
    engine = engines.ENGINES[speakers[0].engine]
    for speaker in group[0][1]:
        engine.speak("juniper", speaker, clips.Manner())
    began, made = time.monotonic(), 0
    while (spent := time.monotonic() - began) < SECONDS:
        job = clips.draw(made, Path(), ("hey juniper",), group)
        engine.speak(job.text, job.speaker, job.manner)
        made += 1
    return made / spent


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.voices", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("word", nargs="*", help="how it is said; several ways at once, each in quotes")
    parser.add_argument("--language", default="en", help="espeak-ng's code (default: en)")
    parser.add_argument("--voices", type=Path, help="folder of your own Piper voices, name.onnx and name.onnx.json")
    parser.add_argument("--listen", type=Path, metavar="FOLDER", help="write a WAV file by each engine there")
    args = parser.parse_args()
    try:
        if not args.word:
            print("\n".join(table(args.language, args.voices)))
        else:
            print("\n".join(pronunciation.about(args.word, args.language)))
        for text in args.word if args.listen else ():
            for path in clips.examples(text, args.language, args.voices, args.listen):
                print(path)
    except DataError as error:
        print(f"voices: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
