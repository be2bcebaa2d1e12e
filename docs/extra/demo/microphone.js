// Collects what a microphone gives, and sends it on in steps of 10 ms. Runs beside the page, as an AudioWorklet.

class Steps extends AudioWorkletProcessor {
  constructor({ processorOptions: { samples } }) {
    super();
    this.step = new Float32Array(samples);
    this.filled = 0;
  }

  process([[sound]]) {
    for (let from = 0; sound && from < sound.length;) {
      const some = sound.subarray(from, from + this.step.length - this.filled);
      this.step.set(some, this.filled);
      from += some.length, this.filled += some.length;
      if (this.filled < this.step.length) break;
      this.port.postMessage(this.step.slice());
      this.filled = 0;
    }
    return true;
  }
}
registerProcessor("steps", Steps);
