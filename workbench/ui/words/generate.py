"""The sentences of the panel that writes rows."""

from __future__ import annotations

TITLE = "Write draft rows"
HELP = (
    "Nothing comes in before you have seen it, and everything arrives as a draft marked with its source. Rows that repeat the set, "
    "the evaluation cases or the demo prompts are refused."
)
FAMILIES, LOCAL, ENDPOINT = "Families of wordings (no model)", "The loaded model", "An OpenAI-compatible endpoint"
SOURCE, TOOL, KIND, COUNT, SEED, LANGUAGE = "Written by", "Tool", "Kind", "Rows", "Seed", "Language"
KINDS = [("call the tool", "call"), ("answered in words", "text")]
TOPICS, TOPICS_INFO = "Topics", "None means all that are ready. Type your own word and press Enter: it gets plainer wordings."
CALLS, TEXTS = "Rows that call", "Rows that are answered in words"
ADDRESS, ADDRESS_PLACEHOLDER = "Address", "http://127.0.0.1:8000/v1"
MODEL, MODEL_PLACEHOLDER = "Model", "as the endpoint calls it"
MAX_REQUESTS, MAX_TOKENS = "Most requests", "Most tokens"
LOCAL_HELP = "The base alone writes, held to the form of a row; small models write odd ones, so look closely. The first time, the model is loaded."
CALL = "call: "
START, STOP, TAKE, THROW = "Write rows", "Stop", "Bring in drafts", "Throw away"
HEADERS = ["✓", "#", "Request", "Answer", "From"]
NOTHING_YET = "Choose what to write and press “Write rows”: you see the rows first."
NO_TOOL = "Choose the tool first; the Tools panel adds one."
BAD_COUNT = "The number of rows must be 1 to {most}, not {given}: nothing was written."
NO_FAMILY = "Tick at least one family of wordings."
STILL_WRITING = "Rows are being written already: wait for them, or press Stop."
NOTHING_TO_STOP = "No rows are being written."
THROWN = "The rows were thrown away."
NOTHING_SEEN = "Write rows first: nothing came in."
NONE_TICKED = "No row is ticked: nothing came in."
TABLE_SHAPE = "The table of rows to come was changed in its shape: write the rows again."
STOPPED = "Stopped by you."
RUN_OUT = "No more new rows are in these families and topics: take more of them, or another seed."
FEWER = "{written} of {asked} rows are new and sound."
ALL_WRITTEN = "All rows are written."
NOT_COMPARED = "The rows were not compared with {name}: {reason}"
STOPPING = "Stopping…"


def counted(number: int, noun: str) -> str:
    """As in `1 row` or `2,000 rows`."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def key(name: str) -> str:
    """Which key an endpoint gets; never the key itself."""
    if name:
        return f"The key comes from the environment variable {name}; it is set."
    return (
        "No key is sent. The workbench reads WORKBENCH_OPENAI_KEY, then OPENAI_API_KEY (the latter only for https or this machine), "
        "from the environment it was started in; local servers need none."
    )


def take(number: int) -> str:
    return f"Bring in {counted(number, 'draft')}"


def brought(number: int) -> str:
    """For the line that tells of a change: in the past tense, without a full stop."""
    return f"{counted(number, 'generated draft')} {'was' if number == 1 else 'were'} brought in"
