// Shows a figure in a page without a kernel: the same module, over a stand-in for the kernel's model.
// KEY names the payload; a page may show the same figure more than once.
const payload = JSON.parse(document.querySelector('script[data-tutor-state="KEY"]').textContent);

function standIn() {
  const state = { ...payload.state };
  for (const [name, text] of Object.entries(payload.bytes))
    state[name] = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const listeners = new Map();
  const of = (event) => listeners.get(event) ?? listeners.set(event, new Set()).get(event);
  return {
    get: (name) => state[name],
    set(name, value) {
      state[name] = value;
      for (const listener of of(`change:${name}`)) listener();
    },
    on: (event, listener) => of(event).add(listener),
    off: (event, listener) => of(event).delete(listener),
    save_changes() {},
  };
}

for (const host of document.querySelectorAll('[data-tutor-live="KEY"]:not([data-live])')) {
  host.dataset.live = "";
  try {
    const el = document.createElement("div");
    await figure.render({ model: standIn(), el });
    host.replaceChildren(el);
  } catch (error) {
    console.error(error);            // the picture stays in its place
  }
}
