// The plugins: their generations, how each came to serve, what is wrong, and what can be done about it.

import { $, coloured, counted, keyed, make, milliseconds, moment, pill, shorten } from "/dom.js";
import { sorted, state } from "/state.js";
import { account, current, draws, isOpen, place, placed, searched, view } from "/view.js";

const PHASES = ["build", "verify", "load", "swap"];
/** How many generations of a plugin are shown at first. */
const SHOWN = 6;
const total = (timeline) => PHASES.reduce((sum, phase) => sum + timeline[`${phase}_ms`], 0);

/** A button that has the daemon do something, off while it is away. */
export const act = (action, properties, text) =>
  make("button", { type: "button", "data-act": action, ...properties, disabled: properties.disabled || view.away !== undefined }, text);

function timeline(found, longest) {
  if (!found.timeline) return [make("span", { class: "bar none" }, found.reason || "never served"), make("span", { class: "total" })];
  const whole = Math.max(longest, total(found.timeline));
  const bar = make("span", { class: whole > longest ? "bar cut" : "bar" });
  for (const phase of PHASES) {
    const ms = found.timeline[`${phase}_ms`];
    if (ms <= 0) continue;
    const part = make("span", { class: phase });
    part.style.width = `${(ms / whole) * 98}%`;
    bar.append(part);
  }
  const live = found.timeline.edit_to_live_ms;
  return [bar, make("span", { class: "total" }, live ? `live in ${milliseconds(live)}` : milliseconds(total(found.timeline)))];
}

const HOLDERS = [
  ["factories", "factory", "factories"], ["controllers", "controller", "controllers"], ["calls", "call", "calls"],
  ["interfaces", "interface value", "interface values"], ["connections", "connection", "connections"], ["wakers", "waker", "wakers"],
];
const held = (found) =>
  HOLDERS.filter(([kind]) => found[kind] > 0).map(([kind, one, many]) => counted(found[kind], one, many)).join(", ") || "nothing";

/** What is known of a generation, one fact a line. */
function history(plugin, found, info) {
  const facts = [];
  const fact = (name, ...told) => facts.push(make("dt", {}, name), make("dd", {}, ...told));
  const serving = plugin.generations.findLast((other) => other.state === "serving");
  if (found.timeline) {
    const phases = PHASES.filter((phase) => found.timeline[`${phase}_ms`] > 0);
    const live = found.timeline.edit_to_live_ms;
    fact("swap", ...phases.map((phase) => make("span", { class: `key ${phase}` }, `${phase} ${milliseconds(found.timeline[`${phase}_ms`])}`)),
      live ? make("span", { class: "key" }, `from the save to live ${milliseconds(live)}`) : "");
  }
  fact(found.state, "since ", moment(found.since_ms));
  if (found.reason) fact("because", found.reason);
  if (found.taken_back) fact("rolled back", found.taken_back);
  if (found.state !== "unloaded" && found.state !== "failed") fact("held by", held(found));
  if (found.isolation === "process") fact("process", found.process_id ? String(found.process_id) : "none is running");
  if (found.layers.length) fact("confined by", found.layers.join(", "));
  for (const conflict of found.conflicts) fact("conflict", conflict);
  fact("version", found.version);
  fact("build", make("code", {}, found.build_hash));
  const canGo = plugin.kept.includes(found.number) && serving && serving.build_hash !== found.build_hash;
  const why = info.allow_control ? undefined : "start the daemon with --allow-control to roll back from here";
  return make("div", { class: "detail" }, make("dl", {}, ...facts),
    canGo ? make("p", { class: "buttons" }, act("rollback", {
      "data-id": plugin.id, "data-build": found.build_hash, "data-generation": found.number, disabled: !info.allow_control, title: why,
    }, `Roll back to #${found.number}`), why && make("span", { class: "quiet" }, why)) : "");
}

