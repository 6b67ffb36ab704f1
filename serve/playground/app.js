/** The playground: from a photograph and a prompt to edits of it. */

import { ApiError, listModels, saveKey, savedKey, streamEdit } from "./api.js";
import { CodeDialog } from "./code_dialog.js";
import { byId, element } from "./dom.js";
import { Easel } from "./easel.js";
import { clearErrors, showError } from "./errors.js";
import { Parameters } from "./parameters.js";
import { stemOf } from "./photo.js";
import { editRequest, formOf } from "./request.js";
import { Results } from "./results.js";

const results = new Results({ useSeed, goOn });
const easel = new Easel(onPhoto, onNoPhoto);
const parameters = new Parameters();
const dialog = new CodeDialog();

let models = [];
/** @type {AbortController | null} */
let running = null;

async function loadModels() {
  clearErrors();
  try {
    models = await listModels();
  } catch (error) {
    return fail(error);
  }
  byId("model").replaceChildren(...models.map(({ id }) => element("option", {}, id)));
  showModel();
}

function showModel() {
  const model = models.find(({ id }) => id === byId("model").value);
  parameters.show(model);
  easel.fit(model);
}

/** The edit as the page has it, or null where there is no photograph; that is then said. */
async function asked() {
  clearErrors();
  if (!easel.photo) return onNoPhoto("Choose a photograph to edit.");
  const texts = { model: byId("model").value, prompt: byId("prompt").value, ...parameters.values() };
  return editRequest(easel.photos, await easel.mask(), texts);
}

async function run() {
  if (running) return;
  running = new AbortController();
  showRunning(true);
  tell("Sending");
  try {
    const request = await asked();
    if (request) await draw(request, running.signal);
    else tell("");
  } catch (error) {
    fail(error);
  } finally {
    running = null;
    showRunning(false);
  }
}

async function draw(request, signal) {
  const started = performance.now();
  const { ahead, seconds, happened } = await streamEdit(formOf(request), signal);
  tell(ahead > 0 ? `${ahead} ahead in the queue; about ${Math.ceil(seconds)} s` : "Drawing");
  const { texts } = request;
  results.begin(Number(texts.n ?? 1), easel.photo.url, stemOf(easel.photo), ratioOf(texts.size));
  show("results");
  byId("stage").scrollIntoView({ block: "nearest" });
  for await (const event of happened) follow(event);
  tell(`Done in ${((performance.now() - started) / 1000).toFixed(1)} s`);
}

function follow(event) {
  if (event.type === "image_edit.progress") {
    results.progress(event);
    byId("status").textContent = `Step ${event.step} of ${event.total}`;
  } else if (event.type === "image_edit.partial_image") {
    results.preview(event);
    announce(`Preview ${event.partial_image_index + 1}`);
  } else if (event.type === "image_edit.completed") {
    results.complete(event);
    announce(`Result ${results.completed} is there`);
  }
  byId("progress").value = results.done;
}

/** Width by height of the results, as far as it is known before they come. */
function ratioOf(size) {
  const [width, height] = (size ?? "").split("x").map(Number);
  return width && height ? width / height : easel.photo.width / easel.photo.height;
}

function fail(error) {
  results.stop();
  if (results.empty || aboutThePhoto(error)) show("photo");
  tell(error.name === "AbortError" ? "Cancelled" : "");
  if (error.name === "AbortError") return;
  if (error.status === 401) byId("key-field").hidden = false;
  if (error instanceof ApiError) return showError(error.message, error.status === 401 ? "key" : error.param);
  showError("Something went wrong on this page.");
  throw error;
}

function aboutThePhoto({ param }) {
  return /^(image|mask)/.test(param ?? "");
}

function onPhoto() {
  clearErrors();
  show("photo");
}

function onNoPhoto(message) {
  show("photo");
  showError(message, "images");
}

function showRunning(is) {
  const hadFocus = [byId("run"), byId("cancel")].includes(document.activeElement);
  byId("run").hidden = is;
  byId("cancel").hidden = !is;
  byId("progress").hidden = !is;
  byId("progress").value = 0;
  if (hadFocus) byId(is ? "cancel" : "run").focus();
}

/** In sight and aloud. */
function tell(message) {
  byId("status").textContent = message;
  announce(message);
}

function announce(message) {
  byId("announcement").textContent = message;
}

/** @param {"photo" | "results"} view */
function show(view) {
  byId("view").hidden = results.empty;
  document.querySelector(`[name=view][value=${view}]`).checked = true;
  byId("photo-view").hidden = view !== "photo";
  byId("results").hidden = view !== "results";
}

function useSeed(seed) {
  parameters.set("seed", seed);
  announce(`The next edit uses seed ${seed}`);
  byId("seed").focus();
}

async function goOn(picture) {
  await easel.open(picture);
  byId("prompt").focus();
}

async function showCode() {
  const request = await asked();
  if (request) dialog.open(request);
}

async function useKey() {
  saveKey(byId("key").value.trim());
  if (models.length) clearErrors();
  else await loadModels();
}

function onKey(event) {
  if (byId("code-dialog").open) return;
  const command = event.ctrlKey || event.metaKey;
  if (event.key === "Escape" && running) running.abort();
  else if (command && event.key === "Enter") run();
  else if (command && event.key.toLowerCase() === "z" && !isText(event.target)) event.shiftKey ? easel.redo() : easel.undo();
  else return;
  event.preventDefault();
}

/** Where ctrl+z is the browser's own, for what was typed. */
function isText(target) {
  return target.matches("textarea, input:not([type=range], [type=radio], [type=file])");
}

byId("edit").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
byId("cancel").addEventListener("click", () => running?.abort());
byId("model").addEventListener("change", showModel);
byId("defaults").addEventListener("click", () => parameters.reset());
byId("code").addEventListener("click", showCode);
byId("use-key").addEventListener("click", useKey);
byId("view").addEventListener("change", (event) => show(event.target.value));
document.addEventListener("keydown", onKey);
byId("run").querySelector("kbd").textContent = navigator.platform.startsWith("Mac") ? "⌘ ↵" : "ctrl ↵";
byId("key").value = savedKey();
loadModels();
