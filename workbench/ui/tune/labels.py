"""What a screen reader says of a field: its title as its name, its help and its mistake as its description."""

from __future__ import annotations

import gradio as gr

from workbench.ui.quiet import QUIET

# Gradio's text fields take title and help together as their name, and its dropdowns and boxes leave the help out.
# Fields are drawn anew now and then (other choices, a card unfolded), so the form is watched.
LABELS_JS = """
() => {
  const form = document.querySelector('#tune-form');
  if (!form || form.wbLabelled) return;
  form.wbLabelled = true;
  const set = (node, name, value) => { if (node.getAttribute(name) !== value) node.setAttribute(name, value); };
  const label = () => {
    for (const block of form.querySelectorAll('.block[id]')) {
      const title = block.querySelector('[data-testid=block-info]'), info = block.querySelector('.info-text');
      const inputs = [...block.querySelectorAll('input, textarea')].filter((i) => i.type !== 'file');
      if (!inputs.length || inputs.some((i) => i.closest('.block[id]') !== block)) continue;
      if (info) info.id = block.id + '-help';
      const wrong = document.getElementById('wrong-' + block.id);
      const bad = wrong && wrong.querySelector('.wb-wrong') ? 'wrong-' + block.id : '';
      const told = [info ? info.id : '', bad].filter(Boolean).join(' ');
      const many = inputs.length > 1;
      if (many && title) { set(block, 'role', 'group'); set(block, 'aria-label', title.innerText.trim()); }
      for (const node of many ? [block] : inputs) { set(node, 'aria-describedby', told); set(node, 'aria-invalid', bad ? 'true' : 'false'); }
      if (!many && title && inputs[0].type !== 'checkbox') set(inputs[0], 'aria-label', title.innerText.trim());
    }
  };
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; label(); });
  }).observe(form, { childList: true, subtree: true });
  label();
}
"""


def tell(page: gr.Blocks, opened: gr.Tab) -> None:
    """Name the form's fields when the page is there, and when the tab is first drawn."""
    page.load(None, js=LABELS_JS)
    opened.select(None, None, None, js=LABELS_JS, **QUIET)
