"""Small files that want much memory. Each is refused before onnxruntime sees it, and takes more than the service may
have when the check is taken out; in a process of its own, where it gets no more than two gigabytes.
"""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import toy
from attack import ROOT, Attack, change_model, hear, refused
from on_graphs import SCAN, extra

from runtime.bundle.trial import try_out

UNIT = ROOT / "edge_demo" / "deploy" / "earshot.service"
MEMORY_MAX = re.search(r"^MemoryMax=(\d+)M$", UNIT.read_text(), re.MULTILINE)
SERVICE = int(MEMORY_MAX[1])  # MB
SIZES = [("LARGEST_RESULTS = 4 << 20", "LARGEST_RESULTS = 4 << 60"), ("MOST_WORK = 50_000_000", "MOST_WORK = 1 << 99")]
ARENA = ('    options.add_session_config_entry("session.use_env_allocators", "1")\n', "")
TOO_LARGE = "its weights and results have more than 4194304 elements"


def claims(name: str) -> onnx.SparseTensorProto:
    values = onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [1], [1.0])
    place = onnx.helper.make_tensor(f"{name}_at", onnx.TensorProto.INT64, [1], [0])
    return onnx.helper.make_sparse_tensor(values, place, [40_000_000])


def sparse_weights(folder: Path) -> None:
    toy.write_bundle(folder, extra("extra = Relu(many)"))
    change_model(folder, lambda model: model.graph.sparse_initializer.append(claims("many")))


def sparse_constant(folder: Path) -> None:
    constant = onnx.helper.make_node("Constant", [], ["many"], sparse_value=claims("value"))
    toy.write_bundle(folder, extra("extra = Relu(many)"))
    change_model(folder, lambda model: model.graph.node.insert(0, constant))


def texts(folder: Path) -> None:
    """A kilobyte, doubled 16 times."""
    doubled = "\n".join(f"t{n + 1} = StringConcat(t{n}, t{n})" for n in range(16))
    graph = extra(f"{doubled}\n same = Equal(t16, t16)\n extra = Cast<to = 1>(same)",
                  'string[1] t0 = {"' + 1024 * "x" + '"}')
    toy.write_bundle(folder, graph.replace('["": 18]', '["": 20]'))


def places(folder: Path) -> None:
    """NonZero collects them on the heap, wherever its result goes."""
    toy.write_bundle(folder, extra("""ones = Exp(tail)
        row = Cast<to = 2>(ones)
        all = Expand(row, shape)
        at = NonZero(all)
        extra = Cast<to = 1>(at)""", "int64[2] shape = {20000, 1}"))


def whole_numbers(folder: Path) -> None:
    """A range is computed when the model is loaded, where the arena's limit does not hold."""
    toy.write_bundle(folder, extra("all = Range(no, many, step)\n extra = Cast<to = 1>(all)",
                                   "int64 no = {0}, int64 many = {20000000}, int64 step = {1}"))


def square(folder: Path) -> None:
    """So is the product of a row and a column."""
    toy.write_bundle(folder, extra("""row = Range(no, many, step)
        column = Unsqueeze(row, axis)
        both = Mul(row, column)
        all = Reshape(both, flat)
        extra = Cast<to = 1>(all)""", "int64 no = {0}, int64 many = {4000}, int64 step = {1}"))


def doubled(folder: Path) -> None:
    twice = "\n".join(f"c{n + 1} = Concat<axis = 0>(c{n}, c{n})" for n in range(25))
    toy.write_bundle(folder, extra(f"c0 = Relu(gain)\n {twice}\n extra = Relu(c25)"))


def product_of_a_hop(folder: Path) -> None:
    toy.write_bundle(folder, extra("""wide = Concat<axis = 1>(audio, audio, audio, audio, audio, audio, audio, audio)
        tall = Reshape(wide, column)
        both = MatMul(tall, wide)
        extra = Reshape(both, flat)""", "int64[2] column = {-1, 1}"))


def padded(folder: Path) -> None:
    toy.write_bundle(folder, extra("""image = Reshape(audio, sides)
        all = Conv<pads = [2000, 2000, 2000, 2000]>(image, kernel)
        extra = Reshape(all, flat)""", "int64[4] sides = {1, 1, 32, 40}, float[1,1,1,1] kernel = {1}"))


def scratch(folder: Path) -> None:
    """Its result has a size that is allowed; what onnxruntime needs on the way there is sixteen times as much."""
    toy.write_bundle(folder, around(950))


