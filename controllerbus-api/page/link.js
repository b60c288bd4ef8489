// The connection to the daemon: what it streams, what it is asked to do, and that it may be away for a while.

import { redraw, view } from "/view.js";

/** Known to this port's scripts only; without it, the session's cookie is worthless. */
export const KEY = { "x-cbus-key": sessionStorage.getItem("cbus-key") ?? "none" };

/** After how long without a sign of life the daemon counts as away: it sends one every 15 s. */
const SILENCE = 40000;

/** Reads server-sent events until the daemon ends them. Not an EventSource, because that cannot send our header. */
export async function listen(body, told, heard = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    // A message of megabytes comes in many pieces: they are joined once.
    rest.push(value);
    if (!value.includes("\n")) continue;
    const blocks = rest.join("").split("\n\n");
    rest = [blocks.pop()];
    for (const block of blocks) {
      const parts = block.split("\n");
      const kind = parts.find((part) => part.startsWith("event: "))?.slice(7);
      const data = parts.filter((part) => part.startsWith("data: ")).map((part) => part.slice(6)).join("\n");
      told[kind]?.(JSON.parse(data));
    }
  }
}

/** Has the daemon do something; what it answers. */
export async function post(path) {
  const ask = () => fetch(path, { method: "POST", headers: KEY });
  let answer = await ask();
  // Another tab may have replaced the cookie, which all tabs share.
  if (answer.status === 401 && await comeBack()) answer = await ask();
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

// ---- coming back after a restart of the daemon ----

/**
 * What proves to the next daemon that this page was open, and to this page that it is the daemon. It is in no storage, where a page
 * that another program serves on this port meanwhile could find it.
 */
let ticket;

const hex = (bytes) => [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
const proofOf = async (whose, nonce, challenge) =>
  hex(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(`${whose} ${ticket.secret} ${nonce} ${challenge} ${location.port}`)));

/** Gets a ticket, if this page may come back. */
async function keep() {
  if (!isSecureContext) return;
  const answer = await fetch(`/api/keep?instead=${ticket?.id ?? ""}`, { method: "POST", headers: KEY }).catch(() => undefined);
  if (answer?.ok) ticket = await answer.json() ?? undefined;
}
// It is valid for some hours.
setInterval(() => view.away === undefined && ticket && keep(), 3600000);

/** Begins a new session with the ticket; whether that went well. */
async function comeBack() {
  if (!ticket) return false;
  try {
    const path = `/resume?id=${ticket.id}`;
    const asked = await fetch(path, { method: "POST" });
    if (!asked.ok) return false;
    const challenge = await asked.text();
    const nonce = hex(crypto.getRandomValues(new Uint8Array(32)));
    const answer = await fetch(`${path}&nonce=${nonce}&proof=${await proofOf("page", nonce, challenge)}`, { method: "POST" });
    if (!answer.ok) return false;
    const { key, proof } = await answer.json();
    if (proof !== await proofOf("daemon", nonce, challenge)) return false;
    KEY["x-cbus-key"] = key;
    sessionStorage.setItem("cbus-key", key);
    ticket = undefined;
    await keep();
    return true;
  } catch {
    return false;
  }
}

function away(why) {
  view.away ??= Date.now();
  view.why = why;
  redraw(true);
}

/** Follows the daemon for as long as the page lives, and comes back to it when it was away. */
export async function follow(told) {
  for (;;) {
    const silent = new AbortController();
    let clock = setTimeout(() => silent.abort(), SILENCE);
    let live = false;
    try {
      const answer = await fetch("/api/events", { headers: KEY, cache: "no-store", signal: silent.signal });
      if (answer.status === 401) {
        if (!await comeBack()) {
          view.signedOut = true;
          return away("signed out: run `cbus page` to open it again");
        }
        continue;
      }
      if (answer.ok) {
        live = true;
        if (!ticket) keep();
        await listen(answer.body, told, () => {
          clearTimeout(clock);
          clock = setTimeout(() => silent.abort(), SILENCE);
        });
      }
    } catch { /* Shown below. */ } finally {
      clearTimeout(clock);
    }
    away("it is tried again every second");
    // At once after an end: a daemon that was only told to serve its page anew is there already.
    await new Promise((later) => setTimeout(later, live ? 200 : 1000));
  }
}
