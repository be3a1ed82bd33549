
"use strict";
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const count = (value) => Math.round(value).toLocaleString("en");
const short = (value) => (Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(4)));
const thousands = (value) => (value >= 1e6 ? `${+(value / 1e6).toPrecision(3)}M` : value >= 1e3 ? `${+(value / 1e3).toPrecision(3)}k` : String(value));
const state = { hidden: new Set(), images: null }; // of the reader; a page that renews itself keeps it
let drawn = []; // the charts
let playing = 0;

// The table: sort it by a column, first upwards, then downwards. What is empty comes last.
function sortable() {
  const table = document.getElementById("results");
  for (const head of table.tHead.rows[0].cells) {
    head.firstChild.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      const number = head.dataset.kind === "number";
      const value = (row) => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent;
      const order = (a, b) => (number ? a - b : a.localeCompare(b, "en", { numeric: true })) * (up ? 1 : -1);
      const rows = [...table.tBodies[0].rows].sort((one, other) => {
        const [a, b] = [value(one), value(other)];
        return a === "" || b === "" ? (a === "") - (b === "") : order(a, b);
      });
      table.tBodies[0].append(...rows);
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
    });
  }
}

// Pictures: every run shows its last samples of at most so many images seen.
function pictures() {
  for (const frame of all(".frame")) frame.addEventListener("click", () => frame.parentNode.classList.toggle("large"));
  const times = [...new Set(all("[data-images]").map((image) => +image.dataset.images))].sort((a, b) => a - b);
  if (times.length < 2) return;
  const [slider, play] = [document.getElementById("moment"), document.getElementById("play")];
  const last = times.length - 1;
  const show = () => {
    const moment = times[slider.value];
    state.images = +slider.value === last ? null : moment; // at the end, a page that renews itself stays at the end
    document.getElementById("seen").value = `${count(moment)} images`;
    for (const card of all(".card[data-run]")) {
      const frames = all("img", card);
      const shown = frames.filter((frame) => +frame.dataset.images <= moment).pop() ?? frames[0];
      for (const frame of frames) frame.hidden = frame !== shown;
      card.querySelector(".when").textContent = `${count(shown.dataset.images)} images`;
    }
  };
  const stop = () => {
    clearInterval(playing);
    play.textContent = "\u25b6";
    play.setAttribute("aria-label", "Play");
    playing = 0;
  };
  slider.max = last;
  slider.value = state.images === null ? last : times.findLastIndex((time) => time <= state.images);
  slider.addEventListener("input", () => { stop(); show(); });
  play.addEventListener("click", () => {
    if (playing) return stop();
    if (+slider.value === last) slider.value = 0;
    play.textContent = "\u275a\u275a";
    play.setAttribute("aria-label", "Pause");
    show();
    playing = setInterval(() => {
      slider.value = +slider.value + 1;
      show();
      if (+slider.value === last) stop();
    }, 350);
    return undefined;
  });
  document.getElementById("time").hidden = false;
  stop();
  show();
}

