// The engine, compiled to WebAssembly, by its C interface: proxykernels.h says what each function does.

export const IMAGE = 0, SPIKES = 2; // kinds of input
export const GIVES = ["spikes", "values", "either", "signed"];
const ERROR = 516, INFO = 136, LAYER = 184, WORK = 24; // bytes of the structs
const SENTENCE = 4;

// A function that adds vectors: a browser that refuses it has no SIMD.
const WITH_SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
]);
export const hasSimd = () => typeof WebAssembly === "object" && WebAssembly.validate(WITH_SIMD);

// What WASI asks a host for: a clock, and no files, arguments or variables.
function host(module, memory) {
  const view = () => new DataView(memory().buffer);
  const functions = {
    clock_time_get(clock, precision, to) {
      view().setBigUint64(to, BigInt(Math.round(performance.now() * 1e6)), true);
      return 0;
    },
    environ_sizes_get(count, bytes) {
      view().setUint32(count, 0, true), view().setUint32(bytes, 0, true);
      return 0;
    },
    environ_get: () => 0,
    proc_exit(code) {
      throw new Error(`the engine ended with ${code}`);
    },
  };
  const BAD_FILE = 8;
  const asked = WebAssembly.Module.imports(module).map(({ name }) => [name, functions[name] ?? (() => BAD_FILE)]);
  return { wasi_snapshot_preview1: Object.fromEntries(asked) };
}

export class Engine {
  static async load(bytes) {
    const module = await WebAssembly.compile(bytes);
    const instance = await WebAssembly.instantiate(module, host(module, () => engine.c.memory));
    const engine = new Engine(instance.exports);
    engine.c._initialize();
    engine.error = engine.c.malloc(ERROR);
    return engine;
  }

  constructor(exports) {
    this.c = exports;
  }

  // The memory as it is now: it moves when it grows.
  get view() {
    return new DataView(this.c.memory.buffer);
  }

  text(at, most) {
    const bytes = new Uint8Array(this.c.memory.buffer, at, most), end = bytes.indexOf(0);
    return new TextDecoder().decode(bytes.slice(0, end < 0 ? most : end));
  }

  // Calls a function, whose last argument is the error, and throws its sentence.
  call(name, ...given) {
    if (this.c[name](...given, this.error)) throw new Error(this.text(this.error + SENTENCE, ERROR - SENTENCE));
  }

  // What `use` makes of some memory, which is freed.
  with(bytes, use) {
    const at = this.c.malloc(Math.max(bytes, 1));
    if (!at) throw new Error(`there is no memory for ${bytes} bytes`);
    try {
      return use(at);
    } finally {
      this.c.free(at);
    }
  }

  // The same of a copy of an array.
  given(array, use) {
    return this.with(array.byteLength, (at) => {
      new Uint8Array(this.c.memory.buffer).set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), at);
      return use(at);
    });
  }

  // An array of a type, which `fill` writes.
  taken(type, size, fill) {
    return this.with(size * type.BYTES_PER_ELEMENT, (at) => {
      fill(at);
      return new type(this.c.memory.buffer.slice(at, at + size * type.BYTES_PER_ELEMENT));
    });
  }

  // A handle that `open` writes.
  handle(open) {
    return this.with(4, (at) => {
      this.view.setUint32(at, 0, true);
      open(at);
      return this.view.getUint32(at, true);
    });
  }

  // Events of a camera as spikes [T, H * W], a byte each, for one sample; `t` counts steps.
  pack({ t, x, y, p }, T, H, W) {
    const columns = [BigInt64Array.from(t, BigInt), Int32Array.from(x), Int32Array.from(y), Int8Array.from(p)];
    const sizes = [t.length, 0, T, T, H, W].map(BigInt); // each step takes 1
    const call = (to, given) => this.call("pk_pack_events", ...given, ...sizes, to, T * H * W);
    const copied = (rest, given, use) =>
      rest.length ? this.given(rest[0], (at) => copied(rest.slice(1), [...given, at], use)) : use(given);
    return this.taken(Uint8Array, T * H * W, (to) => copied(columns, [], (given) => call(to, given)));
  }
}

