// What the daemon has told of its state: all of it once, and then what has changed.

/** What tells the items of each part apart. */
const KEYS = {
  plugins: (plugin) => plugin.id,
  controllers: (controller) => String(controller.id),
  directives: (directive) => directive.key,
  configs: (config) => config.key,
  hosts: (host) => `${host.host} ${host.epoch}`,
  offers: (offer) => `${offer.id} ${offer.host}`,
  rollouts: (rollout) => rollout.plugin,
};

/** The parts, as maps from keys to items. An item that has not changed stays the same object. */
export const state = {
  info: undefined,
  ...Object.fromEntries(Object.keys(KEYS).map((part) => [part, new Map()])),
};

/** How often each part has got or lost an item, or has changed at all. */
export const versions = Object.fromEntries(Object.keys(KEYS).map((part) => [part, { items: 0, changes: 0 }]));

/** Takes in one message. An array is a whole part; an object says what has changed of it. */
export function apply(news) {
  if (news.info) state.info = news.info;
  for (const [part, keyOf] of Object.entries(KEYS)) {
    const told = news[part];
    if (!told) continue;
    const items = state[part];
    const version = versions[part];
    version.changes++;
    const { changed, gone } = Array.isArray(told)
      ? { changed: told, gone: missing(items, new Set(told.map(keyOf))) }
      : told;
    for (const key of gone) if (items.delete(key)) version.items++;
    for (const item of changed) {
      const key = keyOf(item);
      const before = items.get(key);
      if (!before) version.items++;
      else if (JSON.stringify(before) === JSON.stringify(item)) continue;
      items.set(key, item);
    }
  }
}

const missing = (items, keys) => [...items.keys()].filter((key) => !keys.has(key));

/** All of it in the form of a whole message. */
export const whole = () =>
  ({ info: state.info, ...Object.fromEntries(Object.keys(KEYS).map((part) => [part, [...state[part].values()]])) });

// ---- in order ----

const natural = new Intl.Collator("en", { numeric: true });
/** What is wrong with a plugin, in a word; nothing if all is well. */
export const trouble = (plugin) => (plugin.error ? "failed" : plugin.generations.some((found) => found.state === "stuck") ? "stuck" : "");

const plain = (text) => (a, b) => { const [x, y] = [text(a), text(b)]; return x < y ? -1 : x > y ? 1 : 0; };
const ORDERS = {
  // What is broken comes first.
  plugins: (a, b) => !trouble(a) - !trouble(b) || natural.compare(a.id, b.id),
  controllers: (a, b) => natural.compare(a.plugin, b.plugin) || natural.compare(a.name, b.name) || a.id - b.id,
  directives: plain((directive) => `${directive.id} ${directive.name} ${directive.about} ${directive.key}`),
  configs: (a, b) => isBad(b) - isBad(a) || natural.compare(a.key, b.key),
  hosts: (a, b) => isAway(b) - isAway(a) || b.own - a.own || natural.compare(a.host, b.host) || a.since_ms - b.since_ms,
  offers: (a, b) => natural.compare(a.id, b.id) || natural.compare(a.host, b.host),
  // What goes on comes first.
  rollouts: (a, b) => a.is_over - b.is_over || natural.compare(a.plugin, b.plugin),
};
/** Whether a host of the fleet is out of reach, or refused. */
export const isAway = (host) => host.link === "lost" || host.link === "refused";
export const isBad = (config) => config.state === "failed" || config.state === "refused";

const ordered = {};
/** The items of a part in the order in which they are shown. */
export function sorted(part) {
  const { items, changes } = versions[part];
  // Directives are many, and their order depends on nothing that changes.
  const version = part === "directives" ? items : changes;
  if (ordered[part]?.version !== version) {
    const keys = [...state[part].values()].sort(ORDERS[part]).map(KEYS[part]);
    ordered[part] = { version, keys };
  }
  return ordered[part].keys.map((key) => state[part].get(key));
}

/** How much has failed: plugins, configs, and controllers that no config asks for. */
export function failures() {
  const plugins = [...state.plugins.values()].filter(trouble).length;
  const configs = [...state.configs.values()].filter(isBad).length;
  const others = [...state.controllers.values()].filter((found) => !found.key && (found.state === "failed" || found.state === "stuck"));
  return plugins + configs + others.length;
}
