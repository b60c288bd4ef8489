// The bus: controllers, the directives that they answer, and the values that they add; as lists, and as a graph where there is room.

import { $, counted, draw, keyed, make, morph, pill, shorten } from "/dom.js";
import { isBad, sorted, state, versions } from "/state.js";
import { account, current, draws, isOpen, place, redraw, remember, searched, view } from "/view.js";

const nameOf = (id) => state.controllers.get(String(id))?.name ?? "a controller that has gone";
/** The name under which a controller's row is open, which is the same after a restart. */
const rowOf = (controller) => `controller ${controller.plugin} ${controller.name} ${controller.key}`;
const directiveRow = (directive) => `directive ${directive.key}`;
const whose = (controller) => (controller.plugin ? `${controller.plugin} #${controller.generation}` : "the daemon's own");

/** A row that opens. */
export function row(opens, title, about, marks, detail, stripe) {
  return make("li", { "data-row": opens },
    make("button", { type: "button", class: "row", "data-open": opens, "aria-expanded": String(isOpen(opens)) },
      stripe === undefined ? "" : mark(stripe),
      make("span", { class: "name" }, title), make("span", { class: "marks" }, ...marks), make("span", { class: "about" }, ...about)),
    isOpen(opens) ? make("div", { class: "detail" }, make("dl", {}, ...detail().flatMap(([name, ...told]) => [make("dt", {}, name), make("dd", {}, ...told)]))) : "");
}

function hue(name) {
  let hash = 0;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  // Names that are alike get colours that are not.
  return Math.round((hash * 137.508) % 360);
}

function mark(plugin) {
  const element = make("span", { class: "stripe", "aria-hidden": "true" });
  if (plugin) element.style.background = `hsl(${hue(plugin)} 55% 52%)`;
  return element;
}

/** A button that leads to another row. */
const leads = (opens, text) => make("button", { type: "button", class: "link", "data-goto": opens }, text);

function controller(found) {
  const as = found.key && found.key !== found.name ? `, as ${found.key}` : "";
  return row(rowOf(found), found.name, [`${whose(found)}${as}`, found.error ? make("span", { class: "why" }, found.error) : ""],
    [found.answers ? make("span", { class: "quiet" }, `${found.answers} answered`) : "", pill(found.state)],
    () => {
      const answered = [...state.directives.values()].filter((directive) => directive.resolvers.some((one) => one.controller === found.id));
      return [
        ["version", found.version], found.description && ["what it is", found.description], ["config", `${found.config_id}${found.key ? ` as ${found.key}` : ""}`],
        ["resolves", found.resolves.join(", ") || "nothing"],
        answered.length && ["answers", make("ul", {}, ...answered.slice(0, 20).map((directive) => make("li", {}, leads(directiveRow(directive), `${directive.name || directive.id} ${directive.about}`))),
          answered.length > 20 ? make("li", {}, `and ${answered.length - 20} more`) : "")],
      ].filter(Boolean);
    }, found.plugin);
}

const asker = ({ plugin, generation, host, count }) => `${host ? `the host ${host}` : plugin ? `${plugin} #${generation}` : "the daemon and what is linked into it"}${count === 1 ? "" : ` (${count} times)`}`;

