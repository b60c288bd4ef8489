// Asking: a form made from a directive's schema, and what comes of it.

import { $, make, moment } from "/dom.js";
import { listen, request } from "/link.js";
import { append } from "/logs.js";
import { state, versions } from "/state.js";
import { draws, view } from "/view.js";

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
let looked = "";
async function directives() {
  const { info } = state;
  const [controllers, plugins] = [[...state.controllers.values()], [...state.plugins.values()]];
  const now = JSON.stringify([
    controllers.map((controller) => [controller.id, controller.state === "staged", controller.resolves]),
    plugins.map((plugin) => plugin.generations.map((found) => [found.number, found.state])),
  ]);
  if (now === resolved) return;
  resolved = now;
  const answer = await request("/api/directives").catch(() => undefined);
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
    const headers = { "content-type": "application/json" };
    const answer = await request("/api/ask", { method: "POST", headers, body, signal: own.signal });
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

draws(() => {
  if (!state.info) return;
  for (const button of $("ask").querySelectorAll("[type=submit]")) button.disabled = view.away !== undefined;
  // Looked at only where something has changed that it depends on.
  const now = `${versions.controllers.changes} ${versions.plugins.changes} ${view.away}`;
  if (!state.info.allow_exec || view.away !== undefined || now === looked) return;
  looked = now;
  directives();
});
