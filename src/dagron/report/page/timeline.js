// What ran when on which worker: a canvas, since a page cannot move ten thousand elements. One lane per slot; runs stand
// one behind the other, without the time between them.
"use strict";
(() => {
  const { data, seconds, element, colourOfNode, labels, choose, onChoice, describe, isGone } = window.report;
  const { runs, attempts } = data;
  const n = attempts.run.length;
  const section = document.getElementById("timeline");
  if (!n) { section.hidden = true; return; }

  const box = document.getElementById("lanes"), canvas = box.querySelector("canvas"), tip = document.getElementById("tip");
  const details = document.getElementById("chosen"), runChoice = document.getElementById("run"), colouring = document.getElementById("colouring");
  const LEFT = 64, AXIS = 34, STRIP = 52, GAP = 10;
  const COMPLETED = data.stateNames.indexOf("completed"), FAILED = data.stateNames.indexOf("failed");

  // --- where things are on the line of all runs ------------------------------------------------------------------------
  const ran = runs.reduce((sum, run) => sum + run.wall, 0) || 1;
  const between = runs.length > 1 ? ran * 0.02 : 0;
  const offsets = [];
  let whole = 0;
  runs.forEach((run, i) => { if (i) whole += between; offsets.push(whole); whole += Math.max(run.wall, ran * 0.002); });

  const begin = new Float64Array(n), end = new Float64Array(n);
  const nSlots = Math.max(1, ...runs.map((run) => run.slots));
  const withCoordinator = attempts.slot.some((slot) => slot < 0);
  const nLanes = nSlots + (withCoordinator ? 1 : 0);
  const lanes = Array.from({ length: nLanes }, () => []);
  for (let i = 0; i < n; i += 1) {
    begin[i] = offsets[attempts.run[i]] + attempts.start[i];
    end[i] = begin[i] + attempts.duration[i];
    lanes[attempts.slot[i] < 0 ? nSlots : attempts.slot[i]].push(i);
  }
  const laneHeight = Math.max(3, Math.min(26, Math.floor(420 / nLanes)));
  const height = AXIS + nLanes * laneHeight + GAP + STRIP + 6;

  // CPU time up to any moment, as if each attempt had used it evenly: a line from corner to corner.
  const corners = [];
  for (let i = 0; i < n; i += 1) {
    if (attempts.cpu[i] > 0 && end[i] > begin[i]) {
      const rate = attempts.cpu[i] / attempts.duration[i];
      corners.push([begin[i], rate], [end[i], -rate]);
    }
  }
  corners.sort((a, b) => a[0] - b[0]);
  const cornerAt = new Float64Array(corners.length), spent = new Float64Array(corners.length), rates = new Float64Array(corners.length);
  corners.forEach(([at, change], i) => {
    cornerAt[i] = at;
    spent[i] = i ? spent[i - 1] + rates[i - 1] * (at - cornerAt[i - 1]) : 0;
    rates[i] = Math.max(0, (i ? rates[i - 1] : 0) + change);
  });
  const behind = (sorted, value, size = sorted.length, key = (i) => sorted[i]) => {
    let low = 0, high = size;
    while (low < high) { const middle = (low + high) >> 1; if (key(middle) <= value) low = middle + 1; else high = middle; }
    return low;
  };
  const usedUntil = (u) => { const i = behind(cornerAt, u) - 1; return i < 0 ? 0 : spent[i] + rates[i] * (u - cornerAt[i]); };

  // --- drawing ---------------------------------------------------------------------------------------------------------
  let width = 0, transform = d3.zoomIdentity, chosen = -1, colours = {};
  const base = (u) => LEFT + (u / whole) * (width - LEFT);
  const x = (u) => transform.applyX(base(u));
  const u = (px) => ((transform.invertX(px) - LEFT) / (width - LEFT)) * whole;
  const style = () => {
    const css = getComputedStyle(document.documentElement), of = (name) => css.getPropertyValue(name).trim();
    colours = {
      text: of("--text"), faint: of("--faint"), line: of("--line"), surface: of("--surface"), gone: of("--gone"), accent: of("--accent"), strip: of("--strip"),
      groups: labels.map((_, i) => of(`--group-${i}`)), states: data.stateNames.map((name) => of(`--state-${name}`)),
    };
  };
  const STEPS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 432000];
  const stepFor = (span, count) => {
    const step = d3.tickStep(0, span, count);
    return step < 60 ? step : STEPS.find((s) => s >= step) || step;
  };

  function drawAxis(g) {
    g.font = "12px system-ui, sans-serif";
    g.textBaseline = "middle";
    const perPixel = (u(width) - u(LEFT)) / Math.max(1, width - LEFT);
    runs.forEach((run, i) => {
      const from = x(offsets[i]), to = x(offsets[i] + run.wall);
      if (to < LEFT || from > width) return;
      g.fillStyle = colours.faint;
      g.globalAlpha = 0.12;
      g.fillRect(Math.max(LEFT, from), AXIS, Math.min(width, to) - Math.max(LEFT, from), nLanes * laneHeight);
      g.globalAlpha = 1;
      g.fillStyle = colours.text;
      if (to - from > 48 || runs.length === 1) g.fillText(`run ${i + 1}`, Math.max(LEFT, from) + 2, 9);
      const step = stepFor(perPixel * (width - LEFT), Math.max(1, (width - LEFT) / 110));
      const first = Math.max(0, Math.ceil((u(LEFT) - offsets[i]) / step)), last = Math.min(Math.floor(run.wall / step), first + 200);
      g.fillStyle = g.strokeStyle = colours.faint;
      for (let k = first; k <= last; k += 1) {
        const at = x(offsets[i] + k * step);
        if (at > width) break;
        g.beginPath(); g.moveTo(at, AXIS - 6); g.lineTo(at, AXIS + nLanes * laneHeight); g.globalAlpha = 0.35; g.stroke(); g.globalAlpha = 1;
        const label = k ? `+${seconds(k * step)}` : "0", room = i + 1 < runs.length ? Math.min(width, x(offsets[i + 1])) : width;
        if (at + 7 + g.measureText(label).width < room) g.fillText(label, at + 3, AXIS - 9);
      }
    });
  }

  function drawLanes(g) {
    const left = u(LEFT), right = u(width), byState = colouring.value === "state";
    g.textBaseline = "middle";
    lanes.forEach((lane, number) => {
      const top = AXIS + number * laneHeight, tall = laneHeight - (laneHeight > 6 ? 2 : 0);
      const first = Math.max(0, behind(lane, left, lane.length, (i) => begin[lane[i]]) - 1);
      let covered = -1; // attempts narrower than a pixel are drawn once for that pixel
      for (let i = first; i < lane.length && begin[lane[i]] < right; i += 1) {
        const at = lane[i], from = Math.max(LEFT, x(begin[at])), to = Math.min(width, x(end[at]));
        if (to < LEFT || attempts.outcome[at] !== COMPLETED || to <= covered) continue;
        g.fillStyle = isGone(attempts.node[at]) ? colours.gone : byState ? colours.states[COMPLETED] : colours.groups[colourOfNode[attempts.node[at]]];
        const wide = Math.max(1, to - from - (to - from > 4 ? 1 : 0));
        g.fillRect(from, top, wide, tall);
        covered = Math.max(Math.floor(from) + 1, to);
      }
      for (let i = first; i < lane.length && begin[lane[i]] < right; i += 1) {
        const at = lane[i];
        if (attempts.outcome[at] === COMPLETED) continue;
        // Failures stay wide enough to be seen at every scale, and differ in shape, not in colour alone.
        const from = Math.max(LEFT, x(begin[at]) - 1), wide = Math.max(4, Math.min(width, x(end[at])) - from);
        if (from + wide < LEFT) continue;
        g.fillStyle = isGone(attempts.node[at]) ? colours.gone : colours.states[attempts.outcome[at]];
        g.fillRect(from, top, wide, tall);
        g.save(); g.beginPath(); g.rect(from, top, wide, tall); g.clip(); g.strokeStyle = colours.surface; g.lineWidth = 1.5; g.beginPath();
        const [start, stop] = attempts.outcome[at] === FAILED ? [top + tall, top] : [top, top + tall]; // failed and timed out lean apart
        for (let s = from - tall; s < Math.min(from + wide, from + 3000); s += 6) { g.moveTo(s, start); g.lineTo(s + tall, stop); }
        g.stroke(); g.restore();
      }
    });
    g.fillStyle = colours.text;
    g.textAlign = "right";
    const every = Math.max(1, Math.ceil(13 / laneHeight));
    for (let number = 0; number < nLanes; number += every) {
      const label = number === nSlots ? "main" : laneHeight > 12 && width > 500 ? `worker ${number}` : `w ${number}`;
      g.fillText(label, LEFT - 6, AXIS + number * laneHeight + laneHeight / 2);
    }
    g.textAlign = "left";
  }

  function drawStrip(g) {
    const top = AXIS + nLanes * laneHeight + GAP;
    g.fillStyle = colours.faint;
    g.globalAlpha = 0.12; g.fillRect(LEFT, top, width - LEFT, STRIP); g.globalAlpha = 1;
    g.fillStyle = colours.strip;
    let run = 0;
    for (let px = LEFT; px < width; px += 1) {
      const from = u(px), to = u(px + 1);
      while (run + 1 < runs.length && offsets[run + 1] <= from) run += 1;
      const share = Math.min(1, (usedUntil(to) - usedUntil(from)) / (to - from) / runs[run].slots);
      if (share > 0) g.fillRect(px, top + STRIP * (1 - share), 1, STRIP * share);
    }
    g.fillStyle = colours.text;
    g.textAlign = "right";
    g.fillText("CPU", LEFT - 6, top + STRIP / 2); g.fillStyle = colours.faint;
    g.fillText("100 %", LEFT - 6, top + 7); g.fillText("0 %", LEFT - 6, top + STRIP - 5);
    g.textAlign = "left";
  }

  function drawChosen(g) {
    if (chosen < 0) return;
    const lane = attempts.slot[chosen] < 0 ? nSlots : attempts.slot[chosen];
    const from = Math.max(LEFT, x(begin[chosen])), to = Math.min(width, x(end[chosen]));
    if (to < LEFT || from > width) return;
    g.strokeStyle = colours.text; g.lineWidth = 2.5;
    g.strokeRect(from - 1.5, AXIS + lane * laneHeight - 1.5, Math.max(3, to - from + 2), laneHeight + 1);
  }

  let asked = 0;
  const draw = () => { if (!asked) asked = requestAnimationFrame(drawNow); };
  function drawNow() {
    asked = 0;
    const scale = window.devicePixelRatio || 1, g = canvas.getContext("2d");
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale); canvas.height = Math.round(height * scale);
    }
    g.setTransform(scale, 0, 0, scale, 0, 0);
    g.clearRect(0, 0, width, height);
    drawAxis(g); drawLanes(g); drawStrip(g); drawChosen(g);
  }

  // --- moving ----------------------------------------------------------------------------------------------------------
  const selection = d3.select(canvas);
  // A wheel that only passes over the canvas scrolls the page; it zooms once the timeline has the focus, or with a key.
  const zoom = d3.zoom().filter((event) => (event.type === "wheel" ? event.ctrlKey || event.metaKey || box.contains(document.activeElement) : !event.button))
    .on("zoom", (event) => { transform = event.transform; draw(); });
  selection.call(zoom).on("dblclick.zoom", null);

  function resize() {
    const before = transform.k, middle = width ? u((LEFT + width) / 2) : whole / 2;
    width = Math.max(240, box.clientWidth);
    canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
    const inner = width - LEFT, most = Math.max(10, whole / 1e-5 / inner);
    zoom.extent([[LEFT, 0], [width, height]]).translateExtent([[LEFT, 0], [width, height]]).scaleExtent([1, most]);
    selection.call(zoom.transform, d3.zoomIdentity.translate((LEFT + width) / 2 - before * base(middle), 0).scale(before));
    draw();
  }
  const show = (from, to) => {
    const k = whole / Math.max(to - from, whole * 1e-9);
    selection.call(zoom.transform, d3.zoomIdentity.translate(LEFT - k * base(from), 0).scale(k));
  };
  const zoomBy = (factor) => selection.call(zoom.scaleBy, factor);
  const panBy = (share) => selection.call(zoom.translateBy, (share * (width - LEFT)) / transform.k, 0);

  function pick(at, follow) {
    chosen = at;
    const { name, figures } = describe(at);
    details.replaceChildren(element("strong", {}, element("bdi", {}, name)), ` ${figures}`);
    if (follow && (x(begin[at]) < LEFT || x(end[at]) > width)) {
      const span = u(width) - u(LEFT), middle = (begin[at] + end[at]) / 2;
      show(Math.max(0, middle - span / 2), Math.max(0, middle - span / 2) + span);
    }
    draw();
  }
  function under(event) {
    const [px, py] = d3.pointer(event, canvas), lane = lanes[Math.floor((py - AXIS) / laneHeight)];
    if (px < LEFT || !lane || py < AXIS) return -1;
    const i = behind(lane, u(px), lane.length, (k) => begin[lane[k]]);
    let best = -1, nearest = 4;
    for (const k of [i - 2, i - 1, i]) {
      const at = lane[k];
      if (at === undefined) continue;
      const distance = Math.max(x(begin[at]) - px, px - x(end[at]), 0);
      if (distance < nearest || (distance === nearest && distance === 0)) { nearest = distance; best = at; }
    }
    return best;
  }
  canvas.addEventListener("pointermove", (event) => {
    const at = event.buttons ? -1 : under(event);
    tip.hidden = at < 0;
    if (at < 0) return;
    const { name, figures } = describe(at);
    tip.replaceChildren(element("strong", {}, element("bdi", {}, name)), element("br"), figures);
    const [px, py] = d3.pointer(event, box);
    tip.style.left = `${Math.max(0, Math.min(px + 12, width - tip.offsetWidth - 4))}px`; tip.style.top = `${py + 16}px`;
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("click", (event) => {
    box.focus({ preventScroll: true });
    const at = under(event);
    if (at >= 0) { pick(at, false); if (!isGone(attempts.node[at])) choose(attempts.node[at], "timeline"); }
  });
  function step(by) {
    let at = chosen < 0 ? (by > 0 ? 0 : n - 1) : chosen + by;
    if (chosen < 0) { const left = u(LEFT); at = Math.min(n - 1, begin.findIndex((b) => b >= left)); at = at < 0 ? 0 : at; }
    if (at >= 0 && at < n) pick(at, true);
  }
  const keys = {
    ArrowLeft: () => panBy(0.15), ArrowRight: () => panBy(-0.15), "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5),
    0: () => show(0, whole), Home: () => show(0, whole), n: () => step(1), p: () => step(-1), Enter: () => { if (chosen >= 0 && !isGone(attempts.node[chosen])) choose(attempts.node[chosen], "timeline"); },
  };
  box.addEventListener("keydown", (event) => {
    const action = event.ctrlKey || event.metaKey || event.altKey ? undefined : keys[event.key];
    if (action) { event.preventDefault(); action(); }
  });
  document.getElementById("zoom-in").addEventListener("click", () => zoomBy(1.5));
  document.getElementById("zoom-out").addEventListener("click", () => zoomBy(1 / 1.5));
  document.getElementById("zoom-all").addEventListener("click", () => { runChoice.value = ""; show(0, whole); });
  runs.forEach((run, i) => runChoice.append(element("option", { value: i }, `run ${i + 1}: ${seconds(run.wall)}, ${run.how}`)));
  runChoice.addEventListener("change", () => {
    const i = Number(runChoice.value);
    if (runChoice.value === "") show(0, whole); else show(offsets[i], offsets[i] + Math.max(runs[i].wall, ran * 0.002));
  });
  colouring.addEventListener("change", () => { legend(); draw(); });
  onChoice((node, from) => {
    if (from === "timeline") return;
    const at = data.nodes.last[node];
    if (at >= 0) pick(at, true);
    else details.replaceChildren(element("strong", {}, element("bdi", {}, window.report.text(data.nodes.name[node]))), ` ${data.states[data.nodes.state[node]]}`);
    section.scrollIntoView({ block: "nearest" });
  });

  function legend() {
    const used = new Set(attempts.node.map((node) => colourOfNode[node]));
    const swatch = (name, label) => element("li", {}, element("span", { class: `swatch ${name}` }), element("bdi", {}, label));
    const outcomes = [...new Set(attempts.outcome.filter((_, at) => !isGone(attempts.node[at])))].filter((state) => state !== COMPLETED).map((state) => swatch(`${window.report.stateClass(state)} hatched`, data.states[state]));
    const usual = colouring.value === "state" ? [swatch("state-completed", data.states[COMPLETED])] : labels.flatMap((label, i) => (used.has(i) ? [swatch(`group-${i}`, window.report.short(label, 40))] : []));
    const gone = attempts.node.some(isGone) ? [swatch("gone", "no longer in the job")] : [];
    document.getElementById("lane-legend").replaceChildren(...usual, ...outcomes, ...gone);
  }

  style(); legend();
  new ResizeObserver(resize).observe(box);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { style(); draw(); });
  resize();
})();