const integers = (view, at, names) =>
  Object.fromEntries(names.map((name, k) => [name, Number(view.getBigInt64(at + 8 * k, true))]));

export class Network {
  // Of the bytes of a file that Engine.save wrote in Python.
  constructor(engine, bytes) {
    this.engine = engine;
    this.at = engine.given(bytes, (at) => engine.handle((to) => engine.call("pk_network_read", at, bytes.length, 0, to)));
    engine.with(INFO, (at) => {
      engine.call("pk_network_info", this.at, at);
      const names = ["C", "H", "W", "dims", "outC", "outH", "outW", "layers", "parameters", "packedBytes"];
      Object.assign(this, integers(engine.view, at, names), { count: 0 });
      this.isSigmaDelta = engine.view.getInt32(at + 88, true) !== 0;
      this.fires = engine.view.getInt32(at + 92, true) !== 0;
      this.hasLogits = engine.view.getInt32(at + 96, true) !== 0;
      this.precision = engine.text(at + 100, 16);
    });
    this.layers = Array.from({ length: this.layers }, (_, k) => this.layer(k));
    this.outputs = this.outC * this.outH * this.outW;
  }

  layer(k) {
    return this.engine.with(LAYER, (at) => {
      this.engine.call("pk_layer_info", this.at, BigInt(k), at);
      const { view } = this.engine;
      return {
        number: k,
        name: this.engine.text(at, 64),
        kind: this.engine.text(at + 64, 32),
        neuron: this.engine.text(at + 96, 32),
        ...integers(view, at + 128, ["C", "H", "W"]),
        gives: GIVES[view.getInt32(at + 176, true)],
      };
    });
  }

  stream() {
    return new Stream(this);
  }
}

// A network with a state, of one sample.
export class Stream {
  constructor(network) {
    this.network = network;
    this.engine = network.engine;
    this.at = this.engine.handle((to) => this.engine.call("pk_stream_open", network.at, 1n, 1n, to));
  }

  watch(layer, keep = true) {
    this.engine.call("pk_watch", this.at, BigInt(layer.number), Number(keep));
  }

  reset() {
    this.engine.call("pk_reset", this.at);
  }

  // T steps from rest, or further steps; their milliseconds. `x`: Float32Array of an image, or spikes, Uint8Array.
  run(x, T) {
    return this.go("pk_run", x, T);
  }

  advance(x, T = 1) {
    return this.go("pk_advance", x, T);
  }

  go(name, x, T) {
    const kind = x instanceof Float32Array ? IMAGE : SPIKES;
    return this.engine.given(x, (at) => {
      const start = performance.now();
      this.engine.call(name, this.at, kind, at, x.length, BigInt(T));
      return performance.now() - start;
    });
  }

  logits() {
    const { outputs } = this.network;
    return this.engine.taken(Float32Array, outputs, (to) => this.engine.call("pk_logits", this.at, to, outputs));
  }

  counts() {
    const { outputs } = this.network;
    return this.engine.taken(Int32Array, outputs, (to) => this.engine.call("pk_counts", this.at, to, outputs));
  }

  // What a layer gave at each of the T steps of the last call: [T, C, H, W].
  spikes(layer, T = 1) {
    return this.what("pk_layer_spikes", Int8Array, layer, T);
  }

  values(layer, T = 1) {
    return this.what("pk_layer_values", Float32Array, layer, T);
  }

  what(name, type, layer, T) {
    const size = T * layer.C * layer.H * layer.W;
    return this.engine.taken(type, size, (to) => this.engine.call(name, this.at, BigInt(layer.number), to, size));
  }

  // What a layer did so far, or all: { spikes, additions, multiplications }.
  work(layer = null) {
    return this.engine.with(WORK, (at) => {
      this.engine.call("pk_layer_work", this.at, BigInt(layer ? layer.number : -1), at);
      return integers(this.engine.view, at, ["spikes", "additions", "multiplications"]);
    });
  }

  close() {
    this.engine.handle((at) => {
      this.engine.view.setUint32(at, this.at, true);
      this.engine.c.pk_stream_close(at);
    });
  }
}
