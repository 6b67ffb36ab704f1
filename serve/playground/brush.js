/** The brush: turns pointers and keys over the photograph into strokes of the mask. */

import { byId, chosen } from "./dom.js";

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const STEP = 0.25; // of its width, that an arrow moves the brush

export class Brush {
  #canvas = byId("mask");
  #cursor = byId("brush");
  #size = byId("brush-size");
  #mask;
  #changed;
  #place = [0, 0];
  /** What a pointer that is down paints, or null. */
  #stroke = null;

  /**
   * @param {import("./mask.js").Mask} mask
   * @param {() => void} changed is called once the mask has another stroke
   */
  constructor(mask, changed) {
    this.#mask = mask;
    this.#changed = changed;
    this.#listenToPointer();
    this.#canvas.addEventListener("keydown", (event) => this.#onKey(event));
    this.#canvas.addEventListener("focus", () => this.#show(this.#canvas.matches(":focus-visible")));
    this.#canvas.addEventListener("blur", () => this.#show(false));
    this.#size.addEventListener("input", () => this.#move(this.#place));
  }

  /** To the middle of a new photograph. */
  reset() {
    this.#move([this.#canvas.width / 2, this.#canvas.height / 2]);
  }

  /** In pixels of the photograph. */
  get #width() {
    return (Number(this.#size.value) / 100) * Math.min(this.#canvas.width, this.#canvas.height);
  }

  #listenToPointer() {
    const canvas = this.#canvas;
    canvas.addEventListener("pointerdown", (event) => this.#onDown(event));
    canvas.addEventListener("pointermove", (event) => this.#onMove(event));
    canvas.addEventListener("pointerenter", () => this.#show(true));
    canvas.addEventListener("pointerleave", () => this.#show(false));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.#stroke = null));
  }

  #onDown(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#move(this.#placeOf(event));
    this.#stroke = this.#begin();
  }

  #onMove(event) {
    if (!event.isPrimary) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    for (const each of passed.length ? passed : [event]) {
      this.#move(this.#placeOf(each));
      if (this.#stroke) this.#mask.extend(this.#stroke, this.#place);
    }
  }

  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in MOVES) this.#step(MOVES[event.key], event.shiftKey);
    else if (event.key === " ") this.#begin();
    else if (event.key === "[") this.#resize(-2);
    else if (event.key === "]") this.#resize(2);
    else return;
    event.preventDefault();
  }

  #step([right, down], painting) {
    const stroke = painting ? this.#begin() : null;
    const { width, height } = this.#canvas;
    const step = Math.max(1, this.#width * STEP);
    const [x, y] = this.#place;
    this.#move([clamp(x + right * step, width), clamp(y + down * step, height)]);
    if (stroke) this.#mask.extend(stroke, this.#place);
    this.#show(true);
  }

  #resize(by) {
    this.#size.valueAsNumber += by;
    this.#move(this.#place);
  }

  #begin() {
    const stroke = { erase: chosen("tool") === "erase", width: this.#width, points: [this.#place] };
    this.#mask.do(stroke);
    this.#changed();
    return stroke;
  }

  #placeOf(event) {
    const box = this.#canvas.getBoundingClientRect();
    const across = (event.clientX - box.left) / box.width;
    const down = (event.clientY - box.top) / box.height;
    return [across * this.#canvas.width, down * this.#canvas.height];
  }

  #move([x, y]) {
    this.#place = [x, y];
    const { width, height } = this.#canvas;
    this.#cursor.style.left = `${(100 * x) / width}%`;
    this.#cursor.style.top = `${(100 * y) / height}%`;
    this.#cursor.style.width = `${(100 * this.#width) / width}%`;
  }

  #show(seen) {
    this.#cursor.hidden = !seen;
  }
}

function clamp(value, most) {
  return Math.min(Math.max(value, 0), most);
}
