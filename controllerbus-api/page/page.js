// The page of a daemon: draws what /api/events sends. No libraries, nothing from other servers.

import { $, clock, make, milliseconds, morph } from "/dom.js";
import { apply, failures, sorted, state, trouble, isBad } from "/state.js";
import { draws, isOpen, redraw, remember, setOpen, showAll, view } from "/view.js";
import { follow, post } from "/link.js";
import { events, logs } from "/logs.js";
import "/plugins.js";
import "/bus.js";
import "/fleet.js";
import "/rollouts.js";
import "/ask.js";
import "/keys.js";

// ---- the head ----

function facts(info) {
  const memory = info.memory_mib ? `${info.memory_mib} MiB` : undefined;
  const until = view.away ?? Date.now();
  const all = [
    ...["plugin", "controller", "directive", "value"].map((name) => [info[`${name}s`].toLocaleString("en"), info[`${name}s`] === 1 ? name : `${name}s`]),
    [memory, "memory"], [milliseconds(Math.max(0, until - info.started_ms)), "up"], [info.process_id, "process"],
  ];
  const shown = all.filter(([value]) => value !== undefined);
  morph($("facts"), make("dl", { id: "facts" }, ...shown.map(([value, name]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value))))));
}

/** What the tab shows of the daemon: its title, and the colour of its sign. */
function sign() {
  const failed = state.info ? failures() : 0;
  const title = view.away !== undefined ? "(away) cbus" : failed ? `(${failed} failed) cbus` : "cbus";
  if (document.title !== title) document.title = title;
  const colour = view.away !== undefined || !state.info ? "8a94a0" : failed ? "d6453a" : "1f9d5f";
  const icon = `data:image/svg+xml,<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="%23${colour}"/></svg>`;
  if ($("icon").getAttribute("href") !== icon) $("icon").setAttribute("href", icon);
  return failed;
}

draws(() => {
  const failed = sign();
  const away = view.away !== undefined;
  document.body.classList.toggle("away", away);
  const [tone, text, title] = away ? ["bad", view.signedOut ? view.why : `away since ${clock(view.away)}`, view.why]
    : state.info ? ["good", "live", ""] : ["wait", "connecting", ""];
  morph($("link"), make("span", { id: "link", class: `pill ${tone}`, role: "status", title }, text));
  $("trouble").hidden = !failed || away;
  if ($("trouble").textContent !== `${failed} failed`) $("trouble").textContent = `${failed} failed`;
  if (state.info) facts(state.info);
});
setInterval(() => state.info && !document.hidden && facts(state.info), 5000);

$("trouble").addEventListener("click", () => {
  const plugin = sorted("plugins").find(trouble);
  const config = sorted("configs").find(isBad);
  const controller = [...state.controllers.values()].find((found) => !found.key && found.state !== "running");
  if (plugin) {
    // It may not be among what is searched for.
    view.search = $("search").value = "";
    redraw();
    requestAnimationFrame(() => look(document.querySelector(`[data-plugin="${CSS.escape(plugin.id)}"]`)));
  }
  else if (config) goTo(`config ${config.key}`);
  else if (controller) look($("controllers"));
});

// ---- what is open, and what leads where ----

/** Scrolls to an element, and focuses what can be opened of it. */
function look(element) {
  if (!element) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ block: "center", behavior: still ? "auto" : "smooth" });
  const first = element.matches("button") ? element : element.querySelector(".row, button, pre");
  first?.focus({ preventScroll: true });
}

/** Opens a row and shows it, wherever in its list it is. */
function goTo(opens) {
  setOpen(opens, true);
  const find = () => document.querySelector(`[data-row="${CSS.escape(opens)}"]`);
  redraw(true);
  requestAnimationFrame(() => {
    if (find()) return look(find());
    view.search = $("search").value = "";
    showAll();
    redraw(true);
    requestAnimationFrame(() => look(find()));
  });
}

document.addEventListener("click", (event) => {
  const opens = event.target.closest("[data-open]")?.dataset.open;
  if (opens !== undefined) {
    setOpen(opens, !isOpen(opens));
    redraw(true);
  }
  const goes = event.target.closest("[data-goto]")?.dataset.goto;
  if (goes !== undefined) goTo(goes);
});

$("search").value = view.search;
$("search").addEventListener("input", () => {
  view.search = $("search").value;
  remember();
  redraw();
});

// ---- what the daemon is asked to do ----

/** Says something at the foot of the page, until it is dismissed or, if all went well, for a while. */
function say(text, bad) {
  const close = make("button", { type: "button", "aria-label": "dismiss" }, "✕");
  const told = make("div", { class: bad ? "said-bad" : "said-good", role: bad ? "alert" : "status" }, make("span", {}, text), close);
  close.addEventListener("click", () => told.remove());
  $("told").append(told);
  while ($("told").childElementCount > 4) $("told").firstElementChild.remove();
  if (!bad) setTimeout(() => told.remove(), 8000);
}

/** What becomes of the answer that is waited for. */
let settle = () => {};
$("sure").addEventListener("submit", (event) => settle(event.submitter.value === "yes"));
// Any other way out of it is a no. The event comes late: it may be that of a question before.
$("sure").addEventListener("close", () => $("sure").open || settle(false));

/** Asks the reader first; resolves to whether to do it. */
function sure(title, text, action) {
  settle(false);
  $("sure-title").textContent = title;
  $("sure-text").textContent = text;
  $("sure-yes").textContent = action;
  $("sure").showModal();
  $("sure-no").focus();
  return new Promise((done) => { settle = done; });
}

const ACTIONS = {
  reload: {
    told: ({ unchanged, generation }) => (unchanged ? "the build gave what is loaded already" : `generation ${generation} serves`),
  },
  unload: {
    asks: ({ id }) => [`Unload ${id}?`, "Its controllers leave the bus. Its sources are still watched: the next change loads it again.", "Unload"],
    told: ({ generation, left }) => (left ? `generation ${generation} is off the bus; ${left}` : `generation ${generation} is unloaded`),
  },
  rollback: {
    asks: ({ id, generation }) => [`Roll ${id} back to #${generation}?`, "It is an ordinary swap: state is handed over. The build that serves now is not swapped in again until its content changes.", "Roll back"],
    told: ({ generation }) => `rolled back: generation ${generation} serves`,
  },
};

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-act]");
  if (!button || button.disabled) return;
  const { act, ...about } = button.dataset;
  const { asks, told } = ACTIONS[act];
  if (asks && !await sure(...asks(about))) return;
  const build = about.build ? `&build=${encodeURIComponent(about.build)}` : "";
  button.setAttribute("aria-busy", "true");
  try {
    say(`${about.id}: ${told(await post(`/api/plugins/${act}?id=${encodeURIComponent(about.id)}${build}`))}`, false);
  } catch (error) {
    say(`${about.id}: ${error.message}`, true);
  }
  button.removeAttribute("aria-busy");
});

// ---- what it tells ----

let daemon;
follow({
  daemon({ started_ms, process_id }) {
    const now = `${started_ms} ${process_id}`;
    if (daemon !== undefined && daemon !== now) for (const tail of [events, logs]) tail.restart();
    daemon = now;
  },
  state(news) {
    apply(news);
    const back = view.away !== undefined;
    view.away = undefined;
    sign();
    redraw(back);
  },
  events(list) { events.take(list); redraw(); },
  logs(list) { logs.take(list); redraw(); },
});
