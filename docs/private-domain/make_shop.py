"""Makes a small private world: a shop's catalogue, its house rules, and tickets with exact answers.

    python make_shop.py --out FOLDER

writes, always the same bytes for the same seed:

* ``texts.jsonl``: tickets with their answers, for ``colm score`` and ``colm tune``.
* ``calibration.jsonl``: tickets without answers, for ``colm calibrate``.
* ``tickets.jsonl``: held-out tickets, for ``colm evaluate``. Their sums and their countries are in no text.
* ``tickets-with-rules.jsonl``: the same with the house rules in a system message, for a model that was not tuned.
* ``catalogue.json``: what only the shop knows. No command reads it.

Only the standard library is used.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_ITEMS = (
    "anchor apron axe barrel basket bell blanket bolt bottle bowl brush bucket candle carpet chain clock compass cork "
    "drum flag funnel hammer helmet hook kettle ladder lamp lantern mirror nail net paddle pump rope sail saw shovel "
    "spoon tent whistle"
)
ITEMS = _ITEMS.split()
LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
# Countries and their calling codes, which the larger model knows and the smaller one mostly does not.
_COUNTRIES = (
    "Afghanistan 93, Albania 355, Algeria 213, Angola 244, Argentina 54, Armenia 374, Australia 61, Bahrain 973, "
    "Bangladesh 880, Belarus 375, Belgium 32, Botswana 267, Brazil 55, Cambodia 855, Cameroon 237, Chile 56, "
    "China 86, Colombia 57, Croatia 385, Cuba 53, Cyprus 357, Denmark 45, Ecuador 593, Egypt 20, Estonia 372, "
    "Ethiopia 251, Georgia 995, Germany 49, Ghana 233, Greece 30, Guatemala 502, Honduras 504, Hungary 36, "
    "Iceland 354, India 91, Indonesia 62, Iran 98, Ireland 353, Israel 972, Italy 39, Japan 81, Jordan 962, "
    "Kenya 254, Kuwait 965, Libya 218, Lithuania 370, Malawi 265, Malta 356, Mexico 52, Mongolia 976, "
    "Morocco 212, Mozambique 258, Myanmar 95, Namibia 264, Nepal 977, Nicaragua 505, Nigeria 234, Norway 47, "
    "Oman 968, Pakistan 92, Panama 507, Paraguay 595, Peru 51, Philippines 63, Poland 48, Portugal 351, "
    "Romania 40, Rwanda 250, Senegal 221, Serbia 381, Singapore 65, Somalia 252, Spain 34, Sudan 249, Sweden 46, "
    "Switzerland 41, Tajikistan 992, Tanzania 255, Thailand 66, Tunisia 216, Turkey 90, Uganda 256, "
    "Ukraine 380, Uruguay 598, Uzbekistan 998, Venezuela 58, Vietnam 84, Zimbabwe 263"
)
COUNTRIES = dict(entry.split(" ") for entry in _COUNTRIES.split(", "))
N_NEW = (
    28  # of those with three digits; they are in calibration and held-out tickets only. Two digits are easy to guess.
)
CUSTOMERS = {"guild": 100, "island": 200, "quay": 0}  # what each kind pays on top
LOWEST, HIGHEST = 112, 398  # prices; they and all sums have three digits

RULES = f"""You answer tickets of the shop. Write these lines and nothing else:
1. For each item: its name, its code, its price.
2. For two items: the sum of their prices. For one item: "deposit:" and the price plus the deposit.
3. A guild customer pays {CUSTOMERS["guild"]} more, an island customer {CUSTOMERS["island"]}, a quay customer nothing: \
"guild:" or "island:" and that sum, or no line.
4. "Bill", the codes, what is to pay, and the country with its calling code.
Example: A guild customer in France wants an anvil and a kite.
anvil AA1 300
kite EE2 200
300 + 200 = 500
guild: 500 + {CUSTOMERS["guild"]} = {500 + CUSTOMERS["guild"]}
Bill AA1 EE2 {500 + CUSTOMERS["guild"]}, country calling code of France is +33"""


@dataclass(frozen=True)
class Item:
    """An item of the catalogue. Its code says nothing about its price."""

    name: str
    code: str
    price: int


@dataclass(frozen=True)
class Ticket:
    """What a customer writes.

    Attributes:
        customer: guild, island or quay.
        country: where the customer lives.
        items: one or two.
        deposit: what the customer pays on top for one item; 0 for two items.
    """

    customer: str
    country: str
    items: tuple[Item, ...]
    deposit: int

    @property
    def prompt(self) -> str:
        wanted = " and ".join(_article(item.name) for item in self.items)
        text = f"{_article(self.customer).capitalize()} customer in {self.country} wants {wanted}."
        return text + (f" Deposit: {self.deposit}." if self.deposit else "")

    @property
    def total(self) -> int:
        return sum(item.price for item in self.items) + self.deposit + CUSTOMERS[self.customer]

    @property
    def answer(self) -> str:
        """What the last line says after "Bill"."""
        codes = " ".join(item.code for item in self.items)
        return f"{codes} {self.total}, country calling code of {self.country} is +{COUNTRIES[self.country]}"

    @property
    def completion(self) -> str:
        lines = [f"{item.name} {item.code} {item.price}" for item in self.items]
        extra = CUSTOMERS[self.customer]
        first, second = self.items[0].price, self.deposit or self.items[-1].price
        lines.append(f"{'deposit: ' if self.deposit else ''}{first} + {second} = {first + second}")
        if extra:
            lines.append(f"{self.customer}: {first + second} + {extra} = {self.total}")
        return "\n".join([*lines, f"Bill {self.answer}"])


def _article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def make_catalogue(rng: random.Random) -> list[Item]:
    """The items, each with a code and a price of its own."""
    codes = rng.sample([a + b + d for a in LETTERS for b in LETTERS for d in "23456789"], len(ITEMS))
    prices = rng.sample([price for price in range(LOWEST, HIGHEST + 1) if price % 10], len(ITEMS))
    return [Item(*each) for each in zip(ITEMS, codes, prices, strict=True)]


class Shop:
    """Makes tickets. No two of them add the same prices, or the same price and deposit."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.catalogue = make_catalogue(rng)
        self._sums: set[tuple[object, ...]] = set()

    def tickets(self, number: int, countries: Sequence[str]) -> list[Ticket]:
        """Tickets from these countries; two of five want one item. Items and countries occur about equally often."""
        tickets: list[Ticket] = []
        uses = Counter[object]()
        while len(tickets) < number:
            n_items = 1 if len(tickets) % 5 < 2 else 2
            items = tuple(self._rare(self.catalogue, uses)[:n_items])
            deposit = self.rng.randint(LOWEST, HIGHEST) if n_items == 1 else 0
            added = (*sorted(item.name for item in items), deposit)
            if added in self._sums:
                continue
            self._sums.add(added)
            country = self._rare(countries, uses)[0]
            tickets.append(Ticket(self.rng.choice(sorted(CUSTOMERS)), country, items, deposit))
            uses.update([*items, country])
        self.rng.shuffle(tickets)
        return tickets

    def _rare(self, things: Sequence[T], uses: Counter[object]) -> list[T]:
        return sorted(things, key=lambda thing: uses[thing] + 2 * self.rng.random())


