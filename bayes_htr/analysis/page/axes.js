// Scales, ticks and the frame of a picture. A picture is drawn at the width that it has.

const SUPERSCRIPT = Object.fromEntries([..."-0123456789"].map((c, i) => [c, "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"[i]]));
const ALPHAS = [2, 6, 1, 4, 10, 20, 3, 50, 100, 1000, 1.5, 8, 15, 30, 200, 500];
let clips = 0;

function scale(axis, start, end) {
  const f = axis.log ? Math.log : (v) => v;
  const low = f(axis.min), high = f(axis.max);
  return (v) => start + ((f(v) - low) / (high - low)) * (end - start);
}

function decade(k) {
  if (k >= -2 && k <= 3) return String(Number((10 ** k).toPrecision(1)));
  return "10" + [...String(k)].map((c) => SUPERSCRIPT[c]).join("");
}

function ticks(axis, length, gap) {
  if (axis.ticks) return axis.ticks;
  if (!axis.log) {
    const raw = ((axis.max - axis.min) * gap) / length;
    const unit = 10 ** Math.floor(Math.log10(raw));
    let step = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= raw);
    if (axis.whole) step = Math.max(1, Math.round(step));
    const found = [];
    for (let i = Math.ceil(axis.min / step); i * step <= axis.max; i++) {
      found.push({ at: i * step, text: number(Number((i * step).toPrecision(12)), 6) });
    }
    return found;
  }
  const low = Math.log10(axis.min), high = Math.log10(axis.max);
  const found = [];
  if (high - low < 2.2) {
    for (let k = Math.floor(low); k <= high; k++) {
      for (const m of high - low < 1.5 ? [1, 2, 5] : [1, 3]) {
        const at = m * 10 ** k;
        if (at >= axis.min && at <= axis.max) found.push({ at, text: number(at, 1) });
      }
    }
    if (found.length >= 2) return found;
  }
  const every = Math.max(1, Math.ceil(((high - low) * gap) / length));
  for (let k = Math.ceil(low / every) * every; k <= high; k += every) {
    found.push({ at: 10 ** k, text: decade(k) });
  }
  return found.length ? found : [axis.min, axis.max].map((at) => ({ at, text: number(at, 2) }));
}

function alphaTicks(limits, length) {
  const place = scale({ log: true, min: limits[0], max: limits[1] }, 0, length);
  const found = [];
  for (const at of ALPHAS) {
    if (at < limits[0] || at > limits[1]) continue;
    if (found.every((t) => Math.abs(place(t.at) - place(at)) >= 18)) found.push({ at, text: String(at) });
  }
  return found;
}

// Names in place of numbers where each has 15 pixels; the end of a long one tells most.
function namesThatFit(names, length) {
  if (!names || names.length * 15 > length) return null;
  return names.map((name) => (name.length > 26 ? `${name.slice(0, 8)}…${name.slice(-17)}` : name));
}

function namesHeight(names) {
  return 6.6 * Math.max(...names.map((name) => name.length));
}

// A framed picture: scales x and y, and groups to draw in, of which `plot` is clipped.
function frame(holder, { height, x, y, label, interactive = false }) {
  const width = Math.max(240, Math.floor(holder.clientWidth));
  const left = 52, right = width - 8, top = 8;
  const names = namesThatFit(x.names, right - left);
  if (names) height += namesHeight(names);
  const bottom = height - (names ? 30 + namesHeight(names) : 40);
  const root = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, width, height,
    role: interactive ? "group" : "img", "aria-label": label,
  });
  const id = `clip-${clips++}`;
  root.append(svg("clipPath", { id },
    svg("rect", { x: left, y: top, width: right - left, height: bottom - top })));
  const sx = scale(x, left, right), sy = scale(y, bottom, top);
  const back = svg("g", { "aria-hidden": "true" });
  for (const t of ticks(y, bottom - top, 34)) {
    const at = sy(t.at);
    back.append(svg("path", { class: "gridline", d: `M${left} ${at}H${right}` }),
      svg("text", { x: left - 7, y: at + 4, "text-anchor": "end" }, t.text));
  }
  for (const [i, text] of (names || []).entries()) {
    const at = sx(i);
    back.append(svg("path", { class: "axis", d: `M${at} ${bottom}v5` }),
      svg("text", { class: "long", x: 0, y: 4, "text-anchor": "end",
        transform: `translate(${at} ${bottom + 9}) rotate(-90)` }, text));
  }
  for (const t of names ? [] : ticks(x, right - left, 52)) {
    const at = sx(t.at);
    back.append(svg("path", { class: "axis", d: `M${at} ${bottom}v5` }),
      svg("text", { x: at, y: bottom + 19, "text-anchor": "middle" }, t.text));
  }
  back.append(svg("path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` }),
    svg("text", { class: "title", x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, x.title),
    svg("text", { class: "title", x: 12, y: (top + bottom) / 2, "text-anchor": "middle",
      transform: `rotate(-90 12 ${(top + bottom) / 2})` }, y.title));
  const plot = svg("g", { "clip-path": `url(#${id})`, "aria-hidden": "true" });
  root.append(back, plot);
  holder.replaceChildren(root);
  return { root, plot, sx, sy, left, right, top, bottom, width, height };
}

function path(f, xs, ys) {
  let d = "", pen = "M";
  xs.forEach((v, i) => {
    if (!(ys[i] > 0)) { pen = "M"; return; }
    d += `${pen}${f.sx(v).toFixed(1)} ${f.sy(ys[i]).toFixed(1)}`;
    pen = "L";
  });
  return d;
}

function band(f, [xs, , low, high], className, floor) {
  const there = xs.map((v) => f.sx(v).toFixed(1));
  const up = high.map((v, i) => `${there[i]} ${f.sy(Math.max(v, floor)).toFixed(1)}`);
  const down = low.map((v, i) => `${there[i]} ${f.sy(Math.max(v, floor)).toFixed(1)}`).reverse();
  return svg("path", { class: `band ${className}`, d: `M${up.concat(down).join("L")}Z` });
}

// Draw now, and again when the width has changed.
const drawn = new Map();
const watcher = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const known = drawn.get(target), width = Math.floor(target.clientWidth);
    if (width && known.width !== width) {
      known.width = width;
      known.draw(target);
    }
  }
});
function picture(holder, draw) {
  drawn.set(holder, { draw, width: 0 });
  watcher.observe(holder);
}
