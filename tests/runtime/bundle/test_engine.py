import hashlib
import json
import os
import shutil
import tracemalloc

import numpy as np
import onnx
import onnxruntime
import pytest
from toy import CURVE

from runtime.bundle.engine import Engine
from runtime.errors import BundleError


def refusal(bundle, model=None) -> str:
    """The one line with which a bundle is refused."""
    with pytest.raises(BundleError) as caught:
        Engine(bundle, model)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 500
    return message


def rewrite_manifest(bundle, **fields):
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# Steps


def by_hand(path, hops) -> np.ndarray:
    """Scores of a model by nothing but onnxruntime and the contract."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    states = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()[1:]}
    scores = []
    for hop in hops:
        score, *following = session.run(None, {"audio": hop[None], **states})
        states = dict(zip(states, following, strict=True))
        scores.append(score[0])
    return np.array(scores)


@pytest.mark.parametrize("model", ["model.onnx", "model.int8.onnx", None])
def test_scores_are_those_of_the_contract(bundle, noise, model):
    engine = Engine(bundle, model)
    scores = np.array([engine.step(hop) for hop in noise])
    assert scores.dtype == np.float32 and scores.shape == (40, 1)
    np.testing.assert_array_equal(scores, by_hand(bundle / "model.onnx", noise))
    assert scores.max() > 0.9 and scores.min() < 0.1  # or equality would say little


def test_what_the_manifest_says_is_there(bundle):
    engine = Engine(str(bundle))
    assert engine.model == "model.int8.onnx"
    assert (engine.keywords, engine.thresholds) == (("loud",), (0.5,))
    assert (engine.hop_samples, engine.refractory_hops, engine.nan_resets) == (1280, 12, 0)


def test_reset_gives_the_scores_of_a_fresh_engine(bundle, noise):
    engine = Engine(bundle)
    first = [engine.step(hop) for hop in noise]
    for hops in (1, 2):  # states lie in one or the other buffer after an odd or even number of hops
        for hop in noise[:hops]:
            engine.step(hop)
        engine.reset()
        np.testing.assert_array_equal([engine.step(hop) for hop in noise], first)


def test_two_keywords(make_bundle, graph, noise):
    both = graph.replace("float[1,1] score", "float[1,2] score")
    both = both.replace("[1] gain = {100.0}", "[2] gain = {100.0, 0.0}")
    engine = Engine(make_bundle(graph=both, keywords=["loud", "never"], threshold=[0.5, 0.25]))
    scores = np.array([engine.step(hop) for hop in noise])
    assert (engine.keywords, engine.thresholds) == (("loud", "never"), (0.5, 0.25))
    np.testing.assert_array_equal(scores[:, :1], by_hand(make_bundle() / "model.onnx", noise))
    np.testing.assert_allclose(scores[:, 1], 1 / (1 + np.exp(5)), rtol=1e-5)


def test_a_model_without_state(make_bundle, graph, noise):
    for old, new in (
        (", float[1,1] level, float[1,240] tail)", ")"),
        (", float[1,1] level_next, float[1,240] tail_next)", ")"),
        ("Concat<axis = 1>(tail, audio)", "Cast<to = 1>(audio)"),
        ("Add(level, energy)", "Cast<to = 1>(energy)"),
        ("tail_next = Slice(audio, start, end, axis)", ""),
    ):
        assert old in graph
        graph = graph.replace(old, new)
    bundle = make_bundle(graph=graph, states=[])
    engine = Engine(bundle)
    np.testing.assert_array_equal([engine.step(hop) for hop in noise], by_hand(bundle / "model.onnx", noise))


@pytest.mark.parametrize("hop", [
    np.zeros(1279, np.float32), np.zeros((1, 1280), np.float32), np.zeros(0, np.float32), np.zeros(1280),
    np.zeros(1280, np.int16), [0.0] * 1280, None,
], ids=["short", "2-d", "empty", "float64", "int16", "list", "none"])
def test_anything_but_a_hop_is_refused(bundle, hop):
    with pytest.raises(ValueError, match=r"a hop is a float32 array of shape \(1280,\), got "):
        Engine(bundle).step(hop)


def test_a_hop_may_be_a_view_and_stays_as_it_was(bundle, noise):
    strided = np.repeat(noise[0], 2)[::2]
    np.testing.assert_array_equal(Engine(bundle).step(strided), Engine(bundle).step(noise[0]))
    np.testing.assert_array_equal(strided, noise[0])


@pytest.mark.filterwarnings("error", "ignore:overflow encountered in dot")
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
def test_audio_that_is_no_number_does_not_stay(bundle, noise, poison):
    engine, fresh = Engine(bundle), Engine(bundle)
    for hop in noise[:5]:
        engine.step(hop)
    broken = noise[5].copy()
    broken[700] = poison
    np.testing.assert_array_equal(engine.step(broken), [0])
    assert engine.nan_resets == 1
    np.testing.assert_array_equal([engine.step(hop) for hop in noise], [fresh.step(hop) for hop in noise])
    assert engine.nan_resets == 1


def test_a_score_that_is_no_number_does_not_stay(make_bundle, graph, noise):
    # ln(5 - 100 level') is NaN for loud audio
    log = graph.replace("Sub(scaled, offset)", "Sub(offset, scaled)").replace("Sigmoid", "Log")
    engine = Engine(make_bundle(graph=log))
    np.testing.assert_array_equal(engine.step(np.ones(1280, np.float32)), [0])
    assert engine.nan_resets == 1
    np.testing.assert_allclose(engine.step(np.zeros(1280, np.float32)), [np.log(5)], rtol=1e-6)


def test_memory_does_not_grow(bundle, noise):
    engine = Engine(bundle)
    for hop in noise:
        engine.step(hop)
    tracemalloc.start()
    try:
        for _ in range(2000):
            engine.step(noise[0])
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()


# Refusals: files


def test_a_folder_that_is_not_there(tmp_path):
    assert "manifest.json: cannot be read (No such file or directory)" in refusal(tmp_path / "nothing")


def test_a_model_the_bundle_does_not_have(bundle):
    for model in ("other.onnx", "../model.onnx", "model.torchscript", ""):
        assert "choose one of model.onnx, model.int8.onnx" in refusal(bundle, model)


@pytest.mark.parametrize("name", ["model.int8.onnx", "model.onnx", "model.torchscript", "report.md"])
def test_a_changed_file_is_refused_even_when_another_is_loaded(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    assert f"{name}: its SHA-256 is not the one in manifest.json" in refusal(bundle)


@pytest.mark.parametrize("name", ["model.int8.onnx", "model.onnx", "model.torchscript"])
@pytest.mark.parametrize("kept", [0, 10])
def test_a_half_written_file(bundle, name, kept):
    os.truncate(bundle / name, kept)
    assert f"{name}: {kept} bytes where manifest.json says" in refusal(bundle)


@pytest.mark.parametrize("name", ["model.int8.onnx", "model.onnx", "manifest.json"])
def test_a_missing_file(bundle, name):
    (bundle / name).unlink()
    assert f"{name}: cannot be read (No such file" in refusal(bundle)


def test_a_device_needs_no_torchscript_and_no_report(bundle):
    (bundle / "model.torchscript").unlink()
    (bundle / "report.md").unlink()
    Engine(bundle)


@pytest.mark.parametrize("name", ["model.int8.onnx", "manifest.json", "report.md"])
def test_a_link_or_a_folder_or_a_pipe_for_a_file(bundle, tmp_path, name):
    shutil.move(bundle / name, tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    assert f"{name}: not a plain file" in refusal(bundle)
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    assert f"{name}: not a plain file" in refusal(bundle)
    (bundle / name).unlink()
    (bundle / name).mkdir()
    assert f"{name}: not a plain file" in refusal(bundle)


# Refusals: the manifest


@pytest.mark.parametrize("text", [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"earshot_version": ' + b"1" * 5000 + b"}",
], ids=["empty", "half", "list", "null", "no UTF-8", "deep", "long number"])
def test_a_manifest_that_is_none(bundle, text):
    (bundle / "manifest.json").write_bytes(text)
    assert "manifest.json: not " in refusal(bundle)


def test_a_huge_manifest(bundle):
    os.truncate(bundle / "manifest.json", 1 << 40)
    assert "more than the 1048576 allowed" in refusal(bundle)


@pytest.mark.parametrize("version", ["2", "", 1, 1.0, None, ["1"]])
def test_a_contract_version_this_runtime_does_not_know(make_bundle, version):
    message = refusal(make_bundle(earshot_version=version))
    assert f'earshot_version is {json.dumps(version)}, this runtime knows "1"' in message


NAN = float("nan")
GOOD = {"sha256": "0" * 64, "bytes": 1}


@pytest.mark.parametrize(("field", "value"), [
    ("sample_rate", 8000), ("sample_rate", None),
    ("hop_samples", 0), ("hop_samples", 1280.0), ("hop_samples", "1280"), ("hop_samples", True), ("hop_samples", 10**9),
    ("refractory_hops", 0), ("refractory_hops", -1), ("refractory_hops", None),
    ("keywords", []), ("keywords", "loud"), ("keywords", [1]), ("keywords", [""]), ("keywords", ["a", "a"]),
    ("keywords", [str(number) for number in range(33)]),
    ("threshold", []), ("threshold", [0.5, 0.5]), ("threshold", [0]), ("threshold", [1.1]), ("threshold", [1e-46]),
    ("threshold", [0.0009]), ("threshold", [NAN]),
    ("threshold", ["0.5"]), ("threshold", 0.5), ("threshold", [True]),
    ("operating_points", None), ("operating_points", []), ("operating_points", [[], []]),
    ("operating_points", [CURVE[0]]),
    ("operating_points", [[1]]), ("operating_points", [CURVE * 7]), ("operating_points", [[CURVE[0] | {"more": 1}]]),
    ("operating_points", [[{"threshold": 0.5}]]), ("operating_points", [[CURVE[0] | {"threshold": 1.1}]]),
    ("operating_points", [[CURVE[0] | {"threshold": 0}]]), ("operating_points", [[CURVE[0] | {"threshold": "0.5"}]]),
    ("operating_points", [[CURVE[0] | {"false_accepts_per_hour": -1}]]),
    ("operating_points", [[CURVE[0] | {"false_accepts_per_hour": NAN}]]),
    ("operating_points", [[CURVE[0] | {"worst_kind_per_hour": float("inf")}]]),
    ("operating_points", [[CURVE[0] | {"misses": 1.5}]]), ("operating_points", [[CURVE[0] | {"misses_10_db": True}]]),
    ("files", {}), ("files", []), ("files", {"model.onnx": 1}), ("files", {"model.onnx": {}}),
    ("files", {"model.onnx": GOOD | {"sha256": "x"}}), ("files", {"model.onnx": GOOD | {"bytes": -1}}),
    ("files", {"model.onnx": GOOD | {"bytes": 1 << 40}}),
    ("default_model", None), ("default_model", "other.onnx"), ("default_model", "model.torchscript"),
    ("states", None), ("states", [1]), ("states", [{"name": "level"}]),
    ("states", [{"name": "level", "shape": [0]}]), ("states", [{"name": "audio", "shape": [1]}]),
])
def test_a_manifest_field_that_makes_no_sense(bundle, field, value):
    rewrite_manifest(bundle, **{field: value})
    message = refusal(bundle)
    assert "manifest.json: " in message
    assert field in message or field == "default_model"


@pytest.mark.parametrize("name", [
    "../model.onnx", "/etc/passwd", "a/b.onnx", "..", ".", "", ".hidden", "a\\b", "a\nb", "a\0b", "C:model.onnx",
    "manifest.json", "ä.onnx", "model.onnx\n",
])
def test_a_file_name_that_leads_out_of_the_bundle(bundle, name):
    rewrite_manifest(bundle, files={name: GOOD})
    assert "not a plain file name" in refusal(bundle)


# Refusals: the graph. Its SHA-256 is right each time.


@pytest.mark.parametrize(("old", "new", "problem"), [
    ("[1,1280] audio", "[1,1281] audio", "its first input is not audio, float32 [1, 1280]"),
    ("float[1,1280] audio", "float[1,N] audio", "its first input is not audio, float32 [1, 1280]"),
    ("audio, float[1,1] level, float[1,240] tail)", "audio, float[1,240] tail, float[1,1] level)",
     "state tail lacks its output tail_next"),
    (", float[1,240] tail_next)", ")", "state tail lacks its output tail_next"),
    (", float[1,240] tail)", ", float[1,240] tail, float[1,3] h)", "state h lacks its output h_next"),
    (", float[1,240] tail)", ", float[1,240] tail, float[1,M] h)", "state h has no static shape"),
    (", float[1,240] tail)", ", float[1,240] tail, string[1] h)", "state h has no static shape or is not float32"),
    ("tail_next)", "tail_next, float[1] logit)", "output logit belongs to no state"),
    ("=> (float[1,1] score", "=> (float[1] score", "its first output is not score, float32 [1, 1]"),
    ("tail_next = Slice(audio, start, end, axis)", "tail_next = Slice(audio, start, end, axis)\n u = evil.Sum(audio)",
     "needs custom operators, of evil"),
])
def test_a_graph_that_breaks_the_contract(make_bundle, graph, old, new, problem):
    assert graph.count(old) == 1
    message = refusal(make_bundle(graph=graph.replace(old, new)))
    assert message.startswith("model.int8.onnx: ") and problem in message


def test_states_that_the_manifest_lists_otherwise(bundle):
    level, tail = {"name": "level", "shape": [1, 1]}, {"name": "tail", "shape": [1, 240]}
    for states, problem in (
        ([level, tail | {"shape": [1, 241]}], "its states are not those in manifest.json"),
        ([tail, level], "its states are not those in manifest.json"),
        ([level], "reads tail, which is none of the states in the manifest"),
        ([level, tail | {"shape": [99999, 99999]}], "its weights and results have more than"),
    ):
        rewrite_manifest(bundle, states=states)
        assert f"model.int8.onnx: {problem}" in refusal(bundle)


@pytest.mark.parametrize("key", [
    "earshot_version", "sample_rate", "hop_samples", "keywords", "threshold", "refractory_hops", "operating_points",
])
@pytest.mark.parametrize("value", [None, "", "7", "[0.6]", "[" * 100_000])
def test_metadata_that_is_missing_or_differs(make_bundle, key, value):
    message = refusal(make_bundle(metadata={key: value}, operating_points=[CURVE]))
    assert f"its metadata lacks {key}" in message or f"{key} in its metadata is not the one" in message


def test_operating_points_that_only_the_metadata_has(make_bundle):
    message = refusal(make_bundle(metadata={"operating_points": json.dumps([CURVE])}))
    assert "operating_points in its metadata is not the one in manifest.json" in message


def test_weights_in_another_file_are_refused_wherever_it_lies(make_bundle, graph, tmp_path, monkeypatch):
    weighted = graph.replace("square = Mul(window, window)", "even = Mul(window, weight)\n square = Mul(even, even)")
    model = onnx.parser.parse_model(weighted)
    weight = model.graph.initializer.add(name="weight", dims=[1, 1520], data_type=1, data_location=1)
    location = weight.external_data.add(key="location")
    (tmp_path / "weights").write_bytes(np.ones(1520, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)  # where onnxruntime looks for the weights of a graph in memory
    monkeypatch.setattr(onnx.parser, "parse_model", lambda _: model)
    for location.value in ("weights", "../weights", str(tmp_path / "weights"), "*/_ORT_MEM_ADDR_/*"):
        bundle = make_bundle()
        if location.value == "weights":  # so this is not refused for some other reason
            onnxruntime.InferenceSession((bundle / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
        message = refusal(bundle)
        assert message.startswith("model.int8.onnx: ")
        assert "(external data)" in message or "in-memory address" in message


def test_bytes_that_are_no_graph(bundle):
    for content in (b"", b"no graph " * 100):
        (bundle / "model.int8.onnx").write_bytes(content)
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["files"]["model.int8.onnx"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        rewrite_manifest(bundle, files=manifest["files"])
        message = refusal(bundle)
        assert "model.int8.onnx: holds 0 graphs" in message or "model.int8.onnx: is damaged or no ONNX model" in message
