// The Listener of hear.hpp: sound to spikes, and words to classes.

export class Listener {
  // `rate`: samples a second, a multiple of 100.
  constructor(network, rate) {
    const { engine } = network;
    Object.assign(this, { network, engine, c: engine.c });
    this.at = engine.handle((to) => engine.call("listener_open", network.at, rate, to));
    this.samples = this.c.listener_samples(this.at);
    this.classes = this.c.listener_classes(this.at);
  }

  // Hears 10 ms, Float32Array of `samples`: { spikes, sums, speaking, word }; the class of a word that has ended, else null.
  step(sound) {
    const word = this.engine.given(sound, (at) =>
      this.engine.with(4, (to) => {
        this.engine.call("listener_step", this.at, at, to);
        return this.engine.view.getInt32(to, true);
      }),
    );
    return {
      spikes: this.copied(Uint8Array, this.c.listener_spikes(this.at), 64),
      sums: this.copied(Float32Array, this.c.listener_sums(this.at), this.classes),
      speaking: this.c.listener_speaking(this.at) !== 0,
      word: word < 0 ? null : word,
    };
  }

  copied(type, at, size) {
    return new type(this.c.memory.buffer.slice(at, at + size * type.BYTES_PER_ELEMENT));
  }
}
