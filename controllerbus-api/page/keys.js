// The keyboard, and the sheet that lists its keys and has the settings.

import { $, make } from "/dom.js";
import { chooseEditor, EDITORS, editor, isOpen, isTemplate, redraw, setOpen, view } from "/view.js";

const isTyped = (element) => element.matches("input, textarea, select") || element.isContentEditable;

/** What opens, from top to bottom. */
const rows = () => [...document.querySelectorAll(".row")].filter((row) => row.offsetParent !== null);

/** Moves to the next row, or the one before. */
function move(by) {
  const all = rows();
  const at = all.indexOf(document.activeElement);
  // From wherever the reader is.
  const near = all.findIndex((row) => row.getBoundingClientRect().bottom > 80);
  const next = at >= 0 ? all[at + by] : all[Math.max(0, by > 0 ? near : near - 1)];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const { key, target } = event;
  const done = () => event.preventDefault();
  if (target === $("search")) {
    if (key === "Escape") {
      if (view.search) { $("search").value = view.search = ""; redraw(); } else target.blur();
    } else if (key === "ArrowDown" || key === "Enter") { done(); target.blur(); move(1); }
    return;
  }
  if (isTyped(target)) {
    if (key === "Escape") target.blur();
    return;
  }
  const onRow = target.closest?.(".row");
  if (key === "/") { done(); $("search").focus(); $("search").select(); }
  else if (key === "?") { done(); $("help").showModal(); }
  else if (key === "j" || (key === "ArrowDown" && onRow)) { done(); move(1); }
  else if (key === "k" || (key === "ArrowUp" && onRow)) { done(); move(-1); }
  else if ((key === "Enter" || key === " ") && target.closest?.("svg [data-goto]")) { done(); target.dispatchEvent(new MouseEvent("click", { bubbles: true })); }
  else if (key === "Escape") {
    const opens = (onRow ?? target.closest?.("li")?.querySelector(".row"))?.dataset.open;
    if (opens !== undefined && isOpen(opens)) { setOpen(opens, false); redraw(true); onRow ?? target.closest("li").querySelector(".row").focus(); }
  }
});

// ---- the sheet ----

$("help-open").addEventListener("click", () => $("help").showModal());
$("editor").replaceChildren(...Object.entries(EDITORS).map(([name, [title]]) => make("option", { value: name }, title)));
$("editor").value = editor.name;
$("template").value = editor.template;
function chosen() {
  const name = $("editor").value;
  const template = $("template").value.trim();
  $("template-row").hidden = name !== "other";
  const fits = name !== "other" || isTemplate(template);
  $("template-wrong").hidden = fits || !template;
  chooseEditor(name, template);
}
for (const id of ["editor", "template"]) $(id).addEventListener("input", chosen);
$("template-row").hidden = editor.name !== "other";
for (const dialog of document.querySelectorAll("dialog")) {
  // A click beside it closes it.
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close("no"); });
}
