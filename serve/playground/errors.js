/** Errors, shown at the field that they are about, else beside the button that starts an edit. */

import { element } from "./dom.js";

const BESIDE_THE_BUTTON = "run";
const CONTROLS = "textarea, select, input";

/** @param {string} message @param {string | null} param as the API names it: `n`, `images[2]` */
export function showError(message, param = null) {
  const place = placeOf(param);
  const id = `error-${place.dataset.param}`;
  const control = place.querySelector(CONTROLS);
  place.append(element("p", { id, class: "error", role: "alert" }, message));
  if (!control) return;
  control.setAttribute("aria-errormessage", id);
  control.setAttribute("aria-invalid", "true");
  control.focus();
}

export function clearErrors() {
  for (const shown of document.querySelectorAll(".error")) shown.remove();
  for (const control of document.querySelectorAll("[aria-invalid]")) {
    control.removeAttribute("aria-invalid");
    control.removeAttribute("aria-errormessage");
  }
}

function placeOf(param) {
  const name = param?.replace(/\[.*/, "").replace(/^image$/, "images") ?? BESIDE_THE_BUTTON;
  const places = [...document.querySelectorAll("[data-param]")];
  return (
    places.find((place) => place.dataset.param === name && !place.closest("[hidden]")) ??
    places.find((place) => place.dataset.param === BESIDE_THE_BUTTON)
  );
}
