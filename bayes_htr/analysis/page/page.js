// What the page does: points with tips, rows that open, sorting, finding, colours.

const tip = document.getElementById("tip");

function showTip(f, p) {
  const box = f.root.getBoundingClientRect(), ratio = box.width / f.width;
  tip.replaceChildren(html("b", {}, p.lines[0]), ...p.lines.slice(1).flatMap((l) => [l, html("br")]));
  tip.hidden = false;
  const room = document.documentElement.clientWidth;
  const left = box.left + p.cx * ratio - tip.offsetWidth / 2;
  tip.style.left = `${Math.max(8, Math.min(left, room - tip.offsetWidth - 8))}px`;
  const above = box.top + p.cy * ratio - tip.offsetHeight - 14;
  tip.style.top = `${above > 4 ? above : box.top + p.cy * ratio + 16}px`;
}

function pointing(f, points) {
  let active = null, touched = null;
  const leave = () => {
    if (active) active.group.classList.remove("active");
    active = null;
    tip.hidden = true;
  };
  const enter = (p) => {
    if (active !== p) leave();
    active = p;
    p.group.classList.add("active");
    showTip(f, p);
  };
  const nearest = (event) => {
    const box = f.root.getBoundingClientRect(), ratio = f.width / box.width;
    const x = (event.clientX - box.left) * ratio, y = (event.clientY - box.top) * ratio;
    const far = (p) => Math.abs(p.cx - x) + 0.15 * Math.abs(p.cy - y);
    const best = points.reduce((a, b) => (far(b) < far(a) ? b : a));
    return Math.abs(best.cx - x) < 40 ? best : null;
  };
  points[0].group.setAttribute("tabindex", "0");
  points.forEach((p, i) => {
    p.group.addEventListener("focus", () => enter(p));
    p.group.addEventListener("blur", leave);
    p.group.addEventListener("keydown", (event) => {
      const go = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: points.length - 1 }[event.key];
      if (points[go]) {
        p.group.setAttribute("tabindex", "-1");
        points[go].group.setAttribute("tabindex", "0");
        points[go].group.focus();
        event.preventDefault();
      } else if (event.key === "Enter" || event.key === " ") {
        reveal(p.row);
        event.preventDefault();
      } else if (event.key === "Escape") {
        tip.hidden = true;
      }
    });
  });
  f.root.addEventListener("pointermove", (event) => {
    const p = nearest(event);
    if (p) enter(p); else leave();
  });
  f.root.addEventListener("pointerleave", leave);
  f.root.addEventListener("click", (event) => {  // a first touch shows, a second one opens
    const p = nearest(event);
    if (!p) return;
    enter(p);
    if (event.pointerType === "touch" && touched !== p) touched = p; else reveal(p.row);
  });
}

// The pictures of all matrices.
function describe(row, layer, verdict) {
  const level = `${Number((100 * DATA.level).toPrecision(4))} % interval`;
  const ends = interval(layer.interval);
  return [value(row, "name"), `alpha ${number(value(row, "alpha"))}${ends && `, ${level} ${ends}`}`, verdict];
}

picture(document.getElementById("chart-alpha"), (holder) => drawDepth(holder, {
  points: DATA.rows.map((row, i) => {
    const layer = DATA.layers[i], kind = KINDS[layer.kind];
    return { at: i, row: i, y: value(row, "alpha"), interval: layer.interval, mark: kind.mark,
      filled: kind.filled, className: kind.key, lines: describe(row, layer, value(row, "verdict")) };
  }),
  y: DATA.alpha_limits, title: "alpha (logarithmic)", zone: [2, 6], names: DATA.rows.map((row) => value(row, "name")),
  label: `Alpha with its interval for ${DATA.rows.length} matrices. The table below has the same values.`,
}));

function comparedPoints(quantity) {
  const { sides, places, labels } = DATA.comparison;
  return places.flatMap((place, i) => [0, 1].map((side) => {
    const it = sides[side][i], kind = KINDS[it.kind];
    const shown = quantity === "alpha"
      ? `alpha ${number(it.alpha)}${it.interval[0] === null ? "" : `, ${interval(it.interval)}`}`
      : `largest eigenvalue ${number(it.lambda_max)}`;
    return { at: i + (side - 0.5) * 0.34, row: place, y: it[quantity],
      interval: quantity === "alpha" ? it.interval : null, mark: "os"[side],
      filled: quantity !== "alpha" || kind.filled, className: `side${side}`,
      lines: [value(DATA.rows[place], "name"), labels[side], shown] };
  }));
}

if (DATA.comparison) {
  const { alpha_limits: y, places } = DATA.comparison;
  const count = places.length, names = places.map((place) => value(DATA.rows[place], "name"));
  picture(document.getElementById("chart-compared-alpha"), (holder) => drawDepth(holder, {
    points: comparedPoints("alpha"), y, title: "alpha (logarithmic)", zone: [2, 6], names, crowd: 6,
    label: `Alpha with its interval in both checkpoints, for ${count} matrices. The table below has the differences.`,
  }));
  const points = comparedPoints("lambda_max").filter((p) => p.y > 0);
  const [low, high] = limits(points.map((p) => p.y));
  if (points.length) picture(document.getElementById("chart-compared-lambda"), (holder) => drawDepth(holder, {
    points, y: [low / 1.5, high * 1.5], title: "largest eigenvalue", zone: null, names, crowd: 6,
    label: `The largest eigenvalue in both checkpoints, for ${count} matrices. The table below has the ratios.`,
  }));
}

// Rows that open.
const table = document.getElementById("table");
const bodies = [...table.tBodies];

