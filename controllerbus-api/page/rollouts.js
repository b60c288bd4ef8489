// Rollouts, where this host follows any: hosts as squares by state, the steps, and the gates with their numbers.

import { $, counted, keyed, make, milliseconds, moment, number, pill } from "/dom.js";
import { sorted, state } from "/state.js";
import { account, current, draws, searched } from "/view.js";

/** What the square of a host says; what is not here is what it was before. */
const STATES = {
  new: "runs the release", before: "runs the one before", other: "runs another one", none: "runs none",
  rolling: "is being changed", failed: "failed", away: "out of reach",
};
const TONES = { done: "good", rolling: "wait", baking: "wait", pending: "wait", rolling_back: "bad", rolled_back: "bad", paused: "off", aborted: "off" };

const says = (host) => [
  `${host.host}: ${STATES[host.state] ?? host.state}`, host.runs ? `runs ${host.runs}` : "runs none",
  host.wanted && host.wanted !== host.runs ? `is to run ${host.wanted}` : "", host.problem ?? "",
].filter(Boolean).join(", ");

function squares(found) {
  return make("ol", { class: "squares", "aria-label": `hosts of ${found.plugin}` },
    ...found.hosts.map((host) => make("li", { class: `square ${host.state}${host.in_turn ? " turn" : ""}`, title: says(host), "data-host": host.host, "data-state": host.state },
      make("span", { class: "unseen" }, says(host)))));
}

/** How many hosts are in each state, in words beside the squares' colours. */
function legend(found) {
  const counts = new Map();
  for (const host of found.hosts) counts.set(host.state, (counts.get(host.state) ?? 0) + 1);
  return make("p", { class: "legend" }, ...[...counts].map(([name, count]) =>
    make("span", { class: "key-host" }, make("span", { class: `square ${name}`, "aria-hidden": "true" }), ` ${number(count)} ${STATES[name] ?? name}`)));
}

function steps(found) {
  const of = (step, at) => {
    const place = found.is_over ? (found.stage === "done" ? "past" : "") : at + 1 < found.step ? "past" : at + 1 === found.step ? "now" : "";
    return make("li", { class: `step ${place}`, "aria-current": place === "now" ? "step" : undefined },
      step.hosts, step.bake_ms ? make("span", { class: "quiet" }, ` then ${milliseconds(step.bake_ms)}`) : "");
  };
  return make("ol", { class: "steps", "aria-label": "steps" }, ...found.steps.map(of));
}

const gates = (found) => make("ul", { class: "gates", "aria-label": "gates" }, ...found.gates.map((gate) =>
  make("li", { "data-gate": gate.gate }, pill(gate.passes ? "passes" : "fails", gate.passes ? "good" : "bad"), " ", make("b", {}, gate.gate), ` ${gate.says}`)));

function rollout(found) {
  const words = found.stage.replaceAll("_", " ");
  const differs = found.stage === "done" && !found.is_as_wanted;
  return make("article", { class: "card rollout", "data-rollout": found.plugin },
    make("div", { class: "title" }, make("h3", {}, `${found.plugin} ${found.release}`),
      words && pill(differs ? "done, and hosts differ" : words, differs ? "bad" : TONES[found.stage]),
      found.before && make("span", { class: "quiet" }, `before: ${found.before}`)),
    found.problem ? make("p", { class: "why bad" }, found.problem) : "",
    found.why ? make("p", { class: "why" }, `${found.why} `, make("span", { class: "quiet" }, `${found.by}, `, moment(found.at_ms))) : "",
    squares(found), legend(found),
    found.steps.length ? steps(found) : "", gates(found),
    found.of ? make("p", { class: "quiet" }, `${counted(found.turn, "host", "hosts")} of ${number(found.of)} may have it`) : "");
}

const said = (found) => `${found.plugin} ${found.release} ${found.stage} ${found.why} ${found.hosts.map((host) => host.host).join(" ")}`;

draws(() => {
  $("rollouts-section").hidden = state.rollouts.size === 0;
  if (!state.rollouts.size) return;
  const told = searched("rollouts", sorted("rollouts"), said);
  keyed($("rollouts"), told.shown, (found) => found.plugin, rollout, `${current()}`);
  account("rollouts", told, "rollouts");
});
