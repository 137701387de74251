"""What the listener is told: one table of options, read from the command line and from one TOML file.

The command line wins over the file. A file holds the same names as the command line, without the dashes:

    bundle = ["/opt/earshot/current/bundles/happy-ensemble"]
    device = "USB"
    false-accepts = 0.5                 # an hour; or {happy = 0.1} for one keyword
    exec = "/usr/local/bin/lamp on"
    dashboard = "8765"

Every mistake is an OptionsError of one line that says how to fix it. Paths in a file are relative to its folder.
"""

import argparse
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from runtime.bundle.operating_points import LOWEST_THRESHOLD
from runtime.errors import OptionsError
from runtime.files import read_plain

DEFAULT_CONFIG = "/etc/earshot.toml"
LARGEST_CONFIG = 16 << 10  # bytes
DEEPEST = 8  # tables and lists within each other
MOST_FALSE_ACCEPTS = 100_000  # an hour, which has 45 000 hops
OPERATING_POINT = ("threshold", "false-accepts")
SOURCES = ("wav", "stdin", "device", "list-devices")

EXAMPLES = """examples:
  %(prog)s dist/happy-ensemble                       listen to the default microphone
  %(prog)s dist/happy-ensemble dist/jarvis-small     to two bundles' keywords in the same audio
  %(prog)s dist/happy-ensemble --device USB --meter  to the one with USB in its name, with a level and score meter
  %(prog)s dist/happy-ensemble --exec 'lamp on' --dashboard 8765
  %(prog)s --list-devices                            show the microphones
  %(prog)s dist/happy-ensemble --wav a.wav b.wav     search recordings, each from a fresh start
  arecord -q -r 16000 -f S16_LE -c 1 -t raw | %(prog)s dist/happy-ensemble --stdin

output, one line per detection, at once:
  {"time_s": 12.48, "keyword": "happy", "score": 0.572}
  time_s counts seconds of audio from the start to the end of the hop that detected it. With several bundles a line
  names its "bundle", with several files its "file". What else happens is told in lines that have an "event":
  {"event": "over", "time_s": 12.88, "detection": {"time_s": 12.48, "keyword": "happy", "score": 0.572, "peak": 0.981}}
  {"event": "gap", "time_s": 70.4, "lost_s": 1.28, "reason": "overflow", "count": 1}
  A detection is over at the first hop below the threshold, at the latest after the refractory time; "peak" is its
  highest score. On a terminal lines are text for people, unless there is --json.

signals: SIGTERM ends it with a line of totals, SIGINT (Ctrl-C) without; SIGHUP reads the configuration and the
bundles again.

exit codes: 0 done or stopped by Ctrl-C, SIGTERM or a closed pipe; 1 output cannot be written, or some of the files not
be read; 2 a mistake to be fixed, or none of the files could be read
"""


class Option(NamedTuple):
    """One option. `read` turns a TOML value or the command line's text into the value, or raises ValueError."""

    name: str
    metavar: str
    read: Callable[[Any], Any]
    default: Any
    help: str
    several: bool = False  # the command line takes several values
    is_path: bool = False


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a text")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise ValueError("in characters that this locale has (LC_ALL=C.UTF-8 has all)") from None
    return value


def _text_or_number(value: Any) -> str:
    return _text(str(value) if type(value) is int else value)


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not value:
        raise ValueError("a list of texts")
    return [_text(item) for item in value]


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _number(low: float, high: float, what: str) -> Callable[[Any], float]:
    """Numbers above `low`, at most `high`."""

    def read(value: Any) -> float:
        wrong = ""
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
            wrong = f" (invalid float value: {_short(str(value))})"
        if not low < number <= high:
            raise ValueError(what + wrong)
        return number

    return read


def _by_keyword(read_one: Callable[[Any], float]) -> Callable[[Any], dict[str, float]]:
    """0.9, "0.9", ["0.9", "happy=0.8"] or {happy: 0.8} → number by keyword; "" stands for every other keyword."""

    def read(value: Any) -> dict[str, float]:
        if isinstance(value, dict):
            return {keyword: read_one(number) for keyword, number in value.items()}
        numbers = {}
        for part in value if isinstance(value, list) else [value]:
            keyword, _, number = part.rpartition("=") if isinstance(part, str) else ("", "", part)
            numbers[keyword] = read_one(number)
        return numbers

    return read


read_thresholds = _by_keyword(_number(math.nextafter(LOWEST_THRESHOLD, 0), 1, f"in {LOWEST_THRESHOLD}…1"))
read_false_accepts = _by_keyword(_number(math.nextafter(0, -1), MOST_FALSE_ACCEPTS, "false accepts an hour, 0 or more"))