def around(pad: int) -> str:
    return extra(f"""image = Reshape(audio, sides)
        all = Conv<pads = [{pad}, {pad}, {pad}, {pad}]>(image, kernel)
        mean = ReduceMean(all, axes)
        extra = Reshape(mean, flat)""",
        "int64[4] sides = {1, 1, 32, 40}, float[1,1,1,1] kernel = {1}, int64[4] axes = {0, 1, 2, 3}")


def shape_of_many_axes(folder: Path) -> None:
    """A shape is copied to the heap, whatever its length."""
    toy.write_bundle(folder, extra("""shape = Range(no, many, step)
        all = Reshape(gain, shape)
        extra = Reshape(all, flat)""", "int64 no = {0}, int64 many = {5000000}, int64 step = {1}"))


def parts(folder: Path) -> None:
    """A list of how long each is, of two gigabytes, before anybody counts the outputs."""
    toy.write_bundle(folder, extra("""line = Reshape(audio, flat)
        extra, other = Split<axis = 0, num_outputs = 100000000>(line)"""))


def states(folder: Path) -> None:
    shape = [1, 30_000_000]
    text = f"float{shape}".replace(" ", "")
    graph = toy.GRAPH.replace("float[1,240] tail)", f"float[1,240] tail, {text} big)")
    graph = graph.replace("float[1,240] tail_next)", f"float[1,240] tail_next, {text} big_next)")
    graph = graph.replace("score = Sig", "big_next = Cast<to = 1>(big)\n score = Sig")
    toy.write_bundle(folder, graph, states=[*toy.MANIFEST["states"], {"name": "big", "shape": shape}])


ATTACKS = {
    "sparse weights": Attack(sparse_weights, "holds sparse tensors", [SCAN]),
    "sparse constant": Attack(sparse_constant, "field 22 of attribute", [SCAN]),
    "texts": Attack(texts, "holds texts", [SCAN]),
    "places": Attack(places, "needs the operator Expand", [SCAN]),
    "whole numbers": Attack(whole_numbers, TOO_LARGE, SIZES),
    "square": Attack(square, TOO_LARGE, SIZES),
    "doubled": Attack(doubled, TOO_LARGE, SIZES),
    "product of a hop": Attack(product_of_a_hop, TOO_LARGE, [*SIZES, ARENA]),
    "padded": Attack(padded, TOO_LARGE, [*SIZES, ARENA]),
    "scratch": Attack(scratch, "cannot be run", [ARENA], before_loading=False),
    "shape of many axes": Attack(shape_of_many_axes, TOO_LARGE, [SCAN]),
    "parts": Attack(parts, "has a Split that makes no sense", [
        (' or node.attributes.get("num_outputs", parts) != parts', "")]),
    "states": Attack(states, TOO_LARGE, SIZES),
}


@pytest.fixture
def attacked(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = toy.write_bundle(tmp_path / "bundle")
    ATTACKS[request.param].build(folder)
    return folder


@pytest.mark.parametrize(("attacked", "attack"), ATTACKS.items(), ids=list(ATTACKS), indirect=["attacked"])
def test_refused_before_anything_is_loaded(attacked, attack, monkeypatch):
    refused(attack, attacked, monkeypatch)


@pytest.mark.parametrize(("attacked", "attack"), ATTACKS.items(), ids=list(ATTACKS), indirect=["attacked"])
def test_takes_too_much_without_the_check(attacked, attack, weak_copy):
    assert hear(weak_copy(*attack.out), attacked).megabytes > SERVICE


def greedy_weights(folder: Path) -> None:
    toy.write_bundle(folder, extra("wide = MatMul(audio, many)\n extra = Reshape(wide, flat)"))
    weights = onnx.numpy_helper.from_array(np.ones((1280, 3250), np.float32), "many")
    change_model(folder, lambda model: model.graph.initializer.append(weights))


def greedy_scratch(folder: Path) -> None:
    toy.write_bundle(folder, around(575))


@pytest.mark.parametrize("build", [greedy_weights, greedy_scratch])
def test_what_is_taken_leaves_the_service_room(tmp_path, build):
    """The most that is allowed, and 30 MB for microphone, dashboard and broker."""
    build(tmp_path / "bundle")
    heard = hear(ROOT / "runtime", tmp_path / "bundle")
    assert heard.said == ["loaded", "silence", "sound"] and 80 < heard.megabytes < SERVICE - 30
    assert try_out(tmp_path / "bundle")
