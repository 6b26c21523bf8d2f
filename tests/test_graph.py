"""From encoded features to objects as one exported graph, for every set of sensors, with memory."""

import itertools

import pytest
import torch
from test_decoder import DECODER
from test_model import make_frame, small_config
from torch import nn

from perception.model.build import build
from perception.model.graph import ObjectGraph, graph_inputs

SETS = [s for n in (1, 2, 3) for s in itertools.combinations(range(3), n)]


@pytest.fixture(scope="module")
def example():
    """A detector, as it were a trained one, and what its graph takes of a frame with another one before it."""
    torch.manual_seed(0)
    model = build(small_config(*DECODER, "decoder.memory=5")).eval()
    for name, parameter in model.named_parameters():
        if name.startswith(("decoder", "fusion.output", "fusion.registration.edge_head")):
            nn.init.normal_(parameter, std=0.05)
    with torch.no_grad():
        before = model.prepare([make_frame("a")])
        memory = model.remember(model(before), before)
        batch = model.prepare([make_frame("b", 1)])
        batch.moment.timestamp_ns[:] = 500_000_000
        objects, elapsed_s = memory.at(batch.moment)
        return model, graph_inputs(model.encode(batch)), dict(vars(objects)), elapsed_s


def masks():
    return [torch.tensor([[s in of for s in range(3)]]) for of in SETS]


def same(found: dict, expected: dict) -> None:
    for name in ("center", "log_size", "velocity", "class_logits", "quality_logit", "attribute_logits"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["yaw"].cos(), expected["yaw"].cos(), atol=1e-4, rtol=1e-4)


def test_one_graph_is_the_detector_for_every_set_of_sensors(example):
    model, encoded, memory, elapsed_s = example
    graph = ObjectGraph(model).eval()
    exported = torch.export.export(graph, (encoded, masks()[-1], memory, elapsed_s)).module()
    for valid in masks():
        with torch.no_grad():
            found = exported(encoded, valid, memory, elapsed_s)
            same(found, graph(encoded, valid, memory, elapsed_s))
            present = [name for name, has in zip(encoded, valid[0].tolist()) if has]
            same(found, graph({name: encoded[name] for name in present}, valid, memory, elapsed_s))


def test_without_a_memory_nothing_is_remembered(example):
    """A memory in which nothing is valid is none."""
    model, encoded, memory, elapsed_s = example
    graph, valid = ObjectGraph(model), masks()[-1]
    nothing = memory | {"valid": torch.zeros_like(memory["valid"])}
    with torch.no_grad():
        forgotten, without = graph(encoded, valid, nothing, elapsed_s), graph(encoded, valid, {}, elapsed_s)
    same({name: value[:, :20] for name, value in forgotten.items()}, without)


def test_onnxruntime_computes_the_same(example, tmp_path):
    """Opset 20, standard operators only."""
    pytest.importorskip("onnxscript")
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model, encoded, memory, elapsed_s = example
    graph = ObjectGraph(model).eval()
    arguments = (encoded, masks()[-1], memory, elapsed_s)
    torch.onnx.export(graph, arguments, tmp_path / "graph.onnx", dynamo=True, opset_version=20)
    assert {node.domain for node in onnx.load(tmp_path / "graph.onnx").graph.node} <= {"", "ai.onnx"}
    session = runtime.InferenceSession(str(tmp_path / "graph.onnx"), providers=["CPUExecutionProvider"])
    inputs = [value for parts in encoded.values() for value in parts.values()]
    for valid in masks():
        tensors = [*inputs, valid, *memory.values(), elapsed_s]
        feeds = {slot.name: tensor.numpy() for slot, tensor in zip(session.get_inputs(), tensors, strict=True)}
        found = {name: torch.from_numpy(value) for name, value in zip(memory, session.run(None, feeds), strict=True)}
        with torch.no_grad():
            same(found, graph(encoded, valid, memory, elapsed_s))
