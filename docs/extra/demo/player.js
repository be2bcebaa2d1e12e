// Which step is shown: by itself, or by buttons and the slider.

const find = (id) => document.getElementById(id);

export class Player {
  // `show` is called with the step, from 0, before the first, to T.
  constructor(show) {
    Object.assign(this, { show, t: 0, T: 0, pause: 0, playing: false });
    find("play").onclick = () => (this.playing ? this.stop(this.t) : this.play());
    find("back").onclick = () => this.stop(this.t - 1);
    find("forward").onclick = () => this.stop(this.t + 1);
    find("step").oninput = () => this.stop(Number(find("step").value));
  }

  // From the start, or from where it stands; `pause`: ms of a step.
  play(T = this.T, pause = this.pause) {
    const again = T !== this.T || arguments.length || this.t >= T;
    Object.assign(this, { T, pause, playing: true });
    clearTimeout(this.timer);
    this.to(again ? 0 : this.t);
    this.timer = setTimeout(() => this.next(), pause);
  }

  next() {
    this.playing = this.t + 1 < this.T;
    this.to(this.t + 1);
    if (this.playing) this.timer = setTimeout(() => this.next(), this.pause);
  }

  // At the end of a run of T steps.
  stand(T) {
    this.T = T;
    this.stop(T);
  }

  stop(t) {
    clearTimeout(this.timer);
    this.playing = false;
    this.to(t);
  }

  to(t) {
    this.t = Math.min(this.T, Math.max(0, t));
    find("step").max = this.T;
    find("step").value = this.t;
    find("step-shown").textContent = this.t;
    find("play").textContent = this.playing ? "Pause" : "Play";
    find("play").setAttribute("aria-label", this.playing ? "Pause" : "Play");
    this.show(this.t);
  }
}
