// A network's run on one input, step by step: what the page draws.

const PASSES = 3; // that are timed in one call; the fastest counts

// Layers whose spikes are drawn, each with all operations of its name: additions are counted where weights are.
function firingLayers(network) {
  return network.layers
    .filter(({ kind, gives }) => (kind === "neurons" && gives === "spikes") || gives === "signed")
    .filter(({ kind }) => kind !== "changes of the input" && kind !== "flatten")
    .map((layer) => ({ ...layer, parts: network.layers.filter(({ name }) => name === layer.name) }));
}

export class Recorder {
  // `name`: of the network, for the page.
  constructor(network) {
    this.network = network;
    this.layers = firingLayers(network);
    this.whole = network.stream();
    this.watched = network.stream();
    for (const layer of this.layers) this.watched.watch(layer);
  }

  // `input`: of step t, from 0; the same array for all steps if it is an image. `whole`: of all steps in one call.
  run(whole, input, T) {
    const ms = Math.min(...Array.from({ length: PASSES }, () => this.whole.run(whole, T)));
    const stream = this.watched, total = stream.work.bind(stream);
    stream.reset();
    const maps = this.layers.map(() => []), steps = [];
    for (let t = 0; t < T; t++) {
      const took = stream.advance(input(t)), outputs = this.outputs(stream);
      this.layers.forEach((layer, k) => maps[k].push(stream.spikes(layer)));
      const layers = this.layers.map(({ parts }) => parts.map(total).reduce(sum));
      steps.push({ ms: took, outputs, layers, all: layers.reduce(sum) });
    }
    return { ms, T, maps, steps, work: this.whole.work() };
  }

  outputs(stream) {
    const { network } = this;
    if (network.hasLogits) return stream.logits();
    return network.fires ? stream.counts() : stream.values(network.layers.at(-1));
  }
}

const sum = (a, b) => ({
  spikes: a.spikes + b.spikes,
  additions: a.additions + b.additions,
  multiplications: a.multiplications + b.multiplications,
});

export function softmax(outputs) {
  const largest = Math.max(...outputs), parts = Array.from(outputs, (v) => Math.exp(v - largest));
  const whole = parts.reduce((a, b) => a + b);
  return parts.map((part) => part / whole);
}

export const first = (values) => values.indexOf(Math.max(...values));
