// A table of numbers in [-1, 1] whose cells are the darker the larger they are; null is unknown.
import { h } from "./page.js";

const entry = (v) => (v === null ? "\u2013" : v.toFixed(2).replace(/^-(?=0\.00)/, "").replace("-", "\u2212"));
const parts = (hex) => hex.match(/[\da-f]{2}/gi).map((v) => parseInt(v, 16));

// names of the columns; a node for each row's head; the name of a last column of plain numbers.
export function makeHeatTable(columns, rowHeads, last) {
  const head = (text) => h("th", { scope: "col" }, text);
  const lines = rowHeads.map((content) => {
    const cells = columns.map(() => h("td"));
    const plain = h("td", { class: "tutor-plain" });
    return { cells, plain, row: h("tr", {}, h("th", { scope: "row" }, content.cloneNode(true)), ...cells, plain) };
  });
  const node = h("table", { class: "tutor-heat" },
    h("thead", {}, h("tr", {}, head("code"), ...columns.map(head), head(last))),
    h("tbody", {}, ...lines.map((line) => line.row)));
  let shown = [], ink = null;
  function tint() {
    if (!ink) return;
    const [paper, more, less] = [ink.paper, ink.more, ink.less].map(parts);
    shown.forEach((values, r) => values.forEach((v, c) => {
      const share = ink.most * Math.min(1, Math.abs(v ?? 0)), goal = v < 0 ? less : more;
      const mixed = paper.map((p, k) => Math.round(p + share * (goal[k] - p)));
      lines[r].cells[c].style.background = `rgb(${mixed.join(", ")})`;
    }));
  }
  return {
    node,
    show(values, plain) {
      shown = values;
      values.forEach((row, r) => {
        row.forEach((v, c) => { lines[r].cells[c].textContent = entry(v); });
        lines[r].plain.textContent = entry(plain[r]);
      });
      tint();
    },
    pick(r) { lines.forEach(({ row }, k) => row.classList.toggle("tutor-picked", k === r)); },
    colour(colours) {
      ink = colours;
      tint();
    },
  };
}
