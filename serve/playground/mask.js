/** The mask: what was painted, as a list of operations that can be taken back. Painted is edited. */

const COLOUR = "#7a3cff"; // on the page; the file that is sent is white on black

/**
 * A stroke of the brush in pixels of the photograph, or the name of something that is done to all of the mask.
 * @typedef {{erase: boolean, width: number, points: [number, number][]} | "invert" | "fill" | "clear"} Operation
 */

export class Mask {
  /** @type {Operation[]} */
  #done = [];
  /** @type {Operation[]} */
  #undone = [];
  #context;

  /** @param {HTMLCanvasElement} canvas that shows it */
  constructor(canvas) {
    this.#context = canvas.getContext("2d", { willReadFrequently: true });
  }

  get canUndo() {
    return this.#done.length > 0;
  }

  /** Nothing painted, for a photograph of this size. */
  reset(width, height) {
    Object.assign(this.#context.canvas, { width, height });
    this.#done = [];
    this.#undone = [];
  }

  /** @param {Operation} operation */
  do(operation) {
    this.#done.push(operation);
    this.#undone = [];
    this.#draw(operation);
  }

  /** Goes on with a stroke, unless it was taken back meanwhile. */
  extend(stroke, point) {
    if (this.#done.at(-1) !== stroke) return;
    stroke.points.push(point);
    this.#drawSegment(stroke, stroke.points.at(-2), point);
  }

  undo() {
    if (this.#done.length) this.#undone.push(this.#done.pop());
    this.#redraw();
  }

  redo() {
    if (this.#undone.length) this.#done.push(this.#undone.pop());
    this.#redraw();
  }

  /** The mask as the API takes it, or null where nothing is painted. */
  async file() {
    const { canvas } = this.#context;
    const { width, height } = canvas;
    const { data } = this.#context.getImageData(0, 0, width, height);
    const sent = new ImageData(width, height);
    let painted = false;
    for (let at = 3; at < data.length; at += 4) {
      sent.data[at - 3] = sent.data[at - 2] = sent.data[at - 1] = data[at];
      sent.data[at] = 255;
      painted ||= data[at] > 0;
    }
    return painted ? png(sent) : null;
  }

  #redraw() {
    const { width, height } = this.#context.canvas;
    this.#context.clearRect(0, 0, width, height);
    for (const operation of this.#done) this.#draw(operation);
  }

  #draw(operation) {
    if (typeof operation === "string") return this.#drawWhole(operation);
    const { points } = operation;
    points.forEach((point, at) => this.#drawSegment(operation, points[Math.max(0, at - 1)], point));
  }

  #drawWhole(operation) {
    const { width, height } = this.#context.canvas;
    if (operation === "clear") return this.#context.clearRect(0, 0, width, height);
    this.#context.globalCompositeOperation = operation === "invert" ? "source-out" : "source-over";
    this.#context.fillStyle = COLOUR;
    this.#context.fillRect(0, 0, width, height);
  }

  /** One by one, while painting as well as anew, so that both give the same pixels. */
  #drawSegment(stroke, from, to) {
    const context = this.#context;
    context.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
    Object.assign(context, { strokeStyle: COLOUR, fillStyle: COLOUR, lineWidth: stroke.width, lineCap: "round" });
    context.beginPath();
    if (from === to) {
      context.arc(...to, stroke.width / 2, 0, 2 * Math.PI);
      return context.fill();
    }
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  }
}

function png(image) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d", { alpha: false }).putImageData(image, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}
