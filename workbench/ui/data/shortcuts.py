"""Keyboard shortcuts of the row bench. Keys are told by their place (`code`), so that a Russian layout works too."""

# Single keys count only while no text field has the focus; the grid's own keys stay but for these.
SHORTCUTS_JS = """
() => {
  if (window.wbKeys) return;
  window.wbKeys = true;
  // The form is drawn anew after most presses, and its old buttons are then deaf. Keys pressed meanwhile wait for the
  // new ones, so that none is lost or hits the row before; a double click counts once.
  const serial = () => document.querySelector('#row-title [data-serial]')?.dataset.serial;
  const keys = [];
  let waiting = null, letThrough = false;
  const settled = () => {
    if (!waiting) return true;
    const now = performance.now();
    if (waiting.drawn === undefined && serial() !== waiting.serial) waiting.drawn = now;
    const fresh = waiting.drawn !== undefined && now - waiting.drawn > 150;
    if (fresh || now - waiting.at > (waiting.limit || 1500)) waiting = null;
    return !waiting;
  };
  const there = (id) => { const b = document.getElementById(id); return b && (b.offsetParent !== null || id === 'row-save-next') ? b : null; };
  const press = (id) => {
    const button = there(id);
    waiting = { id, serial: serial(), at: performance.now() };
    letThrough = true;
    button.click();
    letThrough = false;
  };
  // While the form is drawn anew its buttons may be gone for a moment; one that stays away was not there to be pressed.
  setInterval(() => {
    if (!settled() || !keys.length) return;
    if (there(keys[0].id)) press(keys.shift().id);
    else if (performance.now() - keys[0].at > 2000) keys.shift();
  }, 30);
  const ask = (id) => { if (keys.length < 50) keys.push({ id, at: performance.now() }); };
  document.addEventListener('click', (event) => {
    // Undo and redo may draw the form anew as well: a key right after them waits for it, but not long if it stays.
    if (event.target.closest?.('#undo, #redo')) waiting = { id: 'undo', serial: serial(), at: performance.now(), limit: 700 };
    const button = event.target.closest?.('#row-editor .wb-actions button');
    if (!button || letThrough) return;
    if (!settled()) {
      event.preventDefault(); event.stopImmediatePropagation();
      // By the mouse's own clock: a busy page looks at it late.
      if (button.id !== waiting.id || event.timeStamp - waiting.at > 400) ask(button.id);
      return;
    }
    waiting = { id: button.id, serial: serial(), at: event.timeStamp };
  }, true);
  // A row that was typed into and not saved: the browser asks before the page goes. A saved one is opened anew, as another visit.
  const visit = () => document.querySelector('#row-title [data-visit]')?.dataset.visit;
  let typedIn = null;
  document.addEventListener('input', (event) => { if (event.isTrusted && event.target.closest?.('#row-editor')) typedIn = visit(); }, true);
  window.addEventListener('beforeunload', (event) => { if (typedIn !== null && typedIn === visit()) event.preventDefault(); });
  // Which row is open is told by the form; the grid is drawn anew, paged and scrolled, so its row is looked for again and again.
  let marked;
  const mark = () => {
    const open = document.querySelector('#row-title [data-row]')?.dataset.row;
    for (const row of document.querySelectorAll('#grid .virtual-row')) {
      const number = row.querySelector('.body-cell[data-col="1"]')?.innerText.trim();
      const is = !!open && number === open;
      if (row.classList.contains('wb-openrow') !== is) row.classList.toggle('wb-openrow', is);
      if (is && marked !== serial()) { marked = serial(); row.scrollIntoView({ block: 'nearest' }); }
    }
  };
  setInterval(() => { if (visible()) mark(); }, 120);
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
    // A button that was just pressed keeps the focus; Enter and Space still press it.
    const inside = !at || at === document.body || at.closest('#grid') || at.closest('#row-editor') || at.tagName === 'BUTTON';
    if (!inside) return;
    if (event.code === 'Slash') { stop(); document.querySelector('#search textarea, #search input')?.focus(); return; }
    if (event.code === 'KeyE') { stop(); document.querySelector('#row-request textarea')?.focus(); return; }
    if (single[event.code]) {
      if (event.code.startsWith('Arrow') && at && (at.type === 'radio' || at.closest('[role=radiogroup], [role=tab], [role=listbox]'))) return;
      stop(); ask(single[event.code]);
    }
  }, true);
}
"""
