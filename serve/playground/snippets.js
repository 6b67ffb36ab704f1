/** An edit as somebody would send it from a terminal or a program; plain answers, so nothing that only streams have. */

/** @typedef {import("./request.js").EditRequest} EditRequest */

const TEXTUAL = ["prompt", "model", "size", "output_format", "response_format"];
const OPENAIS = [...TEXTUAL, "n", "output_compression"];

/**
 * @param {EditRequest} request
 * @param {URL} base of the API's version
 * @param {boolean} withKey whether the server wants a key; it is read from the environment
 */
export function curl(request, base, withKey) {
  const lines = [`curl -s ${quoted(`${base}/images/edits`)}`];
  if (withKey) lines.push('-H "Authorization: Bearer $RETOUCH_API_KEY"');
  for (const [name, text] of Object.entries(plain(request))) lines.push(`--form-string ${quoted(`${name}=${text}`)}`);
  for (const { field, name } of request.files) lines.push(`-F ${quoted(`${field}=@${name}`)}`);
  return lines.join(" \\\n  ");
}

/** @param {EditRequest} request @param {URL} base @param {boolean} withKey as of `curl` */
export function python(request, base, withKey) {
  const texts = Object.entries({ ...plain(request), response_format: "b64_json" });
  const own = texts.filter(([name]) => OPENAIS.includes(name)).map(([name, text]) => `    ${name}=${literal(name, text)},`);
  const extra = texts.filter(([name]) => !OPENAIS.includes(name)).map(([name, text]) => `"${name}": ${literal(name, text)}`);
  const key = withKey ? 'os.environ["RETOUCH_API_KEY"]' : '"none"';
  return [
    "import base64",
    ...(withKey ? ["import os"] : []),
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${base}", api_key=${key})`,
    "edit = client.images.edit(",
    ...openedFiles(request),
    ...own,
    `    extra_body={${extra.join(", ")}},`,
    ")",
    "for index, picture in enumerate(edit.data):",
    `    with open(f"edited-{index}.${request.texts.output_format ?? "png"}", "wb") as file:`,
    "        file.write(base64.b64decode(picture.b64_json))",
  ].join("\n");
}

function plain({ texts }) {
  return Object.fromEntries(Object.entries(texts).filter(([name]) => name !== "partial_images"));
}

function openedFiles({ files }) {
  const opened = (name) => `open("${name}", "rb")`;
  const images = files.filter(({ field }) => field !== "mask").map(({ name }) => opened(name));
  const mask = files.filter(({ field }) => field === "mask").map(({ name }) => `    mask=${opened(name)},`);
  return [`    image=[${images.join(", ")}],`, ...mask];
}

/** For a shell. */
function quoted(text) {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

/** In Python: JSON's strings are Python's as well. */
function literal(name, text) {
  return !TEXTUAL.includes(name) && /^-?\d+(\.\d+)?$/.test(text) ? text : JSON.stringify(text);
}
