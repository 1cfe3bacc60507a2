// The graph: groups of nodes as boxes, never more than a screenful; opening one shows what it is made of.
"use strict";
(() => {
  const { data, seconds, bytes, text, short, element, top, choose, stateClass, isHatched, swatchClass } = window.report;
  const { nodes, attempts, states, group: root } = data;
  const n = nodes.name.length, MAX_NEIGHBOURS = 12, MAX_BENDS = 300, HEIGHT = 48;
  const GLYPHS = { completed: "✓", failed: "✕", timed_out: "◷", running: "▸", skipped: "↷", cancelled: "⊘", stale: "↻", lost: "∅", pending: "○" };
  const glyphOf = (state) => GLYPHS[data.stateNames[state]];
  const box = document.getElementById("graph-box"), path = document.getElementById("graph-path"), rows = document.getElementById("graph-rows");
  if (!n) { document.getElementById("graph").hidden = true; return; }
  const svgOf = (tag, attributes = {}, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const critical = new Set(data.critical);

  // --- what is shown ---------------------------------------------------------------------------------------------------
  const asItem = (part, near = false) => ({ ...part, near, single: part.end - part.start === 1 });
  const node = (i, near) => asItem({ label: nodes.name[i], start: i, end: i + 1, parts: [] }, near);
  function within(group, near = false) {
    if (group.parts.length) return group.parts.map((part) => asItem(part, near));
    return Array.from({ length: group.end - group.start }, (_, i) => node(group.start + i, near));
  }

  // The items of the last group of a way down, and what stands beside the groups on that way and is joined to them.
  function shown(way) {
    const items = within(way.at(-1));
    const inside = items.length;
    for (let depth = 0; depth + 1 < way.length; depth += 1) {
      for (const item of within(way[depth], true)) if (item.start !== way[depth + 1].start) items.push(item);
    }
    const itemOf = new Int32Array(n).fill(-1);
    items.forEach((item, i) => itemOf.fill(i, item.start, item.end));
    const counts = new Map();
    const { offsets, parents } = data.edges || { offsets: [], parents: [] };
    for (let child = 0; child + 1 < offsets.length; child += 1) {
      const to = itemOf[child];
      for (let e = offsets[child]; e < offsets[child + 1]; e += 1) {
        const from = itemOf[parents[e]];
        if (from < 0 || to < 0 || (from >= inside && to >= inside)) continue;
        const key = from * items.length + to;
        counts.set(key, (counts.get(key) || 0) + 1);
      }
    }
    const weight = new Float64Array(items.length);
    for (const [key, count] of counts) { weight[Math.floor(key / items.length)] += count; weight[key % items.length] += count; }
    const near = items.map((_, i) => i).filter((i) => i >= inside && weight[i]).sort((a, b) => weight[b] - weight[a]).slice(0, MAX_NEIGHBOURS);
    const kept = new Set([...Array(inside).keys(), ...near]), position = new Map([...kept].map((i, at) => [i, at]));
    const edges = [];
    for (const [key, count] of counts) {
      const from = Math.floor(key / items.length), to = key % items.length;
      if (!kept.has(from) || !kept.has(to)) continue;
      if (from === to) items[from].within = count; else edges.push({ from: position.get(from), to: position.get(to), count });
    }
    return { items: [...kept].map((i) => items[i]), edges };
  }

  function figures(item) {
    const byState = states.map(() => 0);
    let spent = 0, cpu = 0, ofCpu = 0, memory = 0, isCritical = false;
    for (let i = item.start; i < item.end; i += 1) {
      byState[nodes.state[i]] += 1;
      isCritical ||= critical.has(i);
      const at = nodes.last[i];
      if (at < 0) continue;
      spent += attempts.duration[at];
      if (attempts.cpu[at] > 0) { cpu += attempts.cpu[at]; ofCpu += attempts.duration[at]; }
      memory = Math.max(memory, attempts.rss[at]);
    }
    const said = byState.map((count, i) => (count ? `${count.toLocaleString("en")} ${states[i]}` : "")).filter(Boolean).join(", ");
    return { byState, spent, share: ofCpu > 0 ? cpu / ofCpu : 0, memory, isCritical, said };
  }

  // --- where it is drawn -----------------------------------------------------------------------------------------------
  // What dagre gets: no cycles (groups may have some although nodes have none), no edge that a longer way implies, and
  // few bends, as each edge costs one for every rank that it passes. The other edges are drawn as plain curves.
  function edgesForLayout(size, edges) {
    const out = Array.from({ length: size }, () => []), mark = new Uint8Array(size), order = [];
    edges.forEach((edge) => out[edge.from].push(edge));
    const back = new Set();
    const visit = (i) => {
      mark[i] = 1;
      for (const edge of out[i]) { if (mark[edge.to] === 1) back.add(edge); else if (!mark[edge.to]) visit(edge.to); }
      mark[i] = 2;
      order.push(i);
    };
    for (let i = 0; i < size; i += 1) if (!mark[i]) visit(i);
    const reach = Array.from({ length: size }, () => new Uint8Array(size)), kept = [];
    for (const i of order) {
      const ahead = out[i].filter((edge) => !back.has(edge));
      for (const edge of ahead) if (!ahead.some((other) => other !== edge && reach[other.to][edge.to])) kept.push(edge);
      for (const edge of ahead) { reach[i][edge.to] = 1; for (let j = 0; j < size; j += 1) reach[i][j] |= reach[edge.to][j]; }
    }
    const rank = new Int32Array(size);
    for (const i of [...order].reverse()) for (const edge of out[i]) if (!back.has(edge)) rank[edge.to] = Math.max(rank[edge.to], rank[i] + 1);
    kept.sort((a, b) => rank[a.to] - rank[a.from] - (rank[b.to] - rank[b.from]));
    let bends = 0;
    return kept.filter((edge) => { bends += rank[edge.to] - rank[edge.from] - 1; return bends <= MAX_BENDS; });
  }

  function place(items, edges, down) {
    const linked = new Set(edges.flatMap((edge) => [edge.from, edge.to]));
    const graph = new dagre.graphlib.Graph();
    graph.setGraph({ rankdir: down ? "TB" : "LR", nodesep: 14, ranksep: down ? 36 : 54, ranker: "longest-path" });
    graph.setDefaultEdgeLabel(() => ({}));
    items.forEach((item, i) => { if (linked.has(i)) graph.setNode(String(i), { width: item.width, height: HEIGHT }); });
    const placed = new Set(edgesForLayout(items.length, edges));
    placed.forEach((edge) => graph.setEdge(String(edge.from), String(edge.to)));
    let height = 0, width = 0;
    if (linked.size) {
      dagre.layout(graph);
      ({ height, width } = graph.graph());
      items.forEach((item, i) => { if (linked.has(i)) ({ x: item.x, y: item.y } = graph.node(String(i))); });
    }
    placed.forEach((edge) => { edge.points = graph.edge(String(edge.from), String(edge.to)).points; });
    // What is joined to nothing stands in rows below.
    const across = Math.max(width, down ? box.clientWidth - 20 : 900);
    let left = 0, row = height ? height + 30 : 0;
    items.forEach((item, i) => {
      if (linked.has(i)) return;
      if (left + item.width > across && left) { left = 0; row += HEIGHT + 14; }
      item.x = left + item.width / 2; item.y = row + HEIGHT / 2;
      left += item.width + 14; width = Math.max(width, left); height = Math.max(height, row + HEIGHT);
    });
    return { width, height };
  }

  // Many items that are not joined to one another would make one long column: they stand as a block, between the
  // neighbours that they come from and those that they lead to, with one line for each neighbour.
  function placeBlock(items, edges, down) {
    const inside = items.flatMap((item, i) => (item.near ? [] : [i]));
    const cell = Math.max(...inside.map((i) => items[i].width)) + 14, tall = HEIGHT + 14;
    const before = new Map(), after = new Map();
    for (const { from, to, count } of edges) {
      if (items[from].near && !items[to].near) before.set(from, (before.get(from) || 0) + count);
      if (items[to].near && !items[from].near) after.set(to, (after.get(to) || 0) + count);
    }
    const sides = down ? [] : [before, after].map((side) => Math.max(0, ...[...side.keys()].map((i) => items[i].width)));
    const columns = Math.max(1, Math.floor(((box.clientWidth || 300) - 24 - (down ? 0 : sides[0] + sides[1] + 130)) / cell));
    const block = { width: Math.min(columns, inside.length) * cell, height: Math.ceil(inside.length / columns) * tall };
    const left = down ? 0 : sides[0] + (before.size ? 60 : 0), top = down && before.size ? before.size * tall + 30 : 0;
    inside.forEach((i, at) => {
      items[i].x = left + (at % columns) * cell + cell / 2;
      items[i].y = top + Math.floor(at / columns) * tall + tall / 2;
    });
    const joint = [];
    const stand = (side, number) => [...side].forEach(([i, count], at) => {
      const middle = left + block.width / 2, item = items[i], first = number === 0;
      item.x = down ? middle : first ? sides[0] / 2 : left + block.width + 60 + sides[1] / 2;
      item.y = down ? (first ? at * tall + HEIGHT / 2 : top + block.height + 30 + at * tall + HEIGHT / 2) : block.height / 2 + (at - (side.size - 1) / 2) * tall;
      const own = down ? { x: item.x, y: item.y + (first ? HEIGHT / 2 : -HEIGHT / 2) } : { x: item.x + ((first ? 1 : -1) * item.width) / 2, y: item.y };
      const edge = down ? { x: middle, y: first ? top : top + block.height } : { x: first ? left : left + block.width, y: Math.min(Math.max(item.y, 10), block.height - 10) };
      joint.push({ from: i, to: i, count, points: first ? [own, edge] : [edge, own] });
    });
    stand(before, 0); stand(after, 1);
    const ys = items.flatMap((item) => (item.y === undefined ? [] : [item.y]));
    const above = Math.max(0, HEIGHT / 2 - Math.min(...ys));
    items.forEach((item) => { item.y += above; });
    joint.forEach((edge) => edge.points.forEach((point) => { point.y += above; }));
    const frame = { x: left, y: top + above, ...block };
    const width = left + block.width + (!down && after.size ? 60 + sides[1] : 0);
    return { width, height: Math.max(...ys) + HEIGHT / 2 + above + 4, frame, joint };
  }

  // --- drawing ---------------------------------------------------------------------------------------------------------
  const measure = document.createElement("canvas").getContext("2d");
  let zoom, svg, inner;

  function countsOf(item, facts) {
    if (item.single) return `${glyphOf(nodes.state[item.start])} ${states[nodes.state[item.start]]} · ${seconds(facts.spent)}`;
    return `${facts.byState.map((c, i) => (c ? `${glyphOf(i)} ${c.toLocaleString("en")}` : "")).filter(Boolean).join("  ")} · ${seconds(facts.spent)}`;
  }
  function widthOf(item, facts) {
    const of = (font, shown) => { measure.font = `${font} system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif`; return measure.measureText(shown).width; };
    return Math.ceil(Math.max(100, of("600 13px", short(text(item.label), 30)), of("12px", countsOf(item, facts)))) + 18;
  }

  function drawBox(item, facts, open) {
    const label = text(item.label), count = item.end - item.start;
    const said = `${label}: ${item.single ? "" : `${count.toLocaleString("en")} nodes, `}${facts.said}, ${seconds(facts.spent)} in tasks${facts.isCritical ? ", on the critical path" : ""}`;
    const g = svgOf("g", {
      class: `box${item.near ? " near" : ""}${facts.isCritical ? " critical" : ""}`, tabindex: 0, role: "button", "aria-label": said,
      transform: `translate(${item.x - item.width / 2},${item.y - HEIGHT / 2})`,
    }, svgOf("title", {}, said), svgOf("rect", { width: item.width, height: HEIGHT, rx: 5, class: "frame" }));
    let at = 1;
    facts.byState.forEach((c, i) => {
      if (!c) return;
      const wide = ((item.width - 2) * c) / count;
      g.append(svgOf("rect", { x: at, y: HEIGHT - 8, width: wide, height: 7, class: stateClass(i) }));
      if (isHatched(i)) g.append(svgOf("rect", { x: at, y: HEIGHT - 8, width: wide, height: 7, fill: `url(#hatch-${data.stateNames[i]})` }));
      at += wide;
    });
    g.append(
      svgOf("text", { x: 8, y: 17, class: "label" }, short(label, 30)),
      svgOf("text", { x: 8, y: 33, class: "count" }, countsOf(item, facts)),
    );
    g.addEventListener("click", open);
    g.addEventListener("focus", () => { if (g.matches(":focus-visible")) reveal(item); });
    g.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); } });
    return g;
  }

  function drawEdge(edge, items, steps, down) {
    const from = items[edge.from], to = items[edge.to];
    let d;
    if (edge.points) {
      const [first, ...rest] = edge.points;
      d = `M${first.x},${first.y}`;
      rest.forEach((point, i) => {
        const next = rest[i + 1];
        d += next ? `Q${point.x},${point.y} ${(point.x + next.x) / 2},${(point.y + next.y) / 2}` : `L${point.x},${point.y}`;
      });
    } else if (down) d = `M${from.x},${from.y + HEIGHT / 2}C${from.x},${from.y + 90} ${to.x},${to.y - 90} ${to.x},${to.y - HEIGHT / 2}`;
    else {
      const start = from.x + from.width / 2, end = to.x - to.width / 2;
      d = `M${start},${from.y}C${start + 60},${from.y} ${end - 60},${to.y} ${end},${to.y}`;
    }
    const marked = steps.has(edge.from * items.length + edge.to);
    const line = svgOf("path", { d, class: `edge${edge.points ? "" : " implied"}${marked ? " critical" : ""}`, "marker-end": "url(#arrow)" });
    line.style.strokeWidth = `${1 + Math.min(3, Math.log10(edge.count))}px`;
    const ends = from === to ? short(text(from.label), 60) : `${short(text(from.label), 60)} → ${short(text(to.label), 60)}`;
    line.append(svgOf("title", {}, `${ends}: ${edge.count.toLocaleString("en")} ${edge.count === 1 ? "edge" : "edges"}`));
    return line;
  }

  function criticalSteps(items) {
    const itemOf = (i) => items.findIndex((item) => item.start <= i && i < item.end);
    const passed = data.critical.map(itemOf), steps = new Set();
    passed.forEach((item, i) => { if (i && item >= 0 && passed[i - 1] >= 0) steps.add(passed[i - 1] * items.length + item); });
    return steps;
  }

  function fit(width, height) {
    const wide = box.clientWidth || 300, scale = Math.max(0.72, Math.min(1, (wide - 24) / width, 560 / height));
    const tall = Math.min(600, Math.max(120, height * scale + 24));
    svg.setAttribute("width", wide); svg.setAttribute("height", tall);
    d3.select(svg).call(zoom.transform, d3.zoomIdentity.translate(Math.max(12, (wide - width * scale) / 2), Math.max(12, (tall - height * scale) / 2)).scale(scale));
  }

  // Moving from box to box with the keyboard brings what is outside into view.
  function reveal(item) {
    const [px, py] = d3.zoomTransform(svg).apply([item.x, item.y]), margin = 60;
    if (px < margin || py < margin || px > svg.clientWidth - margin || py > svg.clientHeight - margin) d3.select(svg).call(zoom.translateTo, item.x, item.y);
    box.scrollLeft = box.scrollTop = 0;
  }

  let current = [root], size = { width: 1, height: 1 };
  function go(way, focus = true) {
    current = way;
    const { items, edges } = shown(way), facts = items.map(figures), down = box.clientWidth < 640;
    items.forEach((item, i) => { item.width = widthOf(item, facts[i]); });
    const apart = !edges.some((edge) => !items[edge.from].near && !items[edge.to].near);
    const block = apart && edges.length > 0 && items.filter((item) => !item.near).length > 8;
    size = block ? placeBlock(items, edges, down) : place(items, edges, down);
    inner = svgOf("g");
    svg = svgOf("svg", { role: "group", "aria-label": "Graph of the nodes" }, svgOf("defs", {},
      svgOf("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto" }, svgOf("path", { d: "M0,0L8,4L0,8z", class: "tip" })),
      ...[["failed", 45], ["timed_out", -45]].map(([name, angle]) => svgOf("pattern", { id: `hatch-${name}`, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${angle})` }, svgOf("rect", { width: 2, height: 5, class: "hatch" })))), inner);
    const steps = criticalSteps(items);
    if (block) inner.append(svgOf("rect", { ...size.frame, rx: 8, class: "block" }));
    (block ? size.joint : edges).forEach((edge) => inner.append(drawEdge(edge, items, steps, down)));
    items.forEach((item, i) => inner.append(drawBox(item, facts[i], () => open(item))));
    zoom = d3.zoom().scaleExtent([0.2, 4]).filter((event) => (event.type === "wheel" ? event.ctrlKey || event.metaKey || box.contains(document.activeElement) : !event.button))
      .on("zoom", (event) => inner.setAttribute("transform", event.transform));
    d3.select(svg).call(zoom).on("dblclick.zoom", null);
    box.replaceChildren(svg);
    fit(size.width, size.height);
    crumbs(way); table(items, facts);
    document.dispatchEvent(new CustomEvent("group", { detail: way.at(-1) }));
    if (focus) path.lastElementChild.focus?.({ preventScroll: true });
  }

  // Opening a neighbour leads to where it hangs in the tree.
  function wayTo(item) {
    const way = [root];
    for (let group = root; !(group.start === item.start && group.end === item.end);) {
      group = group.parts.find((part) => part.start <= item.start && item.end <= part.end);
      if (!group) break;
      way.push(group);
    }
    return way;
  }
  function open(item) {
    if (item.single) { choose(item.start, "graph"); return; }
    go(wayTo(item));
  }

  function crumbs(way) {
    path.replaceChildren(...way.map((group, depth) => {
      const label = short(text(group.label), 60), last = depth + 1 === way.length;
      return element("li", last ? { "aria-current": "true", tabindex: -1 } : {}, last ? element("bdi", {}, label) : element("button", { type: "button", onclick: () => go(way.slice(0, depth + 1)) }, element("bdi", {}, label)));
    }));
  }

  function table(items, facts) {
    rows.replaceChildren(...items.flatMap((item, i) => {
      if (item.near) return [];
      const f = facts[i];
      return [element("tr", {},
        element("th", { scope: "row" }, element("button", { type: "button", onclick: () => open(item) }, element("bdi", {}, short(text(item.label), 80)))),
        element("td", { class: "number" }, (item.end - item.start).toLocaleString("en")), element("td", {}, f.said),
        element("td", { class: "number" }, seconds(f.spent)), element("td", { class: "number" }, f.share ? `${Math.round(100 * f.share)} %` : "–"),
        element("td", { class: "number" }, f.memory ? bytes(f.memory) : "–"))];
    }));
  }

  document.getElementById("graph-legend").append(...states.map((state, i) => element("li", {}, element("span", { class: swatchClass(i) }), `${glyphOf(i)} ${state}`)));
  document.getElementById("graph-in").addEventListener("click", () => d3.select(svg).call(zoom.scaleBy, 1.4));
  document.getElementById("graph-out").addEventListener("click", () => d3.select(svg).call(zoom.scaleBy, 1 / 1.4));
  document.getElementById("graph-fit").addEventListener("click", () => fit(size.width, size.height));
  let wide = box.clientWidth;
  new ResizeObserver(() => {
    if (box.clientWidth === wide) return;
    const turned = wide < 640 !== box.clientWidth < 640;
    wide = box.clientWidth;
    if (turned) go(current, false); else fit(size.width, size.height);
  }).observe(box);
  go(top.length === 1 && root.parts.length ? [root, root.parts[0]] : [root], false);
})();
