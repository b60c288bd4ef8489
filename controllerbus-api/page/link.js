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

function away(why) {
  view.away ??= Date.now();
  view.why = why;
  redraw(true);
}

// ---- what passes between the page and the daemon ----

/** Ends what is streamed at present. */
let streaming = new AbortController();

/** The page is over. */
function signOut(why) {
  if (view.signedOut) return;
  ticket = undefined;
  KEY["x-cbus-key"] = "none";
  sessionStorage.removeItem("cbus-key");
  view.signedOut = true;
  away(`signed out: ${why}`);
  streaming.abort();
}

const HAUNTED = "another program has put a script on this page's port; run `cbus page` to open it again";
// A page of theirs, while the daemon was away. It would be given what this page sends, and what is answered.
navigator.serviceWorker?.addEventListener("controllerchange", () => signOut(HAUNTED));

/** Sends a request to the port itself, and not to what somebody has put between, such as a cache or a script. */
async function send(path, init) {
  if (navigator.serviceWorker?.controller) signOut(HAUNTED);
  if (view.signedOut) throw new Error(view.why);
  return fetch(path, { cache: "no-store", ...init });
}

/** Asks the daemon something; all but the stream goes through this. */
export async function request(path, init = {}) {
  // Somebody else may be there.
  if (view.away !== undefined) throw new Error("the daemon is away");
  const ask = () => send(path, { ...init, headers: { ...init.headers, ...KEY } });
  const answer = await ask();
  // Another tab may have replaced the cookie, which all tabs share.
  return answer.status === 401 && await comeBack() === "in" ? ask() : answer;
}

/** Has the daemon do something; what it answers. */
export async function post(path) {
  const answer = await request(path, { method: "POST" });
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
const random = () => hex(crypto.getRandomValues(new Uint8Array(32)));
const proofOf = async (of, whose, nonce, challenge) =>
  hex(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(`${whose} ${of.secret} ${nonce} ${challenge} ${location.port}`)));

/** A browser in which a page of this machine cannot check who answers: it does not connect twice. */
const blind = !isSecureContext && ["127.0.0.1", "localhost"].includes(location.hostname);

let coming;
/** Begins a new session with the ticket, once at a time: "in", "out", or "later" where nobody has said no. */
const comeBack = () => coming ??= attempt().catch(() => "later").finally(() => { coming = undefined; });

async function attempt() {
  const mine = ticket;
  if (!mine) return "out";
  // One that does not see what this page sends yet.
  if ((await navigator.serviceWorker?.getRegistrations())?.length) {
    signOut(HAUNTED);
    return "out";
  }
  const said = (answer) => (answer.status === 401 ? "out" : "later");
  const path = `/resume?id=${mine.id}`;
  const asked = await send(path, { method: "POST" });
  if (!asked.ok) return said(asked);
  const [challenge, nonce] = [await asked.text(), random()];
  const answer = await send(`${path}&nonce=${nonce}&proof=${await proofOf(mine, "page", nonce, challenge)}`, { method: "POST" });
  if (!answer.ok) return said(answer);
  const { key, proof, may_store } = await answer.json();
  if (proof !== await proofOf(mine, "daemon", nonce, challenge)) return "out";
  KEY["x-cbus-key"] = key;
  if (may_store) sessionStorage.setItem("cbus-key", key);
  else sessionStorage.removeItem("cbus-key");
  return "in";
}

/** Follows the daemon for as long as the page lives, and comes back to it when it was away. */
export async function follow(told) {
  while (!view.signedOut) {
    const silent = streaming = new AbortController();
    let clock = setTimeout(() => silent.abort(), SILENCE);
    // Whether it is the daemon that answers: it proves that to a page that has a ticket.
    let known = false;
    try {
      const mine = ticket;
      const nonce = random();
      const expected = mine && await proofOf(mine, "stream", nonce, "");
      const shown = mine ? { "x-cbus-ticket": mine.id, "x-cbus-nonce": nonce } : isSecureContext ? { "x-cbus-ticket": "none" } : {};
      const answer = await send("/api/events", { headers: { ...KEY, ...shown }, signal: silent.signal });
      if (answer.status === 401) {
        const back = await comeBack();
        if (back === "in") continue;
        if (back === "out") signOut("run `cbus page` to open it again");
      }
      if (answer.ok) {
        const take = (kind) => (news) => {
          known ||= !mine || (kind === "daemon" && news.proof === expected);
          if (!known) throw new Error("another program answers on the daemon's port");
          if (view.signedOut) return;
          if (kind === "daemon") ticket ??= news.ticket ?? undefined;
          told[kind](news);
        };
        await listen(answer.body, Object.fromEntries(Object.keys(told).map((kind) => [kind, take(kind)])), () => {
          if (!known) return;
          clearTimeout(clock);
          clock = setTimeout(() => silent.abort(), SILENCE);
        });
      }
    } catch { /* Shown below. */ } finally {
      clearTimeout(clock);
      silent.abort();
    }
    if (view.signedOut) return;
    if (known && blind) return signOut("its daemon may have ended; run `cbus page` to open it again");
    away("it is tried again every second");
    // At once after an end: a daemon that was only told to serve its page anew is there already.
    await new Promise((later) => setTimeout(later, known ? 200 : 1000));
  }
}
