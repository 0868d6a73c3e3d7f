// The pictures: of one matrix, and over all of them.

function limits(values) {
  const there = values.filter((v) => v > 0);
  return [Math.min(...there), Math.max(...there)];
}

function steps(f, edges, heights, className, closed) {
  let d = "", open = false;
  heights.forEach((h, i) => {
    const a = f.sx(edges[i]).toFixed(1), b = f.sx(edges[i + 1]).toFixed(1);
    const y = h > 0 ? f.sy(h).toFixed(1) : f.bottom + 2;
    if (closed) {
      if (h > 0) d += `M${a} ${f.bottom}V${y}H${b}V${f.bottom}Z`;
      return;
    }
    d += `${open ? "V" + y : `M${a} ${y}`}H${b}`;
    open = true;
  });
  return svg("path", { class: className, d });
}

function drawESD(holder, row, curves) {
  const [low, high] = limits(curves.density);
  const y = { log: true, min: low / 3, max: high * 2.5, title: "density" };
  const x = { log: true, min: curves.edges[0], max: curves.edges.at(-1), title: "eigenvalue λ" };
  const law = curves.tail ? `; a power law with alpha ${number(value(row, "alpha"))} from ${number(value(row, "xmin"))} on` : "";
  const bulk = curves.bulk ? `; a Marchenko-Pastur bulk up to ${number(curves.bulk[0].at(-1))}` : "";
  const label = `Histogram of ${value(row, "num_evals")} eigenvalues up to ${number(value(row, "lambda_max"))}, both axes logarithmic${law}${bulk}.`;
  const f = frame(holder, { height: 260, x, y, label });
  f.plot.append(steps(f, curves.edges, curves.density, "bars", true));
  if (curves.bulk) f.plot.append(svg("path", { class: "curve bulk", d: path(f, ...curves.bulk) }));
  if (curves.tail) {
    const at = f.sx(value(row, "xmin"));
    f.plot.append(svg("path", { class: "rule", d: `M${at} ${f.top}V${f.bottom}` }),
      band(f, curves.tail, "law", y.min / 10),
      svg("path", { class: "curve law", d: path(f, curves.tail[0], curves.tail[1]) }));
  }
}

function drawSurvival(holder, row, curves) {
  const [xs, shares] = curves.survival;
  const [low, high] = limits(shares);
  const least = Math.max(Math.min(...xs), Math.max(...xs) * 1e-6);
  const x = { log: true, min: least, max: xs[0] * 1.05, title: "eigenvalue λ" };
  const y = { log: true, min: low / 2, max: high * 1.3, title: "share at least as large" };
  const label = "Share of the eigenvalues that are at least as large, both axes logarithmic"
    + (curves.tail_survival ? ", with the fitted power law and its band." : ".");
  const f = frame(holder, { height: 260, x, y, label });
  if (curves.tail_survival) {
    f.plot.append(band(f, curves.tail_survival, "law", y.min / 10),
      svg("path", { class: "curve law", d: path(f, curves.tail_survival[0], curves.tail_survival[1]) }));
  }
  const r = 2.2;
  const dots = xs.map((v, i) => `M${(f.sx(v) - r).toFixed(1)} ${f.sy(shares[i]).toFixed(1)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`);
  f.plot.append(svg("path", { class: "dots", d: dots.join("") }));
}

function drawHill(holder, row, curves) {
  const [k, alpha, low, high] = curves.hill;
  const settled = high.filter((v, i) => k[i] >= Math.min(10, k.at(-1)));
  const y = { min: 1, max: Math.max(...settled) * 1.1, title: "alpha" };
  const x = { log: true, min: k[0], max: Math.max(k.at(-1), k[0] + 1), title: "largest eigenvalues k" };
  const here = value(row, "alpha") === null ? "" : ` The fit has k = ${value(row, "num_pl_spikes")}.`;
  const label = `Hill's estimate of alpha against the number of largest eigenvalues, with its band: ${number(alpha.at(-1))} from all.${here}`;
  const f = frame(holder, { height: 260, x, y, label });
  f.plot.append(band(f, curves.hill, "values", 0),
    svg("path", { class: "curve values", d: path(f, k, alpha) }));
  if (here) f.plot.append(mark("o", true, "side1", f.sx(value(row, "num_pl_spikes")), f.sy(value(row, "alpha"))));
}

function drawBoth(holder, row, other) {
  const [low, high] = limits(other.densities.flat());
  const y = { log: true, min: low / 3, max: high * 2.5, title: "density" };
  const x = { log: true, min: other.edges[0], max: other.edges.at(-1), title: "eigenvalue λ" };
  const f = frame(holder, { height: 260, x, y,
    label: "Histograms of the eigenvalues in both checkpoints, with the fitted tails." });
  ["values", "law"].forEach((className, i) => {
    f.plot.append(steps(f, other.edges, other.densities[i], `outline ${className}`, false));
    const tail = other.tails[i];
    if (tail) f.plot.append(band(f, tail, className, y.min / 10),
      svg("path", { class: `curve ${className}`, d: path(f, tail[0], tail[1]) }));
  });
}

// Points over depth: one tab stop, arrow keys between points. `points`: place, y, interval, marks.
function drawDepth(holder, { points, y, title, label, zone, names, crowd = 3 }) {
  const count = names.length;
  const x = { min: -0.6, max: count - 0.4, title: "matrix, from first to last", whole: true, names };
  const axis = { log: true, min: y[0], max: y[1], title };
  const height = 300;
  if (zone) axis.ticks = alphaTicks(y, height - 48);
  const f = frame(holder, { height, x, y: axis, label, interactive: true });
  if (zone) {
    const top = f.sy(Math.min(zone[1], y[1])), bottom = f.sy(Math.max(zone[0], y[0]));
    f.plot.append(svg("rect", { class: "zone", x: f.left, y: top, width: f.right - f.left, height: bottom - top }));
  }
  const r = Math.max(2.2, Math.min(4.5, (f.right - f.left) / count / crowd));
  const made = points.filter((p) => p.y !== null).map((p) => {
    const cx = f.sx(p.at), cy = f.sy(p.y);
    const group = svg("g", { class: "point", role: "button", tabindex: "-1", "aria-label": p.lines.join("; ") });
    if (p.interval && p.interval[0] !== null) {
      const high = p.interval[1] === null ? y[1] : p.interval[1];
      const ends = [p.interval[0], high].map((v) => f.sy(Math.min(Math.max(v, y[0]), y[1])));
      group.append(svg("path", { class: `whisker ${p.className}`, d: `M${cx} ${ends[0]}V${ends[1]}` }));
    }
    group.append(svg("circle", { class: "halo", cx, cy, r: r + 5 }),
      mark(p.mark, p.filled, p.className, cx, cy, r));
    f.root.append(group);
    return { ...p, group, cx, cy };
  });
  if (made.length) pointing(f, made);
}
