// How the page is looked at: what is searched for, what is open, how much is shown. Kept while the tab lives, and over reloads.

import { $, make, number } from "/dom.js";

function read(store, name) {
  try { return JSON.parse(store.getItem(name)) ?? {}; } catch { return {}; }
}

const kept = read(sessionStorage, "cbus-view");
/** How many rows each list shows at first, and how many more it shows when asked. A phone has less room. */
const ROWS = matchMedia("(max-width: 600px)").matches ? 15 : 40;
const FIRST = { plugins: 24, hosts: ROWS, offers: ROWS, rollouts: 12, controllers: ROWS, directives: ROWS, configs: ROWS };
const MORE = 200;
/** How many open rows are remembered. */
const OPEN = 500;

export const view = {
  search: String(kept.search ?? ""),
  level: String(kept.level ?? "3"),
  who: String(kept.who ?? ""),
  text: String(kept.text ?? ""),
  graph: kept.graph !== false,
  /** Since when the daemon is away, in milliseconds since 1970. */
  away: undefined,
};
const open = new Set(Array.isArray(kept.open) ? kept.open : []);
const limits = { ...FIRST };

export function remember() {
  const { search, level, who, text, graph } = view;
  try { sessionStorage.setItem("cbus-view", JSON.stringify({ search, level, who, text, graph, open: [...open] })); } catch { /* It is full. */ }
}

export const isOpen = (name) => open.has(name);
export function setOpen(name, wanted) {
  open.delete(name);
  if (wanted) open.add(name);
  while (open.size > OPEN) open.delete(open.values().next().value);
  remember();
}

/** Changes with all that rows show besides their items. */
let epoch = 0;
export const current = () => epoch;

const drawers = [];
let scheduled = false;
/** Has a function draw its part of the page whenever something may have changed. */
export const draws = (drawer) => drawers.push(drawer);
/** Draws with the next frame: a page that nobody sees is not drawn. */
export function redraw(all = false) {
  if (all) epoch++;
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    for (const drawer of drawers) drawer();
  });
}

const texts = new WeakMap();
/** Whether an item is found: each word of the search is somewhere in what `text` says of it. */
function matches(item, text, words) {
  if (!words.length) return true;
  if (!texts.has(item)) texts.set(item, text(item).toLowerCase());
  return words.every((word) => texts.get(item).includes(word));
}

/** The items that are found, the first of them that are shown, and a sentence about that. */
export function searched(section, items, text) {
  const words = view.search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.length ? items.filter((item) => matches(item, text, words)) : items;
  const shown = found.slice(0, limits[section]);
  const all = number(items.length);
  const told = words.length
    ? `${number(found.length)} of ${all} found${shown.length < found.length ? `, ${number(shown.length)} shown` : ""}`
    : shown.length < items.length ? `${number(shown.length)} of ${all} shown` : all;
  return { found, shown, told };
}

/** Says beside a list's title how much of it is shown, and has buttons below it for the rest. */
export function account(section, { found, shown, told }, what) {
  const count = $(`${section}-count`);
  if (count.textContent !== told) count.textContent = told;
  const more = $(`${section}-more`);
  const left = found.length - shown.length;
  const wanted = left > 0 ? `${section} ${left}` : "";
  if (more.dataset.of === wanted) return;
  more.dataset.of = wanted;
  more.replaceChildren(...(left > 0 ? [
    make("span", {}, `${number(shown.length)} of ${number(found.length)} ${what} are shown.`),
    left > MORE && make("button", { type: "button", "data-more": section, "data-by": MORE }, `Show ${MORE} more`),
    make("button", { type: "button", "data-more": section, "data-by": left }, left > MORE ? `Show all ${number(found.length)}` : `Show ${number(left)} more`),
  ].filter(Boolean) : []));
}
/** Shows all of every list. */
export const showAll = () => Object.keys(limits).forEach((section) => { limits[section] = Infinity; });
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-more]");
  if (!button) return;
  limits[button.dataset.more] += Number(button.dataset.by);
  redraw();
});

// ---- links to an editor ----

export const EDITORS = {
  vscode: ["VS Code", "vscode://file{file}:{line}:{column}"],
  insiders: ["VS Code Insiders", "vscode-insiders://file{file}:{line}:{column}"],
  vscodium: ["VSCodium", "vscodium://file{file}:{line}:{column}"],
  cursor: ["Cursor", "cursor://file{file}:{line}:{column}"],
  zed: ["Zed", "zed://file{file}:{line}:{column}"],
  idea: ["IntelliJ IDEA", "idea://open?file={file}&line={line}&column={column}"],
  other: ["another one", ""],
  none: ["none", ""],
};
const chosen = read(localStorage, "cbus-editor");
export const editor = {
  name: Object.hasOwn(EDITORS, chosen.name) ? chosen.name : "vscode",
  template: String(chosen.template ?? ""),
};
export function chooseEditor(name, template) {
  Object.assign(editor, { name, template });
  try { localStorage.setItem("cbus-editor", JSON.stringify(editor)); } catch { /* It is full. */ }
  redraw(true);
}

/** Whether a text is a link to a program, and to nothing that a browser runs itself. */
export const isTemplate = (text) => /^[a-z][a-z0-9+.-]*:/i.test(text) && !/^(javascript|data|blob|vbscript|about|view-source|file):/i.test(text) && text.includes("{file}");

/** The files are on this machine only if the daemon is. */
const isLocal = ["127.0.0.1", "localhost", "[::1]"].includes(location.hostname);

/** The link that opens a place in the editor; nothing where it cannot be known. */
export function linkTo(file, line, column) {
  const template = editor.name === "other" ? editor.template : EDITORS[editor.name][1];
  const path = /^[A-Za-z]:[\\/]/.test(file) ? `/${file.replaceAll("\\", "/")}` : file;
  // What begins with two slashes would be a place on another machine.
  if (!isLocal || !isTemplate(template) || !path.startsWith("/") || path.startsWith("//")) return undefined;
  const parts = { file: path.split("/").map(encodeURIComponent).join("/").replace(/^\/([A-Za-z])%3A\//, "/$1:/"), line: line || 1, column: column || 1 };
  return template.replace(/\{(file|line|column)\}/g, (_, part) => parts[part]);
}

/** A place in a file, as a link where there can be one. */
export function place(file, line, column, shown = `${file}:${line}:${column}`) {
  const href = linkTo(file, line, column);
  const title = `Open ${file}:${line} in ${EDITORS[editor.name][0]}`;
  return href ? make("a", { class: "place", href, title, rel: "noreferrer" }, shown) : make("span", { class: "place" }, shown);
}

/** A place in a file, behind what is no part of a path. Bounded, so that no text takes long. */
const PLACES = /(^|[^\w/.\\-])((?:\/(?!\/)|[A-Za-z]:\\)[^\s:]{1,1000}):(\d{1,7}):(\d{1,7})/g;

/** Makes links of the places in a text. */
export function placed(text) {
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(PLACES)) {
    const [whole, before, ...where] = found;
    if (!linkTo(...where)) continue;
    parts.push(text.slice(end, found.index + before.length), place(...where));
    end = found.index + whole.length;
  }
  return [...parts, text.slice(end)].filter((part) => part !== "");
}