function figure(grid, title, draw, ...caption) {
  const holder = html("div", { class: "chart" });
  grid.append(html("figure", {}, html("h3", {}, title), holder, html("figcaption", {}, ...caption)));
  picture(holder, draw);
}

function fill(i, inside) {
  const row = DATA.rows[i], { curves, other, interval: ends } = DATA.layers[i];
  const grid = html("div", { class: other ? "grid two" : "grid" });
  inside.append(grid);
  if (!curves.edges) grid.append(html("p", { class: "note" }, `There is nothing to draw: ${value(row, "verdict")}.`));
  else {
    const keys = [swatch("values", "eigenvalues")];
    if (curves.bulk) keys.push(swatch("bulk", "Marchenko-Pastur"));
    if (curves.tail) keys.push(swatch("law", `alpha ${number(value(row, "alpha"))} (${interval(ends)})`));
    if (curves.left_out) keys.push(html("span", {}, `${curves.left_out} smaller ones are not shown.`));
    figure(grid, "Spectrum", (h) => drawESD(h, row, curves), ...keys);
    figure(grid, "Share at least as large", (h) => drawSurvival(h, row, curves),
      swatch("values", "eigenvalues"), ...(curves.tail ? [swatch("law", "power law")] : []));
    if (curves.hill) figure(grid, "Hill curve", (h) => drawHill(h, row, curves),
      "Alpha from the k largest; the dot is the fit.");
  }
  if (other && other.edges) figure(grid, "Both checkpoints", (h) => drawBoth(h, row, other),
    swatch("line0", "first"), swatch("law", "second"));
  const lines = DATA.columns.map((name, c) => html("tr", { role: "row" },
    html("th", { role: "rowheader", scope: "row" }, name),
    html("td", { role: "cell", class: "n" }, number(row[c], 6)),
    html("td", { role: "cell", class: "meaning" }, DATA.meanings[name])));
  inside.append(html("details", {}, html("summary", {}, "All numbers"),
    html("table", { role: "table", class: "small" }, html("tbody", { role: "rowgroup" }, ...lines))));
}

function open(i, wanted) {
  const button = document.querySelector(`#row-${i} button`);
  const detail = document.getElementById(`detail-${i}`);
  const inside = detail.querySelector(".inside");
  button.setAttribute("aria-expanded", String(wanted));
  detail.hidden = !wanted;
  if (wanted && !inside.firstChild) fill(i, inside);
}

function reveal(i) {
  const body = bodies[i];
  body.hidden = false;
  open(i, true);
  body.scrollIntoView({ block: "start" });
  body.querySelector("button").focus({ preventScroll: true });
}

bodies.forEach((body, i) => {
  const name = document.getElementById(`row-${i}`);
  const button = html("button", { type: "button", "aria-expanded": "false", "aria-controls": `detail-${i}` });
  button.append(...name.childNodes);
  name.append(button);
  body.rows[0].addEventListener("click", () => {
    if (String(getSelection())) return;
    open(i, button.getAttribute("aria-expanded") !== "true");
  });
});

// Sorting: what is not defined comes last.
const heads = [...table.tHead.rows[0].cells];
function sortBy(head) {
  const up = head.getAttribute("aria-sort") !== "ascending";
  const column = head.dataset.column;
  const key = bodies.map((_, i) => value(DATA.rows[i], column));
  const order = bodies.map((_, i) => i).sort((a, b) => {
    if (key[a] === null || key[b] === null) return (key[a] === null) - (key[b] === null) || a - b;
    const less = typeof key[a] === "string"
      ? key[a].localeCompare(key[b], "en", { numeric: true }) : key[a] - key[b];
    return (up ? less : -less) || a - b;
  });
  for (const h of heads) h.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  table.append(...order.map((i) => bodies[i]));
}
for (const head of heads) {
  const button = html("button", { type: "button" }, head.textContent);
  head.replaceChildren(button);
  button.addEventListener("click", () => sortBy(head));
}

table.classList.add("sortable");

// A region is a stop of the keyboard only where there is something to scroll.
for (const region of document.querySelectorAll(".scroll")) {
  const watcher = new ResizeObserver(() => {
    if (region.scrollWidth > region.clientWidth) region.setAttribute("tabindex", "0");
    else region.removeAttribute("tabindex");
  });
  watcher.observe(region);
  watcher.observe(region.firstElementChild);
}

// Finding, and opening all that is found.
const find = document.getElementById("find"), all = document.getElementById("all");
find.addEventListener("input", () => {
  const words = find.value.toLowerCase();
  bodies.forEach((body, i) => {
    const text = `${value(DATA.rows[i], "name")} ${value(DATA.rows[i], "verdict")}`.toLowerCase();
    body.hidden = !text.includes(words);
  });
  const shown = bodies.filter((b) => !b.hidden).length;
  document.getElementById("found").textContent = words ? `${shown} of ${bodies.length}` : "";
});
all.addEventListener("click", () => {
  const wanted = all.textContent === "Open all";
  bodies.forEach((body, i) => { if (!body.hidden || !wanted) open(i, wanted); });
  all.textContent = wanted ? "Close all" : "Open all";
});
document.querySelector(".tools").hidden = false;

for (const place of document.querySelectorAll("svg[data-mark]")) place.append(kindMark(place.dataset.mark, 8, 8));

// Colours: as the system has them until the button is pressed.
const theme = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
function nameTheme() {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", `Change to ${isDark() ? "light" : "dark"} colours`);
}
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
system.addEventListener("change", nameTheme);
theme.hidden = false;
nameTheme();
