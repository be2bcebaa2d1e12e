"""The engine as WebAssembly has Python's spikes, counts and outputs, in Node, and is small."""

import gzip
import json
import shutil
import subprocess
from hashlib import sha256

import build_demo
import pytest
import torch
from demo_page import T, engine_of, events_of, image_of

import proxykernels as pk

pytest_plugins = ["demo_page"]
pytestmark = pytest.mark.slow
NODE = """
import { readFileSync } from "node:fs";
import { createHash } from "node:crypto";
import { gunzipSync } from "node:zlib";
const [demo, given] = process.argv.slice(-2);
const { Engine, Network } = await import(`${demo}/engine.js`);
const { Recorder } = await import(`${demo}/record.js`);
const engine = await Engine.load(readFileSync(`${demo}/built/engine.wasm`));
const hex = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("hex");
const answers = JSON.parse(readFileSync(given)).map(({ net, T, image, events }) => {
  const network = new Network(engine, gunzipSync(readFileSync(`${demo}/built/${net}.safetensors.gz`)));
  const recorder = new Recorder(network), { H, W } = network;
  const x = image ? Float32Array.from(image) : engine.pack(events, T, H, W), step = H * W;
  const run = recorder.run(x, (t) => (image ? x : x.subarray(t * step, (t + 1) * step)), T);
  const hash = (maps) => maps.reduce((h, map) => h.update(map), createHash("sha256")).digest("hex");
  return {
    outputs: run.steps.map(({ outputs }) => hex(outputs)),
    counts: network.fires ? hex(recorder.whole.counts()) : null,
    layers: Object.fromEntries(recorder.layers.map(({ name }, k) => [name, run.steps.at(-1).layers[k]])),
    maps: Object.fromEntries(recorder.layers.map(({ name }, k) => [name, hash(run.maps[k])])),
    work: run.work,
  };
});
console.log(JSON.stringify(answers));
"""


@pytest.fixture(scope="module")
def in_node(built, samples, tmp_path_factory):
    """What the three networks give in Node: of 12 images twice, and of all recordings."""
    if not shutil.which("node"):
        pytest.skip("Node is not installed: apt-get install nodejs")
    images = [image_of(sample) for sample in samples["images"][:12]]
    tasks = [{"net": net, "T": T, "image": x.flatten().tolist()} for net in ("if", "sigma-delta") for x in images]
    for recording in samples["recordings"]:
        columns = {name: values.tolist() for name, values in events_of(recording).items()}
        tasks.append({"net": "events", "T": samples["T"], "events": columns})
    path = tmp_path_factory.mktemp("node") / "given.json"
    path.write_text(json.dumps(tasks))
    command = ["node", "--input-type=module", "--eval", NODE, str(built), str(path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return images, {"if": found[:12], "sigma-delta": found[12:24], "events": found[24:]}


def bits(tensor: torch.Tensor) -> str:
    return tensor.contiguous().numpy().tobytes().hex()


def check_layers(found: dict, result) -> None:
    assert {name: layer["spikes"] for name, layer in found["layers"].items()} == {
        name: round(result.rates[name] * result.places[name]) for name in found["layers"]
    }
    assert sum(layer["additions"] for layer in found["layers"].values()) > 0
    additions = {name: result.synops.accumulates[name] for name in found["layers"]}
    assert {name: layer["additions"] for name, layer in found["layers"].items()} == additions
    assert found["work"]["additions"] == sum(result.synops.accumulates.values())


def test_integrate_and_fire_in_node(built, in_node, tmp_path):
    images, found = in_node
    engine = engine_of(built, "if", tmp_path)
    net = build_demo.networks(pk.samples.fashion_mnist()[0][: build_demo.CALIBRATION])["if"]["net"]
    for x, answer in zip(images, found["if"], strict=True):
        result = engine(x, T)
        assert result.count().any() and answer["counts"] == bits(result.count())
        check_layers(answer, result)
        assert answer["outputs"] == [bits(engine(x, t + 1).logits) for t in range(T)]
        recorded = pk.simulate(net, x, T, precision="int8", record=list(answer["maps"])).records
        for name, spikes in recorded.items():
            maps = sha256(spikes.dense(torch.float32).to(torch.int8).contiguous().numpy().tobytes())
            assert answer["maps"][name] == maps.hexdigest(), name


def test_sigma_delta_in_node(built, in_node, tmp_path):
    images, found = in_node
    engine = engine_of(built, "sigma-delta", tmp_path)
    for x, answer in zip(images, found["sigma-delta"], strict=True):
        result = engine(x, T)
        assert answer["outputs"] == [bits(potentials) for potentials in result.potentials]
        check_layers(answer, result)


def test_events_in_node(built, samples, in_node, tmp_path):
    _, found = in_node
    engine, steps = engine_of(built, "events", tmp_path), samples["T"]
    for recording, answer in zip(samples["recordings"], found["events"], strict=True):
        x = pk.events(**events_of(recording), size=(34, 34), dt=1, T=steps)
        result = engine(x, steps)
        assert result.count().any() and answer["outputs"] == [bits(result.count(t + 1)) for t in range(steps)]
        check_layers(answer, result)


def test_the_engine_is_small(built):
    content = (built / "built" / "engine.wasm").read_bytes()
    assert len(content) <= 1_100_000 and len(gzip.compress(content, 9)) <= 320_000
