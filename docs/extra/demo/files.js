// The files beside this page. Those that end in .gz are unpacked, unless the server has done so.

const GZIP = [0x1f, 0x8b];

export async function bytesOf(name) {
  const answer = await fetch(`built/${name}`);
  if (!answer.ok) throw new Error(`built/${name} is missing (${answer.status}): python docs/build_demo.py makes it`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  if (!GZIP.every((byte, k) => bytes[k] === byte)) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const fromBase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// Names of classes; images, Float32Array of 0 .. 1; and recordings of an event camera, { t, x, y, p } in steps and pixels.
export async function samples() {
  const { classes, images, recordings, size, T } = JSON.parse(new TextDecoder().decode(await bytesOf("samples.json.gz")));
  const column = (bytes, k) => bytes.filter((_, at) => at % 4 === k);
  return {
    classes,
    images: images.map(({ label, pixels }) => ({ label, values: Float32Array.from(fromBase64(pixels), (byte) => byte / 256) })),
    recordings: recordings.map(({ label, events }) => {
      const bytes = fromBase64(events), [t, x, y, p] = [0, 1, 2, 3].map((k) => column(bytes, k));
      return { label, size, T, events: { t, x, y, p } };
    }),
  };
}
