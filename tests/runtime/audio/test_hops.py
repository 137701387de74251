import io
import struct
import wave

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.audio import devices
from runtime.audio import hops as audio
from runtime.audio.hops import AudioError

HOP = 1280
PCM_GUID = bytes.fromhex("000000001000800000aa00389b71")


def wav(data, tag=1, channels=1, rate=16000, bits=16, size=None, riff=None, extensible=False, before=b"") -> bytes:
    """A WAV file; `size` and `riff` are what its header claims."""
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, channels, rate, rate * frame % 2**32, frame, bits)
    if extensible:
        form += struct.pack("<HHIH", 22, bits, 0, tag) + PCM_GUID
    chunks = before + b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(chunks) + 4 if riff is None else riff) + b"WAVE" + chunks


@pytest.fixture
def read(tmp_path):
    """Bytes of a WAV file → (all samples of its hops, what was warned of)."""

    def reader(content: bytes):
        (tmp_path / "x.wav").write_bytes(content)
        warnings = []
        hops = list(audio.wav_hops(str(tmp_path / "x.wav"), HOP, warnings.append))
        assert all(hop.shape == (HOP,) and hop.dtype == np.float32 for hop in hops)
        return np.concatenate([*hops, np.zeros(0, np.float32)]), warnings

    return reader


def refusal(read, content: bytes) -> str:
    with pytest.raises(AudioError) as caught:
        read(content)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and "x.wav: " in message
    return message


WANTED = np.array([0, 0.5, -0.5, -1, 0.25] * 600)  # 3000 samples: two hops and a part


def encoded(samples: np.ndarray, tag: int, bits: int) -> bytes:
    if tag == 3:
        return samples.astype(f"<f{bits // 8}").tobytes()
    whole = np.round(samples * 2 ** (bits - 1)).astype(np.int64)
    if bits == 8:
        return (whole + 128).astype(np.uint8).tobytes()
    return b"".join(int(n).to_bytes(bits // 8, "little", signed=True) for n in whole)


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 7])
@pytest.mark.parametrize(("tag", "bits"), [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)])
def test_every_format_gives_the_same_samples(read, tag, bits, channels, extensible):
    data = encoded(np.repeat(WANTED, channels), tag, bits)
    samples, warnings = read(wav(data, tag, channels, bits=bits, extensible=extensible))
    assert len(samples) == 3 * HOP and not warnings
    np.testing.assert_array_equal(samples[:3000], WANTED.astype(np.float32))
    np.testing.assert_array_equal(samples[3000:], 0)


def test_channels_are_averaged(read):
    pair = np.stack([WANTED, np.zeros_like(WANTED)], axis=1).ravel()
    samples, _ = read(wav(encoded(pair, 1, 16), channels=2))
    np.testing.assert_array_equal(samples[:3000], WANTED / 2)


def test_what_the_standard_library_writes(read):
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16000, 0, "NONE", ""))
        writer.writeframes(encoded(WANTED, 1, 16))
    np.testing.assert_array_equal(read(file.getvalue())[0][:3000], WANTED)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2])
def test_other_rates_become_16_khz(read, rate, channels):
    """A tone of 440 Hz stays one, in level and in time, without seams between blocks."""
    time = np.arange(3 * rate) / rate
    tone = np.repeat(0.5 * np.sin(2 * np.pi * 440 * time), channels)
    samples, _ = read(wav(encoded(tone, 3, 32), 3, channels, rate, 32))
    assert abs(len(samples) - 3 * 16000) < HOP
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(samples)) / 16000)
    np.testing.assert_allclose(samples[4000:44000], expected[4000:44000], atol=2e-3)


def test_chunks_that_mean_nothing_to_us_are_skipped(read):
    before = b"LIST" + struct.pack("<I", 5) + b"abcde\0" + b"JUNK" + struct.pack("<I", 200_000) + bytes(200_000)
    samples, warnings = read(wav(encoded(WANTED, 1, 16), before=before) + b"LIST\x04\0\0\0abcd")
    np.testing.assert_array_equal(samples[:3000], WANTED)
    assert len(samples) == 3 * HOP and not warnings


@pytest.mark.parametrize("kept", [2000, 2001])
def test_a_truncated_file_is_read_as_far_as_it_goes(read, kept):
    samples, warnings = read(wav(encoded(WANTED, 1, 16)[:kept], size=6000))
    np.testing.assert_array_equal(samples[:1000], WANTED[:1000])
    assert len(samples) == HOP
    assert "truncated, 0.06 s of the 0.19 s its header promises" in warnings[0]
    assert len(warnings) == (2 if kept % 2 else 1)


def test_a_recording_whose_recorder_was_killed(read):
    """Its header still holds the zeros, or the huge number, it was begun with."""
    data = encoded(WANTED, 1, 16)
    for claims in ({"size": 0, "riff": 0}, {"size": 0, "riff": 36}, {"size": 0xFFFFFFFF, "riff": 0xFFFFFFFF}):
        samples, warnings = read(wav(data, **claims))
        np.testing.assert_array_equal(samples[:3000], WANTED)
        assert len(warnings) == 1


def test_a_sample_that_is_cut(read):
    samples, warnings = read(wav(encoded(WANTED, 1, 24) + b"\x7f\x7f", bits=24))
    np.testing.assert_array_equal(samples[:3000], WANTED)
    assert warnings[0].endswith("ends inside a sample, its last 2 bytes are left out")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bits", [32, 64])
