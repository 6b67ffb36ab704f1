/** The dialog that shows an edit as code, to copy, and the files that the code reads, to save. */

import { address, savedKey } from "./api.js";
import { byId, chosen, downloadLink, element } from "./dom.js";
import { curl, python } from "./snippets.js";

const WRITERS = { curl, python };

export class CodeDialog {
  #dialog = byId("code-dialog");
  #request;
  #urls = [];

  constructor() {
    this.#dialog.addEventListener("change", () => this.#write());
    this.#dialog.addEventListener("close", () => this.#urls.forEach((url) => URL.revokeObjectURL(url)));
    byId("close-code").addEventListener("click", () => this.#dialog.close());
    byId("copy").addEventListener("click", () => this.#copy());
  }

  /** @param {import("./request.js").EditRequest} request */
  open(request) {
    this.#request = request;
    this.#urls = request.files.map(({ blob }) => URL.createObjectURL(blob));
    const links = request.files.map(({ name }, at) => downloadLink(this.#urls[at], name, `Save ${name}`));
    byId("code-files").replaceChildren(...links.map((link) => element("li", {}, link)));
    this.#write();
    this.#dialog.showModal();
  }

  #write() {
    byId("snippet").textContent = WRITERS[chosen("language")](this.#request, address("v1"), savedKey() !== "");
    byId("copied").textContent = "";
  }

  /** Browsers lend their clipboard to pages from this machine or by https; elsewhere the text is selected. */
  async #copy() {
    try {
      await navigator.clipboard.writeText(byId("snippet").textContent);
      byId("copied").textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(byId("snippet"));
      byId("copied").textContent = "Selected: copy it with your keyboard.";
    }
  }
}
