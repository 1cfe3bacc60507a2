// The report's data, and how figures and hostile text are shown. Text reaches the page by textContent only.
"use strict";
window.report = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { nodes, attempts } = data;
  // How a state is drawn goes by its name: its colour in the style sheet, its hatching here.
  const stateClass = (i) => `state-${data.stateNames[i]}`;
  const isHatched = (i) => data.stateNames[i] === "failed" || data.stateNames[i] === "timed_out";
  const swatchClass = (i) => `swatch ${stateClass(i)}${isHatched(i) ? " hatched" : ""}`;
  const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

  const figures = (value) => (value >= 99.95 ? String(Math.round(value)) : String(Number(value.toPrecision(3))));
  function seconds(s) {
    if (s > 0 && s < 1) return `${figures(s * 1e3)} ms`;
    if (s < 60) return `${figures(s)} s`;
    const whole = Math.round(s), h = Math.floor(whole / 3600), m = Math.floor((whole % 3600) / 60);
    return h ? `${h} h ${String(m).padStart(2, "0")} min` : `${m} min ${String(whole % 60).padStart(2, "0")} s`;
  }

  function bytes(n) {
    let unit = 0;
    while (n >= 1024 && unit < UNITS.length - 1) { n /= 1024; unit += 1; }
    return `${unit ? n.toFixed(1) : n} ${UNITS[unit]}`;
  }

  // What moves the cursor or turns text around is made visible, so that a name cannot look like another one.
  const text = (s) => s.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]/gu,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const short = (s, n) => (s.length <= n ? s : `${s.slice(0, n - Math.floor(n / 2) - 1)}…${s.slice(-Math.floor(n / 2))}`);

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") made.className = value;
      else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== false) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  // Which group each node belongs to, for colours: the largest groups have one of their own, the rest share the last.
  const MAX_COLOURS = 8;
  const top = data.group.parts.length ? data.group.parts : [data.group];
  const ranked = top.map((_, i) => i).sort((a, b) => (top[b].end - top[b].start) - (top[a].end - top[a].start));
  const colourOfGroup = new Map(ranked.map((group, rank) => [group, Math.min(rank, MAX_COLOURS - 1)]));
  const colourOfNode = new Uint8Array(nodes.name.length);
  top.forEach((group, i) => colourOfNode.fill(colourOfGroup.get(i), group.start, group.end));
  // Nodes that the job no longer has stand behind the others; nothing but the timeline knows of them.
  const isGone = (node) => node >= nodes.name.length;
  const nameOf = (node) => (isGone(node) ? data.gone[node - nodes.name.length] : nodes.name[node]);
  const labels = [];
  ranked.forEach((group, rank) => {
    if (rank < MAX_COLOURS) labels.push(text(top[group].label));
    else labels[MAX_COLOURS - 1] = "others";
  });

  // --- what several parts of the page share: the chosen node ---------------------------------------------------------
  const listeners = [];
  const choose = (node, from) => { for (const listener of listeners) listener(node, from); };
  const onChoice = (listener) => listeners.push(listener);

  function describe(at) {
    const node = attempts.node[at], cpu = attempts.cpu[at], spent = attempts.duration[at];
    const parts = [
      `${data.states[attempts.outcome[at]]} in run ${attempts.run[at] + 1}`,
      attempts.slot[at] < 0 ? "in the coordinator" : `on worker ${attempts.slot[at]}`,
      `took ${seconds(spent)}`,
    ];
    if (cpu > 0) parts.push(`CPU ${seconds(cpu)}${spent > 0 ? ` (${Math.round(100 * cpu / spent)} %)` : ""}`);
    if (attempts.rss[at]) parts.push(`peak memory ${bytes(attempts.rss[at])}`);
    if (attempts.size[at]) parts.push(`result ${bytes(attempts.size[at])}`);
    if (attempts.attempts[at] > 1 || attempts.retried[at]) parts.push(`attempt ${attempts.attempts[at]}`);
    if (attempts.retried[at]) parts.push("tried again");
    if (isGone(node)) parts.push("no longer in the job");
    return { name: text(nameOf(node)), figures: parts.join(" · ") };
  }

  return { stateClass, isHatched, swatchClass, data, seconds, bytes, text, short, element, colourOfNode, labels, top, choose, onChoice, describe, isGone };
})();
