"""How long the health check of a set takes, and what it finds: 70 and 10,000 rows, on the CPU, without a model's weights.

    python benchmarks/data_health.py [--rows 70 10000] [--repeats 3]

The rows are Russian requests put together from words and wordings; one in ten is nearly another. Each time is the
best of the repeats, every one of them from a cold start: nothing is kept from the one before. Where the embedded model's
tokenizer is here, the rows are also held against its chat template and limits, as the Data tab does.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from workbench.dataset import similar, topics  # noqa: E402
from workbench.dataset.formats import load_rows  # noqa: E402
from workbench.dataset.health import Health, check_health  # noqa: E402
from workbench.dataset.store import RowStore, to_entry  # noqa: E402
from workbench.errors import ModelError  # noqa: E402
from workbench.models.tokenizer import ChatTokenizer  # noqa: E402
from workbench.schema import Example, Message, ToolCall, ToolSpec  # noqa: E402
from workbench.settings import Training  # noqa: E402
from workbench.training.teachable import Teachable  # noqa: E402
from workbench.workspace import Workspace  # noqa: E402

WORD_LIST = """
баланс счёт карта перевод платёж кредит лимит договор адрес тариф подписка вклад штраф выписка бонус кэшбэк пароль профиль доступ
заказ зарплата ипотека налог страховка телефон паспорт документ операция списание начисление процент долг комиссия реквизит возврат
"""
TOPICS = WORD_LIST.split()
PLACES = (
    "по карте", "по основному счёту", "на даче", "в магазине", "за октябрь", "за прошлую неделю", "в этом году", "после отпуска",
    "через приложение", "для сестры", "с утра", "за границей",
)  # fmt: skip
ASKS = (
    "покажи мой {a} {p}", "сколько составляет мой {a} {p} и {b}", "подскажите пожалуйста какой у меня {a} {p}", "проверь есть ли у меня {a} или {b} {p}",
    "когда придёт {a} {p}", "хочу узнать {a} и {b} {p} пожалуйста", "скажи {a} {p} щас", "почему мой {a} изменился {p} после того как пришёл {b}",
)  # fmt: skip
WORDS = (
    "что такое {a} {p}", "чем {a} отличается от слова {b} {p}", "объясни как устроен {a} {p} и зачем нужен {b}", "кто придумал {a} {p}",
    "как обычно меняется {a} {p} если есть {b}",
)  # fmt: skip
ENDINGS = ("", "", "а", "у", "ом", "ы", "ов", "ами")
TOOLS = {
    "get_sensitive_data": ToolSpec("get_sensitive_data"),
    "find_payment": ToolSpec("find_payment", parameters={"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}),
}


def make_rows(count: int, seed: int) -> list[Example]:
    chance = random.Random(seed)
    rows: list[Example] = []
    for number in range(count):
        call = chance.random() < 0.5
        request = chance.choice(ASKS if call else WORDS)
        for field in ("{a}", "{b}"):
            request = request.replace(field, chance.choice(TOPICS) + chance.choice(ENDINGS))
        request = request.replace("{p}", chance.choice(PLACES)) + f" {chance.choice(TOPICS)} {chance.randint(1, 9999)}"
        if rows and chance.random() < 0.1:
            request = chance.choice(rows).request[:-1] + chance.choice("?!абв")
        tool = ToolCall("find_payment", {"count": chance.choice([1, 2, 3, "4"])}) if chance.random() < 0.3 else ToolCall("get_sensitive_data")
        answer = Message("assistant", "", (tool,)) if call else Message("assistant", f"Это понятие номер {number}.")
        rows.append(Example((Message("user", request), answer), chance.choice(["draft", "approved"])))
    return rows


def check(path: Path, tokenizer: ChatTokenizer | None) -> tuple[float, Health]:
    """Seconds from the rows in memory to their health, with nothing kept from before."""
    rows = RowStore(path).read()
    others = {name: load_rows(ROOT / "data" / name).rows for name in ("cases.jsonl", "demo.jsonl")}
    similar.forget()
    topics.forget()
    refused = Teachable(tokenizer, Training().max_row_tokens).refused if tokenizer else None
    begun = time.perf_counter()
    found = check_health(rows, TOOLS, others, share=0.1, seed=42, refused=refused)
    return time.perf_counter() - begun, found


def find_tokenizer() -> ChatTokenizer | None:
    try:
        return Workspace(ROOT).tokenizer
    except ModelError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[70, 10_000])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    tokenizer = find_tokenizer()
    print("with the tokenizer of the embedded model" if tokenizer else "without a tokenizer")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        for count in options.rows:
            path.write_text("".join(to_entry(row).raw + "\n" for row in make_rows(count, 1)), encoding="utf-8")
            seconds, health = min((check(path, tokenizer) for _ in range(max(1, options.repeats))), key=lambda found: found[0])
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            print(f"{count:>7,} rows: {seconds:.3f} s, {len(health.findings)} findings, at most {memory:,.0f} MiB in this process")
            for finding in health.findings:
                print(f"          {finding.severity:<4} {finding.title}")


if __name__ == "__main__":
    main()
