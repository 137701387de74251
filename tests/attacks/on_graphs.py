"""Attacks by what is in a model's graph."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import toy
from attack import MODEL, Attack, change_model, fires, put


def borrow(folder: Path, location: str) -> onnx.ModelProto:
    """A model that adds to the audio what lies in another file: ones, or whatever secret a file holds."""
    (folder.parent / "secret").write_bytes(np.ones(1520, np.float32).tobytes())
    graph = toy.GRAPH.replace("square = Mul(window, window)", "more = Add(window, weight)\n square = Mul(more, more)")
    toy.write_bundle(folder, graph=graph.replace("float[1] half", "float[1] weight = {1}, float[1] half"))
    model = onnx.load_from_string((folder / MODEL).read_bytes())
    (weight,) = [t for t in model.graph.initializer if t.name == "weight"]
    weight.CopyFrom(onnx.TensorProto(name="weight", data_type=1, dims=[1, 1520], data_location=1))
    weight.external_data.add(key="location", value=location.format(folder.parent))
    return model


def external(folder: Path, location: str = "secret") -> None:
    put(folder, MODEL, borrow(folder, location).SerializeToString())


def external_in_attribute(folder: Path) -> None:
    """The same in a Constant's attribute, where who looks at initializers alone does not look."""
    model = borrow(folder, "secret")
    (weight,) = [t for t in model.graph.initializer if t.name == "weight"]
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["weight"], value=weight))
    model.graph.initializer.remove(weight)
    put(folder, MODEL, model.SerializeToString())


def custom_function(folder: Path, domain: str = "evil") -> None:
    """An operator of somebody's own that onnxruntime runs, as its body is in the file."""

    def change(model: onnx.ModelProto) -> None:
        body = [onnx.helper.make_node("Sigmoid", ["x"], ["low"]), onnx.helper.make_node("Exp", ["low"], ["y"])]
        imports = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(domain, 1)]
        model.functions.append(onnx.helper.make_function(domain, "Score", ["x"], ["y"], body, imports[:1]))
        model.opset_import.append(imports[1])
        (score,) = [node for node in model.graph.node if node.op_type == "Sigmoid"]
        score.op_type, score.domain = "Score", domain

    change_model(folder, change)


def custom_function_of_a_known_domain(folder: Path) -> None:
    custom_function(folder, "com.microsoft")


def graph_within(folder: Path) -> None:
    loop = toy.GRAPH.replace("score = Sigmoid(logit)", """
        score = Loop<body = turn (int64 i, bool on, float[1,1] old) => (bool go, float[1,1] new)
            { go = Identity(on)  new = Sigmoid(old) }>(turns, yes, logit)""")
    loop = loop.replace("int64[1] axis = {1}", "int64[1] axis = {1}, int64 turns = {3}, bool yes = {1}")
    toy.write_bundle(folder, graph=loop)


def score_by(operations: str, constants: str = "") -> str:
    """The toy's graph with other operations from `logit` to `score`."""
    graph = toy.GRAPH.replace("int64[1] axis = {1}", "int64[1] axis = {1}" + (constants and ", ") + constants)
    return graph.replace("score = Sigmoid(logit)", operations)


def extra(operations: str, constants: str = "") -> str:
    """The toy's graph with other operations; it adds the first value of their result `extra`, float and of one axis."""
    return score_by(f"""{operations}
        first = Gather(extra, zero)
        low = Add(logit, first)
        score = Sigmoid(low)""", "int64[1] zero = {0}, int64[1] flat = {-1}" + (constants and ", ") + constants)


def fused_operator(folder: Path) -> None:
    graph = score_by("high = com.microsoft.Gelu(logit)\n score = Sigmoid(high)")
    toy.write_bundle(folder, graph=graph.replace('["": 18]', '["": 18, "com.microsoft": 1]'))


def other_operator(folder: Path) -> None:
    toy.write_bundle(folder, graph=score_by("score = Sin(logit)"))


def other_attribute(folder: Path) -> None:
    toy.write_bundle(folder, graph=toy.GRAPH.replace("ReduceMean(", "ReduceMean<noop_with_empty_axes = 1>("))


def lying_index(folder: Path) -> None:
    """Looks up what is not there, as no reader of the file can know: fails at the first step."""
    toy.write_bundle(folder, graph=score_by("""far = Cast<to = 7>(offset)
        found = Gather<axis = 1>(level, far)
        score = Sigmoid(found)"""))


def never_a_number(folder: Path) -> None:
    """Logarithm of what is below zero: a detector that loads and hears nothing."""
    toy.write_bundle(folder, graph=score_by("score = Log(logit)"))


def other_format(folder: Path) -> None:
    """onnxruntime's own format, told from ONNX by its first bytes."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder.parent / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession((folder / MODEL).read_bytes(), options, providers=["CPUExecutionProvider"])
    put(folder, MODEL, (folder.parent / "model.ort").read_bytes())


def two_graphs(folder: Path) -> None:
    """A second graph of the same file is added to the first by protobuf, and is all that a careless reader shows."""
    empty = onnx.ModelProto(graph=onnx.GraphProto(doc_string="innocent"))
    put(folder, MODEL, (folder / MODEL).read_bytes() + empty.SerializeToString())


SCAN = ("        graph = scan(content)\n        check_sizes(graph, inputs)\n", """        import onnx, types
        props = onnx.load_from_string(content).metadata_props
        graph = types.SimpleNamespace(metadata={p.key: p.value for p in props})
""")
EXTERNAL = [
    SCAN,
    ('    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)\n', ""),
]

ATTACKS = {
    "weights elsewhere": Attack(external, "(external data)", EXTERNAL, fires),
    "weights elsewhere, of a constant": Attack(external_in_attribute, "field 5 of attribute", EXTERNAL, fires),
    "custom operator": Attack(custom_function, "holds functions", [SCAN], fires),
    "custom operator of a known domain": Attack(custom_function_of_a_known_domain, "holds functions", [SCAN], fires),
    "graph within the graph": Attack(graph_within, "holds a graph within the graph", [SCAN]),
    "operator of onnxruntime's own": Attack(fused_operator, "needs custom operators, of com.microsoft", [
        ("        raise ScanError(f\"needs custom operators", "        if False: raise ScanError(f\"needs custom"),
        ("    if versions != [OPSET]:\n", "    if False:\n"),
        ('    "Exp": _operator(_same),\n', '    "Exp": _operator(_same),\n    "Gelu": _operator(_same),\n')]),
    "operator that no export writes": Attack(other_operator, "needs the operator Sin", [SCAN]),
    "attribute that no export writes": Attack(other_attribute, "gives ReduceMean the attribute", [SCAN]),
    "index that lies": Attack(lying_index, "cannot be run", [("        self._try()\n", "")], before_loading=False),
    "score that is never a number": Attack(never_a_number, "its score of silence is no number", [
        ("        if self.nan_resets:\n            refuse", "        if False:\n            refuse")],
        before_loading=False),
    "another format": Attack(other_format, "is damaged or no ONNX model", [
        (SCAN[0], "        import types\n        graph = types.SimpleNamespace(metadata={})\n"),
        ("        if key not in graph.metadata:\n", "        if False:\n"),
        ('json.loads(graph.metadata[key])', "manifest[key]"),
        ('graph.metadata[key] if key == "earshot_version"', 'manifest[key] if key == "earshot_version"'),
        ('    options.add_session_config_entry("session.load_model_format", "ONNX")\n', "")]),
    "two graphs": Attack(two_graphs, "holds 2 graphs", [("    if len(model[\"graph\"]) != 1:\n", "    if False:\n")]),
}
