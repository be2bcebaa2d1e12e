import { Engine, hasSimd, Network } from "./engine.js";
import { Eye, SIZE, STEP_MS } from "./eye.js";
import { bytesOf } from "./files.js";
import { paint } from "./maps.js";
import { meterRow } from "./meters.js";
import { first, softmax } from "./record.js";
import { start } from "./start.js";

const find = (id) => document.getElementById(id);
const TURN = 2 * Math.PI, REACH = 8, CYCLES = 3; // of a gesture that is played, a cycle a second
const CLASSES = {
  // where the spot is, from -1 to 1, and y grows downwards; null: it is not there
  "side to side": (a) => [Math.sin(a), 0],
  "up and down": (a) => [0, Math.sin(a)],
  "rising stroke": (a) => [Math.sin(a), -Math.sin(a)],
  "falling stroke": (a) => [Math.sin(a), Math.sin(a)],
  clockwise: (a) => [Math.cos(a), Math.sin(a)],
  counterclockwise: (a) => [Math.cos(a), -Math.sin(a)],
  "figure of eight": (a) => [Math.sin(a), 0.5 * Math.sin(2 * a)],
  taps: (a) => (Math.sin(a) > 0 ? [0, 0] : null),
};
const NAMES = Object.keys(CLASSES);
const ENOUGH = 25; // steps with events before there is an answer
const STILL = 25; // steps without events, after which the network begins anew

class Page {
  constructor(network) {
    Object.assign(this, { network, eye: new Eye(), stream: network.stream(), spot: null, steps: 0, took: 0 });
    this.readout = network.layers.at(-1);
    this.bars = NAMES.map((name) => meterRow(find("gestures"), name));
    this.begin();
    const camera = find("camera");
    camera.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      camera.setPointerCapture(event.pointerId);
      this.played = null;
      this.spot = this.place(event);
    });
    camera.addEventListener("pointermove", (event) => this.spot && !this.played && (this.spot = this.place(event)));
    for (const name of ["pointerup", "pointercancel"]) camera.addEventListener(name, () => (this.spot = null));
    addEventListener("keydown", ({ key }) => this.play(Number(key) - 1));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.due = performance.now();
    setInterval(() => this.catchUp(), STEP_MS);
    this.draw();
  }

  place({ clientX, clientY }) {
    const box = find("camera").getBoundingClientRect();
    return { x: ((clientX - box.left) / box.width) * SIZE, y: ((clientY - box.top) / box.height) * SIZE };
  }

  play(number) {
    if (number in NAMES) this.played = { where: CLASSES[NAMES[number]], step: 0 };
  }

  // Steps that are due; after a pause of the page one.
  catchUp() {
    const now = performance.now();
    if (now - this.due > 10 * STEP_MS) this.due = now - STEP_MS;
    for (; this.due <= now; this.due += STEP_MS) this.step();
    this.draw();
  }

  begin() {
    Object.assign(this, { moved: 0, still: 0, outputs: null });
    this.stream.reset();
  }

  step() {
    if (this.played) this.follow(this.played);
    this.events = this.eye.step(this.spot);
    if (this.events.some((code) => code)) this.moved += 1, this.still = 0;
    else if (this.moved && ++this.still > STILL) this.begin();
    if (!this.moved) return;
    this.took += this.stream.advance(this.events), this.steps += 1;
    this.outputs = this.stream.values(this.readout);
  }

  follow(played) {
    const angle = (TURN * played.step * STEP_MS) / 1000, place = played.where(angle);
    this.spot = place && { x: SIZE / 2 + REACH * place[0], y: SIZE / 2 + REACH * place[1] };
    played.step += 1;
    if (angle > CYCLES * TURN) this.played = this.spot = null;
  }

  draw() {
    if (this.events) paint(find("camera"), Int8Array.from(this.events, (code) => [0, -1, 1, 1][code]), SIZE);
    const told = this.outputs && this.moved >= ENOUGH, parts = told ? softmax(this.outputs) : [];
    this.bars.forEach((bar, k) => (bar.value = parts[k] ?? 0));
    const seen = told ? NAMES[first(parts)] : this.moved ? "…" : "Nothing yet.";
    if (find("seen").textContent !== seen) find("seen").textContent = seen;
    find("cost").textContent = `${Math.round(this.network.packedBytes / 1000)} kB of weights. ` + (this.steps
      ? `A step, ${STEP_MS} ms, takes ${(this.took / this.steps).toFixed(2)} ms here.` : "");
  }
}

async function begin() {
  if (!hasSimd()) throw new Error("This browser has no WebAssembly SIMD, which the engine needs: any current one has it.");
  const [wasm, file] = await Promise.all(["engine.wasm", "gestures.safetensors.gz"].map(bytesOf));
  new Page(new Network(await Engine.load(wasm), file));
}

start(begin);
