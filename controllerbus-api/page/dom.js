// Elements: made of texts, changed in place, and kept where nothing has changed.

export const $ = (id) => document.getElementById(id);

/** Escapes characters that are invisible or change the direction of writing, so that no text can hide or forge another. */
export const visible = (text) => String(text).replace(
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\udb40[\udc00-\udc7f]/g,
  (character) => `\\u{${character.codePointAt(0).toString(16)}}`);

/** An element with properties and children. Texts stay texts: nothing that a daemon sends becomes markup. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : visible(value));
  }
  const shown = children.flat().filter((child) => child !== undefined && child !== null && child !== false && child !== "");
  element.append(...shown.map((child) => (child instanceof Node ? child : visible(child))));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";
export function draw(tag, properties = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value !== undefined) element.setAttribute(name, visible(value));
  }
  element.append(...children.map((child) => (child instanceof Node ? child : visible(child))));
  return element;
}

/**
 * Makes an element like another one, by changing only what differs: what is selected, focused or scrolled stays so. Returns the
 * element that is in the document.
 */
export function morph(old, next) {
  if (old.nodeName !== next.nodeName || old.nodeType !== next.nodeType) {
    old.replaceWith(next);
    return next;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return old;
  }
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of next.attributes) {
    if (old.getAttribute(name) === value) continue;
    // The page's policy allows styles from scripts, but not from attributes.
    if (name === "style") old.style.cssText = value;
    else old.setAttribute(name, value);
  }
  const before = [...old.childNodes];
  const after = [...next.childNodes];
  after.forEach((child, at) => (at < before.length ? morph(before[at], child) : old.append(child)));
  before.slice(after.length).forEach((child) => child.remove());
  return old;
}

/** What each list shows: its rows by their keys, each with the item that it was made of. */
const lists = new WeakMap();

/** Puts an element before another, and keeps its focus if it was in the list already and the browser can. */
const place = (list, element, next) =>
  (list.moveBefore && element.parentNode === list ? list.moveBefore(element, next) : list.insertBefore(element, next));

/**
 * Makes a list show items, in their order. `keyOf` tells them apart, `render` makes a row of one. Rows whose item is the same
 * object as before, and for which `epoch` is the same, are not touched.
 */
export function keyed(list, items, keyOf, render, epoch) {
  if (!lists.has(list)) lists.set(list, new Map());
  const rows = lists.get(list);
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  for (const [key, row] of rows) {
    if (wanted.has(key)) continue;
    row.element.remove();
    rows.delete(key);
  }
  let next = list.firstElementChild;
  for (const [key, item] of wanted) {
    const row = rows.get(key) ?? { element: render(item), item, epoch };
    if (row.item !== item || row.epoch !== epoch) {
      const element = morph(row.element, render(item));
      if (next === row.element) next = element;
      Object.assign(row, { element, item, epoch });
    }
    rows.set(key, row);
    if (row.element === next) next = next.nextElementSibling;
    else place(list, row.element, next);
  }
}

// ---- words ----

export const milliseconds = (ms) =>
  ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${Math.round(ms)} ms` : ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : ms < 3600000 ? `${Math.floor(ms / 60000)} min ${Math.floor(ms / 1000) % 60} s` : `${Math.floor(ms / 3600000)} h ${Math.floor(ms / 60000) % 60} min`;
export const clock = (ms) => new Date(ms).toLocaleTimeString(undefined, { hour12: false });
/** A local time of day; its tooltip has the date and the zone. */
export const moment = (ms) => make("time", { title: new Date(ms).toString() }, clock(ms));
export const number = (count) => count.toLocaleString("en");
export const counted = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;
export const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

const TONES = {
  serving: "good", running: "good", loading: "wait", building: "wait", constructing: "wait", staged: "wait", working: "wait",
  queued: "wait", pending: "wait", draining: "wait", stuck: "bad", failed: "bad", refused: "bad", unloaded: "off", ended: "off",
  closing: "off", idle: "off", held: "off", removed: "off", up: "good", greeting: "wait", lost: "bad",
};
export const pill = (word, tone) => make("span", { class: `pill ${tone ?? TONES[word] ?? "off"}` }, word);

/** The compiler's colours as spans; `linked` makes what it likes of each piece of text. */
export function coloured(text, linked = (piece) => [piece]) {
  const parts = [];
  let classes = [];
  for (const [at, piece] of text.split("\u001b[").entries()) {
    if (at === 0) { parts.push(...linked(piece)); continue; }
    const end = piece.search(/[A-Za-z]/);
    if (piece[end] === "m") {
      for (const code of piece.slice(0, end).split(";")) {
        if (code === "0" || code === "") classes = [];
        else if (/^(1|3[1-6]|9[1-6])$/.test(code)) classes.push(`a${code}`);
      }
    }
    const rest = piece.slice(end + 1).replace(/\u001b\]8;[^\u0007\u001b]*(\u0007|\u001b\\)/g, "");
    if (rest) parts.push(...(classes.length ? [make("span", { class: classes.join(" ") }, ...linked(rest))] : linked(rest)));
  }
  return parts;
}