def test_samples_that_are_no_numbers_become_zeros(read, bits):
    broken = WANTED.copy()
    broken[[1, 7, 11, 2999]] = np.nan, np.inf, -np.inf, 1e38
    samples, warnings = read(wav(encoded(broken, 3, bits), 3, bits=bits))
    np.testing.assert_array_equal(samples[[1, 7, 11, 2999]], 0)
    np.testing.assert_array_equal(samples[12:2999], WANTED[12:2999])
    assert len(warnings) == 1 and "4 samples are NaN, infinite or beyond" in warnings[0]


def test_a_double_that_float32_cannot_hold(read):
    samples, warnings = read(wav(encoded(np.full(HOP, 1e300), 3, 64), 3, bits=64))
    assert not samples.any() and "1280 samples" in warnings[0]


GOOD = wav(encoded(WANTED, 1, 16))


@pytest.mark.parametrize(("content", "problem"), [
    (b"", "is empty"),
    (b"R", "is not a WAV file"), (b"ID3\x04" + bytes(500), "is not a WAV file"), (b"{}\n" * 50, "is not a WAV file"),
    (b"RIFX" + GOOD[4:], "is not a WAV file"), (b"RIFF\0\0\0\0AVI " + bytes(99), "is not a WAV file"),
    (GOOD[:12], "ends before its samples"), (GOOD[:40], "ends before its samples"),
    (GOOD[:20], "header makes no sense"), (GOOD[:44], "holds no audio"), (wav(b""), "holds no audio"),
    (wav(b"\0"), "holds no audio"),
    (GOOD[:12] + GOOD[36:], "its samples come before their format"),
    (wav(bytes(100), tag=6, bits=8), "compressed (format 6)"), (wav(bytes(100), tag=0x55), "compressed (format 85)"),
    (wav(bytes(100), channels=0), "0 channels"),
    (wav(bytes(100), rate=0), "(0 Hz)"), (wav(bytes(99), rate=2**32 - 1), "(4294967295 Hz)"),
    (wav(bytes(100), bits=0), "0 bits"), (wav(bytes(100), bits=12), "bits"), (wav(bytes(80), bits=64), "64 bits"),
    (wav(bytes(100), tag=3, bits=16), "16 bits"),
])
def test_what_cannot_be_read_is_refused(read, content, problem):
    assert problem in refusal(read, content)


def test_a_file_that_cannot_be_opened(tmp_path):
    for path, reason in ((tmp_path / "none.wav", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(AudioError, match=reason):
            next(audio.wav_hops(str(path), HOP, print))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_is_read_or_refused_in_one_line(read, data):
    start = data.draw(st.sampled_from([GOOD, wav(bytes(500), 3, 2, 48000, 32, extensible=True)]))[:600]
    content = bytearray(start[: data.draw(st.integers(0, len(start)))])
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, 70), st.integers(0, 255)), max_size=6)):
        if position < len(content):
            content[position] = value
    try:
        samples, _ = read(bytes(content))
    except AudioError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert np.isfinite(samples).all()


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 17))
def test_hops_are_the_blocks_cut_anew(lengths, hop_samples):
    whole = np.arange(1, sum(lengths) + 1, dtype=np.float32)
    ends = np.cumsum([0, *lengths])
    blocks = [whole[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
    hops = list(audio.cut(blocks, hop_samples))
    assert all(hop.shape == (hop_samples,) for hop in hops)
    assert len(hops) == -(-len(whole) // hop_samples)
    joined = np.concatenate([*hops, np.zeros(0, np.float32)])
    np.testing.assert_array_equal(joined[: len(whole)], whole)
    assert not joined[len(whole) :].any()


# Raw PCM


def test_raw_pcm():
    warnings = []
    hops = list(audio.pcm_hops(io.BytesIO(encoded(WANTED, 1, 16)), HOP, warnings.append))
    np.testing.assert_array_equal(np.concatenate(hops)[:3000], WANTED)
    assert [len(hop) for hop in hops] == [HOP] * 3 and not warnings


def test_raw_pcm_that_ends_inside_a_sample():
    warnings = []
    (hop,) = audio.pcm_hops(io.BytesIO(b"\0\x40\x01"), HOP, warnings.append)
    assert hop[0] == 0.5 and not hop[1:].any()
    assert len(warnings) == 1


@pytest.mark.parametrize(("content", "problem"), [(b"", "ended before any audio"), (b"\1", "ended before any"),
                                                  (GOOD, "is a WAV file, not raw PCM")])
def test_raw_pcm_that_is_none(content, problem):
    with pytest.raises(AudioError, match=problem):
        next(audio.pcm_hops(io.BytesIO(content), HOP, print))


# The microphone, as far as it needs none


DEVICES = [devices.Device(0, "HDA Intel", 2, 44100, False), devices.Device(3, "USB Mic", 1, 48000, True),
           devices.Device(4, "USB Camera", 1, 16000, False)]


@pytest.mark.parametrize(("wanted", "number"), [(None, 3), ("0", 0), ("4", 4), ("camera", 4), ("usb m", 3)])
def test_a_microphone_is_chosen_by_number_or_name(wanted, number):
    assert devices.choose(DEVICES, wanted).number == number


@pytest.mark.parametrize(("given", "wanted", "problem"), [
    (DEVICES, "usb", r"'usb': could be 3 \(USB Mic\), 4 \(USB Camera\): give the number"),
    (DEVICES, "1", "no microphone '1': plug one in"), (DEVICES, "bat", "no microphone 'bat'"),
    ([], None, "no microphone: "),
])
def test_a_microphone_that_cannot_be_chosen(given, wanted, problem):
    with pytest.raises(AudioError, match=problem):
        devices.choose(given, wanted)


def test_after_a_file_comes_half_a_second_of_a_quiet_room():
    room = np.concatenate(list(audio.quiet_room(HOP)))
    assert len(room) >= 8000 and np.abs(room).max() < 0.01 and room.std() > 5e-4
