// Elements, numbers and marks. Text only ever goes in as text.

const SVG = "http://www.w3.org/2000/svg";
const DATA = JSON.parse(document.getElementById("data").textContent);

function build(make, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) make.setAttribute(name, value);
  make.append(...children);
  return make;
}

function svg(tag, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

function html(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value).replace("-", "−");
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3
    ? value.toExponential(digits - 1)
    : String(Number(value.toPrecision(digits)));
  return text.replaceAll("-", "−");
}

function interval([low, high]) {
  if (low === null && high === null) return "";
  const end = high === null ? "no upper end" : number(high);
  return `${number(low)} to ${end}`;
}

function value(row, column) {
  return row[DATA.columns.indexOf(column)];
}

const SHAPES = {
  o: (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  s: (r) => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  v: (r) => `M${-r} ${-r * 0.9}h${2 * r}L0 ${r}z`,
  D: (r) => `M0 ${-r * 1.2}L${r * 1.2} 0L0 ${r * 1.2}L${-r * 1.2} 0z`,
};
const KINDS = Object.fromEntries(DATA.kinds.map((kind) => [kind.key, kind]));

function mark(shape, filled, className, x, y, r = 4.5) {
  return svg("path", {
    class: `m ${className}${filled ? " filled" : ""}`,
    d: SHAPES[shape](r),
    transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
  });
}

function kindMark(key, x, y) {
  const kind = KINDS[key];
  return mark(kind.mark, kind.filled, kind.key, x, y);
}

function swatch(className, text) {
  return html("span", { class: "key" }, html("span", { class: `swatch ${className}` }), text);
}
