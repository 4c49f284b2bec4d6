// A small curve of the distance over training, with its noise floor and the moment shown.
const svg = (tag, attributes) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};

export function makeCurve() {
  const node = svg("svg", {
    viewBox: "0 0 200 64", class: "tutor-curve", role: "img",
    "aria-label": "Energy distance over training on a logarithmic scale, and the noise floor",
  });
  let marker = null, places = [];
  // The scale ends at half the floor: near it an estimate may come out negative.
  function draw({ energy, floor }) {
    node.replaceChildren();
    marker = null;
    if (energy.length < 2) return;
    const positive = energy.filter((v) => v > 0);
    const least = 0.5 * Math.min(...(floor.length ? floor : positive), Infinity);
    if (!Number.isFinite(least)) return;
    const most = Math.max(2 * least, ...positive);
    const x = (k) => 5 + (190 * k) / (energy.length - 1);          // as on the slider
    const y = (v) => 5 + (54 * Math.log(most / Math.max(v, least))) / Math.log(most / least);
    const line = (values, name) => {
      const points = values.map((v, k) => `${x(k).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
      return svg("polyline", { points, class: name });
    };
    places = energy.map((v, k) => [x(k), y(v)]);
    marker = svg("circle", { r: 4 });
    if (floor.length) node.append(line(floor, "tutor-level"));
    node.append(line(energy, "tutor-energy"), marker);
  }
  function mark(k) {
    if (!marker || !(k in places)) return;
    marker.setAttribute("cx", places[k][0]);
    marker.setAttribute("cy", places[k][1]);
  }
  return { node, draw, mark };
}
