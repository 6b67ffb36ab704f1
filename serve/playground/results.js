/** The results of an edit, side by side: each shows its previews while it is drawn, then a slider between before and after. */

import { byId, downloadLink, element } from "./dom.js";

/** What the page does with a result. @typedef {{useSeed: (seed: string) => void, goOn: (picture: {file: Blob, name: string}) => void}} Uses */

export class Results {
  #root = byId("results");
  /** @type {Result[]} */
  #all = [];
  #uses;

  /** @param {Uses} uses */
  constructor(uses) {
    this.#uses = uses;
  }

  /** Room for n results of an edit of this photograph; a ratio is width by height. */
  begin(n, before, stem, ratio) {
    for (const result of this.#all) result.release();
    this.#all = Array.from({ length: n }, (_, at) => new Result(before, { stem, ratio, title: `Result ${at + 1} of ${n}` }));
    this.#root.style.setProperty("--columns", n === 1 ? 1 : 2);
    this.#root.replaceChildren(...this.#all.map((result) => result.root));
  }

  /** How far all of them are, 0 to 1. */
  get done() {
    return this.#all.reduce((sum, result) => sum + result.done, 0) / this.#all.length;
  }

  get completed() {
    return this.#all.filter((result) => result.done === 1 && result.picture).length;
  }

  progress({ image_index, step, total }) {
    this.#all[image_index].done = step / (total + 1); // what is left is to decode it
  }

  preview(event) {
    this.#all[event.image_index].show(event);
  }

  complete(event) {
    this.#all[event.image_index].complete(event, this.#uses);
  }

  get empty() {
    return this.#all.length === 0;
  }

  /** After an edit that did not end: what has no picture goes. */
  stop() {
    for (const result of this.#all) result.stop();
    this.#all = this.#all.filter((result) => result.picture);
  }
}

class Result {
  done = 0;
  /** @type {Blob | null} */
  picture = null;
  #url = "";
  #stem;
  #after = element("img", { class: "after", alt: "" });
  #compare;
  #caption = element("figcaption", { class: "quiet" }, "Waiting");

  constructor(before, { stem, ratio, title }) {
    this.#stem = stem;
    this.title = title;
    this.#after.hidden = true;
    this.before = element("img", { class: "before", src: before, alt: "" });
    this.#compare = element("div", { class: "compare drawing" }, this.before, this.#after);
    this.#compare.style.setProperty("--ratio", ratio);
    this.root = element("figure", { class: "result" }, this.#compare, this.#caption);
  }

  show({ b64_json, output_format, size }) {
    const [width, height] = size.split("x").map(Number);
    this.release();
    this.picture = new Blob([bytesOf(b64_json)], { type: `image/${output_format}` });
    this.#url = URL.createObjectURL(this.picture);
    Object.assign(this.#after, { src: this.#url, alt: this.title, hidden: false });
    this.#compare.style.setProperty("--ratio", width / height);
    this.#caption.textContent = "Preview";
  }

  complete(event, uses) {
    this.show(event);
    this.done = 1;
    this.#compare.classList.remove("drawing");
    this.#compare.append(...slider(this.#compare, this.title));
    this.#caption.replaceChildren(...this.#actions(event, uses));
  }

  stop() {
    if (this.done === 1) return;
    this.#compare.classList.remove("drawing");
    this.#caption.textContent = "Preview of an edit that did not end";
    if (!this.picture) this.root.remove();
  }

  release() {
    URL.revokeObjectURL(this.#url);
  }

  #actions({ seed, output_format, revised_prompt }, uses) {
    const name = `${this.#stem}-${seed}.${output_format}`;
    const reuse = element("button", { type: "button", title: "Use this seed again" }, `Seed ${seed}`);
    reuse.addEventListener("click", () => uses.useSeed(seed));
    const goOn = element("button", { type: "button" }, "Go on from here");
    goOn.addEventListener("click", () => uses.goOn({ file: this.picture, name: `${this.#stem}.${output_format}` }));
    const actions = element("div", { class: "actions" }, reuse, downloadLink(this.#url, name, "Download"), goOn);
    return revised_prompt ? [actions, element("p", { class: "quiet" }, `Read as: ${revised_prompt}`)] : [actions];
  }
}

/** A slider over the whole picture: what is left of it is before, what is right of it after. */
function slider(compare, title) {
  const range = element("input", { type: "range", min: 0, max: 100, step: "any", value: 50 });
  range.setAttribute("aria-label", `${title}: percent of the picture that show the photograph before the edit`);
  const move = () => compare.style.setProperty("--split", `${range.value}%`);
  range.addEventListener("input", move);
  move();
  const words = ["before", "after"].map((word) => element("span", { class: `word ${word}`, "aria-hidden": "true" }, word));
  return [element("span", { class: "handle", "aria-hidden": "true" }), ...words, range];
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
