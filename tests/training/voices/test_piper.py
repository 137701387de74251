"""Piper by its own package, with a voice made here: a tone whose length goes with that of the text and its rate."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from training.data.recordings import DataError
from training.voices import engines, piper
from training.voices.voice import Manner

pytestmark = pytest.mark.skipif(piper.missing(), reason=f"Piper is not installed: {piper.INSTALL}")
RATE = 16_000


def voice(path: Path, speakers: dict[str, int], language: str = "en-us") -> None:
    """A file with a Piper voice's inputs and output: (1, n) phonemes, their number, three scales, a speaker → audio."""
    number = helper.make_tensor_value_info
    inputs = [
        number("input", TensorProto.INT64, [1, "n"]),
        number("input_lengths", TensorProto.INT64, [1]),
        number("scales", TensorProto.FLOAT, [3]),
    ]
    pitch = ["one"]
    if len(speakers) > 1:
        inputs.append(number("sid", TensorProto.INT64, [1]))
        pitch = ["sid"]
    constants = {
        "zero": helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        "step": helper.make_tensor("step", TensorProto.FLOAT, [], [1.0]),
        "long": helper.make_tensor("long", TensorProto.FLOAT, [1], [800.0]),
        "which": helper.make_tensor("which", TensorProto.INT64, [1], [1]),
        "one": helper.make_tensor("one", TensorProto.INT64, [1], [0]),
        "slow": helper.make_tensor("slow", TensorProto.FLOAT, [], [0.06]),
        "shape": helper.make_tensor("shape", TensorProto.INT64, [3], [1, 1, -1]),
        "nothing": helper.make_tensor("nothing", TensorProto.INT64, [0], []),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["input_lengths"], ["n_float"], to=TensorProto.FLOAT),
        node("Gather", ["scales", "which"], ["length_scale"]),
        node("Mul", ["n_float", "length_scale"], ["scaled"]),
        node("Mul", ["scaled", "long"], ["samples"]),
        node("Reshape", ["samples", "nothing"], ["samples_scalar"]),
        node("Range", ["zero", "samples_scalar", "step"], ["time"]),
        node("Cast", pitch, ["person"], to=TensorProto.FLOAT),
        node("Add", ["person", "step"], ["factor"]),
        node("Mul", ["time", "factor"], ["faster"]),
        node("Mul", ["faster", "slow"], ["phase"]),
        node("Sin", ["phase"], ["wave"]),
        node("Reshape", ["wave", "shape"], ["output"]),
    ]
    output = [number("output", TensorProto.FLOAT, [1, 1, "samples"])]
    graph = helper.make_graph(nodes, "voice", inputs, output, list(constants.values()))
    path.parent.mkdir(parents=True, exist_ok=True)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    letters = "_^$ abcdefghijklmnopqrstuvwxyzɪʊɛæʌəɚɑɔːˈˌŋʃʒθðɡɹ"
    config = {
        "audio": {"sample_rate": RATE},
        "espeak": {"voice": language},
        "phoneme_type": "espeak",
        "num_symbols": len(letters),
        "num_speakers": len(speakers),
        "speaker_id_map": speakers if len(speakers) > 1 else {},
        "inference": {"noise_scale": 0.667, "length_scale": 1, "noise_w": 0.8},
        "phoneme_id_map": {letter: [i] for i, letter in enumerate(letters)},
    }
    path.with_name(f"{path.name}.json").write_text(json.dumps(config))


@pytest.fixture
def folder(tmp_path) -> Path:
    voice(tmp_path / "alone.onnx", {"": 0})
    voice(tmp_path / "many" / "crowd.onnx", {"p1": 0, "p2": 1, "p3": 2})
    voice(tmp_path / "moods.onnx", {"neutral": 0, "angry": 1})
    voice(tmp_path / "german.onnx", {"": 0}, "de")
    return tmp_path


def test_the_users_voices_are_found_by_language(folder):
    found = piper.speakers("en", folder)
    assert [one.person for one in found] == ["alone", "crowd p1", "crowd p2", "crowd p3", "moods", "moods"]
    assert [one.person for one in piper.speakers("de", folder)] == ["german"]
    assert not piper.speakers("en", None)


def test_a_voice_speaks_slower_and_faster(folder):
    speaker = piper.speakers("en", folder)[0]
    (audio, rate), (fast, _) = (piper.speak("juniper", speaker, Manner(rate=r)) for r in (1, 1.25))
    assert rate == RATE and audio.dtype == np.float32 and 0.1 < len(audio) / rate < 3
    assert len(fast) / len(audio) == pytest.approx(0.8, abs=0.01)


def test_each_speaker_of_a_file_is_heard(folder):
    some = [piper.speak("juniper", speaker, Manner())[0] for speaker in piper.speakers("en", folder)[1:4]]
    assert not np.allclose(some[0], some[1]) and not np.allclose(some[1], some[2])


def test_they_join_the_other_voices(folder):
    assert "crowd p2" in {speaker.person for speaker in engines.known("en", folder)}


def test_a_voice_without_its_description_is_named(folder):
    (folder / "alone.onnx.json").write_text("{")
    with pytest.raises(DataError, match=r"alone\.onnx\.json: is not the description of a Piper voice"):
        piper.speakers("en", folder)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="no such folder of voice files"):
        engines.known("en", tmp_path / "none")