def make_files(seed: int) -> dict[str, str]:
    """The name and the content of each file."""
    rng = random.Random(seed)
    shop = Shop(rng)
    long = [country for country, code in COUNTRIES.items() if len(code) == 3]
    new = rng.sample(long, N_NEW)
    known = [country for country in COUNTRIES if country not in new]
    texts = shop.tickets(600, known)
    calibration = shop.tickets(40, new)
    held_out = shop.tickets(200, new)
    rules = {"role": "system", "content": RULES}
    return {
        "texts.jsonl": _lines({"prompt": t.prompt, "completion": t.completion} for t in texts),
        "calibration.jsonl": _lines({"prompt": t.prompt} for t in calibration),
        "tickets.jsonl": _lines({"prompt": t.prompt, "answer": t.answer} for t in held_out),
        "tickets-with-rules.jsonl": _lines(
            {"messages": [rules, {"role": "user", "content": t.prompt}], "answer": t.answer} for t in held_out
        ),
        "catalogue.json": json.dumps([asdict(item) for item in shop.catalogue], indent=1) + "\n",
    }


def _lines(rows: Iterable[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a shop's tickets, for training and for evaluation.")
    parser.add_argument("--out", type=Path, default=Path("shop"), help="the folder to write [default: shop]")
    parser.add_argument("--seed", type=int, default=14, help="another seed makes another shop [default: 14]")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, content in make_files(options.seed).items():
        (options.out / name).write_text(content, encoding="utf-8")
        print(f"{options.out / name}: {len(content.splitlines())} lines")


if __name__ == "__main__":
    main()
