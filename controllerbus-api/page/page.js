// The page of a daemon: draws what /api/events sends. No libraries, nothing from other servers.

const $ = (id) => document.getElementById(id);

/** Known to this port's scripts only; without it, the session's cookie is worthless. */
const KEY = { "x-cbus-key": sessionStorage.getItem("cbus-key") ?? "none" };

/** Escapes characters that are invisible or change the direction of writing, so that no text can hide or forge another. */
const visible = (text) => String(text).replace(
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\udb40[\udc00-\udc7f]/g,
  (character) => `\\u{${character.codePointAt(0).toString(16)}}`);

/** An element with properties and children. Texts stay texts: nothing that a daemon sends becomes markup. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : visible(value));
  }
  const shown = children.filter((child) => child !== undefined && child !== null);
  element.append(...shown.map((child) => (child instanceof Node ? child : visible(child))));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";
function draw(tag, properties = {}, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = visible(text);
  return element;
}

const milliseconds = (ms) =>
  ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${Math.round(ms)} ms` : ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : ms < 3600000 ? `${Math.floor(ms / 60000)} min ${Math.floor(ms / 1000) % 60} s` : `${Math.floor(ms / 3600000)} h ${Math.floor(ms / 60000) % 60} min`;
const clock = (ms) => new Date(ms).toLocaleTimeString(undefined, { hour12: false });
/** A local time of day; its tooltip has the date and the zone. */
const moment = (ms) => make("time", { title: new Date(ms).toString() }, clock(ms));
const counted = (count, one, many) => `${count} ${count === 1 ? one : many}`;
const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

const TONES = {
  serving: "good", running: "good", loading: "wait", building: "wait", constructing: "wait", staged: "wait",
  queued: "wait", draining: "wait", stuck: "bad", failed: "bad", unloaded: "off", ended: "off", closing: "off",
};
const pill = (word) => make("span", { class: `pill ${TONES[word] ?? "off"}` }, word);

/** The compiler's colours as spans. */
function coloured(text) {
  const parts = [];
  let classes = [];
  for (const [at, piece] of text.split("\u001b[").entries()) {
    if (at === 0) { parts.push(piece); continue; }
    const end = piece.search(/[A-Za-z]/);
    if (piece[end] === "m") {
      for (const code of piece.slice(0, end).split(";")) {
        if (code === "0" || code === "") classes = [];
        else if (/^(1|3[1-6]|9[1-6])$/.test(code)) classes.push(`a${code}`);
      }
    }
    const rest = piece.slice(end + 1).replace(/\u001b\]8;[^\u0007\u001b]*(\u0007|\u001b\\)/g, "");
    if (rest) parts.push(classes.length ? make("span", { class: classes.join(" ") }, rest) : rest);
  }
  return parts;
}

// ---- header ----

