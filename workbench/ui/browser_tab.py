"""What a browser tab remembers of the page that stands in it: its key, so that the page that takes its place can go on where it was left.

A tab's own storage lives as long as the tab, and no other tab sees it. Which key it is says the session of gradio's page.
"""


def before_js(name: str) -> str:
    """For an event whose first input is a hidden text box: it gets the key of the page that stood there before, or ""."""
    return f"""(before, ...others) => {{
  try {{ before = sessionStorage.getItem('toolcall-workbench-{name}') || ''; }} catch (refused) {{ before = ''; }}
  return [before, ...others];
}}"""


def after_js(name: str) -> str:
    """For the event after it, whose input is that box with the page's own key: the tab remembers this one from now on."""
    return f"(page) => {{ try {{ sessionStorage.setItem('toolcall-workbench-{name}', page || ''); }} catch (refused) {{ }} }}"
