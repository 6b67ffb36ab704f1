/** The server: its models, and one edit as a stream of events. All addresses are relative to the page's. */

import { events } from "./events.js";

const KEY = "retouch-api-key";

/** What the server refused: `param` names the field that it is about, if it is about one. */
export class ApiError extends Error {
  constructor(status, { message, param = null }) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

export function address(path) {
  return new URL(path, document.baseURI);
}

export function savedKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function saveKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** What `GET /v1/models` lists; the server's default model is the first. */
export async function listModels() {
  const answer = await send("v1/models");
  return (await answer.json()).data;
}

/**
 * Sends an edit. Throws ApiError if it is refused.
 * @param {FormData} form
 * @param {AbortSignal} signal ends the edit, on the server as well
 * @returns {Promise<{ahead: number, seconds: number, happened: AsyncIterable<object>}>} its place in the queue, and the
 *   data of its events
 */
export async function streamEdit(form, signal) {
  form.set("stream", "true");
  const answer = await send("v1/images/edits", { method: "POST", body: form, headers: { "x-progress": "true" }, signal });
  return {
    ahead: Number(answer.headers.get("x-queue-position")),
    seconds: Number(answer.headers.get("x-queue-seconds")),
    happened: dataOf(answer),
  };
}

/** An answer that breaks off ends as one without results, or as the browser's own error. */
async function* dataOf(answer) {
  let completed = false;
  try {
    for await (const { name, data } of events(answer.body)) {
      const told = parseExactly(data);
      if (name === "error") throw new ApiError(answer.status, told.error);
      completed = told.type === "image_edit.completed";
      yield told;
    }
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    completed = false;
  }
  if (!completed) throw new ApiError(0, { message: "The connection broke off before the edit had ended." });
}

/** Seeds have 64 bits, more than a number here: they stay text. */
function parseExactly(json) {
  return JSON.parse(json.replace(/"seed":\s*(-?\d+)/, '"seed":"$1"'));
}

async function send(path, { headers = {}, ...options } = {}) {
  const key = savedKey();
  const authorization = key ? { authorization: `Bearer ${key}` } : {};
  const answer = await reach(address(path), { ...options, headers: { ...headers, ...authorization } });
  if (!answer.ok) throw new ApiError(answer.status, await refusal(answer));
  return answer;
}

async function reach(url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The server cannot be reached. Is it running?" });
  }
}

/** A proxy on the way may answer in words of its own. */
async function refusal(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return { message: `The server answered ${answer.status} ${answer.statusText}`.trim() };
  }
}
