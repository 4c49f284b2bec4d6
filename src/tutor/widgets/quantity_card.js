// A card for one quantity: its curves against one variable, and beneath them value and slope.
//
// rows: [{ key, name, dashed }], drawn in this order.  A curve may have infinite values: those lie at the
// upper edge, marked with the sign.  `spots` are single places where a curve jumps to another value.
const WIDE = 200, HIGH = 64, EDGE = 6;
const element = (tag, attributes, ...children) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};

export function short(v) {
  if (v === undefined || Number.isNaN(v)) return "none";
  if (!Number.isFinite(v)) return v > 0 ? "\u221e" : "\u2212\u221e";
  const size = Math.abs(v);
  const text = size < 5e-4 ? "0" : size >= 1000 ? v.toPrecision(3) : String(Number(v.toPrecision(3)));
  return text.replace("-", "\u2212").replace(/e\+(\d+)/, "\u00b710^$1");
}

// range: { least, most } of the vertical axis where they are known beforehand.
export function makeCard(title, rows, { least = 0, most = 0 } = {}) {
  const box = document.createElement("section"), heading = document.createElement("p");
  box.className = "tutor-card";
  heading.className = "tutor-card-title";
  heading.innerHTML = title;
  const picture = element("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, class: "tutor-card-curve", "aria-hidden": "true" });
  const list = document.createElement("dl"), cells = {};
  for (const { key, name, dashed } of rows) {
    const line = document.createElement("div"), value = document.createElement("dd");
    const slope = document.createElement("dd"), term = document.createElement("dt");
    term.textContent = name;
    if (rows.length > 1) term.className = dashed ? "tutor-dashed" : "tutor-solid";
    slope.className = "tutor-slope";
    line.append(term, value, slope);
    list.append(line);
    cells[key] = { value, slope };
  }
  box.append(heading, picture, list);

  let places = null;
  // curves[key] = { values: [..] at xs, spots: [[x, value], ..] }
  function draw(xs, curves) {
    const low = xs[0], span = Math.max(xs[xs.length - 1] - low, 1e-12);
    const finite = rows.flatMap(({ key }) => [...curves[key].values, ...(curves[key].spots ?? []).map((s) => s[1])])
      .filter(Number.isFinite);
    const top = Math.max(most, least + 1e-9, ...finite) - least;
    const x = (s) => EDGE + ((WIDE - 2 * EDGE) * (s - low)) / span;
    const y = (v) => (v === Infinity ? EDGE : HIGH - EDGE - ((HIGH - 2 * EDGE) * (v - least)) / top);
    places = { x, y };
    picture.replaceChildren();
    if (low < 0 && low + span > 0)
      picture.append(element("line", { x1: x(0), x2: x(0), y1: EDGE / 2, y2: HIGH - EDGE / 2, class: "tutor-card-zero" }));
    for (const { key, dashed } of rows) {
      const { values, spots = [] } = curves[key];
      const points = values.map((v, k) => `${x(xs[k]).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
      picture.append(element("polyline", { points, class: dashed ? "tutor-card-dashed" : "tutor-card-line" }));
      if (values.some((v) => v === Infinity))
        picture.append(element("text", { x: 0.36 * WIDE, y: EDGE + 15 }, "\u221e"));
      for (const [s, v] of spots) {                    // a hole in the line, and where the value is
        picture.append(element("circle", { cx: x(s), cy: y(values[0]), r: 2.5, class: "tutor-card-hole" }));
        picture.append(element("circle", { cx: x(s), cy: y(v), r: 2.5, class: "tutor-card-spot" }));
      }
    }
    for (const { key } of rows) picture.append(cells[key].mark = element("circle", { r: 4, class: "tutor-card-mark" }));
  }

  const lean = (key, slope) => { cells[key].slope.textContent = `slope ${short(slope)}`; };
  // Values and slopes at s: { key: [value, slope] }.
  function mark(s, now) {
    for (const { key, name } of rows) {
      const [value, slope] = now[key], cell = cells[key];
      cell.value.textContent = short(value);
      lean(key, slope);
      if (!places || !cell.mark) continue;
      cell.mark.setAttribute("cx", places.x(s));
      cell.mark.setAttribute("cy", Math.min(HIGH - EDGE / 2, Math.max(EDGE / 2, places.y(value))));
    }
  }
  return { node: box, heading, draw, mark, lean };
}