// Curves: values under the pointer in all charts at once, zoom by dragging.
function chart(figure, { log, lines }, runs) {
  const place = figure.querySelector(".plot");
  const [values, at] = [figure.querySelector(".values"), figure.querySelector(".at")];
  const data = uPlot.join(lines.map((line) => [line.x, line.y]), lines.map((line) => line.y.map(() => 2)));
  const ink = (line) => () => colour(`--c${line.run % 8}`);
  const axis = {
    stroke: () => colour("--soft"), font: "11px system-ui, sans-serif",
    grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false },
  };
  // The value of a line that is nearest in time: runs are measured at different times.
  const nearest = (line, x) => {
    const distance = (i) => Math.abs(line.x[i] - x);
    return short(line.y[x === null ? line.x.length - 1 : line.x.reduce((best, _, i) => (distance(i) < distance(best) ? i : best), 0)]);
  };
  const tell = (plot) => {
    const x = plot.cursor.idx == null ? null : data[0][plot.cursor.idx];
    at.textContent = x === null ? "" : `${count(x)} images`;
    values.replaceChildren(...[...new Set(lines.map((line) => line.run))].filter((run) => !state.hidden.has(run)).map((run) => {
      const own = (kind) => lines.filter((line) => line.run === run && line.kind === kind).map((line) => nearest(line, x)).join(" ");
      const [entry, swatch, held] = ["span", "i", "small"].map((tag) => document.createElement(tag));
      swatch.className = `swatch c${run % 8}`;
      entry.title = runs[run];
      held.textContent = own("held") && `(${own("held")})`;
      entry.append(swatch, own("plain"), held);
      return entry;
    }));
  };
  const plot = new uPlot({
    width: place.clientWidth, height: 220, legend: { show: false }, padding: [10, 12, 0, 0],
    cursor: { sync: { key: "images" }, drag: { x: true, y: false, setScale: true }, focus: { prox: -1 } },
    scales: { x: { time: false }, y: { distr: log ? 3 : 1 } },
    axes: [
      { ...axis, size: 26, values: (_, ticks) => ticks.map(thousands) },
      { ...axis, size: 54, values: (_, ticks) => ticks.map((tick) => (tick === null ? null : short(tick))) },
    ],
    series: [{}, ...lines.map((line) => ({
      stroke: ink(line), width: line.kind === "plain" ? 2 : 1, spanGaps: true, alpha: line.kind === "faint" ? 0.4 : 1,
      dash: line.kind === "held" ? [5, 4] : undefined, show: !state.hidden.has(line.run),
      points: { show: line.x.length === 1, size: 7, fill: ink(line) },
    }))],
    hooks: { setCursor: [tell] },
  }, data, place);
  for (const kind of ["touchstart", "touchmove"]) { // a finger is a pointer, too
    plot.over.addEventListener(kind, (event) => {
      const box = plot.over.getBoundingClientRect();
      plot.setCursor({ left: event.touches[0].clientX - box.left, top: event.touches[0].clientY - box.top });
    }, { passive: true });
  }
  new ResizeObserver(() => { if (place.clientWidth) plot.setSize({ width: place.clientWidth, height: 220 }); }).observe(place);
  tell(plot);
  return { plot, lines, tell };
}

function curves() {
  const { runs, charts } = JSON.parse(document.getElementById("numbers").textContent);
  drawn = [];
  const near = new IntersectionObserver((entries) => { // what nobody has scrolled to is not drawn yet
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      drawn.push(chart(target, charts[target.dataset.chart], runs));
    }
  }, { rootMargin: "400px" });
  for (const figure of all("[data-chart]")) near.observe(figure);
  const hide = (button) => {
    const run = +button.dataset.run;
    button.setAttribute("aria-pressed", !state.hidden.has(run));
    for (const card of all(`.card[data-run="${run}"]`)) card.classList.toggle("off", state.hidden.has(run));
  };
  for (const button of all(".legend button")) {
    hide(button);
    button.addEventListener("click", () => {
      const run = +button.dataset.run;
      if (!state.hidden.delete(run)) state.hidden.add(run);
      hide(button);
      for (const { plot, lines, tell } of drawn) {
        lines.forEach((line, i) => { if (line.run === run) plot.setSeries(i + 1, { show: !state.hidden.has(run) }); });
        tell(plot);
      }
    });
  }
}

function start() {
  sortable();
  pictures();
  curves();
}

// Ask the server for a newer page, and put its content in place. What the reader has opened stays open.
async function renew(version) {
  const live = document.getElementById("live");
  let now = version;
  try {
    now = await (await fetch("version", { cache: "no-store" })).text();
    live.className = "";
    live.textContent = "live";
    if (version !== null && now !== version && !playing) {
      const text = await (await fetch("./", { cache: "no-store" })).text();
      const page = new DOMParser().parseFromString(text, "text/html");
      for (const old of all("details[id]")) {
        const fresh = page.getElementById(old.id);
        if (fresh) fresh.open = old.open;
      }
      for (const { plot } of drawn) plot.destroy();
      document.querySelector("main").replaceWith(page.querySelector("main"));
      document.getElementById("made").firstChild.replaceWith(page.getElementById("made").firstChild);
      start();
    } else if (playing) {
      now = version;
    }
  } catch {
    live.className = "over";
    live.textContent = "not live any more";
  }
  setTimeout(() => renew(now), 2000);
}

start();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const { plot } of drawn) plot.redraw(); });
if ("live" in document.documentElement.dataset) renew(null);
