// Events and log lines, as they come.

import { $, coloured, make, moment, number } from "/dom.js";
import { sorted, state } from "/state.js";
import { draws, placed, remember, view } from "/view.js";

const LINES = 2000;
const LEVELS = { ERROR: 1, WARN: 2, INFO: 3, DEBUG: 4, TRACE: 5 };
const LEVEL_TONES = { ERROR: "bad", WARN: "wait", INFO: "good" };
const EVENT_TONES = { swapped: "good", build_failed: "bad", rolled_back: "bad", taken_back: "bad", crashed: "bad", stuck: "bad", refused: "bad", draining: "wait", conflict: "wait" };

/** Appends to a list, and stays at its end if the reader is there. */
export function append(list, elements) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 30;
  list.append(...elements);
  while (list.childElementCount > LINES) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

/** What is shown of one list that the daemon numbers; a page that is not seen draws it later. */
class Tail {
  constructor(id, show) {
    Object.assign(this, { list: $(id), show, items: [], last: 0, drawn: 0 });
  }

  /** Takes in what is new, and says where something is missing. */
  take(told) {
    const news = told.filter((item) => item.number > this.last);
    if (!news.length) return;
    const lost = this.last ? news[0].number - this.last - 1 : 0;
    if (lost > 0) this.items.push({ divider: `${number(lost)} more are not kept` });
    this.items.push(...news);
    this.last = news.at(-1).number;
    this.shorten();
  }

  /** Another daemon counts from 1. */
  restart() {
    if (this.items.length) this.items.push({ divider: "the daemon was restarted" });
    this.last = 0;
    this.shorten();
  }

  shorten() {
    const over = this.items.length - LINES;
    if (over <= 0) return;
    this.items.splice(0, over);
    this.drawn = Math.max(0, this.drawn - over);
  }

  draw() {
    if (this.drawn === this.items.length) return;
    const news = this.items.slice(this.drawn);
    this.drawn = this.items.length;
    append(this.list, news.map((item) => (item.divider ? make("li", { class: "divider" }, item.divider) : this.show(item))).filter(Boolean));
  }

  again() {
    this.list.replaceChildren();
    this.drawn = 0;
    this.draw();
    this.list.scrollTop = this.list.scrollHeight;
  }
}

export const events = new Tail("events", (event) => {
  const text = event.kind === "build_failed" ? ["does not build"] : coloured(event.text.trimEnd(), placed);
  return make("li", { class: "event" }, moment(event.at_ms), make("b", { class: EVENT_TONES[event.kind] ?? "" }, event.plugin), make("span", { class: "said" }, ...text));
});

function wanted(line) {
  const text = view.text.toLowerCase();
  return LEVELS[line.level] <= Number(view.level)
    && (!view.who || line.plugin === view.who || (view.who === "daemon" && !line.plugin))
    && (!text || `${line.message} ${more(line)} ${line.target}`.toLowerCase().includes(text));
}

// What it says beside its message: its fields, and whose it is.
const more = (line) => [line.fields, ...["controller", "config_key", "directive"].map((name) => line[name] && `${name}=${line[name]}`)]
  .filter(Boolean).join("  ");

export const logs = new Tail("logs", (line) => wanted(line) && make("li", {},
  moment(line.at_ms),
  make("span", { class: `level ${LEVEL_TONES[line.level] ?? "off"}` }, line.level),
  make("b", {}, line.plugin ? `${line.plugin}${line.generation ? ` #${line.generation}` : ""}` : line.target),
  make("span", { class: "said" }, ...coloured(line.message, placed), more(line) ? make("span", { class: "off" }, `  ${more(line)}`) : "")));

for (const [id, name] of [["level", "level"], ["who", "who"], ["text", "text"]]) {
  $(id).value = view[name];
  $(id).addEventListener("input", () => {
    view[name] = $(id).value;
    remember();
    logs.again();
  });
}
$("filters").addEventListener("submit", (event) => event.preventDefault());

/** Whose lines can be chosen. One that was chosen stays so while its plugin is away. */
function who() {
  const names = ["", ...sorted("plugins").map((plugin) => plugin.id).sort(), "daemon"];
  if (!names.includes(view.who)) names.push(view.who);
  if ([...$("who").options].map((option) => option.value).join() !== names.join()) {
    $("who").replaceChildren(...names.map((name) => make("option", { value: name }, name || "all")));
  }
  $("who").value = view.who;
}

draws(() => {
  if (state.info) who();
  events.draw();
  logs.draw();
});
