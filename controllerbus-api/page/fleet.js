// The fleet, where there is one: its hosts, how the links to them are, and what they offer.

import { $, counted, keyed, make, milliseconds, moment, number, pill } from "/dom.js";
import { isAway, sorted, state, versions } from "/state.js";
import { account, current, draws, searched } from "/view.js";
import { row } from "/bus.js";

const hostRow = (host) => `host ${host.host} ${host.epoch}`;
const offerRow = (offer) => `offer ${offer.id} ${offer.host}`;
const labelsOf = (host) => Object.entries(host.labels).map(([name, value]) => `${name}=${value}`).join(" ");
const roundTrip = (host) => (host.round_trip_us === null ? "" : milliseconds(host.round_trip_us / 1000));
const linkOf = (host) => (host.own ? "this host" : host.link.replaceAll("_", " "));

function host(found) {
  const offers = [...state.offers.values()].filter((offer) => offer.host === found.host);
  return row(hostRow(found), found.host,
    [labelsOf(found), found.problem ? make("span", { class: isAway(found) ? "why bad" : "why" }, found.problem) : ""],
    [make("span", { class: "quiet" }, roundTrip(found)), pill(linkOf(found))],
    () => [
      ["since", moment(found.since_ms)],
      found.version && ["version", found.version],
      ["start of its process", found.epoch],
      roundTrip(found) && ["round trip", roundTrip(found)],
      !found.own && ["asked by this host", counted(found.asks, "directive", "directives")],
      !found.own && ["asks this host", counted(found.asked, "directive", "directives")],
      ["offers", offers.length ? make("ul", {}, ...offers.map((offer) => make("li", {}, make("button", { type: "button", class: "link", "data-goto": offerRow(offer) }, offer.id)))) : "nothing"],
    ].filter(Boolean));
}

function offer(found) {
  const by = sorted("hosts").find((one) => one.host === found.host);
  return row(offerRow(found), found.id, [`by ${found.host}`], [found.asks ? make("span", { class: "quiet" }, `${number(found.asks)} asked by this host`) : ""], () => [
    ["offered by", by ? make("button", { type: "button", class: "link", "data-goto": hostRow(by) }, found.host) : found.host],
    ["asked by this host", counted(found.asks, "directive", "directives")],
  ]);
}

const SAID = {
  hosts: (found) => `${found.host} ${labelsOf(found)} ${found.version} ${linkOf(found)} ${found.problem ?? ""}`,
  offers: (found) => `${found.id} ${found.host}`,
};
const RENDER = { hosts: host, offers: offer };

draws(() => {
  // It answers about itself as long as it is in a fleet.
  $("fleet-section").hidden = state.hosts.size === 0;
  if (!state.hosts.size) return;
  for (const [part, render] of Object.entries(RENDER)) {
    const told = searched(part, sorted(part), SAID[part]);
    // Rows name items of the other list.
    keyed($(part), told.shown, part === "hosts" ? hostRow : offerRow, render, `${current()} ${versions.hosts.items} ${versions.offers.items}`);
    account(part, told, part);
  }
  $("offers-none").hidden = state.offers.size > 0;
});
