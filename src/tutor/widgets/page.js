// What every live figure needs from the page around it: its theme, sharp canvases, images.

// "dark" or "light".  Pages that say which theme they wear are believed; otherwise the first
// painted background behind the figure decides, and at last the reader's system setting.
function themeOf(el) {
  const html = document.documentElement, body = document.body;
  const said = html.dataset.theme                                   // this book, Furo, pydata
    ?? { true: "light", false: "dark" }[body.dataset.jpThemeLight]  // JupyterLab
    ?? (body.classList.contains("vscode-dark") ? "dark" : undefined)
    ?? (body.classList.contains("vscode-light") ? "light" : undefined)
    ?? html.getAttribute("theme");                                  // Colab
  if (said === "dark" || said === "light") return said;
  for (let node = el.parentElement; node; node = node.parentElement) {
    const parts = getComputedStyle(node).backgroundColor.match(/[\d.]+/g)?.map(Number);
    if (!parts || parts.length < 3 || parts[3] === 0) continue;
    return 0.299 * parts[0] + 0.587 * parts[1] + 0.114 * parts[2] < 128 ? "dark" : "light";
  }
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

// Keeps root.dataset.theme right and the canvas as sharp as the screen: changed(width, ratio), in
// CSS pixels, after every change of either, also when a hidden figure comes into view.  Returns a
// function that stops it.
export function followPage(root, canvas, changed) {
  let before = "";
  const update = () => {
    const theme = themeOf(root), ratio = window.devicePixelRatio || 1;
    const { width, height } = canvas.getBoundingClientRect();
    const now = [theme, width, height, ratio].join();
    if (!width || !height || now === before) return;      // in a closed tab or folded cell
    before = now;
    root.dataset.theme = theme;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    changed(width, ratio);
  };
  const attributes = new MutationObserver(update), boxes = new ResizeObserver(update);
  const attributeFilter = ["class", "data-theme", "data-jp-theme-light", "theme", "style"];
  for (const node of [document.documentElement, document.body])
    attributes.observe(node, { attributes: true, attributeFilter });
  boxes.observe(canvas);
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", update);
  update();
  return () => {
    attributes.disconnect();
    boxes.disconnect();
    system.removeEventListener("change", update);
  };
}

// Values in [0, 1], channel by channel, onto a canvas of exactly that many pixels.
export function paint(canvas, pixels, [channels, height, width]) {
  const context = canvas.getContext("2d");
  const frame = context.createImageData(width, height);
  const n = width * height;
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < 3; c++) frame.data[4 * i + c] = 255 * pixels[(channels === 3 ? c * n : 0) + i];
    frame.data[4 * i + 3] = 255;
  }
  context.putImageData(frame, 0, 0);
}

// At most one call of f a frame, however often it is asked for.
export function oncePerFrame(f) {
  let asked = 0;
  return () => {
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      f();
    });
  };
}

// f(), at most once in `wait` milliseconds; the last call always happens.
export function throttled(f, wait) {
  let timer = 0;
  return () => {
    timer ||= setTimeout(() => {
      timer = 0;
      f();
    }, wait);
  };
}

// h("button", { type: "button", class: "x", onclick }, child, ...)
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes))
    if (typeof value === "function") node[key] = value;
    else node.setAttribute(key, value);
  node.append(...children);
  return node;
}
