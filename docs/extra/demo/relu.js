// The ReLU network's answer, by a plain float loop: it shares no code with the engine.
//
// The weights are those of the sigma-delta network's file. There a spike of 1 is a threshold, and weights hold the
// thresholds, so the same weights with ReLUs in the place of the neurons are the ReLU network.

// The parts of a safetensors file: its description of the network, and its tensors.
function partsOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const size = Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + size)));
  const tensor = (name) => {
    if (name === null || name === undefined) return null;
    const [from, to] = header[name].data_offsets;
    return new Float32Array(bytes.slice(8 + size + from, 8 + size + to).buffer);
  };
  return { plan: JSON.parse(header.__metadata__.plan), tensor };
}

const image = (shape) => (shape.length < 3 ? [shape[0], 1, shape.slice(1).reduce((a, b) => a * b, 1)] : shape);

// A convolution with its bias, [C, H, W]; a linear layer is one of a pixel.
function convolve(x, [inC, inH, inW], weight, bias, [C, H, W], window) {
  const [kh, kw] = window.kernel, [sh, sw] = window.stride, [ph, pw] = window.padding;
  const y = new Float32Array(C * H * W);
  for (let c = 0; c < C; c++) {
    const out = y.subarray(c * H * W, (c + 1) * H * W);
    if (bias) out.fill(bias[c]);
    for (let k = 0; k < inC; k++)
      for (let i = 0; i < kh; i++)
        for (let j = 0; j < kw; j++) {
          const w = weight[((c * inC + k) * kh + i) * kw + j];
          if (w === 0) continue;
          const first = Math.max(0, Math.ceil((pw - j) / sw)), last = Math.min(W, Math.ceil((inW + pw - j) / sw));
          for (let row = 0; row < H; row++) {
            const from = row * sh + i - ph;
            if (from < 0 || from >= inH) continue;
            const at = (k * inH + from) * inW + j - pw;
            for (let column = first; column < last; column++) out[row * W + column] += w * x[at + column * sw];
          }
        }
  }
  return y;
}

function largest(x, [C, inH, inW], [, H, W], window) {
  const [kh, kw] = window.kernel, [sh, sw] = window.stride, [ph, pw] = window.padding;
  const y = new Float32Array(C * H * W).fill(-Infinity);
  for (let c = 0; c < C; c++)
    for (let row = 0; row < H; row++)
      for (let column = 0; column < W; column++)
        for (let i = Math.max(0, ph - row * sh); i < Math.min(kh, inH + ph - row * sh); i++)
          for (let j = Math.max(0, pw - column * sw); j < Math.min(kw, inW + pw - column * sw); j++) {
            const to = (c * H + row) * W + column;
            y[to] = Math.max(y[to], x[(c * inH + row * sh + i - ph) * inW + column * sw + j - pw]);
          }
  return y;
}

// Taps of all windows that lie in the image along one axis, and not in its padding.
function inside(n, out, kernel, stride, padding) {
  let taps = 0;
  for (let k = 0; k < kernel; k++)
    for (let i = 0; i < out; i++) taps += i * stride + k >= padding && i * stride + k < n + padding;
  return taps;
}

// Of the bytes of a network's file: `outputs` of an image, and the number of its multiplications, `products`.
export function reluNetwork(bytes) {
  const { plan, tensor } = partsOf(bytes);
  let products = 0;
  const steps = plan.operations.map((op) => {
    const [window] = op.windows;
    const from = window.slot ? image(plan.operations[window.slot - 1].shape) : image(plan.shape), to = image(op.shape);
    const weight = tensor(window.weight), bias = tensor(window.bias), scale = tensor(op.scale);
    const rectify = (y) => (op.senders && op.senders.rectifies ? y.map((v) => Math.max(v, 0)) : y);
    if (op.kind === "changes of the input" || op.kind === "flatten") return (x) => x;
    if (weight) products += from[0] * to[0] * [0, 1].map((axis) => inside(from[1 + axis], to[1 + axis],
      window.kernel[axis], window.stride[axis], window.padding[axis])).reduce((a, b) => a * b);
    if (op.kind === "sigma-delta") return (x) => rectify(convolve(x, from, weight, bias, to, window));
    if (op.kind === "sigma-delta maxima") return (x) => rectify(largest(x, from, to, window));
    if (op.kind === "sum of changes") return (x) => x.map((v, c) => v * scale[c]);
    throw new Error(`the ReLU network has no ${op.kind}`);
  });
  return { outputs: (x) => steps.reduce((y, step) => step(y), x), products };
}
