/** The document: finding and making elements. */

/** The element of the page with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * A new element.
 * @param {string} tag
 * @param {Record<string, unknown>} properties of the element; `class` and names with a dash are attributes
 * @param {...(Node | string)} children
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class" || name.includes("-")) made.setAttribute(name, String(value));
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** A link that saves a blob as a file of this name; whoever makes `url` revokes it. */
export function downloadLink(url, name, text) {
  return element("a", { href: url, download: name, class: "button" }, text);
}

/** The chosen one of the radio buttons with this name. */
export function chosen(name) {
  return document.querySelector(`input[name="${name}"]:checked`).value;
}
