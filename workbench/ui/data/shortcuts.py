"""Keyboard shortcuts of the row bench. Keys are told by their place (`code`), so that a Russian layout works too."""

# Single keys count only while no text field has the focus; the grid's own keys stay but for these.
SHORTCUTS_JS = """
() => {
  if (window.wbKeys) return;
  window.wbKeys = true;
  // Keys pressed while the form is drawn anew wait for it: none is lost, and none hits the row before.
  const serial = () => document.querySelector('#row-title [data-serial]')?.dataset.serial;
  const keys = [];
  let waiting = null;
  const pump = () => {
    if (waiting) {
      if (serial() === waiting.serial && performance.now() - waiting.at < 1500) return;
      waiting = null;
    }
    const id = keys.shift();
    if (id === undefined) return;
    waiting = { serial: serial(), at: performance.now() };
    if (!press(id)) waiting = null;
  };
  setInterval(() => { if (waiting || keys.length) pump(); }, 40);
  const ask = (id) => { if (keys.length < 30) keys.push(id); pump(); };
  const press = (id) => { const b = document.getElementById(id); if (b && (b.offsetParent !== null || id === 'row-save-next')) { b.click(); return true; } return false; };
  const visible = () => { const g = document.getElementById('grid'); return g && g.offsetParent !== null; };
  const single = { KeyA: 'row-approve', KeyR: 'row-reject', KeyD: 'row-duplicate', KeyN: 'row-new', ArrowDown: 'row-next', ArrowUp: 'row-previous' };
  document.addEventListener('keydown', (event) => {
    if (!visible()) return;
    const stop = () => { event.preventDefault(); event.stopImmediatePropagation(); };
    const control = event.ctrlKey || event.metaKey;
    if (control && event.code === 'KeyS') { stop(); ask('row-save'); return; }
    if (control && event.code === 'Enter') {
      stop(); ask('row-save-next'); return;
    }
    const at = document.activeElement;
    const typing = at && (at.tagName === 'INPUT' && at.type !== 'checkbox' && at.type !== 'radio' || at.tagName === 'TEXTAREA' || at.isContentEditable);
    if (typing) { if (event.code === 'Escape') at.blur(); return; }
    if (control || event.altKey || event.shiftKey) return;
    const inside = !at || at === document.body || at.closest('#grid') || at.closest('#row-editor');
    if (!inside) return;
    if (event.code === 'Slash') { stop(); document.querySelector('#search textarea, #search input')?.focus(); return; }
    if (event.code === 'KeyE') { stop(); document.querySelector('#row-request textarea')?.focus(); return; }
    if (single[event.code]) {
      if (event.code.startsWith('Arrow') && at && at.closest('[role=radiogroup], #row-editor')) return;
      stop(); ask(single[event.code]);
    }
  }, true);
}
"""
