import struct

import numpy as np
import pytest

from training.data import recordings as data
from training.data import unpack
from training.data.recordings import DataError

LITERALS, DISTANCES, LENGTHS = [0, 2, 2, 1], [1, 2, 3, 3], [2, 2, 1]  # bits of each symbol's code


class Writer:
    """Bits of 16-bit words, lowest first, and bytes between the words, as unpack.Bits reads them: always one word
    ahead, so bytes stand before the word that was begun last."""

    def __init__(self):
        self.out, self.words, self.used = bytearray(4), [0, 2], 0

    def put(self, value: int, n: int) -> None:
        for at in range(n):
            place = self.words[self.used // 16] + self.used % 16 // 8
            self.out[place] |= (value >> at & 1) << self.used % 8
            self.used += 1
            if 16 * len(self.words) - self.used < 16:
                self.words.append(len(self.out))
                self.out += bytes(2)

    def raw(self, content: bytes) -> None:
        at = self.words[-1]
        self.out[at:at] = content
        self.words[-1] = at + len(content)

    def table(self, lengths: list[int]) -> None:
        self.put(len(lengths), 5)
        for length in lengths:
            self.put(length, 4)

    def value(self, lengths: list[int], value: int) -> None:
        """In a canonical code: codes of a length are counted up from those before, its highest bit first."""
        n = value.bit_length()
        symbol = n if value > 1 else value
        earlier = sorted((length, s) for s, length in enumerate(lengths) if length)
        code = sum(1 << lengths[symbol] - length for length, s in earlier if (length, s) < (lengths[symbol], symbol))
        for bit in f"{code:0{lengths[symbol]}b}":
            self.put(int(bit), 1)
        if value > 1:
            self.put(value & (1 << n - 1) - 1, n - 1)


def packed(pieces: list[tuple[bytes, int, int]], size: int) -> bytes:
    """RNC of one block. Each piece: bytes, then so many copied from so far back; the last is bytes alone."""
    writer = Writer()
    writer.put(0, 2)
    for lengths in (LITERALS, DISTANCES, LENGTHS):
        writer.table(lengths)
    writer.put(len(pieces), 16)
    for index, (literal, distance, length) in enumerate(pieces):
        writer.value(LITERALS, len(literal))
        writer.raw(literal)
        if index < len(pieces) - 1:
            writer.value(DISTANCES, distance - 1)
            writer.value(LENGTHS, length - 2)
    body = bytes(writer.out)
    return b"RNC\1" + struct.pack(">II", size, len(body)) + bytes(5) + b"\1" + body


PIECES = [(b"abcd", 3, 4), (b"xyz", 1, 5), (b"klmnopq", 7, 2), (b"r", 4, 3), (b"end", 0, 0)]
WHOLE = b"abcdbcdb" + b"xyzzzzzz" + b"klmnopqkl" + b"rqkl" + b"end"


def test_rnc_unpacks_bytes_and_copies_that_overlap():
    assert unpack.rnc(packed(PIECES, len(WHOLE))) == WHOLE


def test_rnc_that_holds_less_than_it_says_is_refused():
    with pytest.raises(DataError, match=f"holds {len(WHOLE)} bytes instead of 99"):
        unpack.rnc(packed(PIECES, 99))


def test_a_film_of_lines_becomes_wav_files(tmp_path):
    header = bytes(range(22))
    files = {  # number → (content, flags: nothing is packed, the header is packed too)
        50_001: (header + packed(PIECES, len(WHOLE)), 0),
        50_002: (header + b"\x80\xff\x00", 2),
        60_001: (b"a picture", 0),
    }
    table, disk = struct.pack("<I", len(files)), b""
    for number, (content, flags) in files.items():
        disk += bytes(-len(disk) % 16)
        place = len(disk) >> 4 | 1 << 23
        table += struct.pack("<HIH", number, place | (len(content) & 255) << 24, len(content) >> 8 | flags << 14)
        disk += content
    (tmp_path / "sky.dnr").write_bytes(table)
    (tmp_path / "sky.dsk").write_bytes(disk)
    unpack.steel_sky(tmp_path / "sky.dnr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["50001.wav", "50002.wav"]
    assert (tmp_path / "50001.wav").read_bytes()[44:][: len(WHOLE)] == WHOLE
    assert (tmp_path / "50002.wav").read_bytes()[44:47] == b"\x80\xff\x00"
    audio = data.read(tmp_path / "50001.wav")
    assert len(audio) == pytest.approx(len(WHOLE) * 16_000 / 11_025, abs=2)
    assert np.abs(audio).max() < 20_000
