/** One edit as it is sent: a form of texts and files. */

/**
 * @typedef {object} EditRequest
 * @property {Record<string, string>} texts by field
 * @property {{field: string, name: string, blob: Blob}[]} files
 */

/**
 * @param {import("./photo.js").Photo[]} photos the one that is edited, then the references
 * @param {Blob | null} mask
 * @param {Record<string, string>} texts of all other fields
 * @returns {EditRequest}
 */
export function editRequest(photos, mask, texts) {
  const field = photos.length > 1 ? "image[]" : "image";
  const names = distinct([...photos.map((photo) => photo.name), "mask.png"]);
  const files = photos.map(({ file }, at) => ({ field, name: names[at], blob: file }));
  if (!mask) return { texts, files };
  return { texts: { ...texts, mask_mode: "luma" }, files: [...files, { field: "mask", name: names.at(-1), blob: mask }] };
}

/** @param {EditRequest} request */
export function formOf({ texts, files }) {
  const form = new FormData();
  for (const [name, text] of Object.entries(texts)) form.append(name, text);
  for (const { field, name, blob } of files) form.append(field, blob, name);
  return form;
}

/** Two photographs may have the same name, but not in one folder. */
function distinct(names) {
  const free = (name, at) => (names.indexOf(name) === at ? name : name.replace(/\.png$/, `-${at + 1}.png`));
  return names.map(free);
}
