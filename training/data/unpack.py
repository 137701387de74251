"""Archives of games → an audio file for each spoken line."""

import struct
import wave
from pathlib import Path

from training.data.recordings import DataError

Table = tuple[list[tuple[int, int]], int]  # of a Huffman code: (bits, symbol) by the next bits; their mask


def amazon_queen(table: Path) -> None:
    """queen.1c of Flight of the Amazon Queen → its MP3 files, in its place.

    Format: "QTBL", version[6], byte, compression (1: MP3), count, then for each file name[12], bundle, offset, size,
    big-endian; spoken lines are named *.SB. Source: ScummVM, engines/queen/resource.cpp.
    """
    whole = table.read_bytes()
    (count,) = struct.unpack_from(">H", whole, 13)
    for name, _, offset, size in struct.iter_unpack(">12sBII", whole[15 : 15 + 21 * count]):
        line, _, kind = name.rstrip(b"\0").decode().partition(".")
        if kind == "SB":
            table.with_name(f"{line}.mp3").write_bytes(whole[offset : offset + size])
    table.unlink()


SPOKEN = range(50_000, 60_000)  # numbers of the files with spoken lines
HEADER = 22  # bytes before the samples


def steel_sky(table: Path) -> None:
    """sky.dnr and sky.dsk of Beneath a Steel Sky → WAV files, 8 bits at 11 025 Hz, in their place.

    Format: sky.dnr is a count and 8 bytes for each file in sky.dsk, little-endian: number (16 bits), offset (23 bits),
    its unit (1 bit; set: 16 bytes), size (22 bits), header packed (1 bit), not packed at all (1 bit). Source: ScummVM,
    engines/sky/disk.cpp and sound.cpp.
    """
    entries, disk = table.read_bytes(), table.with_suffix(".dsk")
    whole = disk.read_bytes()
    for number, low, high in struct.iter_unpack("<HIH", entries[4:]):
        place = low & 0x7FFFFF
        place <<= 4 if low >> 23 & 1 else 0
        flags = low >> 24 | high << 8
        content = whole[place : place + (flags & 0x3FFFFF)]
        if number not in SPOKEN:
            continue
        if content[HEADER : HEADER + 3] == b"RNC" and not flags >> 23:
            content = (b"" if flags >> 22 & 1 else content[:HEADER]) + rnc(content[HEADER:])
        with wave.open(str(table.with_name(f"{number}.wav")), "wb") as file:
            file.setparams((1, 1, 11_025, 0, "NONE", ""))
            file.writeframes(content[HEADER:])
    table.unlink()
    disk.unlink()


def drascula(line: Path) -> None:
    """A spoken line of Drascula (*.ALS), 8 bits at 11 025 Hz without a header → a WAV file in its place.

    Source: ScummVM, engines/drascula/sound.cpp.
    """
    with wave.open(str(line.with_suffix(".wav")), "wb") as file:
        file.setparams((1, 1, 11_025, 0, "NONE", ""))
        file.writeframes(line.read_bytes())
    line.unlink()


class Bits:
    """Bits of 16-bit little-endian words, lowest first, with whole bytes between the words. `buffer` holds at least
    16 bits."""

    def __init__(self, source: bytes):
        self.source, self.at = source + bytes(4), 2  # at: offset of the word loaded last
        self.buffer, self.count = int.from_bytes(source[:4], "little"), 32

    def take(self, n: int) -> int:
        value = self.buffer & (1 << n) - 1
        self.buffer >>= n
        self.count -= n
        if self.count < 16:
            self.at += 2
            self._load()
        return value

    def _load(self) -> None:
        self.buffer |= int.from_bytes(self.source[self.at : self.at + 2], "little") << self.count
        self.count += 16

    def bytes(self, n: int) -> bytes:
        """The next n bytes. The word loaded ahead is replaced by the one after them."""
        taken = self.source[self.at : self.at + n]
        self.at += n
        self.count -= 16
        self.buffer &= (1 << self.count) - 1
        self._load()
        return taken

    def table(self) -> Table:
        """A canonical Huffman code, stored as a length for each symbol."""
        lengths = [self.take(4) for _ in range(self.take(5))]
        longest = max(lengths, default=0)
        table, code = [(0, 0)] * (1 << longest), 0
        for length in range(1, longest + 1):
            for symbol in (s for s, n in enumerate(lengths) if n == length):
                for index in range(int(f"{code:0{length}b}"[::-1], 2), 1 << longest, 1 << length):
                    table[index] = (length, symbol)
                code += 1
            code <<= 1
        return table, len(table) - 1

    def value(self, table: Table) -> int:
        """The next number. Symbols above 1 are numbers of bits, the highest of which is not stored."""
        length, symbol = table[0][self.buffer & table[1]]
        self.take(length)
        return symbol if symbol < 2 else self.take(symbol - 1) | 1 << symbol - 1


def rnc(packed: bytes) -> bytes:
    """Rob Northen compression, method 1: LZ77 with three Huffman codes in each block. Raises DataError if the
    unpacked size is not that of the header.

    Header of 18 bytes, big-endian: "RNC", 1, unpacked size, packed size, two checksums, leeway, number of blocks.
    """
    size, length = struct.unpack_from(">II", packed, 4)
    bits, out = Bits(packed[18 : 18 + length]), bytearray()
    bits.take(2)
    for _ in range(packed[17]):
        literals, distances, lengths = bits.table(), bits.table(), bits.table()
        for left in range(bits.take(16), 0, -1):
            run = bits.value(literals)
            if run:
                out += bits.bytes(run)
            if left > 1:
                distance, n = bits.value(distances) + 1, bits.value(lengths) + 2
                piece = out[-distance:]
                out += (piece * (n // distance + 1))[:n]
    if len(out) != size:
        raise DataError(f"a packed recording holds {len(out)} bytes instead of {size}; fetch the package again")
    return bytes(out)
