/** The easel: the photograph that is edited with its mask, and the references beside it. */

import { Brush } from "./brush.js";
import { byId, element } from "./dom.js";
import { Mask } from "./mask.js";
import { photoFrom, release } from "./photo.js";

export class Easel {
  /** @type {import("./photo.js").Photo | null} */
  photo = null;
  /** @type {import("./photo.js").Photo[]} */
  #references = [];
  #mask = new Mask(byId("mask"));
  #brush = new Brush(this.#mask, () => this.#showUndo());
  #maxReferences = 0;
  #model = "";
  #opened;
  #failed;

  /**
   * @param {() => void} opened is called when there is another photograph
   * @param {(message: string) => void} failed is told of files that are no pictures
   */
  constructor(opened, failed) {
    this.#opened = opened;
    this.#failed = failed;
    for (const whole of ["invert", "fill", "clear"]) byId(whole).addEventListener("click", () => this.#do(whole));
    byId("undo").addEventListener("click", () => this.undo());
    this.#listenToFiles();
  }

  /** What is sent: the photograph, and as many references as the model takes. */
  get photos() {
    return [this.photo, ...this.#references.slice(0, this.#maxReferences)];
  }

  /** A PNG, or null where nothing is painted. */
  mask() {
    return this.#mask.file();
  }

  undo() {
    this.#mask.undo();
    this.#showUndo();
  }

  redo() {
    this.#mask.redo();
    this.#showUndo();
  }

  fit(model) {
    this.#model = model.id;
    this.#maxReferences = model.max_images - 1;
    this.#showReferences();
  }

  /** @param {{file: Blob, name: string}} picture takes the place of the photograph, with nothing painted */
  async open({ file, name }) {
    const opened = await photoFrom(file, name);
    if (this.photo) release(this.photo);
    this.photo = opened;
    byId("photo").src = opened.url;
    byId("easel").style.setProperty("--ratio", opened.width / opened.height);
    byId("drop").hidden = true;
    byId("easel").hidden = false;
    this.#mask.reset(opened.width, opened.height);
    this.#brush.reset();
    this.#showUndo();
    this.#say(opened.note);
    this.#opened();
  }

  /** The first file is the photograph if there is none yet, or no room for references; all others are references. */
  async take(files) {
    const [first, ...others] = files;
    if (!first) return;
    const replaces = !this.photo || this.#maxReferences === 0;
    await this.#try(async () => {
      if (replaces) await this.open({ file: first, name: first.name });
      for (const file of replaces ? others : files) await this.#refer(file);
    });
  }

  async #refer(file) {
    if (this.#references.length >= this.#maxReferences) return this.#say(this.#tooMany(file.name));
    const reference = await photoFrom(file, file.name);
    this.#references.push(reference);
    this.#showReferences();
    if (reference.note) this.#say(reference.note);
  }

  #tooMany(name) {
    const most = this.#maxReferences + 1;
    return `${this.#model} takes ${most === 1 ? "one picture" : `${most} pictures`}: ${name} was left out.`;
  }

  async #try(opening) {
    try {
      await opening();
    } catch (error) {
      this.#failed(error.message);
    }
  }

  #listenToFiles() {
    for (const id of ["choose", "add"]) byId(id).addEventListener("change", () => this.take(chosenFiles(id)));
    byId("replace").addEventListener("change", () => {
      const [file] = chosenFiles("replace");
      if (file) this.#try(() => this.open({ file, name: file.name }));
    });
    document.addEventListener("paste", (event) => this.take([...event.clipboardData.files]));
    document.addEventListener("dragover", (event) => this.#onDrag(event, true));
    document.addEventListener("dragleave", (event) => this.#onDrag(event, false));
    document.addEventListener("drop", (event) => {
      this.#onDrag(event, false);
      this.take([...event.dataTransfer.files]);
    });
  }

  /** Text that is dragged, as into the prompt, is the browser's. */
  #onDrag(event, over) {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("dragging", over);
  }

  #do(operation) {
    this.#mask.do(operation);
    this.#showUndo();
  }

  #showUndo() {
    byId("undo").disabled = !this.#mask.canUndo;
  }

  #showReferences() {
    const kept = this.#references.map((photo, at) => this.#reference(photo, at < this.#maxReferences));
    byId("references").replaceChildren(...kept);
    byId("add-label").hidden = this.#references.length >= this.#maxReferences;
    const unused = this.#references.length - this.#maxReferences;
    if (unused > 0) this.#say(`${this.#model} takes no more references: ${unused} of them will not be sent.`);
  }

  #reference(photo, sent) {
    const remove = element("button", { type: "button", title: `Remove ${photo.name}` }, "×");
    remove.setAttribute("aria-label", `Remove ${photo.name}`);
    remove.addEventListener("click", () => this.#remove(photo));
    const picture = element("img", { src: photo.url, alt: photo.name });
    return element("li", { class: sent ? "sent" : "unsent" }, picture, remove);
  }

  #remove(photo) {
    this.#references = this.#references.filter((reference) => reference !== photo);
    release(photo);
    this.#say("");
    this.#showReferences();
    byId("replace").focus();
  }

  #say(note) {
    byId("photo-note").textContent = note;
  }
}

/** Empties the input, so that the same file can be chosen again. */
function chosenFiles(id) {
  const input = byId(id);
  const files = [...input.files];
  input.value = "";
  return files;
}