function facts(info) {
  const memory = info.memory_mib ? `${info.memory_mib} MiB` : undefined;
  const all = [
    ...["plugin", "controller", "directive", "value"].map((name) => [info[`${name}s`], info[`${name}s`] === 1 ? name : `${name}s`]),
    [memory, "memory"], [milliseconds(Math.max(0, Date.now() - info.started_ms)), "up"], [info.process_id, "process"],
  ];
  const shown = all.filter(([value]) => value !== undefined);
  $("facts").replaceChildren(...shown.map(([value, name]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));
}

// ---- plugins ----

const PHASES = ["build", "verify", "load", "swap"];
const SHOWN = 6;
const total = (timeline) => PHASES.reduce((sum, phase) => sum + timeline[`${phase}_ms`], 0);

async function ask(action, id, button) {
  button.disabled = true;
  const answer = await fetch(`/api/plugins/${action}?id=${encodeURIComponent(id)}`, { method: "POST", headers: KEY })
    .catch((error) => ({ ok: false, text: async () => String(error) }));
  if (!answer.ok) alert(await answer.text());
  button.disabled = false;
}

function swaps(plugin) {
  const shown = plugin.generations.slice(-SHOWN).reverse();
  // The first build compiles everything: edits set the scale, and longer bars are cut.
  const timed = shown.filter((found) => found.timeline);
  const edits = timed.filter((found) => found.timeline.edit_to_live_ms);
  const longest = Math.max(1, ...(edits.length ? edits : timed).map((found) => total(found.timeline)));
  const rows = shown.flatMap((found) => {
    const number = make("span", { class: "number", title: `build ${found.build_hash}` }, `#${found.number} `, pill(found.state));
    if (!found.timeline) {
      return [number, make("span", { class: "bar none", title: found.reason }, found.reason || "never served"), make("span")];
    }
    const whole = Math.max(longest, total(found.timeline));
    const bar = make("div", { class: whole > longest ? "bar cut" : "bar", role: "img" });
    const told = [];
    for (const phase of PHASES) {
      const ms = found.timeline[`${phase}_ms`];
      if (ms <= 0) continue;
      told.push(`${phase} ${milliseconds(ms)}`);
      const part = make("span", { class: phase });
      part.style.width = `${(ms / whole) * 98}%`;
      bar.append(part);
    }
    bar.title = told.join(", ");
    bar.setAttribute("aria-label", told.join(", "));
    const live = found.timeline.edit_to_live_ms;
    const text = live ? `live in ${milliseconds(live)}` : milliseconds(total(found.timeline));
    return [number, bar, make("span", { class: "total", title: told.join(", ") }, text)];
  });
  return make("div", { class: "swaps" }, ...rows);
}

const HOLDERS = [
  ["factories", "factory", "factories"], ["controllers", "controller", "controllers"], ["calls", "call", "calls"],
  ["interfaces", "interface value", "interface values"], ["connections", "connection", "connections"], ["wakers", "waker", "wakers"],
];

function holders(plugin) {
  const serving = plugin.generations.findLast((found) => found.state === "serving");
  const leaving = plugin.generations.filter((found) => found.state === "draining" || found.state === "stuck");
  const told = [];
  if (serving) {
    const held = HOLDERS.filter(([kind]) => serving[kind] > 0).map(([kind, one, many]) => counted(serving[kind], one, many));
    told.push(`generation ${serving.number} is held by ${held.join(", ") || "nothing"}`);
    if (serving.isolation === "process") told.push(`in process ${serving.process_id || "(being started)"}`);
    if (serving.layers.length) told.push(`confined by ${serving.layers.join(", ")}`);
  }
  for (const found of leaving) told.push(`${found.state}: #${found.number} ${found.reason}`);
  return told.length ? make("p", { class: "holders" }, told.join("; ")) : undefined;
}

function plugins(list, info) {
  if (!list.length) {
    $("plugins").replaceChildren(make("p", { class: "empty card" }, "No plugins yet. Put a *.cbus.so into the plugins directory, or start the daemon with --watch CRATE."));
    return;
  }
  $("plugins").replaceChildren(...list.map((plugin) => {
    const buttons = !info.allow_control ? undefined : make("span", { class: "buttons" },
      make("button", { type: "button", onclick: (event) => ask("reload", plugin.id, event.target) }, "Reload"),
      make("button", { type: "button", onclick: (event) => confirm(`Unload ${plugin.id}?`) && ask("unload", plugin.id, event.target) }, "Unload"));
    const building = plugin.building_since_ms ? make("span", { class: "version" }, plugin.building || "starting") : undefined;
    return make("article", { class: plugin.error ? "card broken" : "card", "data-plugin": plugin.id },
      make("div", { class: "title" }, make("strong", {}, plugin.id), make("span", { class: "version" }, plugin.version), pill(plugin.state),
        plugin.error && plugin.state === "serving" ? make("span", { class: "pill bad" }, "the last change failed") : undefined, building, buttons),
      plugin.generations.length ? swaps(plugin) : undefined,
      holders(plugin),
      plugin.error ? make("pre", { class: "error", tabindex: "0" }, ...coloured(plugin.error.trimEnd())) : undefined);
  }));
}

// ---- the bus as a graph: controllers, the directives they answer, and the values they add ----

const WIDTH = 1180;
const ROW = 46;
const MOST = 40;
const COLUMNS = [{ x: 8, width: 300 }, { x: 440, width: 330 }, { x: 900, width: 270 }];

function hue(name) {
  let hash = 0;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  return hash % 360;
}

function box(svg, column, y, title, detail, stripe, full) {
  const { x, width } = COLUMNS[column];
  const group = draw("g");
  group.append(draw("title", {}, full ?? `${title}\n${detail}`));
  group.append(draw("rect", { class: "box", x, y, width, height: ROW - 10, rx: 6 }));
  if (stripe !== undefined) {
    const mark = draw("rect", { class: stripe === "" ? "stripe own" : "stripe", x, y, width: 5, height: ROW - 10, rx: 2 });
    if (stripe !== "") mark.setAttribute("fill", `hsl(${hue(stripe)} 55% 52%)`);
    group.append(mark);
  }
  group.append(draw("text", { x: x + 14, y: y + 16 }, shorten(title, Math.floor(width / 7.4))));
  group.append(draw("text", { class: "quiet", x: x + 14, y: y + 30 }, shorten(detail, Math.floor(width / 6.2))));
  svg.append(group);
  return { left: [x, y + (ROW - 10) / 2], right: [x + width, y + (ROW - 10) / 2] };
}

function edge(svg, from, to, kind) {
  const bend = (to[0] - from[0]) / 2;
  svg.prepend(draw("path", { class: `edge ${kind}`, d: `M${from[0]},${from[1]} C${from[0] + bend},${from[1]} ${to[0] - bend},${to[1]} ${to[0]},${to[1]}` }));
}

function graph(state) {
  const controllers = state.controllers.slice(0, MOST);
  const directives = state.directives.slice(0, MOST);
  if (!controllers.length && !directives.length) {
    $("graph").replaceChildren(make("p", { class: "empty" }, "Nothing is running on the bus yet."));
    return;
  }
  const values = directives.reduce((sum, directive) => sum + Math.max(1, Math.min(3, directive.values.length)), 0);
  const height = Math.max(controllers.length, directives.length ? values : 1) * ROW + 30;
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${height}`, width: WIDTH, height, role: "img", "aria-label": "the bus as a graph" });
  const heads = [["controllers", state.controllers.length], ["active directives", state.directives.length], ["values", state.info.values]];
  heads.forEach(([name, count], at) => svg.append(draw("text", { class: "head", x: COLUMNS[at].x, y: 14 }, `${name} (${count})`)));

  const places = new Map();
  controllers.forEach((controller, at) => {
    const detail = `${controller.state}${controller.plugin ? `, ${controller.plugin} #${controller.generation}` : ", the daemon's own"}${controller.key && controller.key !== controller.name ? `, as ${controller.key}` : ""}`;
    const full = `${controller.name} ${controller.version}\n${controller.description}\nresolves ${controller.resolves.join(", ") || "nothing"}`;
    places.set(controller.id, box(svg, 0, 24 + at * ROW, controller.name, detail, controller.plugin, full));
  });
  let y = 24;
  for (const directive of directives) {
    const shown = directive.values.slice(0, 3);
    const rows = Math.max(1, shown.length);
    const middle = y + ((rows - 1) * ROW) / 2;
    const detail = directive.about || `${directive.references} references, ${directive.idle ? "idle" : "busy"}`;
    const place = box(svg, 1, middle, directive.name || directive.id, detail, undefined, `${directive.id} ${directive.about}\n${directive.references} references`);
    for (const resolver of directive.resolvers) {
      const from = places.get(resolver.controller);
      if (from) edge(svg, from.right, place.left, resolver.error ? "failed" : "");
    }
    shown.forEach((value, at) => {
      const more = at === 2 && directive.values.length > 3 ? ` and ${directive.values.length - 3} more` : "";
      const giver = state.controllers.find((controller) => controller.id === value.controller);
      const to = box(svg, 2, y + at * ROW, value.json, `from ${giver?.name ?? "?"}${more}`, giver?.plugin ?? "", value.json);
      edge(svg, place.right, to.left, "value");
    });
    y += rows * ROW;
  }
  if (!directives.length) svg.append(draw("text", { class: "quiet", x: COLUMNS[1].x, y: 46 }, "no active directives"));
  $("graph").replaceChildren(svg);
}

// ---- asking: a form made from a directive's schema ----

/** The schemas of what can be asked, by id. */
let askable = {};
/** What the form's fields say, as JSON; set with the form. */
let question = () => "";
/** Releases the directive that was asked last. */
let asking;

/** Throws unless a text is JSON. */
function json(name, text) {
  try { JSON.parse(text); } catch (error) { throw new Error(`${name}: ${error.message}`); }
  return text;
}

/** An optional value's own schema. */
function required(schema) {
  const others = schema.anyOf?.filter((one) => one.type !== "null");
  return others?.length === 1 && schema.anyOf.length === 2 ? { ...schema, anyOf: undefined, ...others[0] } : schema;
}

/**
 * The input for a value, and a function that gives it as JSON; that is undefined for one that is left out. Numbers stay the text
 * that was typed: some are larger than a script can count.
 */
function input(name, schema, optional) {
  const of = required(schema);
  optional ||= of !== schema;
  const hint = { "aria-label": name, title: of.description, placeholder: optional ? "optional" : undefined };
  const choice = (values) => {
    const select = make("select", hint, ...(optional ? [make("option", { value: "" }, "")] : []),
      ...values.map((value) => make("option", { value: JSON.stringify(value) }, String(value))));
    return [select, () => select.value || undefined];
  };
  if (of.enum) return choice(of.enum);
  if (of.type === "boolean") return choice([false, true]);
  if (of.type === "integer" || of.type === "number") {
    const field = make("input", { ...hint, inputmode: "decimal", autocomplete: "off" });
    return [field, () => {
      const text = field.value.trim();
      if (!text && optional) return undefined;
      if (!/^-?\d+(\.\d+)?([eE][+-]?\d+)?$/.test(text)) throw new Error(`${name}: a number is needed`);
      return json(name, text);
    }];
  }
  if (of.type === "string") {
    const field = make("input", { ...hint, type: of.writeOnly ? "password" : "text", autocomplete: "off" });
    return [field, () => (field.value || !optional ? JSON.stringify(field.value) : undefined)];
  }
  if (of.type === "object" && of.properties) {
    const parts = Object.entries(of.properties)
      .map(([key, part]) => [key, part, ...input(key, part, !(of.required ?? []).includes(key))]);
    const rows = parts.map(([key, part, element]) => make("label", {}, make("span", { class: "name", title: part.description }, key), element));
    return [make("div", { class: "fields" }, ...rows), () => {
      const said = parts.map(([key, , , read]) => [key, read()]).filter(([, text]) => text !== undefined);
      if (optional && !said.length) return undefined;
      return `{${said.map(([key, text]) => `${JSON.stringify(key)}:${text}`).join(",")}}`;
    }];
  }
  const field = make("textarea", { ...hint, rows: "3", placeholder: optional ? "JSON, optional" : "JSON", spellcheck: "false" });
  return [field, () => (field.value.trim() || !optional ? json(name, field.value.trim()) : undefined)];
}

function form() {
  const schema = askable[$("directive").value];
  $("fields").replaceChildren();
  // A directive without fields.
  question = () => "";
  if (!schema || schema.type === "null" || (schema.properties && !Object.keys(schema.properties).length)) return;
  const [element, read] = input("value", schema, false);
  $("fields").replaceChildren(element);
  question = read;
}

/** Asks the daemon what can be asked, when its controllers have changed. */
let resolved = "";
async function directives({ controllers, plugins, info }) {
  const now = JSON.stringify([
    controllers.map((controller) => [controller.id, controller.state === "staged", controller.resolves]),
    plugins.map((plugin) => plugin.generations.map((found) => [found.number, found.state])),
  ]);
  if (!info.allow_exec || now === resolved) return;
  resolved = now;
  const answer = await fetch("/api/directives", { headers: KEY }).catch(() => undefined);
  // A newer one is under way.
  if (resolved !== now) return;
  if (!answer || answer.status >= 500) { resolved = ""; return; }
  // The session may only look.
  if (!answer.ok) return;
  const before = JSON.stringify(askable[$("directive").value]);
  const chosen = $("directive").value;
  askable = await answer.json();
  const ids = Object.keys(askable);
  $("ask-section").hidden = !ids.length;
  $("directive").replaceChildren(...ids.map((id) => make("option", { value: id }, id)));
  if (ids.includes(chosen)) $("directive").value = chosen;
  // What is being typed is kept.
  if (JSON.stringify(askable[$("directive").value]) !== before || $("directive").value !== chosen) form();
}

function answered(tone, kind, text) {
  $("answers").hidden = false;
  append($("answers"), [make("li", { class: "event" }, moment(Date.now()), make("b", { class: tone }, kind), make("span", {}, text))]);
}

function heard({ kind, value, json, error }) {
  if (error) answered("bad", "failed", error);
  else if (kind === "added") answered("good", `#${value}`, json);
  else if (kind === "removed") answered("off", `#${value}`, "is gone");
  else if (kind === "idle") answered("off", "idle", "no controller has more to add; it stays active until it is released");
}

async function submit(event) {
  event.preventDefault();
  asking?.abort();
  const own = asking = new AbortController();
  $("answers").replaceChildren();
  $("release").disabled = false;
  try {
    const body = JSON.stringify({ directive: $("directive").value, json: question() });
    const headers = { ...KEY, "content-type": "application/json" };
    const answer = await fetch("/api/ask", { method: "POST", headers, body, signal: own.signal });
    if (!answer.ok) throw new Error(await answer.text());
    await listen(answer.body, { answer: heard });
    answered("off", "ended", "the directive has ended");
  } catch (error) {
    if (own.signal.aborted) { if (asking === own) answered("off", "released", ""); } else answered("bad", "failed", error.message);
  }
  if (asking === own) $("release").disabled = true;
}
$("directive").addEventListener("change", form);
$("ask").addEventListener("submit", submit);
$("release").addEventListener("click", () => asking?.abort());

// ---- configs ----

function configs(list) {
  if (!list.length) {
    $("configs").replaceChildren(make("p", { class: "empty" }, "No configs are applied."));
    return;
  }
  const rows = list.map((config) => make("tr", {},
    make("td", {}, config.key, config.location ? make("div", { class: "why" }, config.location) : undefined),
    make("td", {}, config.config_id, config.error ? make("div", { class: "why" }, config.error) : undefined),
    make("td", { class: "number" }, String(config.revision)),
    make("td", {}, pill(config.state))));
  const head = make("tr", {}, ...["key", "config id", "revision", "state"].map((name) => make("th", { scope: "col" }, name)));
  $("configs").replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

// ---- events and logs ----

const LINES = 2000;
const LEVELS = { ERROR: 1, WARN: 2, INFO: 3, DEBUG: 4, TRACE: 5 };
const LEVEL_TONES = { ERROR: "bad", WARN: "wait", INFO: "good" };
const EVENT_TONES = { swapped: "good", build_failed: "bad", rolled_back: "bad", crashed: "bad", stuck: "bad", refused: "bad", draining: "wait" };
let lines = [];
let lastEvent = 0;

/** Appends to a list, and stays at its end if the reader is there. */
function append(list, elements) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 30;
  list.append(...elements);
  while (list.childElementCount > LINES) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function events(list) {
  if (list.length && list[0].number === 1) $("events").replaceChildren();
  else list = list.filter((event) => event.number > lastEvent);
  lastEvent = list.at(-1)?.number ?? lastEvent;
  append($("events"), list.map((event) => {
    const text = event.kind === "build_failed" ? ["does not build"] : coloured(event.text.trimEnd());
    return make("li", { class: "event" }, moment(event.at_ms), make("b", { class: EVENT_TONES[event.kind] ?? "" }, event.plugin), make("span", {}, ...text));
  }));
}

function wanted(line) {
  const text = $("text").value.toLowerCase();
  return LEVELS[line.level] <= Number($("level").value)
    && (!$("who").value || line.plugin === $("who").value || ($("who").value === "daemon" && !line.plugin))
    && (!text || `${line.message} ${more(line)} ${line.target}`.toLowerCase().includes(text));
}

// What it says beside its message: its fields, and whose it is.
const more = (line) => [line.fields, ...["controller", "config_key", "directive"].map((name) => line[name] && `${name}=${line[name]}`)]
  .filter(Boolean).join("  ");

const logLine = (line) => make("li", {},
  moment(line.at_ms),
  make("span", { class: `level ${LEVEL_TONES[line.level] ?? "off"}` }, line.level),
  make("b", {}, line.plugin ? `${line.plugin}${line.generation ? ` #${line.generation}` : ""}` : line.target),
  make("span", {}, ...coloured(line.message), more(line) ? make("span", { class: "off" }, `  ${more(line)}`) : ""));

function logs(list) {
  if (list.length && lines.length && list[0].number <= lines.at(-1).number) {
    // The page has reconnected, perhaps to another daemon: start over.
    lines = [];
    $("logs").replaceChildren();
  }
  lines.push(...list);
  lines = lines.slice(-LINES);
  append($("logs"), list.filter(wanted).map(logLine));
}

function filterLogs(event) {
  event?.preventDefault();
  $("logs").replaceChildren(...lines.filter(wanted).map(logLine));
  $("logs").scrollTop = $("logs").scrollHeight;
}
for (const id of ["level", "who"]) $(id).addEventListener("change", filterLogs);
$("text").addEventListener("input", filterLogs);
$("filters").addEventListener("submit", filterLogs);

function who(list) {
  const names = ["", ...list.map((plugin) => plugin.id), "daemon"];
  if ([...$("who").options].map((option) => option.value).join() === names.join()) return;
  const chosen = $("who").value;
  $("who").replaceChildren(...names.map((name) => make("option", { value: name }, name || "all")));
  $("who").value = names.includes(chosen) ? chosen : "";
}

// ---- updates from the daemon ----

const state = {};
let drawn = "";

/** Merges changes, and redraws only if something looks different, so that a selection is kept. */
function update(news) {
  Object.assign(state, news);
  facts(state.info);
  const { memory_mib, ...info } = state.info;
  const now = JSON.stringify([info, state.plugins, state.controllers, state.directives, state.configs]);
  if (now === drawn) return;
  drawn = now;
  plugins(state.plugins, state.info);
  graph(state);
  configs(state.configs);
  who(state.plugins);
  directives(state);
}
setInterval(() => state.info && facts(state.info), 5000);

const TOLD = { state: update, events, logs };

/** Reads server-sent events until the daemon ends them. Not an EventSource, because that cannot send our header. */
async function listen(body, told) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const parts = block.split("\n");
      const kind = parts.find((part) => part.startsWith("event: "))?.slice(7);
      const data = parts.filter((part) => part.startsWith("data: ")).map((part) => part.slice(6)).join("\n");
      told[kind]?.(JSON.parse(data));
    }
  }
}

function linked(tone, text) {
  $("link").className = `pill ${tone}`;
  $("link").textContent = text;
}

async function follow() {
  for (;;) {
    try {
      const answer = await fetch("/api/events", { headers: KEY, cache: "no-store" });
      if (answer.status === 401) return linked("bad", "signed out: run cbus page to open it again");
      if (answer.ok) {
        linked("good", "live");
        await listen(answer.body, TOLD);
      }
    } catch { /* Shown below. */ }
    linked("bad", "disconnected");
    await new Promise((later) => setTimeout(later, 1000));
  }
}
follow();
