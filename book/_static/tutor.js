// Small repairs that the theme needs; the book reads without them.

// The search page fetches each hit for a summary, which a browser refuses for files on disk.
if (typeof DOCUMENTATION_OPTIONS !== "undefined" && location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// What scrolls sideways must be reachable with the keyboard.
const SCROLLS =
  ".math, mjx-container, .cell_output, .highlight pre, .output pre, .pst-scrollable-table-container";

const mayScroll = (box) => /auto|scroll/.test(getComputedStyle(box).overflowX);

function reachScrollers() {
  for (const box of document.querySelectorAll(SCROLLS)) {
    const slack = box.matches("span.math") ? 4 : 0; // accents stick out of a letter's box
    if (box.scrollWidth > box.clientWidth + slack && mayScroll(box)) {
      if (box.tabIndex < 0) {
        box.tabIndex = 0;
        box.dataset.scrolls = "";
      }
    } else if ("scrolls" in box.dataset) {
      box.removeAttribute("tabindex");
      delete box.dataset.scrolls;
    }
  }
}

window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  reachScrollers();
  let waiting;
  new ResizeObserver(() => {
    clearTimeout(waiting);
    waiting = setTimeout(reachScrollers, 50);
  }).observe(document.body);
});
