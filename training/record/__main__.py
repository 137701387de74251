"""Record a keyword: near, far, quietly, quickly, by other people; then two minutes of talk about anything else.

    python -m training.record "hey juniper"                  # by the microphone, guided
    python -m training.record "hey juniper" --from phone     # files: phone/*.wav, phone/<speaker>/*.wav, phone/talk/

Takes that are clipped, silent or cut off are left out, and the reason is told. What is recorded stays on this machine,
in recordings/<word>/ and recordings/_talk_/<word>/. Stop at any time with Ctrl-C: the same command goes on from there.
"""

import argparse
import sys
from pathlib import Path

from training.data.recordings import SAMPLE_RATE, DataError
from training.record import files, guide, places
from training.record.microphone import Microphone

OTHERS = 0.3  # share of the takes that each further person makes


def record(word: str, args: argparse.Namespace) -> None:
    """By the microphone. Raises DataError, guide.Stopped, KeyboardInterrupt."""
    microphone = Microphone(args.device)
    print(f"microphone {microphone.name!r}. Stop with Ctrl-C; the same command goes on.")
    try:
        first = args.speaker or guide.ask("Your name, or a nickname [me]: ") or "me"
        guide.record(microphone.listen, word, first, args.takes, args.out)
        guide.record_talk(microphone.listen, word, first, args.talk, args.out)
        n = max(1, round(OTHERS * args.takes))
        while name := guide.ask(f"\nSomebody else (takes: {n})? A name, or Enter to end: "):
            guide.record(microphone.listen, word, name, n, args.out)
    finally:
        microphone.close()


def summary(word: str, out: Path) -> str:
    takes, talk = (list(places.folder(out, word, talk).glob("*.wav")) for talk in (False, True))
    people = {path.name.partition("_nohash_")[0] for path in takes}
    seconds = len(talk) * places.PIECE // SAMPLE_RATE
    return f"{places.folder(out, word)}: {len(takes)} takes, speakers: {len(people)}; talk: {seconds} s"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.record", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("word", help="the keyword, one word or a few")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER", help="read files instead of the microphone"
    )
    parser.add_argument("--speaker", help="who is heard (asked; of files in no folder of their own: me)")
    parser.add_argument("--device", help="part of the microphone's name (default: the system's)")
    parser.add_argument("--takes", type=int, default=20, help="of the first speaker (default: 20)")
    parser.add_argument("--talk", type=float, default=120, metavar="SECONDS", help="of talk (default: 120)")
    parser.add_argument("--out", type=Path, default=Path("recordings"), help="where to (default: recordings)")
    args = parser.parse_args()
    word = " ".join(args.word.lower().split())
    try:
        if not any(letter.isalpha() for letter in word) or "/" in word or word.startswith((".", "_")):
            raise DataError(f'{word!r} is no word to record: give one, as WORD="hey juniper"')
        if args.source:
            files.gather(args.source, word, args.speaker or "me", args.out)
        else:
            record(word, args)
    except DataError as error:
        print(f"record: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"record: error: {args.out}: cannot be written ({error.strerror}); make room, or --out", file=sys.stderr)
        return 2
    except (guide.Stopped, KeyboardInterrupt):
        print(f"\nstopped. {summary(word, args.out)}")
        return 130
    print(f"\n{summary(word, args.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
