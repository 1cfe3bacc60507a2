// Every node with its figures: searched, filtered and sorted here; only some rows are in the page at a time.
"use strict";
(() => {
  const { data, seconds, bytes, text, element, choose } = window.report;
  const { nodes, attempts, states } = data;
  const n = nodes.name.length, FEW = 20, MORE = 200;
  const search = document.getElementById("search"), state = document.getElementById("state"), rows = document.getElementById("node-rows");
  const said = document.getElementById("node-count"), more = document.getElementById("more"), scope = document.getElementById("scope");
  const lower = nodes.name.map((name) => name.toLowerCase());
  const of = (column) => (i) => (nodes.last[i] < 0 ? -1 : attempts[column][nodes.last[i]]);
  const duration = of("duration"), cpu = of("cpu");
  const VALUES = {
    name: (i) => lower[i], state: (i) => nodes.state[i], run: of("run"), slot: of("slot"), attempts: of("attempts"), duration, cpu,
    share: (i) => (cpu(i) > 0 && duration(i) > 0 ? cpu(i) / duration(i) : -1), rss: of("rss"), size: of("size"),
  };
  const number = (i, column, shown) => element("td", { class: "number" }, VALUES[column](i) > 0 ? shown(VALUES[column](i)) : "–");
  let by = "duration", down = true, limit = FEW, range = [0, n], found = [];

  function row(i) {
    const at = nodes.last[i], slot = at < 0 ? "–" : attempts.slot[at] < 0 ? "main" : String(attempts.slot[at]);
    return element("tr", {},
      element("th", { scope: "row" }, element("button", { type: "button", onclick: () => choose(i, "table"), title: "show in the timeline" }, element("bdi", {}, text(nodes.name[i])))),
      element("td", {}, element("span", { class: window.report.swatchClass(nodes.state[i]) }), states[nodes.state[i]]),
      element("td", { class: "number" }, at < 0 ? "–" : String(attempts.run[at] + 1)), element("td", { class: "number" }, slot),
      number(i, "attempts", String), number(i, "duration", seconds), number(i, "cpu", seconds),
      number(i, "share", (share) => `${Math.round(100 * share)} %`), number(i, "rss", bytes), number(i, "size", bytes));
  }

  function update() {
    const wanted = search.value.toLowerCase(), only = state.value === "" ? -1 : Number(state.value), value = VALUES[by];
    found = [];
    for (let i = range[0]; i < range[1]; i += 1) if ((only < 0 || nodes.state[i] === only) && (!wanted || lower[i].includes(wanted))) found.push(i);
    const sign = down ? -1 : 1;
    found.sort((a, b) => { const x = value(a), y = value(b); return x < y ? -sign : x > y ? sign : a - b; });
    show();
  }
  function show() {
    rows.replaceChildren(...found.slice(0, limit).map(row));
    said.textContent = `${Math.min(limit, found.length).toLocaleString("en")} of ${found.length.toLocaleString("en")} nodes shown`;
    more.hidden = found.length <= limit;
  }

  states.forEach((label, i) => { if (nodes.state.includes(i)) state.append(element("option", { value: i }, label)); });
  const heads = [...document.querySelectorAll("#node-table th[data-by]")];
  function marks() { heads.forEach((head) => head.setAttribute("aria-sort", head.dataset.by !== by ? "none" : down ? "descending" : "ascending")); }
  heads.forEach((head) => head.querySelector("button").addEventListener("click", () => {
    down = head.dataset.by === by ? !down : head.dataset.by !== "name";
    by = head.dataset.by;
    marks(); update();
  }));
  search.addEventListener("input", () => { limit = FEW; update(); });
  state.addEventListener("change", () => { limit = FEW; update(); });
  more.addEventListener("click", () => { limit += MORE; show(); });
  document.addEventListener("group", (event) => {
    const group = event.detail;
    range = [group.start, group.end];
    scope.textContent = group.end - group.start === n ? "" : `in ${text(group.label)}`;
    limit = FEW;
    update();
  });
  document.addEventListener("click", (event) => {
    const found = event.target.closest?.("button[data-node]");
    if (found) choose(Number(found.dataset.node), "table");
  });
  marks(); update();
})();