function directive(found) {
  const failed = found.resolvers.some((one) => one.error);
  const [first] = found.values;
  const more = found.values.length > 1 ? ` and ${found.values.length - 1} more` : "";
  return row(directiveRow(found), found.name || found.id,
    [found.about, first ? make("span", { class: "value" }, `${shorten(first.json, 120)}${more}`) : ""],
    [failed ? pill("failed") : "", pill(found.idle ? "idle" : "working")],
    () => [
      ["id", found.id],
      ["asked by", make("ul", {}, ...(found.asks.length ? found.asks.map(asker) : ["nobody any more: it is kept for a while"]).map((text) => make("li", {}, text)),
        found.readers ? make("li", { class: "quiet" }, `${counted(found.readers, "reader", "readers")} beside, which would not keep it`) : "")],
      ["answered by", found.resolvers.length ? make("ul", {}, ...found.resolvers.map((one) => {
        const by = state.controllers.get(String(one.controller));
        return make("li", {}, by ? leads(rowOf(by), `${by.name}, ${whose(by)}`) : nameOf(one.controller), " ", pill(one.state), one.error ? make("span", { class: "why" }, one.error) : "");
      })) : "nobody: no controller resolves it"],
      ["values", found.values.length ? make("ul", {}, ...found.values.map((value) => make("li", {}, make("code", {}, `#${value.id} ${value.json}`), make("span", { class: "quiet" }, ` from ${nameOf(value.controller)}`)))) : "none"],
    ]);
}

function config(found) {
  const [, file, line, column] = /^(.*):(\d+):(\d+)$/.exec(found.location) ?? [];
  const full = file && (file.startsWith("/") ? file : `${state.info.folder}/${file}`);
  const by = state.controllers.get(String(found.controller));
  return row(`config ${found.key}`, found.key, [found.config_id, found.error ? make("span", { class: isBad(found) ? "why bad" : "why" }, found.error) : ""], [pill(found.state)], () => [
    file && ["defined in", place(full, line, column, found.location)], ["revision", String(found.revision)],
    found.retry_in_ms > 0 && ["tried again", `${Math.round(found.retry_in_ms / 1000)} s after it failed`],
    by && ["run by", leads(rowOf(by), by.name)],
  ].filter(Boolean));
}

const SAID = {
  controllers: (found) => `${found.name} ${found.version} ${found.plugin} #${found.generation} ${found.key} ${found.config_id} ${found.state} ${found.error} ${found.resolves.join(" ")}`,
  directives: (found) => `${found.id} ${found.name} ${found.about} ${found.values.map((value) => value.json).join(" ")} ${found.resolvers.map((one) => `${one.state} ${one.error}`).join(" ")}`,
  configs: (found) => `${found.key} ${found.config_id} ${found.state} ${found.error} ${found.location}`,
};
const RENDER = { controllers: controller, directives: directive, configs: config };

draws(() => {
  if (!state.info) return;
  const told = {};
  for (const [part, render] of Object.entries(RENDER)) {
    told[part] = searched(part, sorted(part), SAID[part]);
    $(`${part}-none`).hidden = state[part].size > 0;
    // Rows name other parts' items.
    const epoch = `${current()} ${versions.controllers.items} ${part === "controllers" ? versions.directives.items : ""}`;
    keyed($(part), told[part].shown, part === "controllers" ? rowKey : (found) => found.key, render, epoch);
    account(part, told[part], part);
  }
  graph(told.controllers, told.directives);
});
const rowKey = (found) => String(found.id);

// ---- the graph ----

const WIDTH = 1180;
const ROW = 46;
const MOST = 40;
const COLUMNS = [{ x: 8, width: 300 }, { x: 440, width: 330 }, { x: 900, width: 270 }];
/** Narrower screens have the lists. */
const wide = matchMedia("(min-width: 900px)");

function box(column, y, title, detail, stripe, opens) {
  const { x, width } = COLUMNS[column];
  const group = draw("g", opens ? { tabindex: "0", role: "button", "data-goto": opens, class: "box-group" } : {},
    draw("title", {}, `${title}\n${detail}`), draw("rect", { class: "box", x, y, width, height: ROW - 10, rx: 6 }));
  if (stripe !== undefined) {
    const fill = stripe === "" ? undefined : `hsl(${hue(stripe)} 55% 52%)`;
    group.append(draw("rect", { class: stripe === "" ? "stripe own" : "stripe", x, y, width: 5, height: ROW - 10, rx: 2, fill }));
  }
  group.append(draw("text", { x: x + 14, y: y + 16 }, shorten(title, Math.floor(width / 7.4))),
    draw("text", { class: "quiet", x: x + 14, y: y + 30 }, shorten(detail, Math.floor(width / 6.2))));
  return { group, left: [x, y + (ROW - 10) / 2], right: [x + width, y + (ROW - 10) / 2] };
}