OPTIONS = (
    Option("bundle", "BUNDLE", _texts, [], "folder with manifest.json and the models, or the name or keyword of a "
           "shipped one; several listen to the same audio", several=True, is_path=True),
    Option("wav", "FILE", _texts, None, "read WAV files, any rate and channel count; FLAC and Ogg too where "
           "soundfile is installed", several=True, is_path=True),
    Option("stdin", "", _flag, False, "read raw PCM: 16 kHz, one channel, 16-bit little-endian"),
    Option("device", "X", _text_or_number, None, "microphone, by number or part of its name (default: system's)"),
    Option("list-devices", "", _flag, False, "show the microphones and end"),
    Option("wait", "", _flag, False, "wait for a microphone that is not there when it starts"),
    Option("silence", "SECONDS", _number(0, 86400, "above 0 and at most 86400"), 60.0,
           "after so long of digital zeros a microphone is opened again (default: 60)"),
    Option("model", "float|int8|FILE", _text, None, "model of the bundle (default: the manifest's)"),
    Option("threshold", "[KEYWORD=]T", read_thresholds, {}, "score that counts as a detection, 0…1, of every keyword "
           "or of one (default: the manifest's)", several=True),
    Option("false-accepts", "[KEYWORD=]RATE", read_false_accepts, {}, "at most so many false accepts an hour, of every "
           "keyword or of one: the threshold follows from what the bundle has measured", several=True),
    Option("refractory", "SECONDS", _number(0, 3600, "above 0 and at most 3600"), None,
           "so long a score has to be low before it counts again (default: the manifest's)"),
    Option("json", "", _flag, False, "write JSON lines to a terminal too"),
    Option("meter", "", _flag, False, "show level and score on stderr while listening"),
    Option("exec", "COMMAND", _text, None, "run at every detection, without a shell; it finds EARSHOT_KEYWORD, "
           "EARSHOT_SCORE, EARSHOT_TIME and EARSHOT_BUNDLE in its environment"),
    Option("exec-timeout", "SECONDS", _number(0, 3600, "above 0 and at most 3600"), 10.0,
           "kill the command, and all it started, after so long (default: 10)"),
    Option("led", "NAME", _text, None, "light this LED of /sys/class/leds at every detection: ACT on a Raspberry Pi"),
    Option("save-on-detect", "DIR", _text, None, "keep the audio around every detection as WAV", is_path=True),
    Option("save-seconds", "SECONDS", _number(0, 60, "above 0 and at most 60"), 3.0,
           "how much of it; the last half second follows the detection (default: 3)"),
    Option("save-megabytes", "MB", _number(0, 1e6, "above 0 and at most 1000000"), 100.0,
           "bound of the folder; the oldest are deleted first (default: 100)"),
    Option("mqtt", "URL", _text, None, "publish detections: mqtt://[user@]host[:port]/prefix"),
    Option("mqtt-password-file", "FILE", _text, None, "holds the password of the URL's user", is_path=True),
    Option("no-mqtt-discovery", "", _flag, False, "do not announce the keywords to Home Assistant"),
    Option("dashboard", "[HOST:]PORT", _text_or_number, None, "serve a page that shows what is heard "
           "(default host: 127.0.0.1; any other needs a token)"),
    Option("dashboard-token-file", "FILE", _text, None, "holds the secret that opens the page, "
           "http://HOST:PORT/?token=…; made where there is none", is_path=True),
)
BY_NAME = {option.name: option for option in OPTIONS}


