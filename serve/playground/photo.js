/** A photograph as the API takes it: a PNG of at most 4 MiB. */

const MAX_BYTES = 4 * 2 ** 20;
const MAX_PIXELS = 4e6; // of what is converted here; results have at most 1536 pixels a side

/**
 * @typedef {object} Photo
 * @property {string} name of its file, safe in a shell and a form
 * @property {Blob} file the PNG that is sent
 * @property {number} width
 * @property {number} height
 * @property {string} url of the file; `release` ends it
 * @property {string} note what was changed for the API, or nothing
 */

/**
 * The photograph in a file that somebody chose; a PNG that fits stays as it is.
 * @param {Blob} file
 * @param {string} name
 * @returns {Promise<Photo>}
 */
export async function photoFrom(file, name) {
  const bitmap = await decode(file, name);
  try {
    const sent = (await fitsAsItIs(file, bitmap)) ? { file, ...sizeOf(bitmap) } : await converted(bitmap);
    return { ...sent, name: safeName(name), url: URL.createObjectURL(sent.file), note: note(name, file, bitmap, sent) };
  } finally {
    bitmap.close();
  }
}

export function release(photo) {
  URL.revokeObjectURL(photo.url);
}

/** The name without its ending, as the names of results begin. */
export function stemOf(photo) {
  return photo.name.replace(/\.png$/, "");
}

async function decode(file, name) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Error(`${name} is not a picture that this browser can read`);
  }
}

function sizeOf({ width, height }) {
  return { width, height };
}

/** Whether the API takes the file, and sees it with the browser's eyes: a turned PNG is written anew, upright. */
async function fitsAsItIs(file, bitmap) {
  if (file.type !== "image/png" || file.size > MAX_BYTES) return false;
  const bytes = new DataView(await file.arrayBuffer());
  const asStored = bytes.getUint32(16) === bitmap.width && bytes.getUint32(20) === bitmap.height;
  return asStored && !chunks(bytes).includes("eXIf");
}

/** The names of a PNG's chunks. */
function chunks(bytes) {
  const names = [];
  for (let at = 8; at + 8 <= bytes.byteLength; at += bytes.getUint32(at) + 12) {
    names.push(String.fromCharCode(...new Uint8Array(bytes.buffer, at + 4, 4)));
  }
  return names;
}

/** Reduced until the PNG fits; its size follows from the picture, and only trying tells. */
async function converted(bitmap) {
  let scale = Math.min(1, Math.sqrt(MAX_PIXELS / (bitmap.width * bitmap.height)));
  for (;;) {
    const sent = await redrawn(bitmap, scale);
    if (sent.file.size <= MAX_BYTES) return sent;
    scale *= 0.95 * Math.sqrt(MAX_BYTES / sent.file.size);
  }
}

async function redrawn(bitmap, scale) {
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { alpha: false });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return { file: await canvas.convertToBlob({ type: "image/png" }), width, height };
}

function note(name, file, found, sent) {
  if (sent.file === file) return "";
  const size = `${sent.width} × ${sent.height}`;
  const megabytes = (sent.file.size / 2 ** 20).toFixed(1);
  if (sent.width === found.width) return `${name} is sent as a PNG (${size}, ${megabytes} MiB).`;
  return `${name} has ${found.width} × ${found.height} pixels; it is sent as a PNG of ${size} (${megabytes} MiB).`;
}

function safeName(name) {
  const stem = name.replace(/\.[^.]*$/, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[-.]+|[-.]+$/g, "");
  return `${stem || "photo"}.png`;
}