function edge(from, to, kind) {
  const bend = (to[0] - from[0]) / 2;
  return draw("path", { class: `edge ${kind}`, d: `M${from[0]},${from[1]} C${from[0] + bend},${from[1]} ${to[0] - bend},${to[1]} ${to[0]},${to[1]}` });
}

let drawn = [];
/** Draws the first of what is found, if any of it has changed. */
function graph(controllers, directives) {
  $("graph-fold").hidden = !wide.matches;
  if (!wide.matches || !view.graph) return;
  const shown = { controllers: controllers.found.slice(0, MOST), directives: directives.found.slice(0, MOST) };
  const now = [state.info.values, controllers.found.length, directives.found.length, ...shown.controllers, "", ...shown.directives];
  if (now.length === drawn.length && now.every((item, at) => item === drawn[at])) return;
  drawn = now;
  const left = ["controllers", "directives"].filter((part) => ({ controllers, directives })[part].found.length > MOST);
  $("graph-left").textContent = left.length ? `The first ${MOST} ${left.join(" and ")} are drawn; the lists below have all of them. Search to draw others.` : "";
  const svg = picture(shown, [["controllers", controllers.found.length], ["active directives", directives.found.length], ["values", state.info.values]]);
  const before = $("graph").firstElementChild;
  if (before) morph(before, svg); else $("graph").append(svg);
}

function picture({ controllers, directives }, heads) {
  const values = directives.reduce((sum, directive) => sum + Math.max(1, Math.min(3, directive.values.length)), 0);
  const height = Math.max(controllers.length, values, 1) * ROW + 30;
  const edges = draw("g");
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${height}`, width: WIDTH, height, role: "group", "aria-label": "the bus as a graph" }, edges);
  heads.forEach(([name, count], at) => svg.append(draw("text", { class: "head", x: COLUMNS[at].x, y: 14 }, `${name} (${count.toLocaleString("en")})`)));
  const places = new Map();
  controllers.forEach((controller, at) => {
    const detail = `${controller.state}, ${whose(controller)}${controller.key && controller.key !== controller.name ? `, as ${controller.key}` : ""}`;
    const place = box(0, 24 + at * ROW, controller.name, detail, controller.plugin, rowOf(controller));
    svg.append(place.group);
    places.set(controller.id, place);
  });
  let y = 24;
  for (const directive of directives) {
    const shown = directive.values.slice(0, 3);
    const rows = Math.max(1, shown.length);
    const detail = directive.about || `${directive.references} references, ${directive.idle ? "idle" : "working"}`;
    const place = box(1, y + ((rows - 1) * ROW) / 2, directive.name || directive.id, detail, undefined, directiveRow(directive));
    svg.append(place.group);
    for (const resolver of directive.resolvers) {
      const from = places.get(resolver.controller);
      if (from) edges.append(edge(from.right, place.left, resolver.error ? "failed" : ""));
    }
    shown.forEach((value, at) => {
      const more = at === 2 && directive.values.length > 3 ? ` and ${directive.values.length - 3} more` : "";
      const giver = state.controllers.get(String(value.controller));
      const to = box(2, y + at * ROW, value.json, `from ${giver?.name ?? "?"}${more}`, giver?.plugin ?? "");
      svg.append(to.group);
      edges.append(edge(place.right, to.left, "value"));
    });
    y += rows * ROW;
  }
  if (!directives.length) svg.append(draw("text", { class: "quiet", x: COLUMNS[1].x, y: 46 }, "no active directives"));
  return svg;
}

wide.addEventListener("change", () => { drawn = []; redraw(); });
$("graph-fold").open = view.graph;
$("graph-fold").addEventListener("toggle", () => {
  view.graph = $("graph-fold").open;
  drawn = [];
  remember();
  redraw();
});
