/** The parameters of an edit: which ones there are, their bounds and their defaults are the model's. */

import { byId, element } from "./dom.js";

/**
 * In their order on the page. `absent`: what the API takes for a field that is not sent, where that is not the model's
 * to say. `first`: what it is before anybody touches it, where that is neither.
 * @type {Record<string, {label: string, step?: string, choices?: string[], absent?: string, first?: string, hint?: string}>}
 */
const KNOWN = {
  size: { label: "Size", choices: [], first: "auto" },
  n: { label: "Results", step: "1", absent: "1" },
  num_inference_steps: { label: "Steps", step: "1" },
  strength: { label: "Strength", step: "0.01", hint: "How far from the photograph" },
  guidance_scale: { label: "Guidance", step: "0.1", hint: "How closely to the words" },
  seed: { label: "Seed", absent: "", hint: "The same seed, the same picture" },
  partial_images: { label: "Previews", step: "1", absent: "0", first: "3" },
  output_format: { label: "Format", choices: ["png", "jpeg", "webp"], absent: "png" },
  output_compression: { label: "Quality", step: "1", absent: "100" },
  priority: { label: "Priority", choices: ["high", "normal", "low"], absent: "normal" },
};
const WORDS = { auto: "Like the photograph", jpeg: "JPEG", png: "PNG", webp: "WebP" };

export class Parameters {
  #root = byId("parameters");
  #model;

  constructor() {
    this.#root.addEventListener("input", () => this.#fitTogether());
  }

  /** Shows what this model honours. What was changed stays, where the model honours that too. */
  show(model) {
    const changed = this.#model ? this.#changed() : {};
    this.#model = model;
    const honoured = Object.keys(KNOWN).filter((name) => model.fields.includes(name));
    this.#root.replaceChildren(...honoured.map((name) => this.#field(name)));
    for (const [name, value] of Object.entries(changed)) this.set(name, value);
    this.#fitTogether();
  }

  reset() {
    for (const name of this.#names()) this.set(name, this.#default(name));
    this.#fitTogether();
  }

  set(name, value) {
    const control = byId(name);
    if (!control) return;
    control.value = value;
    const slider = byId(`${name}-slider`);
    if (slider) slider.value = value;
  }

  /** As the form has them, text as the API reads it; what is left empty is the server's to choose. */
  values() {
    const asked = this.#names().map((name) => [name, byId(name).value.trim()]);
    const told = ([name, value]) => value !== "" && value !== KNOWN[name].absent && this.#applies(name);
    return Object.fromEntries(asked.filter(told));
  }

  #names() {
    return [...this.#root.children].map((field) => field.dataset.param);
  }

  #changed() {
    const values = this.#names().map((name) => [name, byId(name).value]);
    return Object.fromEntries(values.filter(([name, value]) => value !== this.#default(name)));
  }

  #default(name) {
    const { first, absent } = KNOWN[name];
    return String(this.#model.defaults[name] ?? first ?? absent);
  }

  /** A PNG is lossless: the API takes no quality for it. */
  #applies(name) {
    return name !== "output_compression" || byId("output_format").value !== "png";
  }

  #fitTogether() {
    for (const field of this.#root.children) field.hidden = !this.#applies(field.dataset.param);
  }

  #field(name) {
    const { label, choices, step, hint } = KNOWN[name];
    const field = element("div", { class: "field inline", "data-param": name });
    field.append(element("label", { htmlFor: name }, label));
    if (choices) field.append(this.#choice(name, name === "size" ? this.#model.sizes : choices));
    else if (step) field.append(...this.#number(name, step));
    else field.append(element("input", { id: name, inputMode: "numeric", placeholder: "random", autocomplete: "off" }));
    if (hint) this.#explain(field, name, hint);
    return field;
  }

  #explain(field, name, hint) {
    field.append(element("p", { id: `${name}-hint`, class: "quiet" }, hint));
    field.querySelector(`#${name}`).setAttribute("aria-describedby", `${name}-hint`);
  }

  #choice(name, choices) {
    const options = choices.map((value) => element("option", { value }, WORDS[value] ?? value.replace("x", " × ")));
    const select = element("select", { id: name }, ...options);
    select.value = this.#default(name);
    return select;
  }

  /** A number that can be typed, and a slider for the same. */
  #number(name, step) {
    const { min, max } = this.#model.ranges[name];
    const bounds = { min, max, step, value: this.#default(name) };
    const typed = element("input", { id: name, type: "number", ...bounds });
    const slider = element("input", { id: `${name}-slider`, type: "range", ...bounds });
    slider.setAttribute("aria-label", `${KNOWN[name].label}, slider`);
    typed.addEventListener("input", () => (slider.value = typed.value));
    slider.addEventListener("input", () => (typed.value = slider.value));
    return [typed, slider];
  }
}