function generations(plugin, info) {
  const all = [...plugin.generations].reverse();
  const name = `history ${plugin.id}`;
  const shown = isOpen(name) ? all : all.slice(0, SHOWN);
  // The first build compiles everything: edits set the scale, and longer bars are cut.
  const timed = shown.filter((found) => found.timeline);
  const edits = timed.filter((found) => found.timeline.edit_to_live_ms);
  const longest = Math.max(1, ...(edits.length ? edits : timed).map((found) => total(found.timeline)));
  const rows = shown.map((found) => {
    const opens = `generation ${plugin.id} ${found.number} ${found.build_hash}`;
    return make("li", {},
      make("button", { type: "button", class: "row swap-row", "data-open": opens, "aria-expanded": String(isOpen(opens)) },
        make("span", { class: "number" }, `#${found.number} `, pill(found.state)), ...timeline(found, longest)),
      isOpen(opens) ? history(plugin, found, info) : "");
  });
  const more = all.length <= SHOWN ? "" : make("button", { type: "button", class: "quiet", "data-open": name, "aria-expanded": String(isOpen(name)) },
    isOpen(name) ? "Show fewer generations" : `${all.length - SHOWN} earlier generations`);
  return [make("ol", { class: "swaps", "aria-label": `generations of ${plugin.id}` }, ...rows), more];
}

function holders(plugin) {
  const serving = plugin.generations.findLast((found) => found.state === "serving");
  const leaving = plugin.generations.filter((found) => found.state === "draining" || found.state === "stuck");
  const told = [];
  if (serving) {
    told.push(`generation ${serving.number} is held by ${held(serving)}`);
    if (serving.isolation === "process") told.push(`in process ${serving.process_id || "(being started)"}`);
    if (serving.layers.length) told.push(`confined by ${serving.layers.join(", ")}`);
    told.push(...serving.conflicts);
  }
  for (const found of leaving) told.push(`${found.state}: #${found.number} ${found.reason}`);
  return told.length ? make("p", { class: "holders" }, told.join("; ")) : "";
}

/** The errors, each with its place, and what the compiler says of them. */
function errors(plugin) {
  if (!plugin.error) return "";
  const list = plugin.problems.map((problem) => make("li", {},
    problem.file ? place(problem.file, problem.line, problem.column, `${shorten(problem.file.split("/").slice(-3).join("/"), 60)}:${problem.line}:${problem.column}`) : "",
    " ", make("span", {}, `${problem.code ? `${problem.code}: ` : ""}${problem.text}`)));
  return make("div", { class: "errors" },
    list.length ? make("ol", { "aria-label": `errors of ${plugin.id}` }, ...list) : "",
    make("pre", { class: "error", tabindex: "0", role: "group", "aria-label": "what the compiler says" }, ...coloured(plugin.error.trimEnd(), placed)));
}

function card(plugin) {
  const { info } = state;
  const file = `${plugin.id} was loaded from a file: put a newer one into the plugins directory`;
  const buttons = !info.allow_control ? "" : make("span", { class: "buttons" },
    act("reload", { "data-id": plugin.id, disabled: !plugin.sources, title: plugin.sources ? undefined : file }, "Reload"),
    act("unload", { "data-id": plugin.id, disabled: !plugin.generations.some((found) => found.state === "serving") }, "Unload"));
  const building = plugin.building_since_ms
    ? make("span", { class: "version" }, `${plugin.building || "starting"}, since `, moment(plugin.building_since_ms)) : "";
  return make("article", { class: plugin.error ? "card broken" : "card", "data-plugin": plugin.id, "aria-label": `plugin ${plugin.id}` },
    make("div", { class: "title" }, make("strong", {}, plugin.id), make("span", { class: "version" }, plugin.version), pill(plugin.state),
      plugin.error && plugin.state === "serving" ? pill("the last change failed", "bad") : "", building, buttons),
    errors(plugin),
    plugin.generations.length ? generations(plugin, info) : "",
    holders(plugin));
}

const said = (plugin) => `${plugin.id} ${plugin.version} ${plugin.state} ${plugin.error} ${plugin.generations.map((found) => `#${found.number} ${found.build_hash}`).join(" ")}`;

draws(() => {
  if (!state.info) return;
  const told = searched("plugins", sorted("plugins"), said);
  $("plugins-none").hidden = state.plugins.size > 0;
  keyed($("plugins"), told.shown, (plugin) => plugin.id, card, `${current()} ${state.info.allow_control}`);
  account("plugins", told, "plugins");
});
