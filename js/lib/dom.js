// Elements, made of text and numbers only: whatever comes from files, prompts or the server stays a text.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (typeof value === "function") element.addEventListener(key, value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

/** An HTML element; attributes that are functions become listeners, children that are no nodes become text. */
export function html(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An SVG element, likewise. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** The pack's style sheet, once. */
export function addStyles() {
  const href = new URL("../partedit.css", import.meta.url).href;
  if (![...document.styleSheets].some((sheet) => sheet.href === href) && !document.querySelector("link[data-partedit]")) {
    document.head.append(html("link", { rel: "stylesheet", href, "data-partedit": true }));
  }
}

/** The value if it is a finite number, else the fallback. */
export function finite(value, fallback = null) {
  return typeof value === "number" && Number.isFinite(value) ? value : fallback;
}

/** The value as a list; anything else is an empty one. */
export function list(value) {
  return Array.isArray(value) ? value : [];
}

/** A picture that has been fetched and decoded, or null. */
export async function picture(source) {
  if (!source) return null;
  const image = new Image();
  image.src = source;
  try {
    await image.decode();
    return image;
  } catch {
    return null;
  }
}

/** A data address of base64 that is really base64, or null. */
export function dataUrl(kind, text) {
  return typeof text === "string" && text.length < 4e6 && /^[A-Za-z0-9+/]+=*$/.test(text) ? `data:image/${kind};base64,${text}` : null;
}