class Parser(argparse.ArgumentParser):
    """Tells mistakes in one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        if unknown != message.split()[0] and unknown.startswith("--"):
            message += ": " + _nearest(unknown[2:].partition("=")[0], "--")
        raise OptionsError(f"{message}: see --help")


def _parser() -> Parser:
    parser = Parser(prog="listen.py", description="Listen for a bundle's keywords.", epilog=EXAMPLES,
                    formatter_class=argparse.RawDescriptionHelpFormatter, argument_default=argparse.SUPPRESS)
    parser.add_argument("--config", metavar="FILE", help=f"read options from there (default: {DEFAULT_CONFIG}, if any)")
    source = parser.add_mutually_exclusive_group()
    for option in OPTIONS:
        group = source if option.name in SOURCES else parser
        if option.name == "bundle":
            group.add_argument(option.name, metavar=option.metavar, nargs="*", help=option.help)
        elif option.read is _flag:
            group.add_argument(f"--{option.name}", dest=option.name, action="store_true", help=option.help)
        else:
            # These take one value each time they are given: a bundle may follow it.
            takes: dict[str, Any] = {"action": "append"} if option.name in OPERATING_POINT else (
                {"nargs": "+"} if option.several else {})
            group.add_argument(f"--{option.name}", dest=option.name, metavar=option.metavar, help=option.help, **takes)
    return parser


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Command line and configuration file → a namespace with an attribute per option (dashes become underscores) and
    `config`, the file's path or None. Raises OptionsError; --help ends the process.
    """
    given = vars(_parser().parse_args(arguments))
    if not given.get("bundle"):
        given.pop("bundle", None)
    path = given.pop("config", None)
    if path is None and os.path.exists(DEFAULT_CONFIG):
        path = DEFAULT_CONFIG
    told = read_config(path) if path is not None else {}
    if any(name in given for name in SOURCES):
        told = {name: value for name, value in told.items() if name not in SOURCES}
    if any(name in given for name in OPERATING_POINT):
        told = {name: value for name, value in told.items() if name not in OPERATING_POINT}

    values = {option.name: option.default for option in OPTIONS} | told
    for name, value in given.items():
        flag = name if name == "bundle" else f"--{name}"
        try:
            values[name] = BY_NAME[name].read(value)
        except ValueError as error:
            raise OptionsError(f"{flag} must be {error}: see --help") from None
    if exclude_each_other(values["threshold"], values["false-accepts"]):
        raise OptionsError("--threshold and --false-accepts exclude each other: keep one")
    if not values["bundle"] and not values["list-devices"]:
        raise OptionsError("BUNDLE is missing, the folder that an export made (it goes before --wav): see --help")
    return argparse.Namespace(config=path, **{name.replace("-", "_"): value for name, value in values.items()})


def read_config(path: str) -> dict[str, Any]:
    """A TOML file → its options by name, checked. Raises OptionsError."""
    told = read_toml(path)
    values = {}
    for name, value in told.items():
        option = BY_NAME.get(name)
        if option is None:
            raise OptionsError(f"{path}: unknown key {_short(name)}: {_nearest(name)}")
        if option.name == "bundle" and isinstance(value, str):
            value = [value]
        try:
            values[name] = option.read(value)
        except ValueError as error:
            raise OptionsError(f"{path}: {name} must be {error}: correct it") from None
        if option.is_path:
            values[name] = _beside(path, values[name])
    sources = [name for name in SOURCES if values.get(name)]
    if len(sources) > 1:
        raise OptionsError(f"{path}: {' and '.join(sources)} exclude each other: keep one")
    if exclude_each_other(*(values.get(name, {}) for name in OPERATING_POINT)):
        raise OptionsError(f"{path}: {' and '.join(OPERATING_POINT)} exclude each other: keep one")
    return values


def exclude_each_other(thresholds: dict[str, float], false_accepts: dict[str, float]) -> bool:
    """Whether a keyword could have both. Different keywords may each have one, as bundles without a curve need."""
    either = {**thresholds, **false_accepts}
    return bool(thresholds and false_accepts) and ("" in either or len(either) < len(thresholds) + len(false_accepts))


def read_toml(path: str) -> dict[str, Any]:
    """A TOML file of at most LARGEST_CONFIG bytes, nested no deeper than DEEPEST. Raises OptionsError."""
    import tomllib  # here: without a file there is nothing to load it for

    try:
        content, _ = read_plain(path, LARGEST_CONFIG)
    except OSError as error:
        raise OptionsError(f"{path}: cannot be read ({error.strerror}): name a readable TOML file") from None
    if len(content) > LARGEST_CONFIG:
        raise OptionsError(f"{path}: larger than {LARGEST_CONFIG} bytes: this is no configuration")
    try:
        told = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        raise OptionsError(f"{path}: not TOML ({' '.join(str(error).split())}): correct it") from None
    values: list[Any] = [told]
    for _ in range(DEEPEST):  # level by level: what is nested deeper than Python's stack cannot even be shown
        values = [item for value in values if isinstance(value, dict | list)
                  for item in (value.values() if isinstance(value, dict) else value)]
    if any(isinstance(value, dict | list) for value in values):
        raise OptionsError(f"{path}: nested deeper than {DEEPEST} levels: this is no configuration")
    return told


def _beside(path: str, value: Any) -> Any:
    folder = os.path.dirname(path)
    return [os.path.join(folder, item) for item in value] if isinstance(value, list) else os.path.join(folder, value)


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:60] + "…")


def _nearest(name: str, prefix: str = "") -> str:
    import difflib

    close = difflib.get_close_matches(name.lower().replace("_", "-"), BY_NAME, 1, 0.5)
    return f"did you mean {prefix + close[0]!r}?" if close else f"the keys are {', '.join(BY_NAME)}"
